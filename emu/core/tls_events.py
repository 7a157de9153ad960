"""Events of thread-local storage (category `tls`) and of thread_local destructors (`dtors`)."""

from emu.core.record import NamedTuple


class TlsModuleAssigned(NamedTuple):
    """A module id given to an object with PT_TLS; `offset` is the static offset below
    the thread pointer (0: dynamic).
    """

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
    """A thread_local destructor entered a thread's list;
    `count_before`/`count_after` are the owner's pending counts.
    """

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


TLS_EVENTS = (TlsModuleAssigned, TlsStaticLayout, TlsBlockAllocated, DtvResized)
DTOR_EVENTS = (DtorRegistered, DtorRun, DtorDone)
