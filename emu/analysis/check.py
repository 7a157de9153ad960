"""`emu check`: an observer of one run that reports what goes wrong between threads, destructors and dlclose.

It listens to events, looks at the state when they come, and watches a few functions of libc; the run is the same with and without it. Each
family of rules has a file of its own, `check_*.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emu.analysis.check_data import RULES, Finding, Report
from emu.analysis.check_dtors import Dtors
from emu.analysis.check_handlers import Handlers
from emu.analysis.check_notes import Notes
from emu.analysis.check_order import Order
from emu.analysis.check_symbols import Symbols
from emu.analysis.check_unload import Closing
from emu.core import dl_events as dl
from emu.core.errors import EmuError, LinkError
from emu.core.events import DtorDone, DtorRegistered, DtorRun, Fault, FiniStarted, InitStarted, ThreadExited
from emu.machine.watch import MemoryWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from emu.analysis.check_notes import Found
    from emu.core.events import EventBus, Record
    from emu.process import Process


def chosen_rules(only: Iterable[str], without: Iterable[str]) -> frozenset[str]:
    """Return the rules to ask: the default ones or `only` those, but not `without`. Raises ValueError for one that does not exist."""
    only, without = list(only), list(without)
    for name in (*only, *without):
        if name not in RULES:
            raise ValueError(f"no rule {name!r}: choose from {', '.join(RULES)}")
    wanted = only or [name for name, rule in RULES.items() if rule.default]
    return frozenset(wanted) - frozenset(without)


class Checker:
    """Checks one run of one process, which has not begun to load."""

    def __init__(
        self, process: Process, bus: EventBus, rules: frozenset[str], *, watch: bool = False
    ) -> None:
        """`watch`: accesses to data that should not be used any more are seen too, at a price (see `emu.machine.watch`)."""
        self.process = process
        memory = MemoryWatch(process.cpu) if watch else None
        self._finished = False
        self._notes = notes = Notes(process, rules)
        self._dtors = dtors = Dtors(notes, memory)
        self._order = order = Order(notes, memory)
        self._symbols = Symbols(notes)
        self._handlers = Handlers(notes, order.handler_registered)
        self._closing = closing = Closing(notes, dtors)
        self._handle: dict[type[Any], Callable[[Record, Any], None]] = {
            dl.OpenRequested: closing.open_requested,
            dl.OpenFailed: closing.open_failed,
            dl.Opened: self._opened,
            dl.NodeleteSet: closing.nodelete_set,
            dl.CloseRequested: closing.close_requested,
            dl.Kept: closing.kept,
            dl.Unloading: closing.unloading,
            dl.Unloaded: self._unloaded,
            DtorRegistered: dtors.registered_event,
            DtorRun: dtors.run,
            DtorDone: dtors.done,
            InitStarted: self._init_started,
            FiniStarted: order.fini_started,
            ThreadExited: dtors.thread_exited,
            Fault: closing.fault,
        }
        bus.subscribe(self._event, ("dl", "init", "fini", "dtors", "threads", "faults"))

    def run(self) -> Report:
        """Load and run the program, and report. Raises EmuError for a program that cannot be loaded at all.

        What ends the linking or the run in ld.so's or emu's words ends up in the report.
        """
        try:
            self.load()
            result = self.process.run()
            status, ended = result.status, result.report
        except LinkError as error:
            status, ended = error.exit_code, str(error)
        except EmuError as error:
            if self.process.runner is None:
                raise
            status, ended = error.exit_code, f"emu: {error}"
        return self.report(status, ended)

    def load(self) -> None:
        """Load the program, to be run by whoever wants to. Raises EmuError."""
        self.process.load()
        self.loaded()

    def loaded(self) -> None:
        """The process is loaded, and about to be linked."""
        contract = self.process.contract
        if contract is not None:
            before = contract.on_linked

            def linked() -> None:
                before()
                self._linked()

            contract.on_linked = linked

    def report(self, status: int, ended: str) -> Report:
        """Return the report about the process, which has ended with `status` and, if a signal or we ended it, with the words `ended`."""
        findings = tuple(found.finding for found in self.finish())
        return Report(self.process.config.program, status, ended, findings, 0)

    def findings(self) -> list[Finding]:
        """Return what was found so far."""
        return [found.finding for found in self._notes.findings()]

    def finish(self) -> list[Found]:
        """Ask what is only known at the end, once, and return all that was found."""
        process = self.process
        if not self._finished and process.runner is not None and process.rtld is not None:
            self._finished = True
            self._dtors.finish(process.runner.task.tid)
            self._closing.finish()
        return self._notes.findings()

    # -- hooks and events -------------------------------------------------------------------------------------------------

    def _linked(self) -> None:
        self._handlers.linked()
        contract = self.process.contract
        if contract is not None and contract.atexit is not None:
            self.process.cpu.watch(contract.atexit.run_at[0], self._list_run)

    def _list_run(self) -> None:
        assert self.process.runner is not None
        self._dtors.list_run(self.process.runner.task.tid)

    def _event(self, record: Record) -> None:
        handle = self._handle.get(type(record.event))
        if handle is not None:
            handle(record, record.event)

    def _opened(self, record: Record, event: dl.Opened) -> None:
        map_ = self._notes.map_named(event.name, event.namespace)
        if map_ is not None:
            self._closing.note_address((event.name, event.namespace), map_.address)
        self._closing.opened(record, event)

    def _init_started(self, record: Record, event: InitStarted) -> None:
        self._order.init_started(record, event)
        self._symbols.look(record, event)

    def _unloaded(self, record: Record, event: dl.Unloaded) -> None:
        assert self.process.rtld is not None
        gone = self.process.rtld.index.find_departed(event.start)
        if gone is None:
            return
        self._closing.unloaded(record, event, gone)
        self._dtors.unloaded(record, event, gone)
        self._symbols.forget(gone.start)
        self._handlers.unloaded(gone, self._notes.unloaded[gone.start, gone.end])
