"""What `emu report` shows: one run as JSON-able data, from the events, the linker's
own state and the rules of `emu check`.

Every list has a limit, so that a long run gives a page that can be opened; what is beyond it is counted.
Moments are the numbers of events: virtual time stands still where no system call is made. Texts from the
guest stay as they are; who puts them into a page has to escape them.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from emu.analysis.check import Checker, chosen_rules
from emu.analysis.check_text import frame_lines
from emu.analysis.frames import readable
from emu.analysis.history import History
from emu.analysis.opens.watch import Opens
from emu.analysis.reasons import ReasonFinder
from emu.analysis.remedies import remedies
from emu.analysis.report_events import MAX_EVENTS, EventList
from emu.analysis.report_tls import ThreadStorage
from emu.analysis.why_command import why_command
from emu.core import dl_events as dl
from emu.core import events as ev
from emu.core import task_events, tls_events
from emu.core.errors import EmuError
from emu.core.ldso_events import PreinitStarted

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.analysis.check_notes import NotedFinding
    from emu.analysis.frames import CallFrame
    from emu.analysis.opens.data import FailedOpen
    from emu.analysis.stamp import Stamp
    from emu.core.duplicate import Duplicate
    from emu.core.events import Record
    from emu.process import Process, Result
    from emu.rtld.link_map import LinkMap

MAX_ROWS = 2_000
"""So many rows any other table holds."""

MAX_FINDINGS = 200
"""So many findings are shown, whose backtraces are long."""

_MAX_KEPT = 500
"""So often it is told why an object was kept."""


class ReportRows:
    """A list that counts what comes when it is full."""

    def __init__(self, limit: int = MAX_ROWS) -> None:
        self.rows: list[Any] = []
        self.left_out, self._limit = 0, limit

    def add(self, row: Any) -> bool:
        """Take a row; return whether there was room for it."""
        if len(self.rows) < self._limit:
            self.rows.append(row)
            return True
        self.left_out += 1
        return False

    def data(self) -> dict[str, Any]:
        """Return the rows and how many more there were."""
        return {"rows": self.rows, "left_out": self.left_out}


class RunReport:
    """Watches a process from before its `load` on; `data` tells what was seen.

    `limit`: so many events are listed in full.
    """

    def __init__(self, process: Process, limit: int = MAX_EVENTS) -> None:
        self.process = process
        self.history = History(process)
        self._opens = Opens(process, self.history)
        self._checker = Checker(process, process.bus, chosen_rules((), ()))
        self._events = EventList(limit)
        self._storage = storage = ThreadStorage(process)
        self._lives = ReportRows()
        self._spans: list[int] = []
        self._kept_told = 0
        self._names: dict[tuple[int, str], int] = {}
        self._alive: dict[tuple[int, str], dict[str, Any]] = {}
        self._destructors = ReportRows()
        self._pending: dict[tuple[int, str, int], list[dict[str, Any]]] = {}
        self._order = {"init": ReportRows(), "fini": ReportRows()}
        self._bindings: dict[tuple[str, str], int] = {}
        self._edges: dict[tuple[str, str, str], None] = {}
        self._before: dict[str, Any] | None = None
        self._begun = 0
        """The event with which the first constructor begins."""
        self._handlers: dict[type[Any], Callable[[Record], None]] = {
            ev.LibraryLoad: self._load, dl.Opened: self._opened, dl.CloseRequested: self._close, dl.Kept: self._kept,
            dl.Unloading: self._unloading, dl.Unloaded: self._unloaded, ev.Binding: self._binding,
            ev.Initializer: self._called, ev.Finalizer: self._called, ev.InitStarted: self._started, PreinitStarted: self._started,
            tls_events.DtorRegistered: self._registered, tls_events.DtorRun: self._run, tls_events.DtorDone: self._done,
            tls_events.TlsBlockAllocated: storage.allocated, task_events.ThreadExited: storage.exited,
        }  # fmt: skip
        process.bus.subscribe(self._take, ev.CATEGORIES, process.number)

    # -- children (see emu.analysis.follow) --------------------------------------------------------------

    def prepare(self, child: Process, copy: Duplicate) -> None:
        """A child has its own list of events."""
        self._checker.prepare(child, copy)
        copy.stand_for(self._events, self._events.fresh())

    def of_child(self, child: Process, copy: Duplicate) -> RunReport:
        """Return who watches a child, knowing all that has happened here but the events."""
        assert self.process.runner is not None
        old, new = self.process.runner.task.tid, child.kernel.pid
        twin = copy.of(self)
        self._checker.of_child(child, copy)
        twin.history.inherit(self.process, child)
        twin._opens.failures.clear()
        twin._storage.inherit(old, new)
        twin._pending = {
            (new if key[0] == old else key[0], key[1], key[2]): ones for key, ones in twin._pending.items()
        }
        return twin

    def loaded(self) -> None:
        """The linker has mapped what the program needs."""
        self._checker.loaded()

    def over(self, ended: str, version: str, *, died: bool, report: str) -> dict[str, Any]:
        """Return everything about a process that somebody else has run; `report` tells of a signal that
        it `died` of.
        """
        if died:
            self._checker.end(0, report, died=True)
        return self.data(ended, version)

    # -- one process -------------------------------------------------------------------------------------

    def run(self, begun: Callable[[], None]) -> Result:
        """Load and run the program; `begun` is called before its first instruction. Raises EmuError."""
        self._checker.load()
        return self.process.run(begun)

    def data(self, ended: str, version: str) -> dict[str, Any]:
        """Return everything after the run; `ended` says how it ended, `version` is emu's."""
        process, rtld = self.process, self.process.rtld
        for map_ in [] if rtld is None else [m for space in rtld.namespaces for m in space.maps]:
            self._look_at(map_)
            life = self._alive.get((map_.ns, map_.display_name))
            if life is not None and map_.real is map_:
                life["end"] = self._why(map_)
        for life in self._alive.values():
            if not life["listed"]:
                self._spans += (life["object"], life["from"], self._events.last)
        findings = ReportRows(MAX_FINDINGS)
        for found in self._checker.finish():
            findings.add(_finding(found))
        failures = ReportRows(MAX_FINDINGS)
        for failed in self._opens.failures:
            failures.add(_failure(failed, why_command(self.process.tree.leader.config, failed.file)))
        return {
            "program": process.config.program, "arguments": list(process.config.args), "built": _built(process),
            "version": version, "ended": ended, "started": self._begun, **self._events.data(), "findings": findings.data(),
            "failures": failures.data(),
            "threads": [[thread, name] for thread, name in self.history.threads.items()],
            "objects": [[name, namespace] for namespace, name in self._names], "lives": self._lives.data(), "spans": self._spans,
            "destructors": self._destructors.data(), "order": {which: rows.data() for which, rows in self._order.items()},
            "edges": [*map(list, self._edges), *([by, to, "bound", n] for (by, to), n in self._bindings.items() if by != to)],
            "before": self._before or ReportRows().data(), "after": self._memory(), "tls": self._storage.data(),
        }  # fmt: skip

    def _take(self, record: Record) -> None:
        self._events.take(record)
        handler = self._handlers.get(type(record.event))
        if handler is not None:
            handler(record)

    # -- objects ---------------------------------------------------------------------------------------------

    def _life(self, record: Record) -> dict[str, Any] | None:
        return self._alive.get((record.event.namespace, record.event.name))

    def _load(self, record: Record) -> None:
        event: ev.LibraryLoad = record.event
        key = event.namespace, event.name or event.path
        life: dict[str, Any] = {
            "object": self._names.setdefault(key, len(self._names)), "from": record.sequence, "to": None, "closed": None,
            "deferred": [], "kept": [], "kept_left_out": 0, "end": None, "start": hex(event.start), "opens": 0,
        }  # fmt: skip
        life["listed"] = self._lives.add(life)
        self._alive[key] = life

    def _opened(self, record: Record) -> None:
        life = self._life(record)
        if life is not None:
            self._end_deferred(life, record.sequence)
            life["closed"] = None
            life["opens"] += 1

    def _close(self, record: Record) -> None:
        event: dl.CloseRequested = record.event
        life = self._life(record)
        if life is None or event.outcome == "not open":
            return
        life["opens"] -= 1
        if event.opencount_before and not event.opencount_after:
            life["closed"] = record.sequence
        elif event.outcome == "nodelete" and life["opens"] == 0:
            # Its count stays, and nobody collects: what keeps it is known at once.
            life["closed"] = record.sequence
            self._keep(life, record)

    def _kept(self, record: Record) -> None:
        life = self._life(record)
        if life is not None and life["closed"] is not None:
            self._keep(life, record)

    def _keep(self, life: dict[str, Any], record: Record) -> None:
        if not life["deferred"] or life["deferred"][-1][1] is not None:
            life["deferred"].append([life["closed"], None])
        if not life["listed"] or self._kept_told == _MAX_KEPT:
            life["kept_left_out"] += 1
            return
        self._kept_told += 1
        map_ = self.history.find(record.event.name, record.event.namespace)
        if map_ is not None:
            life["kept"].append([record.sequence, self._why(map_)])

    def _end_deferred(self, life: dict[str, Any], sequence: int) -> None:
        if life["deferred"] and life["deferred"][-1][1] is None:
            life["deferred"][-1][1] = sequence

    def _unloading(self, record: Record) -> None:
        map_ = self.history.find(record.event.name, record.event.namespace)
        if map_ is not None:
            self._look_at(map_)

    def _unloaded(self, record: Record) -> None:
        event: dl.Unloaded = record.event
        life = self._alive.pop((event.namespace, event.name), None)
        if life is not None:
            life["to"] = record.sequence
            self._end_deferred(life, record.sequence)
            if not life["listed"]:  # without details, but on the time line
                self._spans += (life["object"], life["from"], life["to"])
        rtld = self.process.rtld
        for map_ in [] if rtld is None else rtld.namespaces[event.namespace].maps:
            if (map_.map_start, map_.map_end) == (event.start, event.end) and map_.removed:
                self.history.forget(map_)
                return

    def _why(self, map_: LinkMap) -> dict[str, list[str]]:
        """Return why an object stays and what would let it go, as `emu why` has it."""
        rtld = self.process.rtld
        assert rtld is not None
        asked = ReasonFinder(self.process, rtld, self.history)
        found = asked.of(map_)
        reasons = []
        for reason in found:
            since = _since(reason.since) if reason.since else ""
            reasons.append(f"{reason.object} {reason.text}{since}")
            reasons += [f"{link.holder} keeps {link.held}: {link.kind}" for link in reason.chain]
            for one in reason.destructors:
                by = f", registered by event {one.registered.sequence}" if one.registered is not None else ""
                reasons.append(f"{one.function} in thread {one.thread.thread}{by}")
        return {"reasons": reasons, "remedies": [one.text for one in remedies(asked, map_, found)]}

    def _look_at(self, map_: LinkMap) -> None:
        """Note what an object needs and what it has bound to, while both are there."""
        rtld = self.process.rtld
        if rtld is None or map_.real is not map_:
            return
        needed = set() if map_.faked else set(map_.needed_names())
        for other in rtld.namespaces[map_.ns].maps:
            if needed & {*other.lib_names, other.soname}:
                self._edges[map_.display_name, other.display_name, "needed"] = None
        for other in map_.reldeps or ():
            self._edges[map_.display_name, other.display_name, "relocation dependency"] = None

    def _binding(self, record: Record) -> None:
        pair = record.event.origin, record.event.target
        if not pair[1]:  # a weak reference without a definition is bound to nothing
            return
        self._bindings[pair] = self._bindings.get(pair, 0) + 1

    # -- calls -----------------------------------------------------------------------------------------------

    def _started(self, record: Record) -> None:
        if self._before is None:
            self._before, self._begun = self._memory(), record.sequence

    def _called(self, record: Record) -> None:
        event: ev.Initializer | ev.Finalizer = record.event
        which = "init" if isinstance(event, ev.Initializer) else "fini"
        self._order[which].add([record.sequence, event.name, event.kind, event.function])

    def _registered(self, record: Record) -> None:
        event: tls_events.DtorRegistered = record.event
        one = {
            "thread": record.task, "function": event.function, "object": hex(event.object), "owner": event.owner, "source": event.source,
            "registered": record.sequence, "run": None, "done": None,
        }  # fmt: skip
        self._destructors.add(one)
        self._pending.setdefault((record.task, event.function, event.object), []).append(one)

    def _run(self, record: Record) -> None:
        event: tls_events.DtorRun = record.event
        waiting = self._pending.get((record.task, event.function, event.object), [])
        for one in reversed(waiting):
            if one["run"] is None:
                one["run"] = record.sequence
                return

    def _done(self, record: Record) -> None:
        event: tls_events.DtorDone = record.event
        key = record.task, event.function, event.object
        waiting = self._pending.get(key, [])
        for number in range(len(waiting) - 1, -1, -1):
            if waiting[number]["run"] is not None:
                waiting.pop(number)["done"] = record.sequence
                break
        if not waiting:
            self._pending.pop(key, None)

    # -- memory ----------------------------------------------------------------------------------------------

    def _memory(self) -> dict[str, Any]:
        areas = ReportRows()
        for area in self.process.space:
            bits = "".join(
                letter if area.prot & bit else "-" for letter, bit in (("r", 1), ("w", 2), ("x", 4))
            )
            areas.add([hex(area.start), hex(area.end), bits, area.name])
        return areas.data()


