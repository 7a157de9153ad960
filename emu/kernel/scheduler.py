"""The scheduler: which task runs, what the others wait for, and what happens when none can run.

One task runs at a time. Where several could, the policy decides. Where none can, virtual time jumps to the next
deadline or timer; only a wait for the host's terminal or pipe takes real time.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from emu.core.errors import EmuError
from emu.kernel.clock import NEVER
from emu.kernel.policy import SLICE, Policy, RoundRobin
from emu.kernel.task import TIMED_OUT, WOKEN

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel
    from emu.kernel.task import Task
    from emu.kernel.waiting import Block

_STALE = 64
"""Deadlines of waits that are over stay in the heap until they are more than this, and more than the tasks."""


class Deadlock(EmuError):
    """No task can run, and nothing that any of them waits for can come."""

    def __init__(self) -> None:
        super().__init__("deadlock: every thread waits, and nothing can end that")


class HostStop(Exception):
    """The host ends a wait that nothing else would end."""


class Scheduler:
    """The tasks of one process: `current`, those in `ready` (without it), and those that wait.

    `due` says why a decision is due though the current task could go on: "woken", when a task that ran alone no longer
    does, or "yielded". `lone` tells that nobody else could run at the last decision. `polled` are the tasks that wait for files.
    """

    __slots__ = ("_deadlines", "_kernel", "_order", "current", "due", "lone", "policy", "polled", "ready")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.policy: Policy = RoundRobin()
        self.current: Task
        self.ready: list[Task] = []
        self.due = ""
        self.lone = True
        self._deadlines: list[tuple[int, int, Task, Block]] = []
        self._order = 0
        self.polled: dict[Task, Block] = {}

    # -- what the tasks do ---------------------------------------------------------------------------------------

    def add(self, task: Task) -> None:
        """A task can run (again)."""
        self.ready.append(task)
        if self.lone and not self.due:
            self.due = "woken"

    def yield_cpu(self) -> None:
        """The current task lets others go first."""
        if self.ready or self.polled:
            self.due = "yielded"

    def block(self, task: Task, block: Block) -> None:
        """The current task waits."""
        task.block = block
        if block.ready is not None:
            self.polled[task] = block
        if block.deadline is not None:
            if len(self._deadlines) > max(_STALE, 2 * len(self._kernel.tasks)):
                self._deadlines = [entry for entry in self._deadlines if entry[2].block is entry[3]]
                heapq.heapify(self._deadlines)
            self._order += 1
            heapq.heappush(self._deadlines, (block.deadline, self._order, task, block))
            clock = self._kernel.clock
            clock.alarm = min(clock.alarm, block.deadline)

    def wake(self, task: Task, why: int = WOKEN) -> None:
        """End a task's wait. What was waited for is a better reason than a deadline or a signal that came just before."""
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
        now = self._kernel.clock.now
        while self.next_deadline <= now:
            self.wake(self._deadlines[0][2], TIMED_OUT)

    def poll(self) -> None:
        """End the waits for files that have become ready."""
        for task, block in list(self.polled.items()):
            if block.ready is not None and block.ready():
                self.wake(task)

    # -- the choice ----------------------------------------------------------------------------------------------

    def pick(self) -> tuple[Task, int]:
        """Take the task that runs next out of `ready`; return it and the basic blocks of its slice.

        Raises Deadlock, HostStop, and what the policy raises.
        """
        kernel = self._kernel
        while True:
            if kernel.clock.now >= kernel.clock.alarm:
                kernel.pass_time()
            if self.polled:
                self.poll()
            if self.ready:
                break
            self._idle()
        self.due = ""
        self.lone = len(self.ready) == 1
        if self.lone:
            return self.ready.pop(), SLICE
        tids = [task.tid for task in self.ready]
        chosen, blocks = self.policy.choose(tids)
        return self.ready.pop(tids.index(chosen)), blocks

    def _idle(self) -> None:
        """Let time pass until something may happen."""
        kernel = self._kernel
        kernel.signals.take_from_host()
        blocks = [task.block for task in kernel.tasks.values() if task.block is not None]
        files = [entry for block in blocks for entry in block.files]
        hosts = [host for file, events in files for host in file.hosts(events)]
        deadlines = [at for file, _ in files if (at := file.deadline()) is not None]
        until = min(kernel.timers.next_while_idle, self.next_deadline, *deadlines)
        if kernel.signals.host_stops:
            raise HostStop
        if hosts or until == NEVER and any(block.for_signal for block in blocks):
            left = None if until == NEVER else max(until - kernel.clock.now, 0)
            if kernel.signals.wait_on_host(hosts, left):
                return
        elif until == NEVER:
            raise Deadlock
        if until != NEVER:
            clock = kernel.clock
            passed = max(until - clock.now, 0)
            clock.now += passed
            clock.idle += passed
            kernel.timers.idle(passed)
            kernel.pass_time()
