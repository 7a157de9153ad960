"""Stopping inside a basic block: blocks are counted, but a thread may lose
the CPU between any two instructions.

Counting instructions makes computing 20 times slower. So the CPU stops where the count of blocks ends, the
block is decoded, and one of its instructions gets a hook of its own, which stops it again and goes away: only
who is preempted there pays, about 0.1 ms.
Source: unicorn/unicorn.h (UC_HOOK_CODE).
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from emu.machine import binding

if TYPE_CHECKING:
    from emu.machine.cpu import UnicornCpu


class LateStop:
    """Stops `cpu` before one instruction of the block that it is about to run, once."""

    def __init__(self, cpu: UnicornCpu) -> None:
        self._cpu = cpu
        self._at = 0
        self._hook: Any = None
        self._callback = binding.CODE(self._reached)

    @property
    def planted(self) -> bool:
        """Whether a stop is still to come."""
        return self._hook is not None

    def plant(self, address: int, size: int, number: int) -> bool:
        """Stop before instruction `number`, modulo how many the block at `address` has;
        return false if that is where the CPU is. The CPU stands still.
        """
        starts = _starts(self._cpu.arena.read(address, size))
        offset = starts[number % len(starts)]
        if not offset:
            return False
        self._at = address + offset
        self._hook = self._cpu.engine.removable_hook(binding.UC_HOOK_CODE, self._callback, self._at, self._at)
        self._cpu.flush_code(self._at, 1)  # the translated block does not know of the hook
        return True

    def remove(self) -> None:
        """Forget a stop, whether it came or not; the CPU stands still."""
        if self._hook is not None:
            self._cpu.engine.remove_hook(self._hook)
            self._hook = None
            self._cpu.flush_code(self._at, 1)

    def _reached(self, _uc: int, _address: int, _size: int, _data: int) -> None:
        self._cpu.stop()


def instruction_number(cpu: UnicornCpu, address: int) -> int:
    """Return the number of the instruction at `address` in the block that the CPU has begun last;
    for stops that come from elsewhere.

    Blocks must be counted.
    """
    block = cpu.counter.running
    return len(_starts(cpu.arena.read(block, address - block))) if address > block else 0


@lru_cache(maxsize=4096)
def _starts(code: bytes) -> tuple[int, ...]:
    """Return where the instructions of a block begin, as far as they can be decoded."""
    return tuple(address for address, *_ in _decoder().disasm_lite(code, 0)) or (0,)


@cache
def _decoder() -> Any:
    import capstone  # wanted only where threads are preempted inside of blocks

    return capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
