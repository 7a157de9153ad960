"""Events of the run-time linker (category `dl`): what is opened, what is kept and why, what goes.

Reasons are data: the kind of root, the chain of objects from the root to the survivor, who referred to what
by which symbol.
"""

from emu.core.record import NamedTuple


class OpenRequested(NamedTuple):
    """dlopen or dlmopen begins: `file` as it was asked for, `flags` by name, `caller` the place of the call.

    `namespace` is -2 where the caller's own will serve, -1 for a new one.
    """

    file: str
    flags: str
    namespace: int
    caller: str


class Opened(NamedTuple):
    """An open succeeded; `already` tells that the object was open before, `opencount` its count of direct
    opens now, `flags` how it was asked for.
    """

    name: str
    namespace: int
    opencount: int
    already: bool
    flags: str


class OpenFailed(NamedTuple):
    """An open failed with `text` (dlerror's); everything that it has done is going to be undone."""

    file: str
    namespace: int
    text: str


class FirstCallFailed(NamedTuple):
    """A call of `name` for `symbol` was to be bound when it was first made, and nothing serves it: ld.so says
    `text`, and ends the process.
    """

    name: str
    namespace: int
    symbol: str
    text: str


class ObjectNeeded(NamedTuple):
    """An object is looked for: `by` needs it, or (`dynamic`) calls for it with dlopen."""

    name: str
    namespace: int
    by: str
    by_namespace: int
    dynamic: bool


class NamespaceCreated(NamedTuple):
    """dlmopen made a namespace."""

    namespace: int


class AuditorJoined(NamedTuple):
    """An auditor takes part from now on; `functions` are those of its la_ functions that are there."""

    name: str
    namespace: int
    functions: tuple[str, ...]


class CloseRequested(NamedTuple):
    """dlclose begins. `outcome` says what becomes of it.

    One of: nodelete (nothing, the count stays), not open (an error), referenced (only the count went down),
    start-up object, later (a close in progress will collect again), collect, or failed open (a collection
    that undoes a dlopen: nobody called dlclose). What is no handle has its address for a name.
    """

    name: str
    namespace: int
    opencount_before: int
    opencount_after: int
    outcome: str
    caller: str


class Kept(NamedTuple):
    """A collection keeps an object.

    `root` tells what keeps it: start-up, open-count, nodelete or tls-dtors;
    `number` how many (opens, destructors).

    `chain` leads from the root to the object, the object itself last; `edges` has the kind of each step:
    dependency or relocation.
    """

    name: str
    namespace: int
    root: str
    number: int
    chain: tuple[str, ...]
    edges: tuple[str, ...]


class Unloading(NamedTuple):
    """A collection found nothing that keeps the object: it will go.

    `initialized`: its destructors will be called.
    """

    name: str
    namespace: int
    initialized: bool


class Unloaded(NamedTuple):
    """The object is unmapped and its link map gone."""

    name: str
    namespace: int
    start: int
    end: int


class GlobalScopeAdded(NamedTuple):
    """The object's symbols are visible to later look-ups of every object in the namespace."""

    name: str
    namespace: int


class ScopeSettled(NamedTuple):
    """Scope number `number` of an object consists of `members`, in the order of the search."""

    name: str
    namespace: int
    number: int
    members: tuple[str, ...]


class ScopeRemoved(NamedTuple):
    """A survivor lost the scope of `owner`, which is going."""

    name: str
    namespace: int
    owner: str


class NodeleteSet(NamedTuple):
    """An object must not be unloaded (`pending`: from the moment that the current open succeeds).

    `why`: DF_1_NODELETE, RTLD_NODELETE, unique symbol, reference, thread_local destructor (the rule of 2.18).
    `by` refers to it by `symbol`.
    """

    name: str
    namespace: int
    why: str
    by: str
    by_namespace: int
    symbol: str
    pending: bool


class NodeleteActivated(NamedTuple):
    """A pending NODELETE took effect."""

    name: str
    namespace: int


class NodeleteCleared(NamedTuple):
    """The last thread_local destructor of the object has run and, by the rule of 2.18
    to 2.21, took NODELETE away with it.
    """

    name: str
    namespace: int


class RelocationDependency(NamedTuple):
    """`by` bound to `symbol` of an object that it does not need: it keeps that object from now on."""

    name: str
    namespace: int
    by: str
    by_namespace: int
    symbol: str


class TlsGeneration(NamedTuple):
    """The set of TLS modules changed: every thread's DTV is older than `generation` until its next access."""

    generation: int
    why: str


DL_EVENTS = (
    OpenRequested, Opened, OpenFailed, FirstCallFailed, ObjectNeeded, NamespaceCreated, AuditorJoined, CloseRequested, Kept, Unloading, Unloaded,
    GlobalScopeAdded, NodeleteSet, NodeleteActivated, NodeleteCleared, RelocationDependency,
    TlsGeneration,
)  # fmt: skip
SCOPE_EVENTS = (ScopeSettled, ScopeRemoved)
"""Category `scopes`: long, and seldom asked for."""
