"""Destructors of C++11 `thread_local` objects: the heart of the project.

A thread's list of destructors is a chain of nodes from libc's calloc, in glibc's shape (mangled function,
object, link map, next). Its head and the cache of the last map are libc's own TLS variables, found through
the TPOFF relocations that libc's two functions use, so a debugger sees what it would see natively. Each
registration resolves `__dso_handle` to the map that owns it and counts one more pending destructor there; the
count goes down after the destructor has returned. dlclose keeps a map whose count is not zero.

Concurrency (see glibc's essay on it): registrations and dlclose look at the count under the load lock; the
decrement takes no lock, and the map is not touched after it. One guest thread runs at a time here, so a
64-bit store stands for the release.

With `--tls-dtors guest` libc's own machine code does all this, and `Observer` only watches it.

Source: glibc stdlib/cxa_thread_atexit_impl.c; rules 1, 2 and 6 of the architecture page.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING

from emu.core.dl_events import NodeleteCleared
from emu.core.effects import CallGuest, Effect
from emu.core.errors import MemoryFault, UnsupportedError
from emu.core.record import NamedTuple
from emu.core.tls_events import DtorDone, DtorRegistered, DtorRun
from emu.elf import constants as c
from emu.elf.relocations import iter_rela
from emu.glibc.first_thread import pointer_guard
from emu.rtld.dependency import mark_nodelete
from emu.rtld.link_map import LT_LOADED
from emu.rtld.runtime import plt_slot, plt_target

if TYPE_CHECKING:
    from emu.machine.arena import Arena
    from emu.rtld.link_map import LinkMap
    from emu.rtld.rtld import Rtld

_LOAD_LOCK = "_dl_load_lock"
_NODE_SIZE = 32
_MOST = 1 << 20
_ROTATE = 0x11
_M64 = (1 << 64) - 1
_rip_load = re.compile(rb"[\x48\x4c]\x8b[\x05\x0d\x15\x1d\x25\x2d\x35\x3d](....)", re.DOTALL)
_indirect_call = re.compile(rb"\x41?\xff[\xd0-\xd7]")


def mangle(pointer: int, guard: int) -> int:
    """PTR_MANGLE: xor with the thread's pointer guard, rotate left by 17.

    Source: sysdeps/unix/sysv/linux/x86_64/pointer_guard.h.
    """
    value = pointer ^ guard
    return (value << _ROTATE | value >> 64 - _ROTATE) & _M64


def demangle(pointer: int, guard: int) -> int:
    """PTR_DEMANGLE, the inverse of `mangle`."""
    return (pointer >> _ROTATE | pointer << 64 - _ROTATE) & _M64 ^ guard


class Pending(NamedTuple):
    """A node of a thread's list: its address, the function, the object, the link
    map (an address of the guest) of the owner.
    """

    node: int
    function: int
    object: int
    owner: int


class ThreadAtexit:
    """The two functions over one libc. `count_offset` is where `l_tls_dtor_count` lies in a link map.

    `thread_pointer` returns the running thread's fs base; `source` a source line for an address.
    """

    def __init__(
        self,
        rtld: Rtld,
        arena: Arena,
        libc: LinkMap,
        count_offset: int,
        thread_pointer: Callable[[], int],
        source: Callable[[int], str],
    ) -> None:
        self.rtld, self.arena, self.libc = rtld, arena, libc
        self.count_offset, self.thread_pointer, self.source = count_offset, thread_pointer, source
        self.register_at = self._function(b"__cxa_thread_atexit_impl")
        self.run_at = self._function(b"__call_tls_dtors")
        self.head_offset, self.cache_offset = self._tls_variables()
        names = (b"calloc", b"_dl_find_dso_for_object")
        self._plt_slots = {name: plt_slot(rtld, libc, name) for name in names}

    def _function(self, name: bytes) -> tuple[int, int]:
        index = next((i for i in _defined(self.libc, name) if self.libc.symtab.symbol_name(i) == name), None)
        if index is None:
            raise UnsupportedError(f"libc without {name.decode()}", self.libc.display_name)
        fields = self.libc.symtab.entry(index)
        return self.libc.addr + fields.value, fields.size

    def _tls_variables(self) -> tuple[int, int]:
        """Return the offsets from the thread pointer of the list's head and of the map cache."""
        slots = {
            self.libc.addr + offset
            for offset, info, _ in iter_rela(
                self.libc.table(self.rtld.memory, c.DT_RELA), self.libc.display_name
            )
            if info & 0xFFFFFFFF == c.R_X86_64_TPOFF64
        }

        def loads(function: tuple[int, int]) -> list[int]:
            code = self.arena.read(*function)
            places = (function[0] + m.end() + struct.unpack("<i", m[1])[0] for m in _rip_load.finditer(code))
            return [place for place in places if place in slots]

        head = loads(self.run_at)
        others = [slot for slot in loads(self.register_at) if slot not in head[:1]]
        if not head or not others:
            raise UnsupportedError("code of __call_tls_dtors: its list was not found", self.libc.display_name)
        return self._offset(head[0]), self._offset(others[0])

    def _offset(self, slot: int) -> int:
        value = self.arena.read_u64(slot)
        return value - (1 << 64) if value >> 63 else value

    def pending(self, thread: int) -> Iterator[Pending]:
        """Yield the list of the thread whose thread pointer is `thread`, as far as it is one:
        the destructor to run next first.
        """
        arena = self.arena
        guard = self.guard(thread)
        node = arena.read_u64(thread + self.head_offset)
        seen: set[int] = set()
        while node and node not in seen and len(seen) < _MOST:
            seen.add(node)
            try:
                mangled, object_, owner, following = struct.unpack("<QQQQ", arena.read(node, _NODE_SIZE))
            except MemoryFault:
                return  # it is the thread's to die of, when it comes there
            yield Pending(node, demangle(mangled, guard), object_, owner)
            node = following

    def guard(self, thread: int) -> int:
        """Return what a thread's functions are mangled with."""
        return self.arena.read_u64(pointer_guard(self.rtld, thread))

    # -- the model -------------------------------------------------------------------------------------------

    def register(self, function: int, object_: int, dso: int) -> Generator[Effect, int, int]:
        """`__cxa_thread_atexit_impl(func, obj, dso_symbol)`."""
        arena, thread = self.arena, self.thread_pointer()
        node = yield CallGuest((yield from self._through_plt(b"calloc")), (1, _NODE_SIZE))
        if not node:
            yield CallGuest(self.rtld_function(b"abort"))
        head = thread + self.head_offset
        arena.write(
            node,
            struct.pack("<QQQQ", mangle(function, self.guard(thread)), object_, 0, arena.read_u64(head)),
        )
        arena.write_u64(head, node)
        yield from self.rtld.lock(_LOAD_LOCK)
        if dso:
            # Libc's own code would call it; that the first call binds it shows in a trace of bindings.
            finder = yield from self._through_plt(b"_dl_find_dso_for_object")
            if self.rtld.auditors:
                yield CallGuest(finder, (dso,))
        owner = self.owner(thread, dso)
        arena.write_u64(thread + self.cache_offset, owner)
        count = self._count_address(owner)
        before = arena.read_u64(count)
        if not before:
            self._set_nodelete(owner)
        arena.write_u64(count, before + 1)
        yield from self.rtld.unlock(_LOAD_LOCK)
        arena.write_u64(node + 16, owner)
        if self.rtld.bus.dtors:
            self.registered(function, object_, dso, owner, before)
        return 0

    def run(self) -> Generator[Effect, int, int]:
        """`__call_tls_dtors()`: pop, call, count down, free, until the list is empty."""
        arena, thread = self.arena, self.thread_pointer()
        head = thread + self.head_offset
        while node := arena.read_u64(head):
            mangled, object_, owner, following = struct.unpack("<QQQQ", arena.read(node, _NODE_SIZE))
            function = demangle(mangled, self.guard(thread))
            arena.write_u64(head, following)
            if self.rtld.bus.dtors:
                self.running(function, object_, owner)
            yield CallGuest(function, (object_,))
            if self._by_flag:
                yield from self.rtld.lock(_LOAD_LOCK)
            count = self._count_address(owner)
            before = arena.read_u64(count)
            if self.rtld.bus.dtors:
                self.done(function, object_, owner, before)
            arena.write_u64(count, before - 1)
            if self._by_flag:
                if before == 1:
                    self._clear_nodelete(owner)
                yield from self.rtld.unlock(_LOAD_LOCK)
            yield CallGuest(self.rtld_function(b"free"), (node,))
        return 0

    # The rule of glibc 2.18 to 2.21: NODELETE while the count is not zero, whoever set the flag before.

    @property
    def _by_flag(self) -> bool:
        return self.rtld.unload_rule == "nodelete-flag"

    def _set_nodelete(self, owner: int) -> None:
        map_ = self.rtld.by_address.get(owner)
        if self._by_flag and map_ is not None and map_.type == LT_LOADED:
            mark_nodelete(self.rtld, map_, 0, "thread_local destructor")

    def _clear_nodelete(self, owner: int) -> None:
        map_ = self.rtld.by_address.get(owner)
        if map_ is not None and map_.type == LT_LOADED:
            map_.nodelete_active = False
            self.rtld.mirror.nodelete(map_)
            if self.rtld.bus.dl:
                self.rtld.bus.emit(NodeleteCleared(map_.display_name, map_.ns))

    def _through_plt(self, name: bytes) -> Generator[Effect, int, int]:
        """Return what libc's own call of `name` reaches; the first one binds libc's PLT slot."""
        slot = self._plt_slots.get(name)
        return (
            (yield from plt_target(self.rtld, self.libc, *slot))
            if slot is not None
            else self.rtld_function(name)
        )

    def rtld_function(self, name: bytes) -> int:
        """Return what libc's own reference to `name` binds to (a malloc of the program's, if it has one)."""
        address = self.rtld.lookup(name)
        if address is None:
            raise UnsupportedError(f"program without {name.decode()}", self.libc.display_name)
        return address

    def owner(self, thread: int, dso: int) -> int:
        """Return the guest link map that owns the address `dso`.

        An unknown address belongs to the program; NULL means the thread's last owner, which is NULL, and so a
        fault, in a first registration.
        """
        if not dso:
            return self.arena.read_u64(thread + self.cache_offset)
        map_ = self.rtld.find_map(dso) or self.rtld.namespaces[0].maps[0]
        return map_.address

    def _count_address(self, owner: int) -> int:
        return owner + self.count_offset  # a NULL owner ends in a fault there, as natively

    # -- events ----------------------------------------------------------------------------------------------

    def registered(self, function: int, object_: int, dso: int, owner: int, before: int) -> None:
        """Emit a DtorRegistered event."""
        self.rtld.bus.emit(
            DtorRegistered(
                self.rtld.describe(function),
                function,
                object_,
                self._name(owner),
                dso,
                self.source(function),
                before,
                before + 1,
            )
        )

    def running(self, function: int, object_: int, owner: int) -> None:
        """Emit a DtorRun event."""
        self.rtld.bus.emit(
            DtorRun(self.rtld.describe(function), function, object_, self._name(owner), self.source(function))
        )

    def done(self, function: int, object_: int, owner: int, before: int) -> None:
        """Emit a DtorDone event."""
        self.rtld.bus.emit(
            DtorDone(self.rtld.describe(function), object_, self._name(owner), before, before - 1)
        )

    def _name(self, owner: int) -> str:
        map_ = self.rtld.by_address.get(owner)
        return map_.display_name if map_ is not None else hex(owner)


