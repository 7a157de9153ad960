"""Typed events: every decision of the loader and every act of the kernel that someone may want to see.

An event is a fact (an immutable tuple with named fields); nothing reads events in order to decide. The bus stamps each with
a sequence number, the virtual time and the task. A category that nobody asked for is one false attribute on the bus.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

CATEGORIES = ("libs", "bindings", "reloc", "init", "fini", "tls", "dtors", "syscalls", "faults", "dl")


class LibrarySearch(NamedTuple):
    """A file name tried for a needed object (`found` tells whether it was taken) under `rule`."""

    category = "libs"
    name: str
    path: str
    rule: str
    found: bool


class LibraryLoad(NamedTuple):
    """An object mapped into a namespace."""

    category = "libs"
    name: str
    path: str
    base: int
    start: int
    end: int
    needed_by: str
    rule: str
    namespace: int


class Binding(NamedTuple):
    """A reference of `origin` bound to the definition in `target` (`version` empty where the reference has none)."""

    category = "bindings"
    origin: str
    symbol: str
    version: str
    target: str
    address: int
    slot: int
    relocation: str
    lazy: bool


class Relocated(NamedTuple):
    """An object whose relocations are done: counts by kind of work."""

    category = "reloc"
    name: str
    relative: int
    symbolic: int
    lazy: int
    ifunc: int


class RelroProtected(NamedTuple):
    """The range of an object that became read-only after its relocation."""

    category = "reloc"
    name: str
    start: int
    end: int


class Initializer(NamedTuple):
    """A constructor about to be called: `kind` is preinit_array, DT_INIT, init_array or early_init."""

    category = "init"
    name: str
    kind: str
    address: int
    function: str


class Finalizer(NamedTuple):
    """A destructor function of an object about to be called: `kind` is fini_array or DT_FINI."""

    category = "fini"
    name: str
    kind: str
    address: int
    function: str


class TlsModuleAssigned(NamedTuple):
    """A module id given to an object with PT_TLS; `offset` is the static offset below the thread pointer (0: dynamic)."""

    category = "tls"
    name: str
    module: int
    offset: int
    size: int
    align: int


class TlsStaticLayout(NamedTuple):
    """The static TLS area as fixed at start-up: bytes used, whole size with surplus and TCB, alignment."""

    category = "tls"
    used: int
    size: int
    align: int
    surplus: int


class TlsBlockAllocated(NamedTuple):
    """A thread got its block for a module: in the static area, or from the heap on first use."""

    category = "tls"
    module: int
    name: str
    address: int
    static: bool


class DtvResized(NamedTuple):
    """A thread's DTV was brought up to a generation of the TLS modules."""

    category = "tls"
    dtv: int
    slots: int
    generation: int


class DtorRegistered(NamedTuple):
    """A thread_local destructor entered a thread's list; `count_before`/`count_after` are the owner's pending counts."""

    category = "dtors"
    function: str
    address: int
    object: int
    owner: str
    dso_handle: int
    source: str
    count_before: int
    count_after: int


class DtorRun(NamedTuple):
    """A thread_local destructor is about to run."""

    category = "dtors"
    function: str
    address: int
    object: int
    owner: str
    source: str


class DtorDone(NamedTuple):
    """A thread_local destructor returned and its owner's count went down."""

    category = "dtors"
    function: str
    object: int
    owner: str
    count_before: int
    count_after: int


class Syscall(NamedTuple):
    """A system call with its arguments and result as text."""

    category = "syscalls"
    number: int
    name: str
    arguments: str
    result: str


class Fault(NamedTuple):
    """A synchronous fault of the guest: `where` is object+offset and function, `handled` tells if it has a handler."""

    category = "faults"
    signal: str
    access: str
    address: int
    pc: int
    where: str
    handled: bool


class Record(NamedTuple):
    """An event with its stamp: sequence number from 1, virtual nanoseconds since start, thread id."""

    sequence: int
    time: int
    task: int
    event: Any


EVENT_TYPES: tuple[type[Any], ...] = (
    LibrarySearch, LibraryLoad, Binding, Relocated, RelroProtected, Initializer, Finalizer, TlsModuleAssigned,
    TlsStaticLayout, TlsBlockAllocated, DtvResized, DtorRegistered, DtorRun, DtorDone, Syscall, Fault,
)  # fmt: skip


class EventBus:
    """Carries events one way, from who decides to who watches.

    Each category is a boolean attribute: true where someone listens. Emitters on a hot path look at it before they
    build the event.
    """

    __slots__ = (*CATEGORIES, "_sinks", "_sequence", "now", "task")

    libs: bool
    bindings: bool
    reloc: bool
    init: bool
    fini: bool
    tls: bool
    dtors: bool
    syscalls: bool
    faults: bool
    dl: bool

    def __init__(self) -> None:
        for category in CATEGORIES:
            setattr(self, category, False)
        self._sinks: dict[str, list[Callable[[Record], None]]] = {}
        self._sequence = 0
        self.now: Callable[[], int] = lambda: 0
        self.task = 0

    def subscribe(self, sink: Callable[[Record], None], categories: Iterable[str]) -> None:
        """Send every later event of `categories` to `sink`. Raises ValueError for a category that does not exist."""
        for category in categories:
            if category not in CATEGORIES:
                raise ValueError(f"no trace category {category!r}: choose from {', '.join(CATEGORIES)}")
            self._sinks.setdefault(category, []).append(sink)
            setattr(self, category, True)

    def emit(self, event: Any) -> None:
        """Stamp `event` and hand it to the sinks of its category; without one this does nothing."""
        sinks = self._sinks.get(event.category)
        if sinks is None:
            return
        self._sequence += 1
        record = Record(self._sequence, self.now(), self.task, event)
        for sink in sinks:
            sink(record)
