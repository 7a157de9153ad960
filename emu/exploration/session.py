"""A program that is run again and again from the place where its threads begin,
each time under another schedule.

The first system call that makes a thread is stopped before it happens, and a snapshot taken there. Where none
can be taken (inside dlopen, for instance) each run begins at the program's start. What the program prints
goes to a memory file, and its standard input is empty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.errors import EmuError
from emu.core.task_events import ThreadCreated
from emu.exploration.choosers import Guided
from emu.exploration.data import ExploredProgram, GivenUp, Learned, Outcome, Ran
from emu.exploration.heap import GuestHeap
from emu.exploration.intent import Intent
from emu.exploration.judged import Judged
from emu.exploration.races import Detector
from emu.exploration.telling_races import about, suppressing, tell_block, tell_first, tell_second
from emu.kernel.run.policy import Replay
from emu.kernel.syscall_names import syscall_name
from emu.process.snapshot import ProcessSnapshot, SnapshotError
from emu.process.steps import ManyProcessesError, Stepper

if TYPE_CHECKING:
    from emu.core.events import Record
    from emu.exploration.races import Access, DataRace
    from emu.exploration.telling_races import About
    from emu.process import Process
    from emu.process.steps import Chooser, Point, Step

_CLONES = frozenset(("clone", "clone3"))
_RAX, _RIP = 0, 16
_SCOUTED = 1_000_000
"""Accesses to memory that are looked at in one run of scouting."""


class ExplorationSession:
    """One program, ready to be run.

    Raises EmuError where it cannot be loaded. `threads` tells whether it makes any. With `heap` the places of
    allocations are noted.
    """

    def __init__(self, program: ExploredProgram, *, heap: bool = False) -> None:
        self._program, self._with_heap = program, heap
        self._stepper: Stepper
        self._intent: Intent
        self._race = self._other = self._block = ""
        self._about: About = ("", (), ())
        self._racing: Access | None = None
        self._hidden: dict[tuple[int, int, int], bool] = {}
        self._looked_at: set[int] = set()
        self.learned: set[int] = set()
        """Instructions that scouting has found to synchronise."""
        self.raced = False
        """Whether scouting has seen accesses that nothing orders."""
        self._begin()

    def close(self) -> None:
        """Give its files back."""
        self._judged.close()

    @property
    def process(self) -> Process:
        """The process that is run again and again; a new one where no snapshot could be taken."""
        return self._judged.process

    def run(self, chooser: Chooser) -> Ran:
        """Run once from where the threads begin. Raises what is not the guest's doing."""
        self._racing, self._other = None, ""
        return self._run(chooser)

    def _run(self, chooser: Chooser) -> Ran:
        self._rewind()
        stepper = self._stepper
        stepper.chooser = chooser
        self._race = ""
        wanted = (self._racing.tid, self._racing.number) if self._racing is not None else (0, 0)
        intent, races = self._intent, self._program.races
        detector = None
        if self._program.scouting:
            detector = Detector(intent.kind, self._scouted, most=_SCOUTED, met=self._met)
        elif races:
            detector = Detector(intent.kind, self._raced, wanted, self._first_access)
        stepper.begin(detector)
        self._used = True
        try:
            outcome: Outcome | None = self._judged.end(self._ended)
        except GivenUp:
            outcome = None
        except Learned as learned:
            return Ran(tuple(stepper.steps), None, (), learned.instructions)
        steps, schedule = tuple(stepper.steps), stepper.schedule()
        if outcome is not None and self._program.expected is not None:
            outcome = _compared(outcome, self._program.expected)
        if self._race and outcome is not None and self._racing is not None and not self._other:
            outcome = outcome._replace(
                kind="race", failed=True, text=self._told(steps), about=suppressing(self._about)
            )
        return Ran(steps, outcome, schedule)

    def _meant(self, race: DataRace) -> tuple[int, ...]:
        """Return the instructions of a race that are meant to synchronise, and were not known to."""
        intent = self._intent
        pcs = {a.pc for a in race if intent.kind(a.pc) != "atomic" and intent.is_meant(a.pc, a.address)}
        return tuple(sorted(pcs))

    def _scouted(self, race: DataRace) -> bool:
        learned = self._meant(race)
        self._intent.learn(learned)
        self.learned.update(learned)
        self.raced |= not learned
        return True

    def _met(self, race: DataRace) -> None:
        """Two accesses that synchronise meet: plain ones of libc's that it goes by are to be seen, too."""
        for access in race:
            if access.pc not in self._looked_at:
                self._looked_at.add(access.pc)
                if not self._stepper.locks(access.pc) and self._intent.decides(access.pc):
                    self.learned.add(access.pc)

    def _raced(self, race: DataRace) -> bool:
        """Two accesses are not ordered: that is a failure, unless they are meant to be so. Raises Learned."""
        learned = self._meant(race)
        if learned:
            raise Learned(learned)
        if self._is_hidden(race):
            return True
        self._race, self._about = tell_second(self.process, race), about(self.process, race)
        self._racing = race.first
        return False

    def _is_hidden(self, race: DataRace) -> bool:
        """Whether the user does not want to see it."""
        if not self._program.hidden:
            return False
        key = race.first.pc, race.second.pc, race.second.address
        if key not in self._hidden:
            known = about(self.process, race)
            self._hidden[key] = any(s.concerns(*known) for s in self._program.hidden)
        return self._hidden[key]

    def _first_access(self) -> None:
        """The first access of the race that is told is about to be made."""
        assert self._racing is not None
        self._other = tell_first(self.process, self._racing)
        block = self._heap.block(self._racing.address) if self._heap is not None else None
        if block is not None:
            self._block = tell_block(self.process, self._racing.address, block)

    def _told(self, steps: tuple[Step, ...]) -> str:
        """Return the lines about the race of a run that had these steps:
        it is made again for the place of the first access.
        """
        text = self._race
        self._run(Guided([step.tid for step in steps], {}))
        return text + self._other

    def allocation(self, steps: tuple[Step, ...]) -> str:
        """Return lines about the block of the heap that the race of the last run is on, empty for none.

        The run had these steps; it is made again from the program's start.
        """
        racing = self._racing
        if racing is None or self.process.symbols.place(racing.address) is not None:
            return ""
        session = ExplorationSession(self._program, heap=True)
        try:
            session._racing = racing
            session._run(Guided([step.tid for step in steps], {}))
            return session._block
        finally:
            session.close()

    # -- beginning -------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Bring a new process to where its threads begin, and note its state there if that can be done."""
        self._judged = judged = Judged(self._program)
        self._heap = GuestHeap(judged.process) if self._with_heap else None
        self._used = False
        self._ended: EmuError | None = None
        self.threads = self._reach_thread()
        process = judged.process
        assert process.runner is not None
        if self.threads:
            process.runner.count()
        judged.limit()
        self._stepper = Stepper(process, _Nobody())
        self._intent = Intent(process, self._program.atomics)
        self._stepper.see_plain(self._program.atomics)
        if self._program.races or self._program.scouting:
            self._stepper.watch_memory()
        try:
            self._snapshot: ProcessSnapshot | None = ProcessSnapshot(
                process,
                lambda hosted: None,
                roots=[judged.checker],
                apart=[self._stepper, self._intent, self._heap, self, judged],
            )
        except SnapshotError:
            self._snapshot = None
        judged.note_output()

    def _reach_thread(self) -> bool:
        """Run to the first thread's making, by whatever program; false if there is none."""
        process = self._judged.process

        def missed(record: Record) -> None:
            """A thread that was not stopped at: a child's, or behind a vfork, whose child takes the CPU."""
            if isinstance(record.event, ThreadCreated):
                program = process.config.program
                raise ManyProcessesError("exploration of threads beside or behind other processes", program)

        process.bus.subscribe(missed, ("threads",))
        try:
            while process.runner is not None and process.runner.ended is None:
                if self._reach_thread_of_program(process):
                    return True
        except EmuError as error:
            self._ended = error
        finally:
            process.bus.unsubscribe(missed)
        return False

    @staticmethod
    def _reach_thread_of_program(process: Process) -> bool:
        """Run to the first thread's making, or till another program is executed, which has its own CPU."""
        cpu, found = process.cpu, False
        assert process.runner is not None
        handlers = process.contract.traps if process.contract is not None else {}

        def trap() -> None:
            nonlocal found
            registers = cpu.trap
            if registers[_RIP] not in handlers and syscall_name(registers[_RAX]) in _CLONES:
                found = True
                cpu.take_traps(serve)
                process.stay()
            else:
                serve()
                if process.cpu is not cpu:
                    process.halt()

        serve = cpu.take_traps(trap)
        try:
            while not found and process.cpu is cpu and process.runner.ended is None:
                process.advance()
        finally:
            cpu.take_traps(serve)
        return found

    def _rewind(self) -> None:
        if not self._used:
            return
        if self._snapshot is None:
            self._judged.close()
            self._begin()
            return
        self._snapshot.restore()
        self._judged.rewind()


