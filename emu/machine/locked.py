"""Instructions that synchronise: those with a LOCK prefix, and XCHG with memory.

Each can be told of before it runs; other code pays nothing.

They are found in a block when it is translated, as `emu.machine.special` finds its own. A byte search clears
most blocks; the rest is decoded. Whoever is told may stop the CPU: the instruction has not run then.

Source: Intel SDM volume 3, 9.1.2.2 (which instructions lock the bus), volume 2, 2.1.5 (addressing forms).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from emu.core.record import NamedTuple
from emu.machine import binding, regs
from emu.machine.arena import physical, virtual
from emu.machine.engine import HostPart
from emu.machine.guard import WINDOW
from emu.machine.late_stop import instruction_number
from emu.machine.watch import MEMORY, UC_HOOK_MEM_READ, UC_HOOK_MEM_WRITE

if TYPE_CHECKING:
    from emu.machine.cpu import UnicornCpu

_suspicious = re.compile(rb"[\xf0\x86\x87]").search
_M64 = (1 << 64) - 1
_LONGEST = 15
"""Bytes of the longest instruction."""
_NAMES = {name: number for number, name in regs.NAMES.items()}


class LockedOperand(NamedTuple):
    """A locked instruction's memory operand: `size` bytes at base + scaled * scale + displacement (+ fs
    base); `rip` is what follows the instruction.
    """

    offset: int
    length: int
    mnemonic: str
    size: int
    base: str
    scaled: str
    scale: int
    displacement: int
    segment: str
    writes: bool


class UnicornStepWatch(HostPart):
    """See `emu.machine.engine.StepWatch`. What runs from now on is looked at, translated or not."""

    def __init__(self, cpu: UnicornCpu) -> None:
        self._cpu = cpu
        self._reached_by: Callable[[int, int, int, str], None]

    def locked(self, reached: Callable[[int, int, int, str], None]) -> None:
        """See there."""
        self._reached_by = reached
        self._cpu.seek_in_blocks(self._seek)

    def blocks(self, start: int, end: int, reached: Callable[[int], None]) -> None:
        """See there."""
        cpu = self._cpu

        def hook(_uc: int, address: int, _size: int, _data: int) -> None:
            try:
                reached(address)
            except BaseException as error:
                cpu.abandon(error)

        cpu.engine.hook(binding.UC_HOOK_BLOCK, binding.BLOCK(hook), start, end - 1)
        cpu.flush_code(start, end - start)

    def at(self, instruction: int, reached: Callable[[int, int, int, bool], None]) -> None:
        """See there."""
        cpu = self._cpu
        code = bytes(cpu.arena.read(instruction, _LONGEST))
        found = next(iter(_places(code, locked=False)), None)
        if found is None or found.offset:
            return
        if any(not place.offset for place in _places(code)):
            return  # it locks: that is told of already

        def here() -> None:
            where = physical(instruction)
            if cpu.arena.mapping[where : where + found.length] == code[: found.length]:
                reached(instruction, self._address(instruction, found), found.size, found.writes)

        cpu.hook_address(instruction, here)
        cpu.flush_code(instruction, 1)

    def accesses(self, reached: Callable[[int, int, int, bool], None]) -> None:
        """See there."""
        cpu = self._cpu

        def hook(_uc: int, kind: int, address: int, size: int, _value: int, _data: int) -> None:
            try:
                place = address - WINDOW if address >= WINDOW else address  # a guarded page is seen beyond
                reached(cpu.get(regs.RIP), virtual(place), size, kind == binding.UC_MEM_WRITE)
            except BaseException as error:
                cpu.abandon(error)

        cpu.engine.hook(UC_HOOK_MEM_READ | UC_HOOK_MEM_WRITE, MEMORY(hook))
        cpu.engine.flush_blocks()

    def before(self, block: int) -> int:
        """See there."""
        return self._cpu.counter.before(block)

    def number(self, instruction: int) -> int:
        """See there."""
        return instruction_number(self._cpu, instruction)

    def _seek(self, start: int, code: bytes) -> Iterator[tuple[int, Callable[[], None]]]:
        if _suspicious(code):
            for place in _places(code):
                at = start + place.offset
                yield at, partial(self._reached, at, place, code[place.offset : place.offset + place.length])

    def _reached(self, at: int, place: LockedOperand, code: bytes) -> None:
        where = physical(at)
        if self._cpu.arena.mapping[where : where + len(code)] != code:
            return  # other code has come to lie there
        self._reached_by(at, self._address(at, place), place.size, place.mnemonic)

    def _address(self, at: int, place: LockedOperand) -> int:
        address = place.displacement
        if place.base == "rip":
            address += at + place.length
        elif place.base:
            address += self._cpu.get(_NAMES[place.base])
        if place.scaled:
            address += self._cpu.get(_NAMES[place.scaled]) * place.scale
        if place.segment == "fs":
            address += self._cpu.get(regs.FS_BASE)
        return address & _M64


@lru_cache(maxsize=8192)
def _places(code: bytes, *, locked: bool = True) -> tuple[LockedOperand, ...]:
    """Return the instructions of a block that lock memory, or use it."""
    import capstone  # wanted only where somebody is told
    from capstone import x86

    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    decoder.detail = True
    found = []
    for instruction in decoder.disasm(code, 0):
        if locked and instruction.prefix[0] != 0xF0 and instruction.mnemonic != "xchg":
            continue
        memory = next((o for o in instruction.operands if o.type == x86.X86_OP_MEM), None)
        if memory is None:
            continue
        mem = memory.mem
        name = instruction.reg_name
        found.append(
            LockedOperand(
                instruction.address, instruction.size, instruction.mnemonic, memory.size,
                name(mem.base) if mem.base else "", name(mem.index) if mem.index else "", mem.scale,
                mem.disp, name(mem.segment) if mem.segment else "",
                bool(memory.access & capstone.CS_AC_WRITE),
            )
        )  # fmt: skip
    return tuple(found)
