"""Which block of the heap an address is in, and where that was allocated: for a race that is told.

One run is made with this from the program's start; searching pays nothing for it.

Source: ISO C 7.22.3 (memory management functions); POSIX posix_memalign.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from emu.core.errors import UnsupportedError
from emu.core.record import NamedTuple
from emu.machine import regs

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.core.events import Record
    from emu.process import Process
    from emu.process.backtrace import Captured

_MOST_CAPTURED = 50_000
"""Allocations whose whole stack is noted; a capture takes 0.1 ms."""
_SIZES: dict[bytes, Callable[[int, int, int], int]] = {
    b"malloc": lambda a, b, c: a,
    b"calloc": lambda a, b, c: a * b,
    b"realloc": lambda a, b, c: b,
    b"memalign": lambda a, b, c: b,
    b"aligned_alloc": lambda a, b, c: b,
    b"posix_memalign": lambda a, b, c: c,
}
"""The functions that allocate, and how large a block they are asked for by their first three arguments."""


class HeapBlock(NamedTuple):
    """A block of the heap: by which thread it was allocated, and the frames there."""

    start: int
    size: int
    tid: int
    frames: list[Captured]


class _HeapCall(NamedTuple):
    """A call that has not returned: where its return address lies; where the result goes (0: a register)."""

    stack: int
    out: int
    size: int
    frames: list[Captured]


class GuestHeap:
    """Watches the allocations of a process that has not run yet. Raises what the linker does."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._blocks: dict[int, HeapBlock] = {}
        self._asked: dict[int, list[_HeapCall]] = {}
        self._returns: set[int] = set()
        self._captured = 0
        self._watching = False
        process.bus.subscribe(self._linked, ("init",))

    def _linked(self, _record: Record) -> None:
        """The first constructor is about to run: from now on the functions are where calls lead to."""
        if self._watching:
            return
        self._watching = True
        for name, size_of in _SIZES.items():
            self._watch(name, partial(self._entered, name, size_of))
        self._watch(b"free", self._freed)

    def block(self, address: int) -> HeapBlock | None:
        """Return the block that an address is in, None if it is in none that is allocated now."""
        return next((b for b in self._blocks.values() if b.start <= address < b.start + b.size), None)

    def _watch(self, name: bytes, entered: Callable[[int], None]) -> None:
        contract = self._process.contract
        try:
            address = contract.guest_function(name) if contract is not None else 0
        except UnsupportedError:
            return  # the program's libc has no such function
        if address:
            self._process.cpu.watch_code(address, address + 1, entered)

    def _entered(self, name: bytes, size_of: Callable[[int, int, int], int], address: int) -> None:
        process, cpu = self._process, self._process.cpu
        assert process.runner is not None
        arguments = [cpu.get(register) for register in (regs.RDI, regs.RSI, regs.RDX)]
        stack, frames = cpu.get(regs.RSP), []
        if self._captured < _MOST_CAPTURED:
            self._captured += 1
            frames = process.capture(pc=address)
        if name == b"realloc":
            self._blocks.pop(arguments[0], None)
        out = arguments[0] if name == b"posix_memalign" else 0
        waiting = self._asked.setdefault(process.runner.task.tid, [])
        waiting[:] = [one for one in waiting if one.stack > stack]  # calls that were jumped out of
        waiting.append(_HeapCall(stack, out, size_of(*arguments[:3]), frames))
        back = process.arena.read_u64(stack)
        if back not in self._returns:
            self._returns.add(back)
            cpu.watch_code(back, back + 1, self._returned)

    def _returned(self, _address: int) -> None:
        process, cpu = self._process, self._process.cpu
        assert process.runner is not None
        tid = process.runner.task.tid
        waiting = self._asked.get(tid, [])
        if not waiting or waiting[-1].stack != cpu.get(regs.RSP) - 8:
            return
        asked = waiting.pop()
        start = process.arena.read_u64(asked.out) if asked.out else cpu.get(regs.RAX)
        if start:
            self._blocks[start] = HeapBlock(start, asked.size, tid, asked.frames)

    def _freed(self, _address: int) -> None:
        self._blocks.pop(self._process.cpu.get(regs.RDI), None)
