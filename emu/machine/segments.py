"""Loads of DS and ES, which in 64-bit mode change nothing but the selector that can be read back, and of FS
and GS, whose bases become 0.

Unicorn has no descriptor table to look selectors up in, and raises #GP for all but the null selector; those
that Linux has for user code are taken here. What is loaded into FS and GS does not stay: read back, it is the
null selector.

Source: Intel SDM volume 2, MOV; Linux arch/x86/include/asm/segment.h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.errors import MemoryFault
from emu.machine import regs

if TYPE_CHECKING:
    from emu.machine.cpu import UnicornCpu

_DESCRIPTORS = frozenset((4, 5, 6, 15))
"""User code for 32 bits, user data, user code for 64 bits, and the one whose limit is the CPU's number."""
_TABLE = 4
"""Bit of a selector: it is one of the local table, which is empty."""
_REX, _OPERAND_SIZE, _MOV = range(0x40, 0x50), 0x66, 0x8E
_SEGMENTS = {0: regs.ES, 3: regs.DS, 4: regs.FS, 5: regs.GS}
_BASES = {regs.FS: regs.FS_BASE, regs.GS: regs.GS_BASE}
_LONGEST = 4
_ENCODED = (
    regs.RAX, regs.RCX, regs.RDX, regs.RBX, regs.RSP, regs.RBP, regs.RSI, regs.RDI,
    regs.R8, regs.R9, regs.R10, regs.R11, regs.R12, regs.R13, regs.R14, regs.R15,
)  # fmt: skip
"""The registers by their numbers in instructions."""


def load_segment(cpu: UnicornCpu) -> bool:
    """If the instruction that has raised #GP loads a register into a data segment register with a selector of
    user code, do that and go on behind it.
    """
    rip = cpu.get(regs.RIP)
    try:
        code = cpu.arena.read(rip, _LONGEST)
    except MemoryFault:
        return False
    at = 1 if code[0] == _OPERAND_SIZE else 0
    rex = code[at] if code[at] in _REX else 0
    at += 1 if rex else 0
    if at > 2 or code[at] != _MOV or code[at + 1] >> 6 != 3:
        return False
    segment = _SEGMENTS.get(code[at + 1] >> 3 & 7)
    if segment is None:
        return False
    source = _ENCODED[code[at + 1] & 7 | (8 if rex & 1 else 0)]
    selector = cpu.get(source) & 0xFFFF
    if selector & _TABLE or selector >> 3 not in _DESCRIPTORS:
        return False
    cpu.set(segment, selector)  # which Unicorn passes over for FS and GS
    if segment in _BASES:
        cpu.set(_BASES[segment], 0)
    cpu.set(regs.RIP, rip + at + 2)
    return True
