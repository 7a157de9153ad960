"""Counting basic blocks, for preemption and for the time that computing takes.

A block hook in Python costs 0.4 us a block. So the hook is a few machine instructions of the host's: note the
block, count down, return, and only at zero go on to Python; what is counted is the same. On another host than
x86-64 all of it is Python.
Source: unicorn/unicorn.h (uc_cb_hookcode_t); psABI 3.2.3 for the argument registers.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from emu.machine import binding
from emu.machine.engine import HostPart

if TYPE_CHECKING:
    from emu.machine.binding import Unicorn


class BlockCounter(HostPart):
    """Counts `left` down by one at the beginning of each basic block, while installed;
    at 0 it calls `at_zero`, which must not raise.
    """

    def __init__(self, engine: Unicorn, at_zero: Callable[[], None]) -> None:
        self._engine = engine
        self._words = (ctypes.c_int64 * 3)()
        self.block = (0, 0)
        """Address and size of the block at whose beginning the count came to 0."""
        self._hook: Any = None
        self._counting = False
        self.forced = self.forced_ns = 0
        self._at_zero = at_zero
        self._python = binding.BLOCK(self._zero)
        self._code: mmap.mmap | None = None

    @property
    def left(self) -> int:
        """Blocks until the next call; set it to at least 1."""
        return self._words[0]

    @left.setter
    def left(self, blocks: int) -> None:
        self._words[0] = blocks

    @property
    def running(self) -> int:
        """The address of the block that was begun last, while installed."""
        return self._words[1]

    def before(self, block: int) -> int:
        """Return the address of the block that ran before that at `block`, which is about to run."""
        return self._words[2] if self._words[1] == block else self._words[1]

    @property
    def installed(self) -> bool:
        """Whether blocks are counted."""
        return self._counting

    def install(self) -> None:
        """Begin to count; only while the CPU is stopped."""
        self._counting = True
        if self._hook is not None:
            return
        if os.uname().machine == "x86_64":
            self._hook = self._engine.removable_hook(
                binding.UC_HOOK_BLOCK, self._native(), user_data=ctypes.addressof(self._words)
            )
        else:
            self._python = binding.BLOCK(self._one)
            self._hook = self._engine.removable_hook(binding.UC_HOOK_BLOCK, self._python)
        self._engine.flush_blocks()  # translated blocks do not know of the hook

    def remove(self) -> None:
        """Count no more; only while the CPU is stopped."""
        self._engine.remove_hook(self._hook)
        self._hook, self._counting = None, False
        self._engine.flush_blocks()

    def rest(self) -> None:
        """Count no more until `install`, for which all code stays translated;
        code that runs meanwhile pays for the hook, which is little where it is machine code.
        """
        if self._code is None:
            self.remove()
        self._counting = False

    def _native(self) -> ctypes.c_void_p:
        """Return the host's address of the hook in machine code."""
        if self._code is None:
            python = ctypes.cast(self._python, ctypes.c_void_p).value
            self._code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
            self._code.write(
                b"\x48\x8b\x41\x08"  # mov 8(%rcx), %rax
                + b"\x48\x89\x41\x10"  # mov %rax, 16(%rcx)
                + b"\x48\x89\x71\x08"  # mov %rsi, 8(%rcx)
                + b"\x48\xff\x09"  # decq (%rcx)
                + b"\x74\x01"  # je zero
                + b"\xc3"  # ret
                + b"\x48\xb8" + struct.pack("<Q", python)  # zero: movabs $python, %rax
                + b"\xff\xe0"  # jmp *%rax
            )  # fmt: skip
        return ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(self._code)))

    def _zero(self, _uc: int, address: int, size: int, _data: int) -> None:
        if self._counting:
            self.block = address, size
            self._at_zero()

    def _one(self, uc: int, address: int, size: int, data: int) -> None:
        self._words[:] = [self._words[0] - 1, address, self._words[1]]
        if not self._words[0]:
            self._zero(uc, address, size, data)
