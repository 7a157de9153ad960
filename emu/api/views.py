"""The loader's state as it is shown in a notebook or a terminal: link maps, scopes, thread-local storage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Generic, TypeVar, overload

from emu.api.events import table
from emu.core.record import NamedTuple
from emu.core.text import aligned
from emu.rtld.tls import UNALLOCATED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.process import Process
    from emu.rtld.link_map import LinkMap
    from emu.rtld.rtld import Rtld

T = TypeVar("T")


class Table(ABC, Generic[T]):
    """A list that shows itself as a table; `head` names the columns, `row` returns the cells of one entry."""

    head: tuple[str, ...] = ()

    def __init__(self, items: Sequence[T]) -> None:
        self._items = list(items)

    @abstractmethod
    def row(self, item: T) -> tuple[str, ...]:
        """Return the cells of an entry."""

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)

    def __contains__(self, item: object) -> bool:
        return item in self._items

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> list[T]: ...

    def __getitem__(self, index: int | slice) -> T | list[T]:
        return self._items[index]

    def __repr__(self) -> str:
        return "\n".join(aligned([self.head, *map(self.row, self._items)]))

    def _repr_html_(self) -> str:
        return table(self.head, map(self.row, self._items))


class LinkMaps(Table["LinkMap"]):
    """Link maps in load order. `find` and `in` take a name: the path, the file name or the SONAME."""

    head = ("name", "address", "opens", "destructors", "namespace", "flags")

    def __init__(self, items: Sequence[LinkMap], rtld: Rtld) -> None:
        super().__init__(items)
        self._rtld = rtld

    def row(self, item: LinkMap) -> tuple[str, ...]:
        """Return the cells of an object."""
        flags = " ".join(
            word
            for word, on in (
                ("global", item.global_),
                ("nodelete", item.nodelete_active),
                ("init", item.init_called),
            )
            if on
        )
        count = self._rtld.mirror.dtor_count(item)
        return item.display_name, hex(item.addr), str(item.direct_opencount), str(count), str(item.ns), flags

    def find(self, name: str) -> LinkMap | None:
        """Return the object of that name, None if it is not loaded."""
        return next((m for m in self._items if name in names_of(m)), None)

    def __contains__(self, name: object) -> bool:
        return name in self._items or isinstance(name, str) and self.find(name) is not None


class ThreadInfo(NamedTuple):
    """A thread of the guest, and what it waits for (empty: it can run)."""

    tid: int
    name: str
    waits: str


class Threads(Table[ThreadInfo]):
    """The threads of the guest, the main thread first while it is there."""

    head = ("tid", "name", "waits")

    def row(self, item: ThreadInfo) -> tuple[str, ...]:
        """Return the cells of a thread."""
        return str(item.tid), item.name, item.waits


class Scopes(Table[tuple[str, ...]]):
    """The scopes in which an object's references are looked up, each the names of its objects in order."""

    head = ("scope", "objects in order")

    def row(self, item: tuple[str, ...]) -> tuple[str, ...]:
        """Return the cells of a scope."""
        return str(self._items.index(item)), " ".join(item)


class TlsModule(NamedTuple):
    """A TLS module as one thread has it.

    `offset` is the static offset below the thread pointer (0: dynamic);
    `block` is the address of the thread's block, None as long as it has none.
    """

    module: int
    name: str
    size: int
    align: int
    offset: int
    block: int | None


class Destructor(NamedTuple):
    """A pending destructor of a thread_local object:
    the node's address, the function with its name, the object, who owns it, at which source line.
    """

    node: int
    function: int
    name: str
    object: int
    owner: str
    source: str


class Tls(Table[TlsModule]):
    """Thread-local storage of one thread: the modules; `thread_pointer`, the DTV (`dtv`, `generation` and the
    newest generation of the process), and the pending `destructors`, the next to run first.
    """

    head = ("module", "object", "size", "align", "place", "block")

    def __init__(self, process: Process, rtld: Rtld, thread_pointer: int) -> None:
        arena = process.arena
        self.thread_pointer = thread_pointer
        self.dtv = arena.read_u64(thread_pointer + 8)
        self.dtv_length = arena.read_u64(self.dtv - 16)
        self.generation = arena.read_u64(self.dtv)
        self.newest_generation = rtld.tls.generation
        super().__init__(
            [self._module(process, slot.map) for slot in rtld.tls.slots[1:] if slot.map is not None]
        )
        self.destructors = tuple(_destructors(process, rtld, thread_pointer))

    def _module(self, process: Process, map_: LinkMap) -> TlsModule:
        index = map_.tls_modid
        offset = max(map_.tls_offset, 0)
        block: int | None = None
        if index <= self.dtv_length:
            value = process.arena.read_u64(self.dtv + 16 * index)
            block = value if value not in (0, UNALLOCATED) else None
        return TlsModule(index, map_.display_name, map_.tls_blocksize, map_.tls_align, offset, block)

    def row(self, item: TlsModule) -> tuple[str, ...]:
        """Return the cells of a module."""
        place = f"fs-{item.offset:#x}" if item.offset else "dynamic"
        return (
            str(item.module), item.name, str(item.size), str(item.align), place, hex(item.block) if item.block is not None else "-",
        )  # fmt: skip

    def __repr__(self) -> str:
        lines = [
            f"thread pointer {self.thread_pointer:#x}, DTV {self.dtv:#x}, generation {self.generation} of {self.newest_generation}",
            super().__repr__(),
        ]
        lines += [f"destructor {d.name} on {d.object:#x}, owner {d.owner}" for d in self.destructors]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = ((hex(d.node), d.name, hex(d.object), d.owner, d.source) for d in self.destructors)
        return super()._repr_html_() + table(("node", "destructor", "object", "owner", "source"), rows)


def _destructors(process: Process, rtld: Rtld, thread_pointer: int) -> Iterator[Destructor]:
    """Yield the nodes of a thread's list."""
    contract = process.contract
    atexit = contract.atexit if contract is not None else None
    if atexit is None:
        return
    for one in atexit.pending(thread_pointer):
        map_ = rtld.by_address.get(one.owner)
        name = map_.display_name if map_ is not None else hex(one.owner)
        symbols = process.symbols
        yield Destructor(
            one.node,
            one.function,
            symbols.describe(one.function),
            one.object,
            name,
            symbols.source(one.function),
        )


def names_of(map_: LinkMap) -> set[str]:
    """Return the names that people have for an object."""
    names = {map_.name, map_.display_name, map_.path, map_.path.rpartition("/")[2], *map_.lib_names}
    names |= {map_.display_name.rpartition("/")[2], map_.soname or ""}
    return names - {""}
