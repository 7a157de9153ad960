"""What a process has loaded, and its threads: the part of `Process` that asks and tells the linker."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, cast

from emu.api.convert import Prototype
from emu.api.errors import ClosedError, OpenError, StateError
from emu.api.function import Calls, Function
from emu.api.library import Library, Symbol, callable_symbol, find, symbols_of
from emu.api.memory import Memory
from emu.api.thread import Thread
from emu.api.views import LinkMaps, Scopes, ThreadInfo, Threads, Tls
from emu.core.effects import CallGuest, Effect
from emu.rtld.scope import Scope

if TYPE_CHECKING:
    import weakref
    from collections.abc import Generator

    from emu.api.engine import Engine
    from emu.api.process import Process
    from emu.process import Process as Inner
    from emu.rtld.link_map import LinkMap
    from emu.rtld.rtld import Rtld

RTLD_LAZY, RTLD_NOW, RTLD_NOLOAD, RTLD_DEEPBIND, RTLD_GLOBAL, RTLD_LOCAL, RTLD_NODELETE = (
    1,
    2,
    4,
    8,
    0x100,
    0,
    0x1000,
)
"""dlopen's flags."""


class Linking:
    """Libraries, symbols, scopes, threads and TLS of a process."""

    inner: Inner
    """The composition root underneath."""
    engine: Engine
    calls: Calls
    memory: Memory
    libraries: weakref.WeakSet[Library]
    driven: weakref.WeakSet[Thread]

    @property
    def _process(self) -> Process:
        """The process that this is part of."""
        return cast("Process", self)

    @property
    def ended(self) -> bool:
        """Whether the process is over."""
        return self.engine.result is not None

    @property
    def status(self) -> int | None:
        """The exit status, None before the end."""
        return self.engine.result.status if self.engine.result is not None else None

    @property
    def report(self) -> str:
        """What is to be said of how the process ended: where a signal killed it; empty otherwise."""
        return self.engine.result.report if self.engine.result is not None else ""

    def dlopen(self, path: str | os.PathLike[str], flags: int = RTLD_NOW) -> Library:
        """Open an object by the guest's dlopen. Raises OpenError with dlerror's text."""
        name = os.fspath(path)
        handle = self._guest(b"dlopen", name, flags)
        if not handle:
            raise OpenError(self._dlerror())
        return Library(self._process, handle, name)

    def dlclose(self, handle: int) -> None:
        """Close a handle by the guest's dlclose. Raises OpenError."""
        if self._guest(b"dlclose", handle) & 0xFFFFFFFF:
            raise OpenError(self._dlerror())

    def _dlerror(self) -> str:
        message = self._guest(b"dlerror")
        return os.fsdecode(self.memory.cstring(message)) if message else "dlerror has nothing to say"

    def _guest(self, name: bytes, *args: int | str) -> int:
        """Call one of libc's functions and return rax; raises what a Python function that it called has raised."""
        self.engine.check()
        texts = [self.memory.new(os.fsencode(arg)) for arg in args if isinstance(arg, str)]
        waiting = iter(texts)
        words = tuple(next(waiting) if isinstance(arg, str) else arg for arg in args)
        rax = self.engine.run(_call(self.engine.contract.guest_function(name), words))
        for text in texts:
            self.memory.free(text)
        error = self.engine.take_pending()
        if error is not None:
            raise error
        return rax

    @property
    def rtld(self) -> Rtld:
        """The dynamic linker's state. Raises StateError for a static program."""
        if self.inner.rtld is None:
            raise StateError(f"{self.inner.config.program}: a static program has no dynamic linker")
        return self.inner.rtld

    @property
    def link_maps(self) -> LinkMaps:
        """What is loaded, in all namespaces."""
        return LinkMaps([m for namespace in self.rtld.namespaces for m in namespace.maps], self.rtld)

    @property
    def namespaces(self) -> list[LinkMaps]:
        """What is loaded, by namespace."""
        return [LinkMaps(namespace.maps, self.rtld) for namespace in self.rtld.namespaces]

    def scopes(self, library: Library | str) -> Scopes:
        """Return the scopes in which the references of an object are looked up, in order."""
        map_ = self._map(library)
        return Scopes([tuple(m.display_name for m in scope.maps) for scope in map_.scopes])

    def symbols(self, library: Library | str) -> list[Symbol]:
        """Return what an object defines for others.

        >>> import emu
        >>> with emu.Process() as p:
        ...     sorted({(s.name, s.kind) for s in p.symbols("libc.so.6") if s.name in ("errno", "memcpy", "stdout")})
        [('errno', 'thread-local data'), ('memcpy', 'function'), ('stdout', 'data')]
        """
        return list(symbols_of(self._map(library)))

    def lookup(self, name: str, version: str | None = None, scope: Library | str | None = None) -> Symbol:
        """Return what a name (mangled or not) means in the global scope, or in that of `scope` (an object) alone. Raises SymbolNotFoundError."""
        if scope is not None:
            map_ = self._map(scope)
            return find(
                self._process, name, version, map_.local_scope if map_.searchlist else Scope([map_]), map_
            )
        main = self.rtld.namespaces[0].main
        assert main is not None
        return find(self._process, name, version, main.local_scope, main)

    def function(self, name: str | Symbol, library: Library | None = None) -> Function:
        """Return the function of a name in the global scope, or of a symbol. Raises SymbolNotFoundError, NotAFunctionError."""
        symbol = self.lookup(name) if isinstance(name, str) else name
        return Function(self.calls, symbol.name, callable_symbol(self._process, symbol), library)

    def function_at(self, address: int, prototype: Prototype | None = None) -> Function:
        """Return the function at an address."""
        return Function(self.calls, f"function at {address:#x}", address, None, prototype)

    def data_address(self, symbol: Symbol) -> int:
        """Return where the data of a symbol are; thread-local data are those of the thread in which calls would run."""
        if symbol.kind != "thread-local data":
            return symbol.address
        map_ = self._map(symbol.object)
        return self.rtld.tls.block(self.engine.at(None).thread, map_.tls_modid) + symbol.address

    def _map(self, library: Library | str) -> LinkMap:
        if isinstance(library, Library):
            return library.link_map
        map_ = self.link_maps.find(library)
        if map_ is None:
            raise ClosedError(f"{library} is not loaded")
        return map_

    def _describe(self, address: int) -> str:
        if self.inner.space.find(address) is not None:
            return self.inner.symbols.area_name(address)
        return self.inner.symbols.departed(address) or "not mapped"

    # -- threads and TLS ------------------------------------------------------------------------------------------------------

    def thread(self, name: str | None = None) -> Thread:
        """Make a thread that Python drives."""
        return Thread(self._process, name)

    @property
    def threads(self) -> Threads:
        """The threads of the guest, the main thread first."""
        tasks = self.inner.kernel.tasks.values()
        return Threads(
            [ThreadInfo(t.tid, t.name, t.block.what if t.block is not None else "") for t in tasks]
        )

    def tls(self, thread: Thread | ThreadInfo | int | None = None) -> Tls:
        """Return the thread-local storage of a thread (a thread id will do; None: the main thread)."""
        tid = (
            thread.tid
            if isinstance(thread, (Thread, ThreadInfo))
            else self.threads[0].tid
            if thread is None
            else thread
        )
        contract = self.engine.contract
        at = contract.layout.offset("pthread", "tid")
        for pointer in contract.mirror.threads():
            if self.inner.arena.read_u32(pointer + at) == tid:
                return Tls(self.inner, self.rtld, pointer)
        raise ClosedError(f"no thread {tid}")


def _call(function: int, words: tuple[int, ...]) -> Generator[Effect, int, int]:
    return (yield CallGuest(function, words))
