"""Hooks over ranges: the first look at code that should not run any more, and accesses to data that should not be used.

A range of code costs nothing elsewhere. Watched memory does: while there is such a hook, every load and store of the guest takes the slow path
(6 to 7 times slower), and code translated before the first hook does not know of it. So `MemoryWatch` is made before anything runs.
Source: Unicorn 2.1.4, UC_HOOK_CODE, UC_HOOK_MEM_READ and UC_HOOK_MEM_WRITE over [begin, end].
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from emu.machine import binding
from emu.machine.arena import physical

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.machine.cpu import Cpu

UC_HOOK_MEM_READ, UC_HOOK_MEM_WRITE = 1 << 10, 1 << 11
_MEMORY = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64, ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
)
_UNMAPPED = 0x1000
"""An address that Linux maps for nobody (vm.mmap_min_addr)."""


def watch_code(cpu: Cpu, start: int, end: int, callback: Callable[[int], None]) -> None:
    """Call `callback` with the address before each instruction in [start, end) runs, those already translated too."""

    def hook(_uc: int, address: int, _size: int, _data: int) -> None:
        try:
            callback(address)
        except BaseException as error:
            cpu.abandon(error)

    cpu.engine.hook(binding.UC_HOOK_CODE, binding.CODE(hook), start, end - 1)
    cpu.flush_code(start, end - start)


class MemoryWatch:
    """Watched memory of one CPU that has not run yet."""

    def __init__(self, cpu: Cpu) -> None:
        self._cpu = cpu
        self.add(_UNMAPPED, _UNMAPPED + 1, lambda address, write: None)

    def add(self, start: int, end: int, callback: Callable[[int, bool], None]) -> None:
        """Call `callback` with the address of each access that begins in [start, end), and whether it is a write.

        The registers are those before the instruction; the callback may not change them.
        """

        first = physical(start)  # Unicorn compares, and tells, what the TLB leads to

        def hook(_uc: int, kind: int, address: int, _size: int, _value: int, _data: int) -> None:
            try:
                callback(address - first + start, kind == binding.UC_MEM_WRITE)
            except BaseException as error:
                self._cpu.abandon(error)

        kinds = UC_HOOK_MEM_READ | UC_HOOK_MEM_WRITE
        self._cpu.engine.hook(kinds, _MEMORY(hook), first, first + end - start - 1)
