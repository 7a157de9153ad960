"""Classic BPF as seccomp allows it: programs are checked once, and interpreted for each call.

Source: seccomp(2); Linux kernel/seccomp.c:seccomp_check_filter, net/core/filter.c:bpf_check_classic,
check_load_and_stores.
"""

from __future__ import annotations

import errno
import struct
from enum import IntEnum

from emu.core.record import NamedTuple
from emu.kernel import abi
from emu.kernel.errors import fail

STRICT_MODE, FILTER_MODE = 1, 2
DATA_SIZE = 64
"""sizeof (struct seccomp_data)."""
_MOST, _MOST_ALL, _PENALTY = 4096, 1 << 15, 4
_MEMORY_WORDS = 16
_LD, _LDX, _ST, _STX, _ALU, _JMP, _RET, _MISC = range(8)
_IMM, _ABS, _MEM, _LEN = 0x00, 0x20, 0x60, 0x80


class Alu(IntEnum):
    """BPF_ADD and so on: what an instruction of the class BPF_ALU computes."""

    ADD = 0x00
    SUB = 0x10
    MUL = 0x20
    DIV = 0x30
    OR = 0x40
    AND = 0x50
    LSH = 0x60
    RSH = 0x70
    NEG = 0x80
    XOR = 0xA0


class JumpWhen(IntEnum):
    """BPF_JA and so on: when an instruction of the class BPF_JMP jumps."""

    ALWAYS = 0x00
    EQUAL = 0x10
    GREATER = 0x20
    GREATER_OR_EQUAL = 0x30
    ANY_BIT = 0x40


_SHIFTS = (Alu.LSH, Alu.RSH)
_KNOWN = frozenset((
    _LD | _ABS, _LD | _LEN, _LDX | _LEN, _LD | _IMM, _LDX | _IMM, _LD | _MEM, _LDX | _MEM, _ST, _STX,
    *(_ALU | operation | source for operation in Alu if operation != Alu.NEG for source in (0, 8)), _ALU | Alu.NEG,
    _JMP | JumpWhen.ALWAYS, *(_JMP | test | source for test in JumpWhen if test != JumpWhen.ALWAYS for source in (0, 8)),
    _RET, _RET | 0x10, _MISC, _MISC | 0x80,
))  # fmt: skip


class Instruction(NamedTuple):
    """A struct sock_filter."""

    code: int
    true: int
    false: int
    k: int


Filter = tuple[Instruction, ...]


class Seccomp(NamedTuple):
    """What a task is bound by: its mode, and its filters, the newest first."""

    mode: int = 0
    filters: tuple[Filter, ...] = ()

    def adding(self, fresh: Filter) -> Seccomp:
        """Return this with one more filter. Raises OSError(ENOMEM) for too many instructions in all."""
        if sum(len(known) + _PENALTY for known in (fresh, *self.filters)) - _PENALTY > _MOST_ALL:
            raise fail(errno.ENOMEM)
        return Seccomp(FILTER_MODE, (fresh, *self.filters))

    def comes_of(self, other: Seccomp) -> bool:
        """Whether a task bound by `other` may be bound by this: nothing that it has is lost."""
        if other.mode == 0:
            return True
        count = len(other.filters)
        return other.mode == FILTER_MODE and (not count or self.filters[-count:] == other.filters)


def check(raw: bytes) -> Filter:
    """Return the program in an array of struct sock_filter.

    Raises OSError(EINVAL) for one that is not allowed.
    """
    program = tuple(Instruction(*fields) for fields in struct.iter_unpack("<HBBI", raw))
    if not 0 < len(program) <= _MOST or program[-1].code & 7 != _RET:
        raise fail(errno.EINVAL)
    for at, (code, true, false, k) in enumerate(program):
        kind, left = code & 7, len(program) - at - 1
        if code not in _KNOWN:
            raise fail(errno.EINVAL)
        bad = code == _LD | _ABS and (k >= DATA_SIZE or k & 3)
        bad |= code == _ALU | Alu.DIV and k == 0
        bad |= kind == _ALU and code & 0xF8 in _SHIFTS and k >= 32
        bad |= (code in (_LD | _MEM, _LDX | _MEM) or kind in (_ST, _STX)) and k >= _MEMORY_WORDS
        if kind == _JMP:
            bad |= k >= left if code == _JMP | JumpWhen.ALWAYS else max(true, false) >= left
        if bad:
            raise fail(errno.EINVAL)
    _check_memory(program)
    return program


def _check_memory(program: Filter) -> None:
    """Refuse a program that may load what it has not stored."""
    valid: list[int] = [-1] * len(program)
    here = 0
    for at, (code, true, false, k) in enumerate(program):
        here &= valid[at]
        kind = code & 7
        if kind in (_ST, _STX):
            here |= 1 << k
        elif code in (_LD | _MEM, _LDX | _MEM) and not here >> k & 1:
            raise fail(errno.EINVAL)
        elif kind == _JMP:
            for offset in (k,) if code == _JMP | JumpWhen.ALWAYS else (true, false):
                valid[at + 1 + offset] &= here
            here = -1


def run(program: Filter, words: tuple[int, ...]) -> int:
    """Return what a checked program says of a call; `words` are the 32-bit words of struct seccomp_data."""
    at = a = x = 0
    memory = [0] * _MEMORY_WORDS
    while True:
        code, true, false, k = program[at]
        at += 1
        kind = code & 7
        if kind == _RET:
            return a if code & 0x18 else k
        if kind == _JMP:
            if code == _JMP | JumpWhen.ALWAYS:
                at += k
            else:
                other = x if code & 8 else k
                test = code & 0xF0
                holds = (
                    a == other if test == JumpWhen.EQUAL else a > other if test == JumpWhen.GREATER
                    else a >= other if test == JumpWhen.GREATER_OR_EQUAL else bool(a & other)
                )  # fmt: skip
                at += true if holds else false
        elif kind == _LD:
            a = _loaded(code, k, words, memory)
        elif kind == _LDX:
            x = _loaded(code, k, words, memory)
        elif kind in (_ST, _STX):
            memory[k] = a if kind == _ST else x
        elif kind == _MISC:
            if code & 0x80:
                a = x
            else:
                x = a
        else:
            operand = x if code & 8 else k
            if code & 0xF0 == Alu.DIV and not operand:
                return 0  # as the kernel's interpreter
            a = _computed(code & 0xF0, a, operand) & abi.U32


def _loaded(code: int, k: int, words: tuple[int, ...], memory: list[int]) -> int:
    mode = code & 0xE0
    return words[k // 4] if mode == _ABS else memory[k] if mode == _MEM else DATA_SIZE if mode == _LEN else k


def _computed(operation: int, a: int, operand: int) -> int:
    match operation:
        case Alu.ADD:
            return a + operand
        case Alu.SUB:
            return a - operand
        case Alu.MUL:
            return a * operand
        case Alu.DIV:
            return a // operand
        case Alu.OR:
            return a | operand
        case Alu.AND:
            return a & operand
        case Alu.LSH:
            return a << (operand & 31)
        case Alu.RSH:
            return a >> (operand & 31)
        case Alu.NEG:
            return -a
        case _:
            return a ^ operand


UNBOUND = Seccomp()
