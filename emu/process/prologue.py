"""The frame of code without unwind information, from the instructions between a function's start and the pc.

It is meant for what the C runtime puts into each object (crti.o, crtbegin.o: _init, _fini,
__do_global_dtors_aux), written in assembly or compiled without tables: the code is read straight on, as
debuggers do.
Source: gdb amd64-tdep.c:amd64_analyze_prologue for the idea; Intel SDM volume 2 (PUSH, POP, SUB, ADD, LEAVE).
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from emu.core.record import NamedTuple

if TYPE_CHECKING:
    from emu.core.types import ReadableMemory

_LONGEST = 512
"""Bytes of a function that are read: those of crt files have fewer than a hundred."""
_STACK_SIZE = re.compile(r"^rsp, (0x[0-9a-f]+|\d+)$")
_STOPS = frozenset(("ret", "jmp", "iretq", "hlt", "ud2"))


class CodeFrame(NamedTuple):
    """`depth` is how far the return address lies above rsp, in bytes;
    `saved_rbp` where above rsp the caller's rbp was pushed (None: it was not).
    """

    depth: int
    saved_rbp: int | None


def code_frame(memory: ReadableMemory, start: int, pc: int) -> CodeFrame | None:
    """Return the frame at `pc` in the function that begins at `start`;
    None where the code between is not that simple.
    """
    if not start <= pc < start + _LONGEST:
        return None
    depth, rbp_at = 0, None
    for instruction in _disassembler().disasm(memory.read(start, pc - start), start):
        name, operands = instruction.mnemonic, instruction.op_str
        size = _STACK_SIZE.match(operands)
        if name == "push":
            depth += 8
            if operands == "rbp":
                rbp_at = depth
        elif name == "pop":
            depth -= 8
            if operands == "rbp":
                rbp_at = None
        elif name in ("sub", "add") and size is not None:
            depth += int(size[1], 0) if name == "sub" else -int(size[1], 0)
        elif name in _STOPS or name == "leave" or operands.startswith("rsp,"):
            return None
    if depth < 0:
        return None
    return CodeFrame(depth, None if rbp_at is None else depth - rbp_at)


@cache
def _disassembler() -> Any:
    from capstone import CS_ARCH_X86, CS_MODE_64, Cs

    return Cs(CS_ARCH_X86, CS_MODE_64)
