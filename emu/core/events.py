"""Typed events: every decision of the loader and every act of the kernel that someone may want to see.

An event is a fact (an immutable tuple with named fields); nothing reads events in order to decide. The bus stamps each with
a sequence number, the virtual time and the task. A category that nobody asked for is one false attribute on the bus.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from emu.core.dl_events import DL_EVENTS, SCOPE_EVENTS
from emu.core.ldso_events import LDSO_EVENTS, ObjectSearched, PreinitStarted, SymbolBound

CATEGORIES = (
    "libs", "dl", "bindings", "reloc", "init", "fini", "tls", "dtors", "syscalls", "faults", "threads", "sched",
)  # fmt: skip
ON_REQUEST = ("scopes", "ldso", "lookups", "symbols")
"""Categories that "all" leaves out, since they are many or too small to read: those of LD_DEBUG."""


class LibrarySearch(NamedTuple):
    """A file name tried for a needed object (`found` tells whether it was taken) under `rule`."""

    name: str
    path: str
    rule: str
    found: bool


class AuditorChoseFile(NamedTuple):
    """An auditor's la_objsearch answered with another name than it was given, or with none (`chosen` is empty): the name is passed over.

    `source` is the LA_SER_* constant that says where the name comes from, `by` the object for which the search is made.
    """

    auditor: str
    name: str
    chosen: str
    source: str
    by: str


class LibraryLoad(NamedTuple):
    """An object mapped into a namespace."""

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

    origin: str
    symbol: str
    version: str
    target: str
    address: int
    slot: int
    relocation: str
    lazy: bool


class AuditorChoseAddress(NamedTuple):
    """An auditor's la_symbind64 (or la_x86_64_gnu_pltenter) gave a reference of `origin` another address than that of the definition in `target`."""

    auditor: str
    origin: str
    symbol: str
    target: str
    address: int
    chosen: int
    function: str


class RelocationStarted(NamedTuple):
    """The relocation of an object begins; `lazy` leaves PLT slots to their first calls."""

    name: str
    lazy: bool


class Relocated(NamedTuple):
    """An object whose relocations are done: counts by kind of work."""

    name: str
    relative: int
    symbolic: int
    lazy: int
    ifunc: int


class RelroProtected(NamedTuple):
    """The range of an object that became read-only after its relocation."""

    name: str
    start: int
    end: int


class InitStarted(NamedTuple):
    """The constructors of an object are about to be called, if it has any."""

    name: str
    namespace: int


class FiniStarted(NamedTuple):
    """The destructor functions of an object are about to be called, if it has any."""

    name: str
    namespace: int


class Initializer(NamedTuple):
    """A constructor about to be called: `kind` is preinit_array, DT_INIT, init_array or early_init."""

    name: str
    kind: str
    address: int
    function: str


class Finalizer(NamedTuple):
    """A destructor function of an object about to be called: `kind` is fini_array or DT_FINI."""

    name: str
    kind: str
    address: int
    function: str


class TlsModuleAssigned(NamedTuple):
    """A module id given to an object with PT_TLS; `offset` is the static offset below the thread pointer (0: dynamic)."""

    name: str
    module: int
    offset: int
    size: int
    align: int


class TlsStaticLayout(NamedTuple):
    """The static TLS area as fixed at start-up: bytes used, whole size with surplus and TCB, alignment."""

    used: int
    size: int
    align: int
    surplus: int


class TlsBlockAllocated(NamedTuple):
    """A thread got its block for a module: in the static area, or from the heap on first use."""

    module: int
    name: str
    address: int
    static: bool


class DtvResized(NamedTuple):
    """A thread's DTV was brought up to a generation of the TLS modules."""

    dtv: int
    slots: int
    generation: int


class DtorRegistered(NamedTuple):
    """A thread_local destructor entered a thread's list; `count_before`/`count_after` are the owner's pending counts."""

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

    function: str
    address: int
    object: int
    owner: str
    source: str


class DtorDone(NamedTuple):
    """A thread_local destructor returned and its owner's count went down."""

    function: str
    object: int
    owner: str
    count_before: int
    count_after: int


class Syscall(NamedTuple):
    """A system call with its arguments and result as text."""

    number: int
    name: str
    arguments: str
    result: str


class Fault(NamedTuple):
    """A synchronous fault of the guest: `where` is object+offset and function, `handled` tells if it has a handler."""

    signal: str
    access: str
    address: int
    pc: int
    where: str
    handled: bool


