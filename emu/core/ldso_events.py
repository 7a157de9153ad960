"""Events for what only ld.so's own debugging output (LD_DEBUG) tells: each stands where ld.so says it.

`file` and `by` are objects by their names for people; the program has its path there.
"""

from emu.core.record import NamedTuple


class SearchStarted(NamedTuple):
    """A name without a slash is going to be looked for in directories and in ld.so.cache."""

    name: str
    namespace: int


class SearchPathUsed(NamedTuple):
    """The search goes through `directories` of a list; those that are known not to exist are left out.

    `kind` is RPATH, RUNPATH, LD_LIBRARY_PATH or "system search path"; `origin` the l_name of the object that
    first named the directories (empty: the program), and only with `has_origin`.
    """

    directories: tuple[str, ...]
    kind: str
    origin: str
    has_origin: bool


class CacheSearched(NamedTuple):
    """ld.so.cache (`cache`) was asked; `path` is its answer, empty if it has none."""

    cache: str
    path: str


class SearchEnded(NamedTuple):
    """The search for `name` is over, whether a file was found or not."""

    name: str


class AuxiliaryRequested(NamedTuple):
    """`by` is a filter: it asks for the object `name` (DT_FILTER, DT_AUXILIARY)."""

    name: str
    by: str


class LinkMapStarted(NamedTuple):
    """A file that was found becomes a new object, known as `name`."""

    name: str
    namespace: int


class ObjectMapped(NamedTuple):
    """Where an object's dynamic section, load bias, entry point and program headers are;
    `size` is its whole extent in bytes.
    """

    name: str
    dynamic: int
    base: int
    size: int
    entry: int
    phdr: int
    phnum: int


class UnknownFlags(NamedTuple):
    """DT_FLAGS_1 of an object has bits that nobody supports."""

    name: str
    bits: int


class VersionChecked(NamedTuple):
    """`by` needs `version` of `file`: it is going to be looked for there."""

    version: str
    file: str
    namespace: int
    by: str
    by_namespace: int


class AuditorIgnored(NamedTuple):
    """An auditor's la_version returned zero: it does not take part."""

    name: str
    namespace: int


class InitialScopes(NamedTuple):
    """The program and all that it needs is loaded;
    a list of everybody's scopes follows, in the order of `objects` objects.
    """

    objects: int


class ScopeListed(NamedTuple):
    """Scope number `number` of an object, one of a list that ends with `last`;
    the list of an object without scopes is one empty scope.
    """

    name: str
    namespace: int
    number: int
    members: tuple[str, ...]
    first: bool
    last: bool


class PreinitStarted(NamedTuple):
    """The program's DT_PREINIT_ARRAY is about to be called."""

    name: str


class ErrorSignalled(NamedTuple):
    """An error at `file` that ld.so can go on after (`continued`) or that ends what it was doing."""

    file: str
    occasion: str
    text: str
    continued: bool


class StartupStatistics(NamedTuple):
    """What start-up cost: cycles of virtual time, look-ups done, look-ups answered by
    the last one's result, RELATIVE relocations.
    """

    cycles: int
    relocation_cycles: int
    load_cycles: int
    lookups: int
    cached_lookups: int
    relative: int


class FinalStatistics(NamedTuple):
    """Look-ups of the whole run, and those that were answered by the last one's result."""

    lookups: int
    cached_lookups: int


class ObjectSearched(NamedTuple):
    """A symbol is looked for in an object of some scope."""

    symbol: str
    file: str
    namespace: int


class SymbolBound(NamedTuple):
    """A look-up by `by` ended with a definition in `file`; `protected` is the visibility of the reference.

    `versioned` tells whether a version was asked for, which may be "".
    """

    symbol: str
    version: str
    by: str
    by_namespace: int
    file: str
    namespace: int
    protected: bool
    versioned: bool


class Reopened(NamedTuple):
    """An object that was open already was opened again, which ld.so tells of."""

    name: str
    namespace: int
    opencount: int


class TlsStep(NamedTuple):
    """A step of what ld.so does about thread-local storage, which only some releases tell of under LD_DEBUG.

    `tcb` is the thread pointer, `block` an address or an old number of entries, `value` a size, a number or a
    generation, as the step has them.
    """

    step: str
    tcb: int = 0
    module: int = 0
    block: int = 0
    value: int = 0
    name: str = ""
    namespace: int = 0


LDSO_EVENTS = (
    SearchStarted, SearchPathUsed, CacheSearched, SearchEnded, AuxiliaryRequested, LinkMapStarted, ObjectMapped, UnknownFlags,
    VersionChecked, AuditorIgnored, InitialScopes, ScopeListed, ErrorSignalled, StartupStatistics, FinalStatistics, Reopened, TlsStep,
)  # fmt: skip
