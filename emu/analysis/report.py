"""What `emu report` shows: one run as JSON-able data, from the events and from the linker's own state.

Moments are the numbers of events: virtual time stands still where no system call is made. Texts from the guest stay as they are;
who puts them into a page has to escape them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emu.analysis.history import History
from emu.analysis.reasons import Reasons
from emu.analysis.remedies import remedies
from emu.core import dl_events as dl
from emu.core import events as ev
from emu.core.errors import MemoryFault
from emu.core.ldso_events import PreinitStarted
from emu.trace.text import RENDERERS, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.core.events import Record
    from emu.process import Process
    from emu.rtld.link_map import LinkMap

MAX_EVENTS = 100_000
"""So many events a report holds, unless more are asked for; how many more there were is said."""


class Report:
    """Watches a process from before its `load` on; `data` tells what was seen."""

    def __init__(self, process: Process, limit: int = MAX_EVENTS) -> None:
        self.process, self.limit = process, limit
        self.history = History(process)
        self._strings: dict[str, int] = {}
        self._events: list[int] = []
        self._seen = self._last = 0
        self._lives: list[dict[str, Any]] = []
        self._alive: dict[tuple[int, str], dict[str, Any]] = {}
        self._destructors: list[dict[str, Any]] = []
        self._order: dict[str, list[list[Any]]] = {"init": [], "fini": []}
        self._bindings: dict[tuple[str, str], int] = {}
        self._edges: dict[tuple[str, str, str], None] = {}
        self._modules: list[list[Any]] = []
        self._layout: list[int] = []
        self._before: list[list[Any]] | None = None
        self._threads: dict[int, str] = {}
        self._handlers: dict[type[Any], Callable[[Record], None]] = {
            ev.LibraryLoad: self._load, dl.Opened: self._opened, dl.CloseRequested: self._close, dl.Kept: self._kept,
            dl.Unloading: self._unloading, dl.Unloaded: self._unloaded, ev.Binding: self._binding,
            ev.Initializer: self._called, ev.Finalizer: self._called, ev.InitStarted: self._started, PreinitStarted: self._started,
            ev.DtorRegistered: self._registered, ev.DtorRun: self._run, ev.DtorDone: self._done,
            ev.TlsModuleAssigned: self._module, ev.TlsStaticLayout: self._static,
        }  # fmt: skip
        process.bus.subscribe(self._take, ev.CATEGORIES)

    def data(self, ended: str) -> dict[str, Any]:
        """Return everything after the run; `ended` says how it ended."""
        process, rtld = self.process, self.process.rtld
        for map_ in [] if rtld is None else [m for space in rtld.namespaces for m in space.maps]:
            self._look_at(map_)
            life = self._alive.get((map_.ns, map_.display_name))
            if life is not None and map_.real is map_:
                life["end"] = self._why(map_)
        return {
            "program": process.config.program, "ended": ended, "last": self._last, "seen": self._seen,
            "categories": list(ev.CATEGORIES), "strings": list(self._strings), "events": self._events,
            "threads": [[thread, name] for thread, name in (self.history.threads | self._threads).items()],
            "lives": self._lives, "destructors": self._destructors, "order": self._order,
            "edges": [*map(list, self._edges), *([by, to, "bound", n] for (by, to), n in self._bindings.items() if by != to)],
            "before": self._before or [], "after": self._memory(),
            "tls": {"layout": self._layout, "modules": self._modules, **self._dtv()},
        }  # fmt: skip

    def _take(self, record: Record) -> None:
        self._seen += 1
        self._last = record.sequence
        kind = type(record.event)
        if self._seen <= self.limit:
            said = printable(RENDERERS[kind](record.event))
            text = self._strings.setdefault(said, len(self._strings))
            category = ev.CATEGORIES.index(ev.CATEGORY_OF[kind])
            self._events += (record.sequence, record.time, record.task, category, text)
        handler = self._handlers.get(kind)
        if handler is not None:
            handler(record)

    # -- objects ----------------------------------------------------------------------------------------------------------

    def _life(self, record: Record) -> dict[str, Any] | None:
        return self._alive.get((record.event.namespace, record.event.name))

    def _load(self, record: Record) -> None:
        event: ev.LibraryLoad = record.event
        life: dict[str, Any] = {
            "name": event.name or event.path, "namespace": event.namespace, "from": record.sequence, "to": None, "closed": None,
            "deferred": [], "kept": [], "end": None, "start": hex(event.start),
        }  # fmt: skip
        self._lives.append(life)
        self._alive[event.namespace, life["name"]] = life

    def _opened(self, record: Record) -> None:
        life = self._life(record)
        if life is not None:
            self._end_deferred(life, record.sequence)
            life["closed"] = None

    def _close(self, record: Record) -> None:
        event: dl.CloseRequested = record.event
        life = self._life(record)
        if life is not None and event.opencount_before and not event.opencount_after:
            life["closed"] = record.sequence

    def _kept(self, record: Record) -> None:
        life = self._life(record)
        if life is None or life["closed"] is None:
            return
        if not life["deferred"] or life["deferred"][-1][1] is not None:
            life["deferred"].append([life["closed"], None])
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
        rtld = self.process.rtld
        for map_ in [] if rtld is None else rtld.namespaces[event.namespace].maps:
            if (map_.map_start, map_.map_end) == (event.start, event.end) and map_.removed:
                self.history.forget(map_)
                return

    def _why(self, map_: LinkMap) -> dict[str, list[str]]:
        """Return why an object stays and what would let it go, as `emu why` has it."""
        rtld = self.process.rtld
        assert rtld is not None
        asked = Reasons(self.process, rtld, self.history)
        found = asked.of(map_)
        reasons = []
        for reason in found:
            since = f" (since event {reason.since.sequence}, {reason.since.place})" if reason.since else ""
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

    # -- calls ------------------------------------------------------------------------------------------------------------

    def _started(self, _record: Record) -> None:
        if self._before is None:
            self._before = self._memory()

    def _called(self, record: Record) -> None:
        event: ev.Initializer | ev.Finalizer = record.event
        which = "init" if isinstance(event, ev.Initializer) else "fini"
        self._order[which].append([record.sequence, event.name, event.kind, event.function])

    def _registered(self, record: Record) -> None:
        event: ev.DtorRegistered = record.event
        self._destructors.append({
            "thread": record.task, "function": event.function, "object": hex(event.object), "owner": event.owner, "source": event.source,
            "registered": record.sequence, "run": None, "done": None,
        })  # fmt: skip

    def _pending(self, record: Record, member: str) -> dict[str, Any] | None:
        event, object_ = record.event, hex(record.event.object)
        one: dict[str, Any]
        for one in reversed(self._destructors):
            if (one["thread"], one["function"], one["object"]) == (record.task, event.function, object_):
                if one[member] is None and (member == "run" or one["run"] is not None):
                    return one
        return None

    def _run(self, record: Record) -> None:
        if (one := self._pending(record, "run")) is not None:
            one["run"] = record.sequence

    def _done(self, record: Record) -> None:
        if (one := self._pending(record, "done")) is not None:
            one["done"] = record.sequence

    # -- memory -----------------------------------------------------------------------------------------------------------

    def _memory(self) -> list[list[Any]]:
        rows = []
        for area in self.process.space:
            bits = "".join(
                letter if area.prot & bit else "-" for letter, bit in (("r", 1), ("w", 2), ("x", 4))
            )
            rows.append([hex(area.start), hex(area.end), bits, area.name])
        return rows

    def _module(self, record: Record) -> None:
        event: ev.TlsModuleAssigned = record.event
        self._modules.append([event.module, event.name, event.offset, event.size, event.align])

    def _static(self, record: Record) -> None:
        event: ev.TlsStaticLayout = record.event
        self._layout = [event.used, event.size, event.align, event.surplus]

    def _dtv(self) -> dict[str, Any]:
        """Return the DTV of the thread that ran last: its generation, and module, address and heap pointer of each entry."""
        pointer, memory = self.process.thread_pointer(), self.process.arena
        rows: list[list[Any]] = []
        generation = 0
        try:
            dtv = memory.read_u64(pointer + 8) if pointer else 0
            if dtv:
                generation = memory.read_u64(dtv)
                for module in range(1, min(memory.read_u64(dtv - 16), 1024) + 1):
                    value, heap = memory.read_u64(dtv + 16 * module), memory.read_u64(dtv + 16 * module + 8)
                    if value or heap:
                        rows.append(
                            [module, "not allocated" if value == (1 << 64) - 1 else hex(value), hex(heap)]
                        )
        except MemoryFault:
            rows.append([0, "the DTV is not readable", ""])
        return {"pointer": hex(pointer), "generation": generation, "dtv": rows}
