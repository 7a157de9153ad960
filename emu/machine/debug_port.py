"""The debugger's view of Unicorn's CPU: see `emu.machine.engine.DebugPort`.

A stop leaves the CPU at the beginning of a block, or in the middle of one, that was counted already and is
counted again when the CPU goes on: `go_on` takes that back, so that neither the count nor the scheduler's
time tells that anybody looked.

Source: Unicorn 2.1.4 (UC_HOOK_BLOCK, UC_HOOK_CODE); psABI 3.2.3 for the argument registers.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from emu.machine import binding, regs
from emu.machine.arena import PAGE_SIZE
from emu.machine.engine import FAR, HostPart

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.machine.cpu import UnicornCpu


class _Words(ctypes.Structure):
    """What the hook in machine code reads and writes:
    blocks so far, the count to stop at, the address of the latest block.
    """

    _fields_ = (("count", ctypes.c_int64), ("target", ctypes.c_int64), ("block", ctypes.c_uint64))


class UnicornDebugPort(HostPart):
    """The debugger's view of one CPU. It exists before anything runs, so that every block is counted.

    `halt` is called, inside a hook, where the CPU is to stop. `hit` is the address of the planted stop that
    was reached, None if none was; `on_reached` is told of it and says whether the CPU stops there.
    """

    def __init__(self, cpu: UnicornCpu, halt: Callable[[], None], on_reached: Callable[[int], bool]) -> None:
        self._cpu, self._halt, self._on_reached = cpu, halt, on_reached
        self._words = _Words(0, FAR, 0)
        self._code: mmap.mmap | None = None
        self._at_target = binding.BLOCK(self._target_reached)
        self._each = binding.BLOCK(self._count_block)
        self._reached = binding.CODE(self._stop_reached)
        self._stops: dict[int, Any] = {}
        self.hit: int | None = None
        cpu.debugged = True
        self._hook()

    # -- the count -------------------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """How many blocks have begun."""
        return int(self._words.count)

    @count.setter
    def count(self, blocks: int) -> None:
        self._words.count = blocks

    @property
    def block(self) -> int:
        """The address of the block that began last."""
        return int(self._words.block)

    @property
    def reached(self) -> bool:
        """Whether the CPU stands at the block that `stop_at` names."""
        return self.count >= int(self._words.target)

    def stop_at(self, count: int) -> None:
        """Stop at the beginning of block number `count`, or of the next one if that was before.

        May be called from another host thread.
        """
        self._words.target = count

    def go_on(self) -> None:
        """Take back what the present stop will have counted twice, here and for the
        scheduler, if the same instruction runs next.
        """
        if (
            self._cpu.counter.installed and not self.reached
        ):  # there the scheduler's hook did not run any more
            self._cpu.counter.left += 1
        self._words.count -= 1

    def _hook(self) -> None:
        engine = self._cpu.engine
        if os.uname().machine == "x86_64":
            engine.removable_hook(
                binding.UC_HOOK_BLOCK, self._native(), user_data=ctypes.addressof(self._words)
            )
        else:
            engine.removable_hook(binding.UC_HOOK_BLOCK, self._each)
        engine.flush_blocks()

    def _native(self) -> ctypes.c_void_p:
        """Return the host's address of the hook in machine code."""
        target = ctypes.cast(self._at_target, ctypes.c_void_p).value
        self._code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._code.write(
            b"\x48\xff\x01"  # incq (%rcx)
            + b"\x48\x8b\x01"  # mov (%rcx), %rax
            + b"\x48\x89\x71\x10"  # mov %rsi, 16(%rcx)
            + b"\x48\x3b\x41\x08"  # cmp 8(%rcx), %rax
            + b"\x7d\x01"  # jge reached
            + b"\xc3"  # ret
            + b"\x48\xb8" + struct.pack("<Q", target)  # reached: movabs $target, %rax
            + b"\xff\xe0"  # jmp *%rax
        )  # fmt: skip
        return ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(self._code)))

    def _target_reached(self, _uc: int, _address: int, _size: int, _data: int) -> None:
        self._halt()

    def _count_block(self, uc: int, address: int, size: int, data: int) -> None:
        self._words.count += 1
        self._words.block = address
        if self.reached:
            self._target_reached(uc, address, size, data)

    # -- stops at addresses ----------------------------------------------------------------------------------

    @property
    def planted(self) -> frozenset[int]:
        """The addresses at which the CPU stops."""
        return frozenset(self._stops)

    def plant(self, address: int) -> None:
        """Ask `on_reached` before the instruction at `address`; the guest's memory does not change.

        The CPU stands still.
        """
        if address not in self._stops:
            self._stops[address] = self._cpu.engine.removable_hook(
                binding.UC_HOOK_CODE, self._reached, address, address
            )
            self._cpu.flush_code(address, 1)

    def remove(self, address: int) -> None:
        """Ask no more there. The CPU stands still."""
        hook = self._stops.pop(address, None)
        if hook is not None:
            self._cpu.engine.remove_hook(hook)
            self._cpu.flush_code(address, 1)

    def _stop_reached(self, _uc: int, address: int, _size: int, _data: int) -> None:
        try:
            if self._on_reached(address):
                self.hit = address
                self._halt()
        except BaseException as error:
            self._cpu.abandon(error)

    def next_address(self) -> int | None:
        """Return where the instruction at the program counter ends, None if it also ends its block."""
        arena, pc = self._cpu.arena, self._cpu.get(regs.RIP)
        size = 15 if arena.check(pc, 15, 0) else PAGE_SIZE - pc % PAGE_SIZE
        if not arena.check(pc, size, 0):
            return None
        length = _length(arena.read(pc, size))
        return pc + length if length else None

    # -- stops at accesses -----------------------------------------------------------------------------------

    def guard(self, pages: dict[int, bool]) -> dict[int, bool]:
        """Stop before each instruction that writes one of `pages` (their addresses), or accesses one that is
        true; return those guarded before.
        """
        before = self._cpu.guarded
        if pages != before:
            self._cpu.guarded = dict(pages)
            self._cpu.engine.flush_tlb()
        return before

    def touched(self) -> tuple[set[int], set[int]]:
        """Return the pages that were executed, and those that were written, since this was asked last.

        The CPU stands still.
        """
        cpu = self._cpu
        fetched, stored = cpu.fetched, cpu.stored
        cpu.fetched, cpu.stored = set(), set()
        cpu.engine.flush_tlb()
        return fetched, stored


@cache
def _decoder() -> Any:
    import capstone  # wanted only where somebody steps

    return capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)


@lru_cache(maxsize=4096)
def _length(code: bytes) -> int:
    """Return the length of the first instruction, 0 if it ends a block or is none."""
    for _, length, mnemonic, _ in _decoder().disasm_lite(code, 0, 1):
        last = mnemonic.split()[-1]
        if not last.startswith(("j", "call", "ret", "loop", "syscall", "int", "ud2", "hlt", "iret")):
            return int(length)
    return 0
