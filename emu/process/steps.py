"""A run cut into steps: each begins with an operation that other threads may notice,
and a chooser says who makes the next.

Such *visible* operations are instructions that lock memory, system calls but those that concern the caller
alone, and what is asked of the dynamic linker. All else that a thread does up to its next one belongs to the
step. A thread is stopped right before a visible operation, but only if the chooser wants another to go first;
so a run with its switches is the same as one that a schedule of blocks and instructions makes (`decisions`),
and costs little more than that.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol

from emu.core.errors import EmuError, MemoryFault, UnsupportedError
from emu.core.record import NamedTuple
from emu.core.task_events import ProcessCreated, ProgramExecuted
from emu.kernel.run.clock import NEVER
from emu.kernel.run.policy import SLICE, Decision
from emu.machine import regs
from emu.process.visible import RESUME, Operation, Visible
from emu.rtld.link_map import LT_LOADED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.core.events import Record
    from emu.process.process import Process
    from emu.process.visible import Thing

_RIP = 16
_SPINS = 12
"""How often a thread comes to one instruction, with others ready and without having written anything by
another one, before it is taken to wait in a loop.
"""


_ROUNDS = 10_000
"""The same, with nobody else who can ever run and nothing new, before the run is given up."""
_RED_ZONE, _LOOKED_AT = 128, 1024
"""Bytes of the stack below its pointer that are in use, and how much of it is compared."""
_GENERAL = (
    regs.RAX, regs.RBX, regs.RCX, regs.RDX, regs.RSI, regs.RDI, regs.RBP, regs.RSP, regs.R8, regs.R9, regs.R10, regs.R11, regs.R12, regs.R13,
    regs.R14, regs.R15,
)  # fmt: skip


class Point(NamedTuple):
    """Where a choice is to be made: the number of the step, who can make it, `pending` operations by thread
    (not all have come to one), and the thread that runs and could go on (0: it waits, has ended, or has had
    its turn).
    """

    number: int
    enabled: tuple[int, ...]
    pending: dict[int, Operation]
    current: int


class Step(NamedTuple):
    """One step: the thread, its operation, and the point at which it was chosen."""

    tid: int
    operation: Operation
    point: Point


class Chooser(Protocol):
    """Says who makes the next step."""

    def choose(self, point: Point) -> int:
        """Return one of the threads that can."""

    def made(self, step: Step) -> None:
        """A step is about to be made."""


class StepWatcher(Protocol):
    """Is told of what synchronises threads, and of each of their accesses to memory."""

    def operation(self, tid: int, operation: Operation) -> None:
        """A thread makes a visible operation."""

    def locked(self, tid: int, pc: int, address: int, size: int) -> None:
        """A thread locks memory, in a visible operation or not."""

    def born(self, tid: int, by: int) -> None:
        """Thread `by` makes thread `tid`."""

    def access(self, tid: int, pc: int, address: int, size: int, write: bool) -> None:
        """A thread reads or writes memory."""


class _Spins:
    """Counts how often the running thread has come to the same operation since it wrote by another one."""

    __slots__ = ("_last", "_state", "_tid", "_times")

    def __init__(self) -> None:
        self._tid = self._last = 0
        self._state: tuple[object, ...] = ()
        self._times: dict[tuple[int, tuple[Thing, ...]], int] = {}

    def count(self, tid: int, operation: Operation) -> int:
        """Take an operation in; return how often it came before."""
        if tid != self._tid or operation.writes and operation.pc != self._last:
            self._times.clear()
        self._tid, self._last = tid, operation.pc
        key = operation.pc, operation.reads
        times = self._times[key] = self._times.get(key, -1) + 1
        return times

    def nothing_new(self, state: tuple[object, ...]) -> bool:
        """Take in the thread's state at an operation; return whether it was the same at the last one."""
        before, self._state = self._state, state
        return before == state


class EndlessLoopError(EmuError):
    """A thread waits in a loop for what nobody will do."""


class ManyProcessesError(UnsupportedError):
    """The program has made a process, or executes another, whose steps would not be seen."""


