"""A loaded object in Python: its functions as attributes, as ctypes has them, and its data."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, TypeVar

from emu.analysis.names import defined, missing, without_parameters
from emu.api.errors import ArgumentError, ClosedError, SymbolNotFoundError
from emu.api.function import Function, not_a_function
from emu.api.pointer import ForTheGuest
from emu.core.effects import CallGuest, Effect
from emu.core.record import NamedTuple
from emu.elf import constants as c
from emu.elf.demangle import demangle
from emu.rtld.dependency import RETURN_NEWEST
from emu.rtld.found import Found, symbol_of
from emu.rtld.lookup import Query, lookup_symbol
from emu.rtld.scope import Scope
from emu.rtld.version import Version

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from emu.api.process import Process
    from emu.rtld.link_map import LinkMap

_C = TypeVar("_C", bound="ctypes._SimpleCData[Any] | ctypes.Structure | ctypes.Union | ctypes.Array[Any]")
_KINDS = {
    c.STT_NOTYPE: "untyped",
    c.STT_OBJECT: "data",
    c.STT_FUNC: "function",
    c.STT_TLS: "thread-local data",
    c.STT_GNU_IFUNC: "function",
}


class Symbol(NamedTuple):
    """A definition: who has it, and where.

    `kind` is function, data, thread-local data or untyped; `address` is a function's, or the data's (for
    thread-local data the offset in the object's block); `size` in bytes.
    """

    name: str
    kind: str
    address: int
    size: int
    object: str
    ifunc: bool = False

    @property
    def demangled(self) -> str:
        """The name as people read it."""
        return demangle(self.name)


class Library(ForTheGuest, instead="use its functions, or Library.in_dll"):
    """An object that `Process.dlopen` has opened.

    Attributes are its functions, found as dlsym would: in it, then in what it needs.

    `lib.name` is the same Function each time, so that its types can be set; `lib["name"]` is a new one each
    time, and also takes a C++ name as people write it. An object that is closed refuses calls even where the
    loader keeps it.

    >>> import emu
    >>> with emu.Process() as p:
    ...     with p.dlopen("libc.so.6") as libc:
    ...         libc.atoi(b"42")
    42
    """

    def __init__(self, process: Process, handle: int, path: str) -> None:
        self._process, self._address, self._path = process, handle, path
        self._map = process.rtld.by_address.get(handle)
        self._refusal = ""
        process.libraries.add(self)

    @property
    def process(self) -> Process:
        """The process that the object is in."""
        return self._process

    @property
    def path(self) -> str:
        """The name that the object was opened by."""
        return self._path

    @property
    def handle(self) -> int:
        """What dlopen returned: the address of the guest's link map."""
        return self._address

    @property
    def opened(self) -> LinkMap | None:
        """The link map that dlopen made, also when it is gone."""
        return self._map

    @property
    def closed(self) -> bool:
        """Whether `close` was called, or the opening is undone."""
        return bool(self._refusal)

    @property
    def refusal(self) -> str:
        """Why the object is not to be used any more, empty as long as it is."""
        return self._refusal

    @refusal.setter
    def refusal(self, why: str) -> None:
        self._refusal = why

    @property
    def link_map(self) -> LinkMap:
        """The loader's link map. Raises ClosedError when the object is gone."""
        if self._map is None or not self.loaded:
            raise ClosedError(f"{self._path} is unloaded")
        return self._map

    @property
    def loaded(self) -> bool:
        """Whether the object is still there: closed or not, something may keep it."""
        # Another object may have got the handle since.
        return self._map is not None and self._process.rtld.by_address.get(self._address) is self._map

    def symbol(self, name: str, version: str | None = None) -> Symbol:
        """Return a definition by its mangled or demangled name. Raises SymbolNotFoundError, ClosedError."""
        if self._refusal:
            raise ClosedError(f"{name}: {self._path} {self._refusal}")
        if not isinstance(name, str):
            raise ArgumentError(f"{name!r} is no name of a symbol")
        map_ = self.link_map
        return find(
            self._process, name, version, map_.local_scope if map_.searchlist else Scope([map_]), map_
        )

    def __getitem__(self, name: str) -> Function:
        return self._process.function(self.symbol(name), self)

    def __getattr__(self, name: str) -> Function:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        function = self[name]
        self.__dict__[name] = function
        return function

    def __dir__(self) -> list[str]:
        """Return the attributes, for completion: of the functions those that the
        object itself defines and that Python can spell.
        """
        own = symbols_of(self.link_map) if self.loaded and not self._refusal else ()
        functions = {
            symbol.name for symbol in own if symbol.kind == "function" and symbol.name.isidentifier()
        }
        return sorted({*super().__dir__(), *functions})

    def in_dll(self, type_: type[_C], name: str) -> _C:
        """Return a data symbol as a ctypes object that is the guest's memory.

        Thread-local data are those of the thread that calls would run in.
        """
        symbol = self.symbol(name)
        address = self._process.data_address(symbol)
        return self._process.memory.view(type_, address)

    def close(self) -> int:
        """Call dlclose; return how many direct opens are left, or 0 when the object is gone.

        Raises OpenError, ClosedError.
        """
        if self._refusal:
            raise ClosedError(f"{self._path} {self._refusal} already")
        self._process.dlclose(self._address)
        self._refusal = "is closed"
        return self.link_map.direct_opencount if self.loaded else 0

    def __enter__(self) -> Library:
        return self

    def __exit__(self, *_error: object) -> None:
        if not self._refusal and not self._process.ended:
            self.close()

    def __repr__(self) -> str:
        state = "" if not self._refusal else ", closed" if self.loaded else ", unloaded"
        at = f" at {self.link_map.addr:#x}" if self.loaded else ""
        return f"<emu.Library {self._path}{at}{state}>"


def symbols_of(map_: LinkMap) -> Iterator[Symbol]:
    """Yield what an object defines for others, in the order of its table."""
    for index in range(1, map_.symtab.count):
        if map_.symtab.entry(index).defined:
            yield _symbol(symbol_of(map_, index))


def _symbol(found: Found) -> Symbol:
    is_tls = found.type == c.STT_TLS
    return Symbol(
        found.name.decode("utf-8", "surrogateescape"),
        _KINDS.get(found.type, "untyped"),
        found.value if is_tls else found.address,
        found.size,
        found.map.display_name,
        found.type == c.STT_GNU_IFUNC,
    )


def find(process: Process, name: str, version: str | None, scope: Scope, origin: LinkMap) -> Symbol:
    """Return the definition of a name in a scope;
    a name that is not a symbol's own is tried as a demangled one.
    """
    wanted = Version(version.encode(), _hash(version), True, b"") if version is not None else None
    raw = name.encode("utf-8", "surrogateescape")
    query = Query(raw, origin, version=wanted, flags=RETURN_NEWEST if wanted is None else 0)
    unique = process.rtld.namespaces[origin.ns].unique
    known = len(unique)
    found = lookup_symbol(process.rtld, query, [scope])
    if len(unique) > known:
        process.engine.noted()
    if found is None and name and not name.startswith("_Z"):
        mangled = _mangled(name, scope)
        if mangled is not None:
            found = lookup_symbol(process.rtld, query._replace(name=mangled), [scope])
    if found is None:
        where = " or what it needs" if len(scope.maps) > 1 else ""
        at = f"@{version}" if version is not None else ""
        failure = f"{origin.display_name}: no symbol {name}{at} in it{where}"
        own = {demangle(raw.decode("utf-8", "surrogateescape")) for raw in defined(origin)}
        raise SymbolNotFoundError(missing(failure, name, own | {without_parameters(text) for text in own}))
    return _symbol(found)


def _hash(name: str) -> int:
    from emu.elf.hash import sysv_hash

    return sysv_hash(name.encode())


def _mangled(name: str, scope: Scope) -> bytes | None:
    """Return the first symbol of the scope whose demangled form is `name`;
    the parameters may be left out where that is clear.
    """
    exact, loose = name.replace(" ", ""), set()
    for map_ in scope.maps:
        for raw in defined(map_):
            plain = demangle(raw.decode("utf-8", "surrogateescape")) if raw.startswith(b"_Z") else ""
            squeezed = plain.replace(" ", "")
            if squeezed == exact:
                return raw
            if squeezed.partition("(")[0] == exact and "(" in squeezed:
                loose.add(raw)
    if len(loose) > 1:
        names = ", ".join(sorted(demangle(raw.decode(errors="replace")) for raw in loose))
        raise SymbolNotFoundError(f"{name} is not clear: {names}")
    return next(iter(loose), None)


def callable_symbol(process: Process, symbol: Symbol) -> int | Callable[[], int]:
    """Return where the function is entered, or what finds that: an IFUNC's resolver must run.

    Raises NotAFunctionError for data.
    """
    if symbol.kind in ("data", "thread-local data"):
        raise not_a_function(symbol.name, symbol.object, symbol.kind)
    if symbol.ifunc:
        return lambda: process.engine.run(_resolve(symbol.address))
    return symbol.address


def _resolve(address: int) -> Generator[Effect, int, int]:
    return (yield CallGuest(address))
