"""What happened to the objects of a run, kept as long as they are there: who opened them, who bound to them,
which destructors are pending.

An observer on the bus: it decides nothing and asks the guest for nothing but backtraces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emu.analysis.frames import call_frames, is_user, user_frame, where
from emu.analysis.stamp import Stamp
from emu.core import dl_events as dl
from emu.core import events as ev
from emu.core import task_events, tls_events
from emu.core.record import NamedTuple
from emu.rtld.link_map import LT_LOADED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from emu.core.events import Record
    from emu.process import Process
    from emu.process.backtrace import Captured, FrameInfo
    from emu.rtld.link_map import LinkMap


class Seen:
    """An event that was seen: its number, and its `stamp`, whose functions and
    lines are read when it is asked for.

    Most are never asked for, and the first time that something of an object is read costs most.
    """

    __slots__ = ("_frames", "_history", "_name", "_stamp", "_thread", "_time", "sequence")

    def __init__(self, history: History, record: Record, frames: Sequence[Captured]) -> None:
        self.sequence, self._thread, self._time = record.sequence, record.task, record.time
        self._history, self._frames = history, frames
        self._name = history.threads[record.task] = history.thread_name(record.task)
        self._stamp: Stamp | None = None

    @property
    def stamp(self) -> Stamp:
        """When, who and where."""
        if self._stamp is None:
            frames = self._history.process.resolve(self._frames)
            self._stamp = stamp_of(self.sequence, self._time, self._thread, self._name, frames)
        return self._stamp


def stamp_of(sequence: int, time: int, thread: int, name: str, frames: Sequence[FrameInfo]) -> Stamp:
    """Return a stamp from its parts."""
    user = user_frame(frames)
    place, function = (where(user), user.function) if user is not None else ("", "")
    return Stamp(sequence, time, thread, name, place, function, call_frames(frames))


class Open:
    """A dlopen that counts. `closed` is a dlclose that did not take its count away."""

    __slots__ = ("closed", "flags", "opened")

    def __init__(self, flags: str, opened: Seen) -> None:
        self.flags, self.opened = flags, opened
        self.closed: Seen | None = None


class Registration:
    """A thread_local destructor on a thread's list."""

    __slots__ = ("address", "function", "object", "owner", "running", "seen", "source")

    def __init__(self, event: tls_events.DtorRegistered, owner: LinkMap, seen: Seen) -> None:
        self.function, self.address, self.object, self.source = (
            event.function, event.address, event.object, event.source,
        )  # fmt: skip
        self.owner, self.seen, self.running = owner, seen, False


class BoundThen(NamedTuple):
    """A binding of one object to another; `slot` is -1 until the relocation itself was seen."""

    symbol: str
    relocation: str
    slot: int
    seen: Seen


class Release(NamedTuple):
    """The last time that an object lost something that kept it."""

    seen: Seen
    text: str


CATEGORIES = frozenset(("libs", "dl", "bindings", "dtors", "threads"))
"""The categories of events that a history is made of."""


