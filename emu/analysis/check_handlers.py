"""Rules about pointers into a DSO that libc and the kernel keep:
exit handlers, pthread keys, signal handlers.

They are looked through when an object has been finalised and is about to be unmapped: what it has not taken
back by then never will be.
Source: glibc stdlib/exit.h (struct exit_function_list), stdlib/cxa_atexit.c, nptl/pthread_keys.c (struct
pthread_key_struct), sysdeps/x86_64 PTR_DEMANGLE.
"""

from __future__ import annotations

import re
import struct
from functools import partial
from typing import TYPE_CHECKING

from emu.analysis.check_notes import NOWHERE, Dangling, Notes, Occasion
from emu.core.errors import MemoryFault
from emu.glibc.cxa_thread_atexit_impl import demangle
from emu.kernel.abi import SIG_DFL, SIG_IGN, signal_name
from emu.machine import regs
from emu.rtld.link_map import LT_LOADED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from emu.rtld.address_index import Departed

_LEA_RSI = re.compile(rb"\x48\x8d\x35(....)", re.DOTALL)
_CODE = 48
"""Bytes of exit and quick_exit in which the address of their list is loaded."""
_ENTRY, _ENTRIES = 32, 32
_EF_ON, _EF_AT, _EF_CXA = 2, 3, 4
_BLOCKS = 4096
"""Blocks of handlers that are followed at most: the list is the guest's."""
_POINTER_GUARD = 0x30
_FLAVOURS = {_EF_ON: "on_exit handler", _EF_AT: "atexit handler", _EF_CXA: "atexit handler"}

REGISTRARS = {
    b"__cxa_atexit": ("exit", regs.RDI), b"on_exit": ("exit", regs.RDI), b"__cxa_at_quick_exit": ("quick", regs.RDI),
    b"pthread_key_create": ("key", regs.RSI), b"signal": ("signal", regs.RSI), b"sigaction": ("signal", 0),
}  # fmt: skip
"""Functions that take such a pointer: its kind and the register that holds it;
sigaction's lies in a structure (first member).
"""


class Handlers:
    """Knows where libc keeps its lists, and who registered what."""

    def __init__(self, notes: Notes, on_exit_handler: Callable[[int, int, int, Occasion], None]) -> None:
        """`on_exit_handler` is told of each registration by `__cxa_atexit`:
        function, argument, `dso_handle`, where.
        """
        self._notes, self._on_exit_handler = notes, on_exit_handler
        self._places: dict[tuple[str, int], Occasion] = {}
        self._lists: list[tuple[str, int]] = []
        self._keys = (0, 0)

    def linked(self) -> None:
        """Find the lists and watch the registrations; libc is relocated and has not run."""
        process = self._notes.process
        rtld = process.rtld
        assert rtld is not None
        libc = rtld.namespaces[0].libc_map
        if libc is None:
            return
        for name, (kind, register) in REGISTRARS.items():
            if (address := rtld.lookup(name, libc)) is not None:
                cxa = name == b"__cxa_atexit"
                process.cpu.watch(address, partial(self._registers, kind, register, cxa=cxa))
        for kind, name in (("exit", b"exit"), ("quick", b"quick_exit")):
            address = rtld.lookup(name, libc)
            load = _LEA_RSI.search(process.arena.read(address, _CODE)) if address is not None else None
            if address is not None and load is not None:
                self._lists.append((kind, address + load.end() + struct.unpack("<i", load[1])[0]))
        keys = rtld.lookup(b"__pthread_keys", libc)
        if keys is not None:
            self._keys = (keys, 1024)

    def _registers(self, kind: str, register: int, *, cxa: bool) -> None:
        process = self._notes.process
        try:
            if register:
                function = process.cpu.get(register)
            else:
                action = process.cpu.get(regs.RSI)
                function = process.arena.read_u64(action) if action else 0
        except MemoryFault:
            return  # the call will say so itself
        if function:
            stays = cxa and self._stays(function) and self._stays(process.cpu.get(regs.RDX))
            place = self._places[kind, function] = self._notes.call() if stays else self._notes.here()
            if cxa:
                self._on_exit_handler(function, process.cpu.get(regs.RSI), process.cpu.get(regs.RDX), place)

    def _stays(self, address: int) -> bool:
        """Whether an address lies in an object of start-up:
        its handlers are many, and none is left behind.
        """
        rtld = self._notes.process.rtld
        map_ = rtld.find_map(address) if rtld is not None else None
        return map_ is not None and map_.type != LT_LOADED

    # -- at an unloading -------------------------------------------------------------------------------------

    def unloaded(self, gone: Departed, place: Occasion) -> None:
        """Report what still points into the object that goes."""
        for rule, kind, what, function in (
            *self._exit_handlers(),
            *self._key_destructors(),
            *self._signals(),
        ):
            if not gone.start <= function < gone.end:
                continue
            name = self._notes.function_in(gone, function)
            title = "created by" if kind == "key" else "registered by"
            related = ((title, self._places.get((kind, function), NOWHERE)), ("unloaded by", place))
            dangling = Dangling(
                rule, f"{what}, {name} in {gone.name},", (kind, what, function), related, (gone.name,)
            )
            self._notes.leave_behind(function, dangling, place)

    def _exit_handlers(self) -> Iterator[tuple[str, str, str, int]]:
        process = self._notes.process
        arena = process.arena
        try:
            guard = arena.read_u64(process.thread_pointer() + _POINTER_GUARD)
            for kind, head in self._lists:
                block = arena.read_u64(head)
                for _ in range(_BLOCKS):
                    if not block:
                        break
                    following, used = struct.unpack("<QQ", arena.read(block, 16))
                    data = arena.read(block + 16, _ENTRY * min(used, _ENTRIES))
                    for flavour, mangled, _, _ in struct.iter_unpack("<QQQQ", data):
                        if flavour in _FLAVOURS:
                            what = (
                                "the at_quick_exit handler"
                                if kind == "quick"
                                else f"the {_FLAVOURS[flavour]}"
                            )
                            yield "exit-handler-unloaded", kind, what, demangle(mangled, guard)
                    block = following
        except MemoryFault:
            return  # the guest broke its list; exit will tell

    def _key_destructors(self) -> Iterator[tuple[str, str, str, int]]:
        address, count = self._keys
        if not address:
            return
        for key, (sequence, function) in enumerate(
            struct.iter_unpack("<QQ", self._notes.process.arena.read(address, 16 * count))
        ):
            if sequence & 1 and function:
                yield "key-destructor-unloaded", "key", f"the destructor of pthread key {key}", function

    def _signals(self) -> Iterator[tuple[str, str, str, int]]:
        for number, action in enumerate(self._notes.process.kernel.signals.actions):
            if action.handler not in (SIG_DFL, SIG_IGN):
                yield (
                    "signal-handler-unloaded",
                    "signal",
                    f"the handler of {signal_name(number)}",
                    action.handler,
                )