def _defined(map_: LinkMap, name: bytes) -> list[int]:
    table = map_.symtab.gnu_hash or map_.symtab.sysv_hash
    return list(table.candidates(name)) if table is not None else []


class Observer:
    """Watches libc's own code at three places and emits the events that the model would.

    `watch(address, callback)` calls back when the instruction at the address is about to run; `registers`
    gives the general registers by regs.GPRS order.
    """

    def __init__(
        self,
        atexit: ThreadAtexit,
        watch: Callable[[int, Callable[[], None]], None],
        registers: Callable[[], list[int]],
    ) -> None:
        self._atexit, self._registers = atexit, registers
        self._running: dict[int, list[tuple[int, int, int]]] = {}  # by thread pointer
        code = atexit.arena.read(*atexit.run_at)
        call = _indirect_call.search(code)
        if call is None:
            raise UnsupportedError(
                "code of __call_tls_dtors: its call was not found", atexit.libc.display_name
            )
        watch(atexit.register_at[0], self._on_register)
        watch(atexit.run_at[0] + call.start(), self._on_call)
        watch(atexit.run_at[0] + call.end(), self._on_return)
        opcode = call.group()
        number = opcode[-1] & 7 | (8 if len(opcode) == 3 else 0)
        self._target = (0, 2, 3, 1, 7, 6, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15)[number]

    def _on_register(self) -> None:
        atexit, values = self._atexit, self._registers()
        function, object_, dso = values[5], values[4], values[3]
        owner = atexit.owner(atexit.thread_pointer(), dso)
        if owner in atexit.rtld.by_address:
            before = atexit.arena.read_u64(owner + atexit.count_offset)
            atexit.registered(function, object_, dso, owner, before)

    def _on_call(self) -> None:
        atexit, values = self._atexit, self._registers()
        thread = atexit.thread_pointer()
        function, object_ = values[self._target], values[5]
        wanted = struct.pack("<QQ", mangle(function, atexit.guard(thread)), object_)
        node = next(
            v
            for v in values[:16]
            if atexit.arena.check(v, _NODE_SIZE, 1) and atexit.arena.read(v, 16) == wanted
        )
        owner = atexit.arena.read_u64(node + 16)
        self._running.setdefault(thread, []).append((function, object_, owner))
        atexit.running(function, object_, owner)

    def _on_return(self) -> None:
        function, object_, owner = self._running[self._atexit.thread_pointer()].pop()
        count = self._atexit.arena.read_u64(owner + self._atexit.count_offset)
        self._atexit.done(function, object_, owner, count)