class Stepper:
    """Cuts the runs of one process into steps from now on; the CPU stands still.

    `chooser` may be exchanged where a run begins.

    It is a policy of the scheduler's, too: threads that wait, end and yield leave the choice to the chooser.
    `steps` and `decisions` are those since `begin`.
    """

    def __init__(self, process: Process, chooser: Chooser) -> None:
        assert process.runner is not None
        self._process, self._runner, self._program = process, process.runner, process.config.program
        self._cpu, self._kernel = process.cpu, process.kernel
        self._scheduler = process.kernel.scheduler
        self._visible = Visible(process)
        self.chooser = chooser
        self.begin()
        self._watch = self._cpu.step_watch()
        self._watch.locked(self._locked)
        self._lockers: set[int] = set()
        self._opened: set[tuple[int, int]] = set()
        self._watch_opened()
        process.bus.subscribe(lambda record: self._watch_opened(), ("libs",))
        process.bus.subscribe(self._forked, ("threads",))
        self._serve = self._cpu.take_traps(self._trap)
        self._scheduler.decide_by(self)

    def _forked(self, record: Record) -> None:
        """Refuse a second process, and another program: their steps would not be seen."""
        if isinstance(record.event, ProgramExecuted):
            raise ManyProcessesError(
                "exploration of a program that executes another beside its threads", self._program
            )
        if isinstance(record.event, ProcessCreated):
            raise ManyProcessesError("exploration of a program that makes processes", self._program)

    def see_plain(self, instructions: Sequence[int]) -> None:
        """Take the loads and stores by these instructions for visible operations, too."""
        for instruction in instructions:
            self._watch.at(instruction, self._plain)

    def locks(self, instruction: int) -> bool:
        """Whether an instruction has locked memory up to now."""
        return instruction in self._lockers

    def watch_memory(self) -> None:
        """Tell the watcher that a run is begun with of each access to memory;
        this slows all runs down, by 5 to 20 times.
        """
        self._watch.accesses(self._accessed)

    def _accessed(self, pc: int, address: int, size: int, write: bool) -> None:
        if self._watcher is not None:
            self._watcher.access(self._runner.task.tid, pc, address, size, write)

    def begin(self, watcher: StepWatcher | None = None) -> None:
        """Forget what was: a run begins at the present place, seen by `watcher`."""
        self._watcher = watcher
        self.steps: list[Step] = []
        self.decisions: list[Decision] = []
        self._pending: dict[int, Operation] = {}
        self._passing = (0, 0)
        self._point = Point(0, (), {}, 0)
        self._next = 0
        self._instruction = -1
        self._spins = _Spins()

    # -- visible operations ----------------------------------------------------------------------------------

    def _locked(self, instruction: int, address: int, size: int, mnemonic: str) -> None:
        self._lockers.add(instruction)
        if self._cpu.counter.installed and not self._scheduler.due:
            operation = self._visible.atomic(instruction, address, size, mnemonic)
            if operation is not None:
                self._reached(operation)
            elif self._watcher is not None:
                self._watcher.locked(self._runner.task.tid, instruction, address, size)

    def _plain(self, instruction: int, address: int, size: int, write: bool) -> None:
        if self._cpu.counter.installed and not self._scheduler.due:
            self._reached(self._visible.plain(instruction, address, size, write))

    def _watch_opened(self) -> None:
        """Be told when a thread comes to code of an object that was opened at run time:
        it may be closed under it. From its mapping on: IFUNCs run before constructors.
        """
        rtld = self._process.rtld
        for map_ in (m for n in rtld.namespaces for m in n.maps) if rtld is not None else ():
            extent = map_.map_start, map_.map_end
            if map_.type == LT_LOADED and extent not in self._opened:
                self._opened.add(extent)
                self._watch.blocks(*extent, partial(self._entered, *extent))

    def _entered(self, start: int, end: int, block: int) -> None:
        counter = self._cpu.counter
        if counter.installed and not self._scheduler.due:
            if not start <= self._watch.before(block) < end or self._passing[0]:
                if self._lies_there(start, end):
                    self._reached(self._visible.code(block))

    def _lies_there(self, start: int, end: int) -> bool:
        """Whether that is where an object lies now: earlier runs may have had others there."""
        assert self._process.rtld is not None
        map_ = self._process.rtld.find_map(start)
        return map_ is not None and map_.type == LT_LOADED and (map_.map_start, map_.map_end) == (start, end)

    def _trap(self) -> None:
        if self._cpu.counter.installed and not self._scheduler.due:
            operation = self._visible.trap(self._cpu.trap)
            if operation is not None and not self._reached(operation):
                return
        self._serve()

    def _reached(self, operation: Operation) -> bool:
        """The running thread is about to make an operation; return whether it does."""
        tid = self._runner.task.tid
        passing, self._passing = self._passing, (0, 0)
        if passing == (tid, operation.pc):
            self._make(tid, operation, self._point)
            return True
        self._pending[tid] = operation
        ready = [task.tid for task in self._scheduler.ready]
        spins = self._spins.count(tid, operation)
        alone = not ready and self._scheduler.next_deadline == NEVER
        if spins >= _ROUNDS and alone and self._spins.nothing_new(self._registers_and_stack()):
            raise EndlessLoopError(f"thread {tid} goes round in a loop, and nobody else can run")
        tired = spins >= _SPINS and bool(ready)
        point = self._point_of(ready if tired else [tid, *ready], 0 if tired else tid)
        chosen = self.chooser.choose(point)
        if chosen == tid:
            self._make(tid, operation, point)
            return True
        self._next, self._point = chosen, point
        self._instruction = self._watch.number(operation.pc)
        self._runner.preempt()
        return False

    def _registers_and_stack(self) -> tuple[object, ...]:
        """Return what a loop that does something changes with each round, most likely."""
        cpu = self._cpu
        stack = cpu.get(regs.RSP)
        try:
            words = self._process.arena.read(stack - _RED_ZONE, _LOOKED_AT)
        except MemoryFault:
            words = b""  # near the end of the stack
        return (words, *map(cpu.get, _GENERAL))

    def _make(self, tid: int, operation: Operation, point: Point) -> None:
        self._pending.pop(tid, None)
        step = Step(tid, operation, point)
        self.steps.append(step)
        if self._watcher is not None:
            self._tell(self._watcher, tid, operation)
        self.chooser.made(step)

    def _tell(self, watcher: StepWatcher, tid: int, operation: Operation) -> None:
        if operation.locks[1]:
            watcher.locked(tid, operation.pc, *operation.locks)
        else:
            watcher.operation(tid, operation)
            if operation.name in ("clone", "clone3"):
                watcher.born(self._kernel.system.next_id, tid)

    def _point_of(self, enabled: Sequence[int], current: int) -> Point:
        pending = {tid: self._pending[tid] for tid in enabled if tid in self._pending}
        return Point(len(self.steps), tuple(enabled), pending, current)

    # -- the scheduler's choices -----------------------------------------------------------------------------

    def choose(self, tasks: Sequence[int]) -> Decision:
        """Return whom the chooser wants; see `emu.kernel.run.policy.Policy`."""
        if self.decisions:
            self._close(self.decisions[-1])
        chosen, self._next = self._next, 0
        if chosen not in tasks:
            chosen = self._free_choice(tasks)
        if chosen in self._pending:
            self._passing = chosen, self._pending[chosen].pc
        else:
            self._make(chosen, RESUME, self._point)
        decision = Decision(chosen, SLICE)
        self.decisions.append(decision)
        return decision

    def finish(self) -> None:
        """There is nothing to do."""

    def schedule(self) -> tuple[Decision, ...]:
        """Return the decisions so far, of which a replay makes the same run."""
        if self.decisions and self._instruction >= 0:
            self._close(self.decisions[-1])
        return tuple(self.decisions)

    def _free_choice(self, tasks: Sequence[int]) -> int:
        running = self._runner.task.tid
        if tasks[0] == running and running not in self._pending:
            self._point = self._point_of(tasks, running)
            return running  # somebody else can run now; the thread goes on to its next operation
        self._spins = _Spins()
        if len(tasks) > 1 and tasks[-1] == running and running not in self._pending:
            tasks = tasks[
                :-1
            ]  # it yields, or its slice is over without a visible operation: it waits for somebody
        self._point = self._point_of(tasks, 0)
        return self.chooser.choose(self._point)

    def _close(self, decision: Decision) -> None:
        """Note where the last slice ended, if it was cut short."""
        instruction, self._instruction = self._instruction, -1
        if instruction >= 0:
            used = decision.blocks - self._runner.left
            self.decisions[-1] = Decision(decision.task, used, instruction)
