"""What is debugged, whoever is connected: the process, its threads, its registers
and memory, and how to begin again.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from emu.analysis.history import History
from emu.core.errors import EmuError, MemoryFault
from emu.gdb.catches import Catches
from emu.gdb.execution import Execution
from emu.gdb.registers import NO_CALL, NUMBERS, RegisterFile
from emu.gdb.timeline import Timeline
from emu.gdb.watches import Watches
from emu.kernel.run.sigframe import pack_siginfo
from emu.process import Result
from emu.process.deadlock import waits_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from emu.gdb.stop import Stop
    from emu.kernel.run.task import Task
    from emu.process import Process

_STEP = 4096
HISTORY = 512 << 20
"""How much history is kept unless the user says otherwise, in bytes."""
EVENTS = ("dl", "init", "fini", "tls", "dtors", "faults", "threads")
"""The events that have numbers unless the user asks for others."""


class EventError(EmuError):
    """There is no such event."""


Make = Callable[[str | None, tuple[str, ...] | None], "Process"]
"""Makes a process that has not begun: of the program and arguments that were given, or of others."""


class Target:
    """The process that `make` makes, stopped at its first instruction.

    - `execution`, `catches`, `registers`: how it runs and stops, what else it stops for, its registers
    - `timeline`, `history`: its past, to go back to; what happened to its objects
    - `last`: why it stands still

    Raises EmuError.
    """

    features = ";ReverseStep+;ReverseContinue+"

    def __init__(self, make: Make, history: int = HISTORY, categories: Iterable[str] = EVENTS) -> None:
        self._make, self._limit, self._categories = make, history, tuple(categories)
        self.say: Callable[[str], None] = lambda line: None
        self.restart()

    def restart(self, program: str | None = None, args: tuple[str, ...] | None = None) -> None:
        """Begin again with a new process, of another program or with other arguments if given.

        Raises EmuError.
        """
        execution = Execution(self._make(program, args))
        self.catches = Catches(execution, self._categories)
        self.history = History(execution.process, frozenset(self._categories))
        execution.begin()
        self.catches.attach()
        self.execution = execution
        self.timeline = Timeline(
            execution, self.catches, self._limit, lambda line: self.say(line), roots=(self.history,)
        )
        self.catches.note = self.timeline.noted
        self.registers = RegisterFile(
            self.process.cpu, lambda: self.execution.task, lambda task: self._call_of(task)
        )
        self.last: Stop = self.execution.standing()

    @property
    def process(self) -> Process:
        """What is debugged."""
        return self.execution.process

    # -- running ---------------------------------------------------------------------------------------------

    def resume(self, signal: int) -> Stop:
        """Run until something stops the guest."""
        return self.timeline.resume(signal)

    def step(self, tid: int, signal: int, inside: tuple[int, int] | None) -> Stop:
        """Run one instruction of a thread, or until it leaves a range of code."""
        return self.timeline.step(tid, signal, inside)

    def back(self, tid: int | None) -> Stop:
        """Go back: by one instruction of a thread, or (None) to what would have
        stopped the run, or its beginning.
        """
        return self.timeline.back() if tid is None else self.timeline.step_back(tid)

    def result(self) -> Result | None:
        """Return how the process has ended; None if it was killed, or lives."""
        over = self.execution.ended
        if over is None:
            return None
        return Result(over.status if over.status is not None else 128 + (over.killed or 0), over.killed or 0)

    def release(self) -> Result | None:
        """Let the process run to its end without a debugger; None if it is over already."""
        execution = self.execution
        if execution.ended is not None or self.last.over:
            return None
        execution.breakpoints.clear()
        self.timeline.why_not = "the debugger has gone"
        execution.watches = Watches(self.process.arena)
        self.catches.quiet = True
        execution.pass_signals = frozenset(range(1, 65))
        stop = execution.resume(execution.kept[1].signo if execution.kept is not None else 0)
        while not stop.over:
            stop = execution.resume()
        return self.result()

    def monitor(self, line: str) -> Iterator[str]:
        """Obey a monitor command; yield lines for the user."""
        from emu.gdb.monitor import obey  # the analysis takes its time to import

        yield from obey(self, line)

    def find_event(self, place: str) -> int:
        """Go to an event, `#N` or `CATEGORY:N`, which may be still to come; return its number.

        Raises EmuError.
        """
        category, _, text = place.rpartition("#" if place.startswith("#") else ":")
        if not text.isdecimal() or not int(text) or category not in ("", *self._categories):
            known = ", ".join(self._categories)
            raise EventError(f"{place!r} is no event: give #N or CATEGORY:N; the categories are {known}")
        while True:
            numbers = self.catches.numbers(category)
            if len(numbers) >= int(text):
                number = numbers[int(text) - 1]
                self.timeline.go(self.catches.events[number - 1].key)
                return number
            if not self._next_event():
                raise EventError(f"there is no event {place}: the run has {len(numbers)} of them")

    def _next_event(self) -> bool:
        """Run on until there is one more event than is known; false if the process ends first."""
        execution, catches = self.execution, self.catches
        known = len(catches.events)
        kept, execution.breakpoints = execution.breakpoints, set()
        catches.until = known + 1
        try:
            while len(catches.events) == known:
                signal = execution.kept[1].signo if execution.kept is not None else 0
                if self.timeline.resume(signal).over:
                    return len(catches.events) > known
            return True
        finally:
            execution.breakpoints, catches.until = kept, 0

    def go_begin(self) -> None:
        """Go to the first instruction."""
        self.timeline.go_begin()

    # -- threads ---------------------------------------------------------------------------------------------

    def tasks(self) -> list[Task]:
        """Return the threads, the oldest first."""
        return list(self.process.kernel.tasks.values())

    def task(self, tid: int) -> Task | None:
        """Return a thread by its id."""
        return self.process.kernel.tasks.get(tid)

    def waits(self, task: Task) -> str:
        """Return what a thread is doing, for people."""
        return f"waits {waits_for(self.process, task)}" if task.block is not None else "runs"

    def thread_pointer(self, task: Task) -> int:
        """Return a thread's fs base."""
        value: int = struct.unpack("<Q", self.registers.read(task)[NUMBERS["fs_base"]])[0]
        return value

    def siginfo(self) -> bytes | None:
        """Return the siginfo_t of the signal that has come and not acted yet; None if there is none."""
        kept = self.execution.kept
        return pack_siginfo(kept[1]) if kept is not None else None

    def _call_of(self, task: Task) -> int:
        if task.call is not None:
            return task.call.entry.number
        return NO_CALL

    # -- memory ----------------------------------------------------------------------------------------------

    def read(self, address: int, size: int) -> bytes:
        """Return up to `size` bytes, as far as they are mapped. Raises MemoryFault if none are."""
        arena = self.process.arena
        try:
            return arena.read(address, size)
        except MemoryFault:
            data = b""
            while len(data) < size:
                step = min(size - len(data), _STEP - (address + len(data)) % _STEP)
                try:
                    data += arena.read(address + len(data), step)
                except MemoryFault:
                    break
            if not data:
                raise
            return data

    def write(self, address: int, data: bytes) -> None:
        """Store bytes, whatever the permissions are. Raises MemoryFault."""
        process = self.process
        process.arena.read(address, len(data))

        def store() -> None:
            process.arena.write(address, data)
            process.cpu.flush_code(address, len(data))

        self.timeline.changes(store)
        self.execution.watches.look()

    def write_registers(self, task: Task, changes: dict[int, bytes]) -> None:
        """Store registers, by their numbers in the target description."""
        self.timeline.changes(lambda: self.registers.write(self.process.kernel.tasks[task.tid], changes))