def _since(moment: Stamp) -> str:
    """Return since when something holds, as far as that was seen."""
    parts = [f"event {moment.sequence}"] if moment.sequence else []
    parts += [moment.place] if moment.place else []
    return f" (since {', '.join(parts)})" if parts else ""


def _built(process: Process) -> str:
    """Return when the program's file was written, empty for one that is no file."""
    config = process.config
    if config.image is not None:
        return ""
    try:
        file = process.kernel.fs.look_at(config.program)
        descriptor = file.host_fd()
        written = os.fstat(descriptor).st_mtime if descriptor is not None else None
    except (EmuError, OSError):
        return ""  # it has gone
    return datetime.fromtimestamp(written, UTC).strftime("%Y-%m-%d %H:%M UTC") if written is not None else ""


def _finding(found: NotedFinding) -> dict[str, Any]:
    """Return a finding with the events at which it and its related places were noticed."""
    finding = found.finding
    related = [
        {"title": place.title, "thread": place.thread, "event": event, "frames": _lines(place.frames)}
        for place, event in zip(finding.related, found.related, strict=True)
    ]
    return {
        "rule": finding.rule, "severity": finding.severity, "message": readable(finding.message), "thread": finding.thread, "event": found.event,
        "frames": _lines(finding.frames), "related": related, "objects": list(finding.objects),
        "remedies": [readable(remedy) for remedy in finding.remedies],
    }  # fmt: skip


def _failure(one: FailedOpen, command: str) -> dict[str, Any]:
    """Return an open that failed as a finding has it, with what `emu why` tells of it;
    its remedies were looked up, and not tried: `command` does that.
    """
    return {
        "rule": "open-failed", "severity": "info", "message": readable(f"{one.call} of {one.file} failed: {one.error}"),
        "thread": one.at.thread if one.at is not None else 0, "event": one.at.sequence if one.at is not None else 1,
        "frames": _lines(one.backtrace), "related": [], "objects": [one.object] if one.object else [], "story": [readable(text) for text in one.story],
        "remedies": [*(readable(f"{cure.text} -> {cure.result}") for cure in one.cures), f"{command} {'tries them' if one.cures else 'tells more'}"],
    }  # fmt: skip


def _lines(frames: tuple[CallFrame, ...]) -> list[str]:
    return [readable(line.strip()) for line in frame_lines(frames)]
