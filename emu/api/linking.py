"""What a process has loaded, and its threads: the part of a `Process` that asks and tells the linker."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from emu.api.config import address_of
from emu.api.config import path as path_of
from emu.api.convert import Prototype
from emu.api.errors import ClosedError, OpenError, StateError, told_of
from emu.api.function import Calls, Function
from emu.api.library import Library, Symbol, callable_symbol, find, symbols_of
from emu.api.memory import Memory
from emu.api.thread import Thread
from emu.api.views import LinkMaps, Scopes, ThreadInfo, Threads, Tls
from emu.core.effects import CallGuest, Effect
from emu.rtld.scope import Scope

if TYPE_CHECKING:
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

    def __init__(self, process: Process, inner: Inner, engine: Engine, calls: Calls, memory: Memory) -> None:
        self._process, self.inner = process, inner
        self.engine, self.calls, self.memory = engine, calls, memory

    def dlopen(self, path: str | bytes | os.PathLike[str], flags: int = RTLD_NOW) -> Library:
        """See `Process.dlopen`."""
        name = path_of("dlopen", path)
        handle = self._process.perform(
            lambda: ("dlopen", name, flags), lambda: self._guest(b"dlopen", name, flags)
        )
        if not handle:
            error = OpenError(self._dlerror())
            config = self.inner.config
            missing = str(error).startswith(f"{name}: cannot open shared object file")
            if (
                missing
                and "/" not in name
                and config.sysroot == "/"
                and os.path.isfile(os.path.join(config.cwd, name))
            ):
                error.add_note(f"the file here is ./{name}: a name without a slash is searched for")
            raise error
        return Library(self._process, handle, name)

    def dlclose(self, handle: int) -> None:
        """See `Process.dlclose`."""
        if self._guest(b"dlclose", address_of("dlclose", handle)) & 0xFFFFFFFF:
            raise OpenError(self._dlerror())

    def _dlerror(self) -> str:
        message = self._guest(b"dlerror")
        return os.fsdecode(self.memory.cstring(message)) if message else "dlerror has nothing to say"

    def _guest(self, name: bytes, *args: int | str) -> int:
        """Call one of libc's functions and return rax;
        raises what a Python function that it called has raised.
        """
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
        """See `Process.rtld`."""
        if self.inner.rtld is None:
            raise StateError(f"{self.inner.config.program}: a static program has no dynamic linker")
        return self.inner.rtld

    @property
    def link_maps(self) -> LinkMaps:
        """See `Process.link_maps`."""
        return LinkMaps([m for namespace in self.rtld.namespaces for m in namespace.maps], self.rtld)

    @property
    def namespaces(self) -> list[LinkMaps]:
        """See `Process.namespaces`."""
        return [LinkMaps(namespace.maps, self.rtld) for namespace in self.rtld.namespaces]

    def scopes(self, library: Library | str) -> Scopes:
        """See `Process.scopes`."""
        map_ = self.map_of(library)
        return Scopes([tuple(m.display_name for m in scope.maps) for scope in map_.scopes])

    def symbols(self, library: Library | str) -> list[Symbol]:
        """See `Process.symbols`."""
        return list(symbols_of(self.map_of(library)))

    def lookup(self, name: str, version: str | None = None, scope: Library | str | None = None) -> Symbol:
        """See `Process.lookup`."""
        if scope is not None:
            map_ = self.map_of(scope)
            return find(
                self._process, name, version, map_.local_scope if map_.searchlist else Scope([map_]), map_
            )
        main = self.rtld.namespaces[0].main
        assert main is not None
        return find(self._process, name, version, main.local_scope, main)

    def function(self, name: str | Symbol, library: Library | None = None) -> Function:
        """See `Process.function`."""
        symbol = self.lookup(name) if isinstance(name, str) else name
        return Function(self.calls, symbol.name, callable_symbol(self._process, symbol), library)

    def function_at(self, address: int, prototype: Prototype | None = None) -> Function:
        """See `Process.function_at`."""
        address = address_of("function_at", address)
        return Function(self.calls, f"function at {address:#x}", address, None, prototype)

    def data_address(self, symbol: Symbol) -> int:
        """See `Process.data_address`."""
        if symbol.kind != "thread-local data":
            return symbol.address
        map_ = self.map_of(symbol.object)
        station = self.engine.at(None)
        return self.engine.run(self.rtld.tls.block(station.thread, map_.tls_modid), station) + symbol.address

    def map_of(self, library: Library | str) -> LinkMap:
        """Return the link map of an object. Raises ClosedError for one that is not loaded."""
        if isinstance(library, Library):
            return library.link_map
        map_ = self.link_maps.find(library)
        if map_ is None:
            raise ClosedError(f"{library} is not loaded")
        return map_

    def thread(self, name: str | None = None) -> Thread:
        """See `Process.thread`."""
        return Thread(self._process, name)

    @property
    def threads(self) -> Threads:
        """See `Process.threads`."""
        tasks = self.inner.kernel.tasks.values()
        return Threads(
            [ThreadInfo(t.tid, t.name, t.block.what if t.block is not None else "") for t in tasks]
        )

    def tls(self, thread: Thread | ThreadInfo | int | None = None) -> Tls:
        """See `Process.tls`."""
        tid = (
            thread.tid
            if isinstance(thread, (Thread, ThreadInfo))
            else self.threads[0].tid
            if thread is None
            else thread
        )
        contract = self.engine.contract
        at = contract.layout.offset("pthread", "tid")
        with told_of(f"the storage of thread {tid}"):
            for pointer in contract.mirror.threads() if tid in self.inner.kernel.tasks else ():
                if self.inner.arena.read_u32(pointer + at) == tid:
                    return Tls(self.inner, self.rtld, pointer)
        raise ClosedError(f"no thread {tid}")


def _call(function: int, words: tuple[int, ...]) -> Generator[Effect, int, int]:
    return (yield CallGuest(function, words))


def describe(inner: Inner, address: int) -> str:
    """Return what lies at an address, in words."""
    if inner.space.find(address) is not None:
        return inner.symbols.area_name(address)
    return inner.symbols.departed(address) or "not mapped"
