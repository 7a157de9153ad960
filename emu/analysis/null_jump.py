"""The call, or jump, that has gone to address 0, told from the code before a return address.

Source: psABI 3.2.1, 5.2.3 (figure 5.3, the PLT); Intel SDM 2, CALL and JMP.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from emu.core.errors import MemoryFault
from emu.core.record import NamedTuple
from emu.machine import regs

if TYPE_CHECKING:
    from emu.process import Process

_CALL_SLOT, _CALL = b"\xff\x15", b"\xe8"
_CALL_REGISTER = re.compile(rb"(\x41?)\xff([\xd0-\xd7])\Z", re.DOTALL)
_REGISTERS = (
    regs.RAX, regs.RCX, regs.RDX, regs.RBX, regs.RSP, regs.RBP, regs.RSI, regs.RDI, regs.R8, regs.R9, regs.R10, regs.R11, regs.R12, regs.R13,
    regs.R14, regs.R15,
)  # fmt: skip
"""By their numbers in an instruction. Source: Intel SDM 2, table 2-2 (ModR/M)."""
_STUB = re.compile(rb"(?:\xf3\x0f\x1e\xfa)?\xf2?\xff\x25(....)", re.DOTALL)
"""A PLT entry: an ENDBR64 if need be, and a jump through a slot."""
_SLOT = re.compile(r"qword ptr \[rip ([+-] (?:0x)?[0-9a-f]+)\]")
_LONGEST = 4096
"""Bytes of a function that are looked through for a jump to another."""


class NullJump(NamedTuple):
    """A call or jump to address 0: where the next instruction is, and the slot that it goes through;
    None if 0 is written in the code.
    """

    after: int
    slot: int | None


def null_jump(process: Process, back: int) -> NullJump | None:
    """Return what has gone to 0: the call that comes back to `back`, or the jump at the end of the function
    that it has called; None for a call through a register or another pointer.
    """
    try:
        code = process.arena.read(back - 6, 6)
        near = back + int.from_bytes(code[2:], "little", signed=True)
        if code[:2] == _CALL_SLOT:
            slot: int | None = near
        elif code[1:2] != _CALL:
            return _register(process, code)
        elif near == 0:
            return NullJump(back, None)
        else:
            slot = _stub_slot(process, near)
        target = process.arena.read_u64(slot) if slot is not None else near
        return _tail(process, target) if target else NullJump(back, slot)
    except MemoryFault:
        return None


def _register(process: Process, code: bytes) -> NullJump | None:
    """Return the jump of the function whose address a register still has with which it was called."""
    called = _CALL_REGISTER.search(code)
    if called is None:
        return None
    target = process.cpu.get(_REGISTERS[(called[2][0] & 7) + 8 * len(called[1])])
    return _tail(process, target) if target else None


def _stub_slot(process: Process, address: int) -> int | None:
    """Return the slot that a PLT entry jumps through, None for other code."""
    stub = _STUB.match(process.arena.read(address, 16))
    if stub is None:
        return None
    return address + stub.end() + int.from_bytes(stub[1], "little", signed=True)


def _tail(process: Process, function: int) -> NullJump | None:
    """Return the jump of a function to address 0; None, too, if it has one through a register or a pointer,
    which may have been the one. Raises MemoryFault.
    """
    import capstone  # only where something has gone wrong

    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    symbols = process.symbols
    start = symbols.function_start(function)
    area = process.space.find(function)
    if area is None:
        return None
    found = None
    code = process.arena.read(function, min(_LONGEST, area.end - function))
    for at, size, mnemonic, operands in decoder.disasm_lite(code, function):
        if mnemonic == "ret" and not start:
            break
        if not mnemonic.endswith("jmp"):
            continue
        if symbols.function_start(at) != start:
            break
        slot = _SLOT.fullmatch(operands)
        through = at + size + int(slot[1].replace(" ", ""), 16) if slot is not None else None
        if through is None and not operands[0].isdigit():
            return None
        if through is None:
            if int(operands, 16) == 0:
                found = found or NullJump(at + size, None)
                continue
            through = _stub_slot(process, int(operands, 16))
        if through is not None and process.arena.read_u64(through) == 0:
            found = found or NullJump(at + size, through)
    return found