def replay(program: ExploredProgram, schedule: str) -> Outcome:
    """Run once in a new process under a schedule, a file's text, as `emu check --schedule` does.

    Raises EmuError where it cannot be loaded.
    """
    policy = Replay(schedule.splitlines(), "of the search")
    judged = Judged(program._replace(config=program.config._replace(policy=policy)))
    try:
        return judged.end(None)
    finally:
        judged.close()


class _Nobody:
    """The chooser of a run that nobody has asked for."""

    def choose(self, point: Point) -> int:
        """Go on."""
        return point.current or point.enabled[0]

    def made(self, step: Step) -> None:
        """There is nothing to note."""


def _compared(outcome: Outcome, expected: bytes) -> Outcome:
    """Take another output than the first run's for a failure."""
    if outcome.failed or outcome.output == expected:
        return outcome
    return Outcome("output", True, 0, _difference(expected, outcome.output), outcome.output)


def _difference(first: bytes, now: bytes) -> str:
    """Tell the first line in which two outputs differ."""
    ours, theirs = first.splitlines(), now.splitlines()
    for number in range(max(len(ours), len(theirs))):
        a, b = (lines[number] if number < len(lines) else None for lines in (ours, theirs))
        if a != b:
            return f"line {number + 1} of the output is {_line(b)}, in the first run {_line(a)}"
    return "the output differs from the first run's in how its last line ends"


def _line(text: bytes | None) -> str:
    return "missing" if text is None else repr(text.decode("utf-8", "replace"))
