"""Why an object is still loaded: what keeps it, from the loader's own mark phase, with who, where and since when as far as events tell.

Source: glibc elf/dl-close.c:_dl_close_worker, by way of `emu.rtld.close`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from emu.api.views import Table, Tls
from emu.core.dl_events import NodeleteSet, Opened, OpenRequested, RelocationDependency
from emu.core.events import DtorRegistered
from emu.rtld.close import keepers, mark

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from emu.core.dl_events import Kept
    from emu.core.events import Record
    from emu.process import Process
    from emu.rtld.link_map import LinkMap
    from emu.rtld.rtld import Rtld


class Reason(NamedTuple):
    """One reason: the kind of root (start-up, open-count, nodelete, tls-dtors) and its number; `chain` leads from the root to the object.

    `details` has a line for each thing that is known of the root: who opened it, whose destructor waits in which thread.
    """

    kind: str
    number: int
    chain: tuple[str, ...]
    edges: tuple[str, ...]
    details: tuple[str, ...]

    def __str__(self) -> str:
        root = self.chain[0]
        number = f"{self.number} " if self.number > 1 or self.kind in ("open-count", "tls-dtors") else ""
        words = {
            "start-up": f"{root} was loaded at start-up",
            "open-count": f"{root} is open: {number}dlopen without dlclose",
            "nodelete": f"{root} is marked NODELETE",
            "tls-dtors": f"{root} has {number}pending thread_local destructor{'s' if self.number > 1 else ''}",
        }
        steps = (
            f", which keeps {name} ({edge})" for name, edge in zip(self.chain[1:], self.edges, strict=True)
        )
        return words[self.kind] + "".join(steps)


class Reasons(Table[Reason]):
    """The reasons why an object is loaded; none when it is not, or when the next collection in its namespace will take it."""

    head = ("reason", "details")

    def __init__(self, name: str, items: Sequence[Reason], *, loaded: bool) -> None:
        super().__init__(items)
        self.name, self.loaded = name, loaded

    def row(self, item: Reason) -> tuple[str, ...]:
        """Return the cells of a reason."""
        return str(item), "; ".join(item.details)

    def __repr__(self) -> str:
        if not self.loaded:
            return f"{self.name} is not loaded"
        if not len(self):
            return f"{self.name} is loaded, but nothing keeps it: the next dlclose that unloads anything takes it, too"
        lines = [f"{self.name} is loaded:"]
        for reason in self:
            lines.append(f"  {reason}")
            lines += [f"    {detail}" for detail in reason.details]
        return "\n".join(lines)


def reasons(
    process: Process, rtld: Rtld, name: str, map_: LinkMap | None, records: Sequence[Record]
) -> Reasons:
    """Return what keeps `map_` (None: it is not loaded), with what `records` say of it."""
    if map_ is None:
        return Reasons(name, (), loaded=False)
    kept = mark(rtld, rtld.namespaces[map_.ns])
    found = keepers(rtld, kept, map_) if map_ in kept else []
    return Reasons(name, [_reason(process, rtld, one, records) for one in found], loaded=True)


def _reason(process: Process, rtld: Rtld, kept: Kept, records: Sequence[Record]) -> Reason:
    root = kept.chain[0]
    details: list[str] = []
    if kept.root == "tls-dtors":
        details += _destructors(process, rtld, root, records)
    elif kept.root == "open-count":
        details += _opens(root, kept.namespace, records)
    elif kept.root == "nodelete":
        details += [
            f"{e.why}{f' by {e.by}' if e.by else ''}{f' for {e.symbol}' if e.symbol else ''}{_since(r)}"
            for r in records
            if isinstance(e := r.event, NodeleteSet) and (e.name, e.namespace) == (root, kept.namespace)
        ]
    for holder, held, edge in zip(kept.chain, kept.chain[1:], kept.edges, strict=False):
        details += [
            f"{holder} bound to {e.symbol} of {held}{_since(r)}"
            for r in records
            if edge == "relocation"
            and isinstance(e := r.event, RelocationDependency)
            and (e.by, e.name) == (holder, held)
        ]
    return Reason(kept.root, kept.number, kept.chain, kept.edges, tuple(details))


def _destructors(process: Process, rtld: Rtld, root: str, records: Sequence[Record]) -> Iterator[str]:
    contract = process.contract
    if contract is None:
        return
    at = contract.layout.offset("pthread", "tid")
    registered = {(r.task, r.event.object): r for r in records if isinstance(r.event, DtorRegistered)}
    for pointer in contract.mirror.threads():
        tid = process.arena.read_u32(pointer + at)
        task = process.kernel.tasks.get(tid)
        thread = f"thread {tid}" + (f" ({task.name})" if task is not None else "")
        for node in Tls(process, rtld, pointer).destructors:
            if node.owner == root:
                source = f" ({node.source})" if node.source else ""
                record = registered.get((tid, node.object))
                yield f"{thread} is to run {node.name} on {node.object:#x}{source}{_since(record) if record else ''}"


def _opens(root: str, namespace: int, records: Sequence[Record]) -> Iterator[str]:
    """Pair each open that succeeded with the request before it in the same thread."""
    asked: dict[int, list[Record]] = {}
    for record in records:
        event = record.event
        if isinstance(event, OpenRequested):
            asked.setdefault(record.task, []).append(record)
        elif isinstance(event, Opened):
            request = asked[record.task].pop() if asked.get(record.task) else None
            if (event.name, event.namespace) == (root, namespace):
                caller = f" by {request.event.caller}" if request is not None else ""
                yield f"opened{caller}{_since(record)}"


def _since(record: Record) -> str:
    return f", since {record.time // 10**9}.{record.time % 10**9:09d} s (#{record.sequence}, thread {record.task})"
