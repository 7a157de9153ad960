"""The steps of a run that goes by a schedule: who makes which visible operation, and who loses the CPU where.

The schedule decides; nothing here changes the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from emu.core.task_events import ProcessCreated, ProgramExecuted
from emu.kernel.syscall_names import syscall_name
from emu.machine import regs
from emu.process.steps import Point, Step, Stepper, StepWatcher
from emu.process.visible import RESUME

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.core.events import Record
    from emu.kernel.run.policy import Decision
    from emu.process.process import Process
    from emu.process.visible import Operation

_RAX = 0
_MAKES_THREADS = frozenset(("clone", "clone3"))


class StepReader(Protocol):
    """Is told of the steps of a run as they come."""

    def reached(self, step: Step) -> None:
        """The running thread is about to make a step: its registers and memory can be looked at."""

    def made(self, step: Step) -> None:
        """It makes it."""

    def preempted(self, tid: int, by: int, before: Step | None) -> None:
        """Thread `tid` could go on, and loses the CPU to thread `by`: before that step,
        which it makes when it has its next turn, or (None) in the midst of one.
        """


class _Nobody:
    """Stands for a chooser where the schedule chooses."""

    def choose(self, point: Point) -> int:
        """Go on."""
        return point.current or point.enabled[0]

    def made(self, step: Step) -> None:
        """There is nothing to note."""


class FollowedSteps(Stepper):
    """Tells `reader` of the steps of one process under its own policy, from its first thread on; the CPU
    stands still. `watcher` is told what a Stepper tells one.

    A step is held until something shows that the thread has made it: a schedule may end a slice right
    before an operation that was reached already. `lost` says from when on nothing is told any more, if so.
    """

    def __init__(self, process: Process, reader: StepReader, watcher: StepWatcher | None = None) -> None:
        self._policy = process.kernel.scheduler.policy
        self._reader = reader
        self._held: Step | None = None
        self.lost = ""
        super().__init__(process, _Nobody())
        self.begin(watcher)

    def flush(self) -> None:
        """What was held has been made."""
        step, self._held = self._held, None
        if self.lost:
            return
        if step is not None:
            self._make(step.tid, step.operation, step.point)
            self._reader.made(step)

    def choose(self, tasks: Sequence[int]) -> Decision:
        """Return what the schedule says."""
        decision = self._policy.choose(tasks)
        if self.lost:
            return decision
        running, chosen = self._scheduler.current.tid, decision.task
        held, before = self._held, None
        if held is not None and held.tid == running and running in tasks and self._stands_at(held.operation):
            self._held, before = None, held
            self._pending[running] = held.operation
        self.flush()
        if running in tasks and chosen != running and not self._yields():
            self._reader.preempted(running, chosen, before)
        if chosen not in self._pending:
            step = Step(chosen, RESUME, self._point_of(tasks, running if running in tasks else 0))
            self._make(chosen, RESUME, step.point)
            self._reader.made(step)
        return decision

    def finish(self) -> None:
        """The run is over."""
        self.flush()
        self._policy.finish()

    def _reached(self, operation: Operation) -> bool:
        if self.lost:
            return True
        self.flush()
        tid = self._scheduler.current.tid
        point = self._point_of([tid, *(task.tid for task in self._scheduler.ready)], tid)
        self._held = Step(tid, operation, point)
        self._reader.reached(self._held)
        return True

    def _trap(self) -> None:
        trap = self._cpu.trap
        if not self._cpu.counter.installed and syscall_name(trap[_RAX]) in _MAKES_THREADS:
            operation = self._visible.trap(trap)  # the first thread: blocks are counted from then on
            if operation is not None and operation.name in _MAKES_THREADS:
                self._reached(operation)
        super()._trap()

    def _accessed(self, pc: int, address: int, size: int, write: bool) -> None:
        if self._held is not None:
            self.flush()
        super()._accessed(pc, address, size, write)

    def _forked(self, record: Record) -> None:
        """Nothing is told from here on: a child takes the CPU, and another program has its own."""
        if isinstance(record.event, ProgramExecuted):
            self.lost = "the program executes another"
        elif isinstance(record.event, ProcessCreated):
            self.lost = "the program makes processes"

    def _stands_at(self, operation: Operation) -> bool:
        return self._cpu.get(regs.RIP) == operation.pc

    def _yields(self) -> bool:
        return self._cpu.in_trap and syscall_name(self._cpu.trap[_RAX]) == "sched_yield"
