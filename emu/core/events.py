"""Typed events: every decision of the loader and every act of the kernel that someone may want to see.

An event is a fact (an immutable tuple with named fields); nothing reads events in order to decide. The bus
stamps each with a sequence number, the virtual time and the task. A category that nobody asked for is one
false attribute on the bus.
"""

from collections.abc import Callable, Iterable
from typing import Any

from emu.core.dl_events import DL_EVENTS, SCOPE_EVENTS
from emu.core.ldso_events import LDSO_EVENTS, ObjectSearched, PreinitStarted, SymbolBound
from emu.core.record import NamedTuple
from emu.core.task_events import (
    Fault,
    ForcedSwitch,
    ProcessCreated,
    ProcessEnded,
    ProgramExecuted,
    Switch,
    Syscall,
    ThreadCreated,
    ThreadExited,
    ThreadJoined,
    ThreadNamed,
)
from emu.core.tls_events import DTOR_EVENTS, TLS_EVENTS

CATEGORIES = (
    "libs", "dl", "bindings", "reloc", "init", "fini", "tls", "dtors", "syscalls", "faults", "threads", "sched",
)  # fmt: skip
ON_REQUEST = ("scopes", "ldso", "lookups", "symbols")
"""Categories that "all" leaves out, since they are many or too small to read: those of LD_DEBUG."""


class LibrarySearch(NamedTuple):
    """A file name tried for a needed object (`found` tells whether it was taken) under `rule`.

    `machine` is what a file that was passed over is for, as in AArch64, or the kernel that it asks for; empty
    for none, or if it is taken. `because` tells why a file that is there was not taken: "class", "machine",
    "kernel", or "error" for one that ends the search.
    """

    name: str
    path: str
    rule: str
    found: bool
    machine: str = ""
    because: str = ""


class AuditorChoseFile(NamedTuple):
    """An auditor's la_objsearch answered with another name than it was given, or with none (`chosen` is
    empty): the name is passed over.

    `source` is the LA_SER_* constant that says where the name comes from, `by` the object for which the
    search is made.
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


class LibraryReused(NamedTuple):
    """What `needed_by` needs by `name` is there already:
    the object `library` (its path `path`), known by that name `known_by`: needed-as, soname or path.
    """

    name: str
    namespace: int
    needed_by: str
    library: str
    path: str
    known_by: str


class Binding(NamedTuple):
    """A reference of `origin` bound to the definition in `target` (`version` empty
    where the reference has none).

    `target` is empty where there is none: the reference is weak, or what it is for fails. A dlsym or dlvsym
    has the relocation "dlsym", and tells its `handle` (RTLD_DEFAULT, RTLD_NEXT or the object that it is of)
    and its `caller`, whose object is `origin` but for a handle.
    """

    origin: str
    symbol: str
    version: str
    target: str
    address: int
    slot: int
    relocation: str
    lazy: bool
    handle: str = ""
    caller: str = ""


class AuditorChoseAddress(NamedTuple):
    """An auditor's la_symbind64 (or la_x86_64_gnu_pltenter) gave a reference of `origin` another address than
    that of the definition in `target`.
    """

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


class Record(NamedTuple):
    """An event with its stamp: sequence number from 1, virtual nanoseconds since start, thread id, and the
    process's if it is not the first.
    """

    sequence: int
    time: int
    task: int
    event: Any
    process: int = 0


_BY_CATEGORY: dict[str, tuple[type[Any], ...]] = {
    "libs": (
        LibrarySearch,
        LibraryLoad,
        LibraryReused,
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
    "tls": TLS_EVENTS,
    "dtors": DTOR_EVENTS,
    "syscalls": (Syscall,),
    "faults": (Fault,),
    "threads": (
        ThreadCreated,
        ThreadNamed,
        ThreadExited,
        ProcessCreated,
        ProcessEnded,
        ProgramExecuted,
        ThreadJoined,
    ),
    "sched": (Switch, ForcedSwitch),
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

    Each category is a boolean attribute: true where someone listens. Emitters on a hot path look at it before
    they build the event. `process` is the one that runs, 0 for the first; `programs` are the names of what
    the others run.
    """

    __slots__ = (*CATEGORIES, *ON_REQUEST, "_sinks", "_sequence", "now", "process", "programs", "task")

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
        self._sinks: dict[str, list[tuple[int | None, Callable[[Record], None]]]] = {}
        self._sequence = 0
        self.process = 0
        self.programs: dict[int, str] = {}
        self.now: Callable[[], int] = lambda: 0
        self.task = 0

    @property
    def upcoming(self) -> int:
        """The sequence number of the next event."""
        return self._sequence + 1

    def time_by(self, now: Callable[[], int]) -> None:
        """Give each event the time that `now` gives, in nanoseconds of the guest."""
        self.now = now

    def rewind(self, upcoming: int, task: int) -> None:
        """Go on with the sequence number `upcoming`, in `task`: what was told since is undone."""
        self._sequence, self.task, self.process = upcoming - 1, task, 0

    def subscribe(
        self, sink: Callable[[Record], None], categories: Iterable[str], process: int | None = 0
    ) -> None:
        """Send every later event of `categories` to `sink`:
        those of the first process, of another one, or (None) of all.

        Raises ValueError for a category that does not exist.
        """
        for category in categories:
            if category not in CATEGORIES and category not in ON_REQUEST:
                known = ", ".join((*CATEGORIES, *ON_REQUEST))
                raise ValueError(f"no trace category {category!r}: choose from {known}")
            self._sinks.setdefault(category, []).append((process, sink))
            setattr(self, category, True)

    def sinks(self, process: int) -> list[tuple[str, Callable[[Record], None]]]:
        """Return each category with who listens to it in one process alone."""
        return [
            (category, sink) for category, sinks in self._sinks.items() for of, sink in sinks if of == process
        ]

    def unsubscribe(self, sink: Callable[[Record], None]) -> None:
        """Send `sink` nothing any more. What is no longer listened to is still told."""
        for category, sinks in self._sinks.items():
            self._sinks[category] = [entry for entry in sinks if entry[1] is not sink]

    def emit(self, event: Any) -> None:
        """Stamp `event` and hand it to the sinks of its category; without one this does nothing."""
        sinks = self._sinks.get(CATEGORY_OF[type(event)])
        if sinks is None:
            return
        self._sequence += 1
        process = self.process
        record = Record(self._sequence, self.now(), self.task, event, process)
        for wanted, sink in sinks:
            if wanted == process or wanted is None:
                sink(record)