class History:
    """Watches one process from before its `load` on.

    `watched` are the categories that it knows of: what only others tell stays unknown.
    """

    def __init__(self, process: Process, watched: frozenset[str] = CATEGORIES) -> None:
        self.process, self.watched = process, watched & CATEGORIES
        self.opens: dict[LinkMap, list[Open]] = {}
        self.loads: dict[LinkMap, Seen] = {}
        self.marked: dict[LinkMap, list[tuple[dl.NodeleteSet, Seen]]] = {}
        self.void: dict[LinkMap, tuple[int, frozenset[bytes]]] = {}
        self.pending: dict[int, list[Registration]] = {}
        self.bindings: dict[tuple[LinkMap, LinkMap], list[BoundThen]] = {}
        self.releases: dict[LinkMap, Release] = {}
        self.threads: dict[int, str] = {process.task.tid: process.task.name}
        self._last_owner: dict[int, LinkMap] = {}
        self._handlers: dict[type[Any], Callable[[Record], None]] = {
            ev.LibraryLoad: self._load,
            ev.Binding: self._binding,
            tls_events.DtorRegistered: self._registered,
            tls_events.DtorRun: self._run,
            tls_events.DtorDone: self._done,
            task_events.ThreadCreated: self._thread,
            task_events.ThreadNamed: self._thread,
            dl.Opened: self._opened,
            dl.CloseRequested: self._close,
            dl.NodeleteSet: self._nodelete,
            dl.NodeleteCleared: self._cleared,
            dl.RelocationDependency: self._dependency,
        }
        process.bus.subscribe(self._take, sorted(self.watched), process.number)

    def inherit(self, parent: Process, child: Process) -> None:
        """This is a child's history from here on: it has one thread, which is called otherwise."""
        assert parent.runner is not None
        old, new = parent.runner.task.tid, child.kernel.pid
        self.threads[new] = self.threads.get(old, "")
        if old in self.pending:
            self.pending[new] = self.pending.pop(old)
        if old in self._last_owner:
            self._last_owner[new] = self._last_owner.pop(old)

    def _take(self, record: Record) -> None:
        handler = self._handlers.get(type(record.event))
        if handler is not None:
            handler(record)

    # -- for those who ask -----------------------------------------------------------------------------------

    def seen(self, record: Record) -> Seen:
        """Note when, who and where of a record that is being told of."""
        return Seen(self, record, self.process.capture() if self._running() else [])

    def now(self) -> Stamp:
        """Return when and who of this moment."""
        bus = self.process.bus
        return stamp_of(bus.upcoming, bus.now(), bus.task, self.thread_name(bus.task), [])

    def loaded(self, map_: LinkMap) -> Stamp | None:
        """Return when, who and where of an object's loading, None where that was not watched."""
        seen = self.loads.get(map_)
        return seen.stamp if seen is not None else None

    def thread_name(self, thread: int) -> str:
        """Return the name of a thread, be it there or gone; empty where nothing was seen of it."""
        task = self.process.kernel.tasks.get(thread)
        return task.name if task is not None else self.threads.get(thread, "")

    def find(self, name: str, namespace: int) -> LinkMap | None:
        """Return the object that an event names, the youngest if there are several of that name."""
        rtld = self.process.rtld
        if rtld is None or namespace >= len(rtld.namespaces):
            return None
        maps = reversed(rtld.namespaces[namespace].maps)
        return next((map_ for map_ in maps if map_.display_name == name and map_.real is map_), None)

    def forget(self, map_: LinkMap) -> None:
        """Drop what is known of an object that has gone."""
        for known in (self.opens, self.loads, self.marked, self.void, self.releases):
            known.pop(map_, None)
        self.bindings = {pair: bound for pair, bound in self.bindings.items() if map_ not in pair}
        for registrations in self.pending.values():
            registrations[:] = [one for one in registrations if one.owner is not map_]
        for thread in [thread for thread, owner in self._last_owner.items() if owner is map_]:
            del self._last_owner[thread]

    def _running(self) -> bool:
        rtld = self.process.rtld
        return rtld is not None and rtld.started

    # -- events ----------------------------------------------------------------------------------------------

    def _load(self, record: Record) -> None:
        event: ev.LibraryLoad = record.event
        rtld = self.process.rtld
        if rtld is None or event.namespace >= len(rtld.namespaces):
            return
        for map_ in rtld.namespaces[event.namespace].maps:
            if map_.map_start == event.start and map_.addr == event.base and map_.real is map_:
                self.loads[map_] = self.seen(record)

    def _opened(self, record: Record) -> None:
        event: dl.Opened = record.event
        if (map_ := self.find(event.name, event.namespace)) is not None:
            self.opens.setdefault(map_, []).append(Open(event.flags, self.seen(record)))

    def _close(self, record: Record) -> None:
        """Pair a dlclose with its dlopen: one by the same function if there is one,
        or by the same object, the latest first.
        """
        event: dl.CloseRequested = record.event
        map_ = self.find(event.name, event.namespace)
        if map_ is None:
            return
        seen = self.seen(record)
        opens = self.opens.get(map_, [])
        if event.outcome == "nodelete":
            if (mine := _pair([one for one in opens if one.closed is None], seen)) is not None:
                mine.closed = seen
        elif event.opencount_after < event.opencount_before:
            if (mine := _pair(opens, seen)) is not None:
                opens.remove(mine)
            self.releases[map_] = Release(seen, "it was closed")

    def _nodelete(self, record: Record) -> None:
        event: dl.NodeleteSet = record.event
        if (map_ := self.find(event.name, event.namespace)) is not None:
            self.marked.setdefault(map_, []).append((event, self.seen(record)))
            self._depends(record, event.by, event.by_namespace, map_, event.symbol)

    def _cleared(self, record: Record) -> None:
        event: dl.NodeleteCleared = record.event
        map_, rtld = self.find(event.name, event.namespace), self.process.rtld
        if map_ is None or rtld is None:
            return
        self.marked.pop(map_, None)
        unique = rtld.namespaces[map_.ns].unique
        self.void[map_] = (
            record.sequence, frozenset(name for name, first in unique.items() if first.map is map_)
        )  # fmt: skip
        self.releases[map_] = Release(self.seen(record), "its last thread_local destructor had run")

    def _dependency(self, record: Record) -> None:
        event: dl.RelocationDependency = record.event
        if (map_ := self.find(event.name, event.namespace)) is not None:
            self._depends(record, event.by, event.by_namespace, map_, event.symbol)

    def _depends(self, record: Record, by: str, namespace: int, map_: LinkMap, symbol: str) -> None:
        """Note a binding of which the linker has taken note itself;
        the relocation that it is for is told of next.
        """
        if by and (origin := self.find(by, namespace)) is not None and origin is not map_:
            bound = BoundThen(symbol, "", -1, self.seen(record))
            self.bindings.setdefault((origin, map_), []).append(bound)

    def _binding(self, record: Record) -> None:
        event: ev.Binding = record.event
        rtld = self.process.rtld
        assert rtld is not None
        if not rtld.started or event.target == event.origin:
            return
        target = rtld.find_map(event.address)
        if target is None or target.type != LT_LOADED:
            return
        origin = rtld.find_map(event.slot) if event.slot else None
        if origin is None:  # dlsym: it keeps something only where the linker has said so
            for (by, to), bound in self.bindings.items():
                last = bound[-1]
                if (
                    to is target
                    and by.display_name == event.origin
                    and last[:3] == (event.symbol, "", -1)
                    and last.seen.sequence == record.sequence - 1
                ):
                    bound[-1] = last._replace(relocation="dlsym", slot=0)
            return
        if origin is target or target in (origin.initfini or ()):
            return
        bound = self.bindings.setdefault((origin, target), [])
        if bound and bound[-1].slot < 0 and bound[-1].symbol == event.symbol:
            bound[-1] = bound[-1]._replace(relocation=event.relocation, slot=event.slot)
            return
        seen = Seen(self, record, self.process.capture() if event.lazy else [])
        bound.append(BoundThen(event.symbol, event.relocation, event.slot, seen))

    def _registered(self, record: Record) -> None:
        event: tls_events.DtorRegistered = record.event
        rtld = self.process.rtld
        assert rtld is not None
        if event.dso_handle:
            owner: LinkMap | None = rtld.find_map(event.dso_handle) or rtld.namespaces[0].maps[0]
        else:
            owner = self._last_owner.get(record.task)
        if owner is not None:
            self._last_owner[record.task] = owner
            if owner.type == LT_LOADED:
                mine = Registration(event, owner, self.seen(record))
                self.pending.setdefault(record.task, []).append(mine)

    def _run(self, record: Record) -> None:
        event: tls_events.DtorRun = record.event
        for one in reversed(self.pending.get(record.task, ())):
            if (one.address, one.object) == (event.address, event.object) and not one.running:
                one.running = True
                return

    def _done(self, record: Record) -> None:
        event: tls_events.DtorDone = record.event
        mine = self.pending.get(record.task, [])
        for number in range(len(mine) - 1, -1, -1):
            one = mine[number]
            if one.running and one.object == event.object and one.function == event.function:
                del mine[number]
                if not event.count_after:
                    text = f"its last thread_local destructor ({one.function}) had run"
                    self.releases[one.owner] = Release(self.seen(record), text)
                return

    def _thread(self, record: Record) -> None:
        self.threads[record.event.thread] = record.event.name


def _pair(opens: Sequence[Open], close: Seen) -> Open | None:
    """Return the open that a close most likely belongs to."""
    if len(opens) < 2:
        return opens[0] if opens else None
    function, caller = close.stamp.function, _caller(close.stamp)
    for same in (
        [one for one in opens if function and one.opened.stamp.function == function],
        [one for one in opens if caller and _caller(one.opened.stamp) == caller],
        opens,
    ):
        if same:
            return same[-1]
    return None


def _caller(stamp: Stamp) -> str:
    frame = next((frame for frame in stamp.backtrace if is_user(frame.object, frame.function)), None)
    return frame.object if frame is not None else ""
