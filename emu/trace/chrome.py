"""Events as Chrome trace-event JSON, which Perfetto and chrome://tracing open:
tracks of threads and of objects, counters, arrows.

Virtual time may stand still between events; each event is told at least one nanosecond after the one before,
so that their order shows. The true time is in its arguments. A constructor or finalizer whose end no event
tells (the last one at start-up, or before the end) is an instant.

Source: "Trace Event Format" (the document of the Catapult project); Perfetto's importer of JSON traces.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from emu.core import dl_events as dl
from emu.core import events as ev
from emu.core import task_events, tls_events
from emu.core.events import CATEGORY_OF
from emu.core.text import printable
from emu.trace.fields import event_name
from emu.trace.text import RENDERERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.core.events import Record
    from emu.trace.output import TraceWriter

BEGINNING = '{"displayTimeUnit":"ns","traceEvents":['
"""How every trace in this format begins."""

TRACKS = ("libs", "dl", "init", "fini", "dtors", "threads")
"""Categories that the tracks are made of, whatever was asked for."""

THREADS, OBJECTS = 1, 2
"""The two groups of tracks; the format calls them processes."""

_FIRST_OBJECT = 3
"""The number of the first object's track: one that is its process's own would be drawn before the others."""

_HELD = 1 << 16
"""So many events wait at most for the end of a slice among them."""

_encode = json.JSONEncoder(separators=(",", ":")).encode


class _Life:
    """An object's track.

    `closed` is when its last count went, -1 while it is open; `kept` why a collection left it.
    """

    __slots__ = ("closed", "depth", "kept", "name", "tid")

    def __init__(self, tid: int, name: str) -> None:
        self.tid, self.name = tid, name
        self.depth, self.closed, self.kept = 0, -1, ""


class _Call:
    """What a thread is in: a dlopen, dlclose, constructor, finalizer or thread_local destructor.

    `going` are the objects that a dlclose has yet to unmap.
    """

    __slots__ = ("event", "going", "kind", "marking")

    def __init__(self, kind: str, event: dict[str, Any]) -> None:
        self.kind, self.event = kind, event
        self.going, self.marking = 0, True


class ChromeTrace:
    """A sink of records that writes to `writer`; instants are told only for `categories`.

    `close` ends the file and may be called from another thread.
    """

    def __init__(self, writer: TraceWriter, categories: tuple[str, ...]) -> None:
        self._writer, self._shown = writer, frozenset(categories)
        self._now = -1
        self._held: list[dict[str, Any]] = []
        self._comma = ""
        self._lives: dict[tuple[int, str], _Life] = {}
        self._calls: dict[int, list[_Call]] = {}
        self._threads: set[int] = set()
        self._alive: dict[int, str] = {}
        self._flows: dict[tuple[int, int, int], list[int]] = {}
        self._flow = 0
        self._done = False
        self._handlers: dict[type[Any], Callable[[Record], None]] = {
            ev.LibraryLoad: self._load, dl.Unloaded: self._unloaded, dl.OpenRequested: self._open, dl.Opened: self._opened,
            dl.OpenFailed: self._failed, dl.CloseRequested: self._close, dl.Kept: self._kept, dl.Unloading: self._unloading,
            ev.InitStarted: self._init, ev.FiniStarted: self._fini, ev.Initializer: self._constructor, ev.Finalizer: self._finalizer,
            tls_events.DtorRegistered: self._registered, tls_events.DtorRun: self._run, tls_events.DtorDone: self._ran,
            task_events.ThreadCreated: self._created, task_events.ThreadNamed: self._named, task_events.ThreadExited: self._exited,
        }  # fmt: skip
        writer.line(BEGINNING)
        for pid, name in ((THREADS, "threads"), (OBJECTS, "shared objects")):
            self._metadata("process_name", pid, 0, name)

    def __call__(self, record: Record) -> None:
        """Take one record."""
        self._now = max(record.time, self._now + 1)
        if record.task not in self._threads:
            self._thread(record.task, f"thread {record.task}" if self._threads else "main thread")
        self._settle(record)
        handler = self._handlers.get(type(record.event))
        if handler is not None:
            handler(record)
        elif CATEGORY_OF[type(record.event)] in self._shown:
            self._instant(record)
        self._pass_on()

    def close(self) -> None:
        """End every slice and the file."""
        if self._done:
            return
        self._done = True
        self._now += 1
        for calls in self._calls.values():
            self._unknown(calls)
        for life in self._lives.values():
            while life.depth:
                self._end_life(life, "still there at the end")
        for thread in self._alive:
            self._add("E", THREADS, thread, args={"end": "of the run"})
        self._pass_on(everything=True)
        self._writer.line("]}")
        self._writer.flush()

    # -- the file --------------------------------------------------------------------------------------------

    def _add(self, phase: str, pid: int, tid: int, at: int = -1, **members: Any) -> dict[str, Any]:
        event = {"ph": phase, "pid": pid, "tid": tid, "ts": (self._now if at < 0 else at) / 1000, **members}
        self._held.append(event)
        return event

    def _metadata(self, kind: str, pid: int, tid: int, name: str) -> None:
        self._held.append(
            {"ph": "M", "pid": pid, "tid": tid, "name": kind, "args": {"name": printable(name)}}
        )

    def _pass_on(self, *, everything: bool = False) -> None:
        """Write what waits for nothing. An event without a phase is a slice whose end is not known yet."""
        if len(self._held) >= _HELD:
            for calls in self._calls.values():
                self._unknown(calls)
        ready = len(self._held)
        if not everything:
            ready = next((i for i, event in enumerate(self._held) if not event["ph"]), ready)
        for event in self._held[:ready]:
            self._writer.line(self._comma + _encode(event))
            self._comma = ","
        del self._held[:ready]

    def _instant(self, record: Record) -> None:
        self._add("i", THREADS, record.task, s="t", **_said(record))

    # -- slices of threads -----------------------------------------------------------------------------------

    def _begin(self, kind: str, record: Record, name: str) -> None:
        event = self._add("", THREADS, record.task, **_said(record, name))
        event["from"] = self._now
        self._calls.setdefault(record.task, []).append(_Call(kind, event))

    def _finish(self, call: _Call) -> None:
        event = call.event
        if not event["ph"]:
            event["ph"], event["dur"] = "X", max(self._now - event.pop("from"), 1) / 1000

    def _unknown(self, calls: list[_Call]) -> None:
        """Give up on the ends of calls: the thread ended in them, or nobody says that they returned."""
        for call in calls:
            if not call.event["ph"]:
                call.event["ph"], call.event["s"] = "i", "t"
                del call.event["from"]
                call.event["args"]["end"] = "not known"
        calls.clear()

    def _leave(self, record: Record, *kinds: str) -> bool:
        """End the thread's innermost call of one of `kinds`;
        what it was left from without a word has no known end.
        """
        calls = self._calls.get(record.task, [])
        for number in range(len(calls) - 1, -1, -1):
            if calls[number].kind in kinds:
                inner = calls[number + 1 :]
                self._unknown(inner)
                self._finish(calls[number])
                del calls[number:]
                return True
        return False

    def _top(self, record: Record) -> _Call | None:
        calls = self._calls.get(record.task)
        return calls[-1] if calls else None

    def _settle(self, record: Record) -> None:
        """A dlclose that unmaps nothing is over at the first event that is not about what it keeps."""
        top = self._top(record)
        if top is None or top.kind != "dlclose" or not top.marking:
            return
        if isinstance(record.event, (dl.Kept, dl.Unloading)):
            return
        top.marking = False
        if not top.going:
            self._leave(record, "dlclose")

    def _open(self, record: Record) -> None:
        self._begin("dlopen", record, f"dlopen {_short(record.event.file) or '(the program)'}")

    def _failed(self, record: Record) -> None:
        self._instant(record)
        self._leave(record, "dlopen")

    def _init(self, record: Record) -> None:
        self._next(record, "constructor")

    def _fini(self, record: Record) -> None:
        self._next(record, "finalizer")

    def _next(self, record: Record, kind: str) -> None:
        """The thread goes on to the next function of a kind: the one before has returned."""
        top = self._top(record)
        if top is not None and top.kind == kind:
            self._leave(record, kind)

    def _constructor(self, record: Record) -> None:
        self._next(record, "constructor")
        event: ev.Initializer = record.event
        self._begin(
            "constructor", record, f"constructor {event.function or event.kind} of {_short(event.name)}"
        )

    def _finalizer(self, record: Record) -> None:
        self._next(record, "finalizer")
        event: ev.Finalizer = record.event
        self._begin("finalizer", record, f"finalizer {event.function or event.kind} of {_short(event.name)}")

    # -- thread_local destructors ----------------------------------------------------------------------------

    def _registered(self, record: Record) -> None:
        event: tls_events.DtorRegistered = record.event
        self._flow += 1
        self._flows.setdefault((record.task, event.address, event.object), []).append(self._flow)
        self._add("X", THREADS, record.task, dur=0.001, **_said(record, f"register {event.function}"))
        self._add("s", THREADS, record.task, id=self._flow, name="thread_local", cat="dtors")
        self._count("thread_local", event.owner, "live", event.count_after)

    def _run(self, record: Record) -> None:
        event: tls_events.DtorRun = record.event
        self._begin("destructor", record, event.function)
        waiting = self._flows.get((record.task, event.address, event.object))
        if waiting:
            flow = waiting.pop()
            self._add("f", THREADS, record.task, bp="e", id=flow, name="thread_local", cat="dtors")

    def _ran(self, record: Record) -> None:
        event: tls_events.DtorDone = record.event
        self._leave(record, "destructor")
        self._count("thread_local", event.owner, "live", event.count_after)

    # -- objects ---------------------------------------------------------------------------------------------

    def _count(self, what: str, name: str, unit: str, value: int) -> None:
        self._add("C", OBJECTS, 0, name=printable(f"{what} of {_short(name)}"), args={unit: value})

    def _life(self, name: str, namespace: int) -> _Life | None:
        return self._lives.get((namespace, name))

    def _load(self, record: Record) -> None:
        event: ev.LibraryLoad = record.event
        name = event.name or event.path or "(unnamed)"
        if "libs" in self._shown:
            self._instant(record)
        life = self._life(name, event.namespace)
        if life is None:
            life = self._lives[event.namespace, name] = _Life(len(self._lives) + _FIRST_OBJECT, name)
            place = f" in namespace {event.namespace}" if event.namespace else ""
            self._metadata("thread_name", OBJECTS, life.tid, _short(name) + place)
        while life.depth:
            self._end_life(life, "mapped again")
        life.closed, life.kept, life.depth = -1, "", 1
        self._add("B", OBJECTS, life.tid, **_said(record, f"{_short(name)} mapped"))

    def _end_life(self, life: _Life, why: str) -> None:
        life.depth -= 1
        self._add("E", OBJECTS, life.tid, args={"end": why})

    def _opened(self, record: Record) -> None:
        event: dl.Opened = record.event
        self._leave(record, "dlopen")
        self._instant(record)
        self._count("opens", event.name, "count", event.opencount)
        life = self._life(event.name, event.namespace)
        if life is not None:
            life.closed, life.kept = -1, ""
            while life.depth > 1:
                self._end_life(life, "opened again")

    def _close(self, record: Record) -> None:
        event: dl.CloseRequested = record.event
        if event.outcome in ("collect", "failed open"):
            what = "dlclose" if event.outcome == "collect" else "undo dlopen"
            self._begin("dlclose", record, f"{what} {_short(event.name)}")
        else:
            self._instant(record)
        if event.opencount_after != event.opencount_before:
            self._count("opens", event.name, "count", event.opencount_after)
            life = self._life(event.name, event.namespace)
            if life is not None and not event.opencount_after:
                life.closed = self._now

    def _kept(self, record: Record) -> None:
        event: dl.Kept = record.event
        if "dl" in self._shown:
            self._instant(record)
        life = self._life(event.name, event.namespace)
        if life is None or life.closed < 0 or not life.depth:
            return
        through = f" by way of {', '.join(map(_short, event.chain[:-1]))}" if len(event.chain) > 1 else ""
        why = f"{event.root} ({event.number}){through}"
        if life.depth == 1:
            life.depth, life.kept = 2, why
            said = _said(record, f"deferred: kept by {why}", "deferred")
            self._add("B", OBJECTS, life.tid, at=life.closed, **said)
        elif life.kept != why:
            life.kept = why
            self._add("i", OBJECTS, life.tid, s="t", **_said(record, f"now kept by {why}"))

    def _unloading(self, record: Record) -> None:
        top = self._top(record)
        if top is not None and top.kind == "dlclose":
            top.going += 1
        if "dl" in self._shown:
            self._instant(record)

    def _unloaded(self, record: Record) -> None:
        self._next(record, "finalizer")
        event: dl.Unloaded = record.event
        if "dl" in self._shown:
            self._instant(record)
        life = self._life(event.name, event.namespace)
        if life is not None:
            while life.depth:
                self._end_life(life, "unmapped")
        top = self._top(record)
        if top is not None and top.kind == "dlclose":
            top.going -= 1
            if top.going <= 0:
                self._leave(record, "dlclose")

    # -- threads ---------------------------------------------------------------------------------------------

    def _thread(self, thread: int, name: str) -> None:
        self._threads.add(thread)
        self._metadata("thread_name", THREADS, thread, name)

    def _created(self, record: Record) -> None:
        event: task_events.ThreadCreated = record.event
        self._instant(record)
        self._thread(event.thread, f"{event.name} {event.thread}")
        self._alive[event.thread] = event.name
        self._add("B", THREADS, event.thread, **_said(record, f"thread {event.thread}"))

    def _named(self, record: Record) -> None:
        event: task_events.ThreadNamed = record.event
        self._thread(event.thread, f"{event.name} {event.thread}")
        self._instant(record)

    def _exited(self, record: Record) -> None:
        event: task_events.ThreadExited = record.event
        self._unknown(self._calls.get(event.thread, []))
        self._instant(record)
        if self._alive.pop(event.thread, None) is not None:
            self._add("E", THREADS, event.thread, args={"status": event.status})


def _short(name: str) -> str:
    return os.path.basename(name) or name


def _said(record: Record, name: str = "", category: str = "") -> dict[str, Any]:
    """Return the members that say what happened."""
    kind = type(record.event)
    args = {
        "event": printable(RENDERERS[kind](record.event)), "seq": record.sequence, "time_ns": record.time, "thread": record.task,
    }  # fmt: skip
    return {"name": printable(name or event_name(kind)), "cat": category or CATEGORY_OF[kind], "args": args}
