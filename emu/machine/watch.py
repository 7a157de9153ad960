"""Hooks over ranges of memory: accesses to data that should not be used any more.

They cost: while there is such a hook, every load and store of the guest takes the slow path (6 to 7 times
slower), and code translated before the first hook does not know of it. So `MemoryWatch` is made before
anything runs.
Source: Unicorn 2.1.4, UC_HOOK_CODE, UC_HOOK_MEM_READ and UC_HOOK_MEM_WRITE over [begin, end].
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from emu.machine import binding
from emu.machine.arena import physical

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.machine import engine
    from emu.machine.cpu import UnicornCpu
    from emu.machine.engine import Copy

UC_HOOK_MEM_READ, UC_HOOK_MEM_WRITE = 1 << 10, 1 << 11
MEMORY = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64, ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
)
_UNMAPPED = 0x1000
"""An address that Linux maps for nobody (vm.mmap_min_addr)."""


class MemoryWatch:
    """Watched memory of one CPU that has not run yet."""

    def __init__(self, cpu: UnicornCpu) -> None:
        self._cpu = cpu
        self._ranges: list[tuple[int, int, Callable[[int, bool], None]]] = []
        self.add(_UNMAPPED, _UNMAPPED + 1, lambda address, write: None)

    def add(self, start: int, end: int, callback: Callable[[int, bool], None]) -> None:
        """Call `callback` with the address of each access that begins in [start,
        end), and whether it is a write.

        The registers are those before the instruction; the callback may not change them.
        """

        self._ranges.append((start, end, callback))
        first = physical(start)  # Unicorn compares, and tells, what the TLB leads to

        def hook(_uc: int, kind: int, address: int, _size: int, _value: int, _data: int) -> None:
            try:
                callback(address - first + start, kind == binding.UC_MEM_WRITE)
            except BaseException as error:
                self._cpu.abandon(error)

        kinds = UC_HOOK_MEM_READ | UC_HOOK_MEM_WRITE
        self._cpu.engine.hook(kinds, MEMORY(hook), first, first + end - start - 1)

    def repeat(self, into: engine.MemoryWatch, copy: Copy) -> None:
        """Watch the same memory on a child's CPU; `copy` gives the child's callbacks."""
        for start, end, callback in self._ranges[1:]:
            into.add(start, end, copy(callback))
