"""The scheduler: which task runs, and what the others wait for.

One task runs at a time. Where several could, the policy decides. Where none can, see `emu.kernel.idle`.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from emu.kernel.run.clock import NEVER
from emu.kernel.run.policy import SLICE, Policy, RoundRobin
from emu.kernel.run.task import TIMED_OUT, WOKEN, Woken

if TYPE_CHECKING:
    from emu.kernel.run.block import Block
    from emu.kernel.run.clock import Clock
    from emu.kernel.run.task import Task

_STALE = 64
"""Deadlines of waits that are over stay in the heap until there are more than this,
and more than twice those of waits that go on.
"""


class Scheduler:
    """The tasks: `current`, those in `ready` (without it), and those that wait.

    `due` says why a decision is due though the current task could go on: "woken", when a task that ran alone
    no longer does, or "yielded". `lone` tells that nobody else could run at the last decision. `polled` are
    the tasks that wait for files, `held` those that could run if their process were not stopped.
    """

    __slots__ = (
        "_clock",
        "_deadlines",
        "_most",
        "_order",
        "current",
        "due",
        "held",
        "lone",
        "policy",
        "polled",
        "ready",
    )

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.policy: Policy = RoundRobin()
        self.current: Task
        self.ready: list[Task] = []
        self.held: list[Task] = []
        self.due = ""
        self.lone = True
        self._deadlines: list[tuple[int, int, Task, Block]] = []
        self._order = 0
        self._most = _STALE
        self.polled: dict[Task, Block] = {}

    def decide_by(self, policy: Policy) -> None:
        """Let `policy` say from now on which task runs next, and how long."""
        self.policy = policy

    # -- what the tasks do -----------------------------------------------------------------------------------

    def add(self, task: Task) -> None:
        """A task can run (again), unless its process is stopped."""
        if task.stopped:
            self.held.append(task)
            return
        self.ready.append(task)
        if self.lone and not self.due:
            self.due = "woken"

    def yield_cpu(self) -> None:
        """The current task lets others go first."""
        if self.ready or self.polled:
            self.due = "yielded"

    def block(self, task: Task, block: Block) -> None:
        """Let the current task wait."""
        task.block = block
        if block.ready is not None:
            self.polled[task] = block
        if block.deadline is not None:
            if len(self._deadlines) > self._most:
                self._deadlines = [entry for entry in self._deadlines if entry[2].block is entry[3]]
                heapq.heapify(self._deadlines)
                self._most = max(_STALE, 2 * len(self._deadlines))
            self._order += 1
            heapq.heappush(self._deadlines, (block.deadline, self._order, task, block))
            clock = self._clock
            clock.alarm = min(clock.alarm, block.deadline)

    def hold(self, task: Task) -> None:
        """A task may not run until `let_go`."""
        task.stopped = True
        if task in self.ready:
            self.ready.remove(task)
            self.held.append(task)

    def let_go(self, task: Task) -> None:
        """Let a stopped task run again."""
        task.stopped = False
        if task in self.held:
            self.held.remove(task)
            self.add(task)

    def drop(self, task: Task) -> None:
        """A task is over that may wait, or be ready."""
        task.block = None
        self.polled.pop(task, None)
        for queue in (self.ready, self.held):
            if task in queue:
                queue.remove(task)

    def wake(self, task: Task, why: Woken = WOKEN) -> None:
        """End a task's wait.

        What was waited for is a better reason than a deadline or a signal that came just before.
        """
        if task.block is None:
            if why == WOKEN and task.call is not None:
                task.woken = WOKEN
            return
        task.block = None
        task.woken = why
        self.polled.pop(task, None)
        self.add(task)

    @property
    def next_deadline(self) -> int:
        """The virtual time of the earliest deadline, NEVER without one."""
        deadlines = self._deadlines
        while deadlines and deadlines[0][2].block is not deadlines[0][3]:
            heapq.heappop(deadlines)
        return deadlines[0][0] if deadlines else NEVER

    def expire(self) -> None:
        """End the waits whose deadline has come."""
        now = self._clock.now
        while self.next_deadline <= now:
            self.wake(self._deadlines[0][2], TIMED_OUT)

    def poll(self) -> None:
        """End the waits for files that have become ready."""
        for task, block in list(self.polled.items()):
            if block.ready is not None and block.ready():
                self.wake(task)

    # -- the choice ------------------------------------------------------------------------------------------

    def pick(self) -> tuple[Task, int, int]:
        """Take the task that runs next out of `ready`, which must not be empty.

        Return it, the basic blocks of its slice, and the instruction of the block behind them that ends it.

        Raises what the policy raises.
        """
        self.due = ""
        self.lone = len(self.ready) == 1
        if self.lone:
            return self.ready.pop(), SLICE, 0
        tids = [task.tid for task in self.ready]
        chosen, blocks, instruction = self.policy.choose(tids)
        return self.ready.pop(tids.index(chosen)), blocks, instruction
