"""What else a debugger is stopped for: system calls, and the loader's events.

A system call is caught before its instruction runs, and again behind it. An event of the loader stops the
guest at its next instruction: a library that has been mapped has not run any of its code then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.dl_events import Unloaded
from emu.core.events import CATEGORY_OF, LibraryLoad, Record
from emu.core.record import NamedTuple
from emu.gdb.stop import Stop
from emu.trace.text import render_brief

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from emu.gdb.execution import Execution, Key

_RAX, _RIP = 0, 16
_LIBRARIES = (LibraryLoad, Unloaded)


class Told(NamedTuple):
    """An event of the run: its number from 1 on, the place behind the trap that
    it comes from, and the event.
    """

    number: int
    key: Key
    record: Record


class Catches:
    """The catchpoints of one execution, and its events of `categories`.

    - `syscalls`: the numbers of the system calls that are caught, None for all
    - `wanted`: the events that are caught: for each catchpoint's words, what says so
    - `quiet`: holds all of it back; `note` sees what is caught first, and may take it
    - `until`: the number of the event at which the guest stops, 0 for none
    - `events`, `told`: the events that are known, and how many of them have come
    """

    def __init__(self, execution: Execution, categories: Iterable[str]) -> None:
        self._execution = execution
        self.syscalls: frozenset[int] | None = frozenset()
        self.quiet = False
        self.wanted: dict[str, Callable[[Record], bool]] = {}
        self.note: Callable[[Stop], bool] = lambda stop: False
        self.events: list[Told] = []
        self.told = 0
        self._entered: set[int] = set()
        self._inside: dict[int, int] = {}
        self._categories = frozenset(categories)
        self._heard = {"libs", "dl", "dtors", *categories}
        self.until = 0
        execution.process.bus.subscribe(self._told, self._heard)

    def attach(self) -> None:
        """See traps from now on; the process has begun."""
        cpu = self._execution.process.cpu
        self._serve = cpu.take_traps(self._trap)

    def want(self, words: str, wanted: Callable[[Record], bool]) -> None:
        """Catch the events of which `wanted` says so."""
        self.wanted[words] = wanted

    def listen(self, category: str) -> None:
        """See the events of another category, too: they get no numbers."""
        if category not in self._heard:
            self._heard.add(category)
            self._execution.process.bus.subscribe(self._told, (category,))

    def numbers(self, category: str) -> list[int]:
        """Return the numbers of the known events of a category, of all ("")."""
        return [t.number for t in self.events if category in ("", CATEGORY_OF[type(t.record.event)])]

    def cut(self) -> None:
        """Forget the events that are still to come again."""
        del self.events[self.told :]

    def _told(self, record: Record) -> None:
        execution, event = self._execution, record.event
        if CATEGORY_OF[type(event)] in self._categories:
            if self.told == len(self.events):
                self.events.append(Told(self.told + 1, (execution.port.count + 1, 0), record))
            self.told += 1
            if self.told == self.until:
                execution.stop_soon(Stop(record.task, 0))
        caught = next((name for name, wants in self.wanted.items() if wants(record)), "")
        stop = Stop(record.task, 0, text=f"emu: {caught}: {render_brief(record).strip()}")
        if caught and not self.note(stop) and not self.quiet:
            execution.stop_soon(stop)
        elif isinstance(event, _LIBRARIES) and not self.quiet:
            execution.stop_soon(Stop(record.task, reason="library"))

    def _trap(self) -> None:
        if self.syscalls == frozenset() and not self._inside or self.quiet:
            self._serve()
            return
        execution = self._execution
        cpu = execution.process.cpu
        rip, number, tid = cpu.trap[_RIP], cpu.trap[_RAX], execution.task.tid
        contract = execution.process.contract
        ours = contract is not None and (
            rip in contract.traps or contract.stubs.start <= rip < contract.stubs.end
        )
        if ours or self.syscalls is not None and number not in self.syscalls:
            self._serve()
        elif tid not in self._entered:
            self._entered.add(tid)
            execution.process.stay()  # it runs when the guest goes on
            execution.stop_here(Stop(tid, reason="syscall_entry", value=f"{number:x}"))
        else:
            self._entered.discard(tid)
            self._inside[tid] = number
            self._serve()
        self._look(tid)

    def _look(self, tid: int) -> None:
        """Tell of the calls that have returned."""
        execution = self._execution
        for thread, number in list(self._inside.items()):
            task = execution.process.kernel.tasks.get(thread)
            if task is None:
                del self._inside[thread]
            elif task.call is None:
                del self._inside[thread]
                execution.stop_soon(Stop(thread, reason="syscall_return", value=f"{number:x}"))
