"""`emu check`: an observer of one run that reports what goes wrong between threads, destructors and dlclose.

It listens to events, looks at the state when they come, and watches a few functions of libc; the run is the
same with and without it. Each family of rules has a file of its own, `check_*.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emu.analysis.check_addresses import Addresses
from emu.analysis.check_allocators import Allocators
from emu.analysis.check_conflicts import Conflicts
from emu.analysis.check_copies import Copies
from emu.analysis.check_data import ERROR, RULES, Finding, OpenFailure, Report
from emu.analysis.check_dtors import Dtors
from emu.analysis.check_early import Early
from emu.analysis.check_early_data import EarlyData
from emu.analysis.check_ends import deadlocked, died, not_loaded, stopped, stuck, uncaught
from emu.analysis.check_handlers import Handlers
from emu.analysis.check_libc import LibcState
from emu.analysis.check_loaded_twice import LoadedTwice
from emu.analysis.check_notes import NOWHERE, Notes
from emu.analysis.check_null import null_call
from emu.analysis.check_order import OrderChecks
from emu.analysis.check_reopen import FileChecks
from emu.analysis.check_statics import Statics
from emu.analysis.check_symbols import SymbolChecks
from emu.analysis.check_threads import ThreadChecks
from emu.analysis.check_twice import initialised_twice
from emu.analysis.check_types import Types
from emu.analysis.check_unload import UnloadChecks
from emu.analysis.check_wrappers import Wrappers
from emu.analysis.frames import user_frame
from emu.analysis.why_command import why_command
from emu.core import dl_events as dl
from emu.core.errors import EmuError, LinkError
from emu.core.events import FiniStarted, Initializer, InitStarted
from emu.core.task_events import Fault, ProcessCreated, ProgramExecuted, ThreadCreated, ThreadExited
from emu.core.tls_events import DtorDone, DtorRegistered, DtorRun
from emu.kernel.run.signals import Killed
from emu.process.deadlock import DeadlockError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from emu.analysis.check_notes import NotedFinding, Occasion
    from emu.core.duplicate import Duplicate
    from emu.core.events import EventBus, Record
    from emu.process import Process
    from emu.process.backtrace import FrameInfo

_SYSTEM = ("/lib/", "/lib64/", "/usr/lib/", "/usr/lib64/")
"""Where the system has libraries: what those try and do without is their own business."""
_FAILED = 3
"""Opens that failed of which is told."""


def chosen_rules(only: Iterable[str], without: Iterable[str]) -> frozenset[str]:
    """Return the rules to ask: the default ones or `only` those, but not `without`.

    Raises ValueError for one that does not exist.
    """
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
        """`watch`: accesses to data that should not be used any more are
        seen too, at a price (see `emu.machine.watch`).
        """
        self.process = process
        memory = self._memory = process.cpu.memory_watch() if watch else None
        self._finished = self._watchable = False
        self._failed: dict[str, OpenFailure] = {}
        self._unbound = NOWHERE
        self._notes = notes = Notes(process, rules)
        self._dtors = dtors = Dtors(notes, memory)
        self._order = order = OrderChecks(notes, memory)
        self._symbols = SymbolChecks(notes)
        guards = self._guards = process.cpu.page_guards()
        self._statics = Statics(notes, guards)
        self._early = early = Early(notes, guards)
        self._early_data = EarlyData(notes, guards)
        self.conflicts = Conflicts(notes)
        self._copies = Copies(notes)
        self._addresses = Addresses(notes)
        self._allocators = Allocators(notes)
        self._types = Types(notes)
        self._libc = LibcState(notes)
        self._threads = threads = ThreadChecks(notes)
        self._files = FileChecks(notes)
        self._loaded_twice = LoadedTwice(notes)
        self._wrappers = Wrappers(notes)
        self._handlers = Handlers(notes, self._handler_registered)
        self._closing = closing = UnloadChecks(notes, dtors, threads)
        self._handle: dict[type[Any], Callable[[Record, Any], None]] = {
            dl.OpenRequested: self._open_requested,
            dl.OpenFailed: self._open_failed,
            dl.FirstCallFailed: self._first_call_failed,
            dl.NamespaceCreated: lambda _, event: self._libc.namespace_created(event.namespace),
            dl.Opened: self._opened,
            dl.NodeleteSet: closing.nodelete_set,
            dl.CloseRequested: closing.close_requested,
            dl.Kept: closing.kept,
            dl.Unloading: self._unloading,
            dl.Unloaded: self._unloaded,
            DtorRegistered: self._dtor_registered,
            DtorRun: self._dtor_run,
            DtorDone: dtors.done,
            InitStarted: self._init_started,
            Initializer: early.initializer,
            FiniStarted: order.fini_started,
            ThreadCreated: threads.created,
            ThreadExited: dtors.thread_exited,
            ProcessCreated: dtors.forked,
            Fault: closing.fault,
        }
        bus.subscribe(self._event, ("dl", "init", "fini", "dtors", "threads", "faults"), process.number)
        bus.subscribe(self._event_of_any, ("threads",), None)

    def _event_of_any(self, record: Record) -> None:
        """An event of any process."""
        if isinstance(record.event, ProgramExecuted):
            self._dtors.executed(record.event)

    # -- children (see emu.analysis.follow) --------------------------------------------------------------

    def prepare(self, child: Process, copy: Duplicate) -> None:
        """A child's checker is to have what watches pages of the child's."""
        copy.stand_for(self._guards, child.cpu.page_guards())
        if self._memory is not None:
            copy.stand_for(self._memory, child.cpu.memory_watch())

    def of_child(self, child: Process, copy: Duplicate) -> Checker:
        """Return the checker of a child, which knows all that has happened here."""
        twin = copy.of(self)
        self._guards.repeat(twin._guards, copy.of)
        if self._memory is not None and twin._memory is not None:
            self._memory.repeat(twin._memory, copy.of)
        twin._notes.inherit()
        twin._failed.clear()
        twin._dtors.inherit(self._notes.task(), child.kernel.pid)
        return twin

    def end(self, status: int | None, ended: str, *, died: bool) -> Report:
        """Return the report about a process that somebody else has run, at its end; `status` None: it
        goes on with another program.
        """
        if status is None:
            found = self.findings()
            return Report(
                self.process.config.program,
                0,
                ended,
                tuple(found),
                0,
                failed_opens=tuple(self._failed.values()),
            )
        return self.close(status, ended, "died" if died else "")

    # -- one process -------------------------------------------------------------------------------------

    def run(self) -> Report:
        """Load and run the program, and report. Raises EmuError for a program that cannot be loaded at all.

        What ends the linking or the run in ld.so's or emu's words ends up in the report.
        """
        return self.close(*self.go())

    def go(self) -> tuple[int, str, str]:
        """Load and run the program; return its exit code, what is to be said of its end, and the rule
        that this comes under, if any.

        Raises EmuError for a program that cannot be loaded at all.
        """
        rule = ""
        try:
            self.load()
            result = self.process.run()
            status, ended = result.status, result.report
            rule = "died" if result.signal else ""
            unbound = self.process.rtld.unbound if self.process.rtld is not None else None
            if unbound is not None and status == unbound.exit_code and not result.signal:
                rule, ended = "not-loaded", f"symbol lookup error: {unbound}"
        except LinkError as error:
            status, ended, rule = error.exit_code, str(error), "not-loaded"
        except EmuError as error:
            if self.process.runner is None:
                raise
            status, ended = error.exit_code, f"emu: {error}"
            rule = "deadlock" if isinstance(error, DeadlockError) else "not-finished"
        return status, ended, rule

    def close(self, status: int, ended: str, rule: str) -> Report:
        """Return the report about a run that `go` has made."""
        if rule:
            self._note_end(rule, ended)
        elif status:
            here = self._notes.here()
            frames = self.process.resolve(here.frames)
            initialised_twice(self._notes, frames, here, f"it ends with exit code {status}")
        return self.report(status, ended)

    def _note_end(self, rule: str, ended: str) -> None:
        """The run did not end by itself: that is a finding, unless an error that was found says more."""
        notes, process = self._notes, self.process
        self.finish()
        here = NOWHERE
        frames: list[FrameInfo] = []
        if rule == "not-loaded":
            here = self._unbound
        if rule == "died":
            here = notes.here()
            frames = process.resolve(here.frames)
            if (fault := process.ending.resolver_fault) is not None:
                notes.report(
                    "ifunc-unrelocated", fault.text, here, objects=fault.objects, remedies=fault.remedies
                )
            self.conflicts.died(
                list(dict.fromkeys(f.object for f in frames)), [f.function for f in frames if f.function]
            )
        if not any(found.finding.severity == ERROR for found in notes.findings()):
            first = ended.splitlines()[0] if ended else rule
            related: list[tuple[str, Occasion]] = []
            message = first.removeprefix("emu: ").removeprefix(f"{process.config.program}: ")
            match rule:
                case "deadlock":
                    end = deadlocked(message, ended)
                    if not end.remedies:
                        end, here = stuck(notes, end)
                case "not-loaded":
                    end = not_loaded(message, why_command(process.config, process.config.program))
                case "died":
                    if initialised_twice(notes, frames, here, message):
                        return
                    end = uncaught(notes, message) or died(message, frames, process.rtld)
                    said = self._wrappers.died(message, frames) or null_call(
                        notes, message, frames, self._wrappers
                    )
                    if said is not None:
                        end, asked = said
                        related = [("asked by", asked)] if asked is not None else []
                case _:
                    end, here = stopped(notes, message)
            notes.report(rule, end.message, here, related, [process.config.program], remedies=end.remedies)

    def load(self) -> None:
        """Load the program, to be run by whoever wants to. Raises EmuError."""
        self.process.load()
        self.loaded()

    def loaded(self) -> None:
        """The process is loaded, and about to be linked."""
        contract = self.process.contract
        if contract is not None:
            contract.when_linked(self._linked)

    def report(self, status: int, ended: str) -> Report:
        """Return the report about the process, which has ended with `status` and, if a
        signal or we ended it, with the words `ended`.
        """
        findings = tuple(found.finding for found in self.finish())
        return Report(
            self.process.config.program,
            status,
            ended,
            findings,
            0,
            self._watchable,
            tuple(self._failed.values()),
        )

    def findings(self) -> list[Finding]:
        """Return what was found so far."""
        return [found.finding for found in self._notes.findings()]

    def finish(self) -> list[NotedFinding]:
        """Ask what is only known at the end, once, and return all that was found."""
        process = self.process
        if not self._finished and process.runner is not None and process.rtld is not None:
            self._finished = True
            self._dtors.finish(process.runner.task.tid)
            self._closing.finish()
            self._copies.judge()
            self._allocators.finish()
            if not isinstance(process.runner.ended, Killed):
                self._libc.finish()
        return self._notes.findings()

    # -- hooks and events ------------------------------------------------------------------------------------

    def _linked(self) -> None:
        self._handlers.linked()
        self._statics.linked()
        self._early_data.linked()
        self._early.linked()
        self._libc.linked()
        self._threads.linked()
        self._wrappers.linked()
        contract = self.process.contract
        if contract is not None and contract.atexit is not None:
            self.process.cpu.watch(contract.atexit.run_at[0], self._list_run)

    def _list_run(self) -> None:
        assert self.process.runner is not None
        self._dtors.list_run(self.process.runner.task.tid)

    def _event(self, record: Record) -> None:
        self._watchable |= isinstance(record.event, (DtorDone, FiniStarted))
        handle = self._handle.get(type(record.event))
        if handle is not None:
            handle(record, record.event)

    def _opened(self, record: Record, event: dl.Opened) -> None:
        map_ = self._notes.map_named(event.name, event.namespace)
        if map_ is not None:
            self._closing.note_address((event.name, event.namespace), map_.address)
        self._closing.opened(record, event)
        self._early_data.judge(done=True)
        self._files.opened(record, event)

    def _open_requested(self, record: Record, event: dl.OpenRequested) -> None:
        self._closing.open_requested(record, event)
        self._libc.open_requested(record, event)
        self._files.open_requested(record, event)

    def _open_failed(self, record: Record, event: dl.OpenFailed) -> None:
        self._closing.open_failed(record, event)
        self._files.open_failed(record, event)
        if event.file not in self._failed and len(self._failed) < _FAILED:
            here = self._notes.here()
            frame = user_frame(self.process.resolve(here.frames))
            place = self._notes.line(here)
            if place and frame is not None and not frame.object.startswith(_SYSTEM):
                command = why_command(self.process.tree.leader.config, event.file)
                self._failed[event.file] = OpenFailure(event.file, place, event.text, command)

    def _first_call_failed(self, _record: Record, _event: dl.FirstCallFailed) -> None:
        self._unbound = self._notes.here()

    def _unloading(self, record: Record, event: dl.Unloading) -> None:
        self._closing.unloading(record, event)
        self._libc.unloading(record, event)
        self._threads.unloading(event)

    def _init_started(self, record: Record, event: InitStarted) -> None:
        self._order.init_started(record, event)
        self._symbols.look(record, event)
        new = self.conflicts.look(record, event)
        if new and self.conflicts.bindings is not None:
            self._copies.look(self.conflicts.bindings, new)
            self._addresses.look(self.conflicts.bindings, new)
            self._allocators.look(self.conflicts.bindings, new)
            self._types.look(self.conflicts.bindings, new)
            self._files.look(new)
            self._loaded_twice.look(new)
            self._early_data.look(self.conflicts.bindings, new)
        self._early_data.init_started(record, event)
        self._early.init_started(record, event)

    def _handler_registered(self, function: int, argument: int, dso: int, place: Occasion) -> None:
        self._order.handler_registered(dso)
        self._statics.registered(function, argument, dso, place)

    def _dtor_registered(self, record: Record, event: DtorRegistered) -> None:
        self._dtors.registered_event(record, event)
        self._statics.thread_registered(record, event)

    def _dtor_run(self, record: Record, event: DtorRun) -> None:
        self._dtors.run(record, event)
        self._statics.thread_destroyed(record, event)

    def _unloaded(self, record: Record, event: dl.Unloaded) -> None:
        assert self.process.rtld is not None
        gone = self.process.rtld.index.find_departed(event.start)
        if gone is None:
            return
        self._closing.unloaded(record, event, gone)
        self._threads.unloaded(gone)
        self._libc.unloaded(gone)
        self._dtors.unloaded(record, event, gone)
        self._symbols.forget(gone.start)
        self._statics.unloaded(gone)
        self._early.unloaded(gone.start)
        self._early_data.forget(gone.start)
        self._copies.forget(gone.start)
        self._allocators.forget(gone.start)
        self._types.forget(gone.start)
        self.conflicts.forget(gone.start)
        self._handlers.unloaded(gone, self._notes.unloaded[gone.start, gone.end])