class ThreadCreated(NamedTuple):
    """A thread began: its id, the name that it inherits, the top of its stack. The record's task is its creator."""

    thread: int
    name: str
    stack: int


class ThreadNamed(NamedTuple):
    """A thread got a name."""

    thread: int
    name: str


class ThreadExited(NamedTuple):
    """A thread ended with `status`; the end of the whole process is not told thread by thread."""

    thread: int
    name: str
    status: int


class ThreadJoined(NamedTuple):
    """The end of `thread` woke `joiner`, which waited for it on the cleared word with its id (pthread_join does)."""

    thread: int
    joiner: int


class Switch(NamedTuple):
    """Another thread runs: `reason` is blocked, preempted, yielded or exited, or woken for one that comes at once."""

    previous: int
    next: int
    reason: str


class Record(NamedTuple):
    """An event with its stamp: sequence number from 1, virtual nanoseconds since start, thread id."""

    sequence: int
    time: int
    task: int
    event: Any


_BY_CATEGORY: dict[str, tuple[type[Any], ...]] = {
    "libs": (
        LibrarySearch,
        LibraryLoad,
        AuditorChoseFile,
    ),
    "dl": DL_EVENTS,
    "bindings": (
        Binding,
        AuditorChoseAddress,
    ),
    "reloc": (
        RelocationStarted,
        Relocated,
        RelroProtected,
    ),
    "init": (
        PreinitStarted,
        InitStarted,
        Initializer,
    ),
    "fini": (
        FiniStarted,
        Finalizer,
    ),
    "tls": (
        TlsModuleAssigned,
        TlsStaticLayout,
        TlsBlockAllocated,
        DtvResized,
    ),
    "dtors": (
        DtorRegistered,
        DtorRun,
        DtorDone,
    ),
    "syscalls": (Syscall,),
    "faults": (Fault,),
    "threads": (
        ThreadCreated,
        ThreadNamed,
        ThreadExited,
        ThreadJoined,
    ),
    "sched": (Switch,),
    "scopes": SCOPE_EVENTS,
    "ldso": LDSO_EVENTS,
    "lookups": (SymbolBound,),
    "symbols": (ObjectSearched,),
}
EVENT_TYPES = tuple(kind for kinds in _BY_CATEGORY.values() for kind in kinds)
CATEGORY_OF = {kind: category for category, kinds in _BY_CATEGORY.items() for kind in kinds}
"""The category that each type of event belongs to."""


class EventBus:
    """Carries events one way, from who decides to who watches.

    Each category is a boolean attribute: true where someone listens. Emitters on a hot path look at it before they
    build the event.
    """

    __slots__ = (*CATEGORIES, *ON_REQUEST, "_sinks", "_sequence", "now", "task")

    libs: bool
    dl: bool
    bindings: bool
    reloc: bool
    init: bool
    fini: bool
    tls: bool
    dtors: bool
    syscalls: bool
    faults: bool
    threads: bool
    sched: bool
    scopes: bool
    ldso: bool
    lookups: bool
    symbols: bool

    def __init__(self) -> None:
        for category in (*CATEGORIES, *ON_REQUEST):
            setattr(self, category, False)
        self._sinks: dict[str, list[Callable[[Record], None]]] = {}
        self._sequence = 0
        self.now: Callable[[], int] = lambda: 0
        self.task = 0

    @property
    def upcoming(self) -> int:
        """The sequence number of the next event."""
        return self._sequence + 1

    def rewind(self, upcoming: int, task: int) -> None:
        """Go on with the sequence number `upcoming`, in `task`: what was told since is undone."""
        self._sequence, self.task = upcoming - 1, task

    def subscribe(self, sink: Callable[[Record], None], categories: Iterable[str]) -> None:
        """Send every later event of `categories` to `sink`. Raises ValueError for a category that does not exist."""
        for category in categories:
            if category not in CATEGORIES and category not in ON_REQUEST:
                known = ", ".join((*CATEGORIES, *ON_REQUEST))
                raise ValueError(f"no trace category {category!r}: choose from {known}")
            self._sinks.setdefault(category, []).append(sink)
            setattr(self, category, True)

    def emit(self, event: Any) -> None:
        """Stamp `event` and hand it to the sinks of its category; without one this does nothing."""
        sinks = self._sinks.get(CATEGORY_OF[type(event)])
        if sinks is None:
            return
        self._sequence += 1
        record = Record(self._sequence, self.now(), self.task, event)
        for sink in sinks:
            sink(record)
