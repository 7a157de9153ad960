"""Finds, in a block of code about to run, instructions that Unicorn would execute wrongly without a word.

Unicorn 2.1.4 runs VEX.128 as its destructive SSE form and takes the host's random numbers for RDRAND. A byte search clears most
blocks in half a microsecond; only a block that holds a suspicious byte is walked instruction by instruction.

Source: Intel SDM volume 2, appendix A (opcode maps), 2.3 (VEX), 2.7 (EVEX).
"""

from __future__ import annotations

import re
from typing import NamedTuple

_suspicious = re.compile(rb"[\x62\xc4\xc5]|\x0f\xc7[\xf0-\xff]").search

_MODRM, _IMM8, _IMM16, _IMMZ, _IMMV, _MOFFS, _GROUP3, _WORD = 1, 2, 4, 8, 16, 32, 64, 128
_PREFIXES = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")
_VEX_GENERAL = {2: frozenset((0xF2, 0xF3, 0xF5, 0xF6, 0xF7)), 3: frozenset((0xF0,))}
"""BMI1 and BMI2 on general registers: VEX-coded, announced by CPUID, and right in Unicorn."""


class BadInstruction(NamedTuple):
    """An instruction `offset` bytes into the block, its name for people, and why it cannot run."""

    offset: int
    name: str
    why: str


def _one_byte_map() -> bytes:
    table = bytearray(256)
    for base in range(0, 0x40, 8):
        for low in range(4):
            table[base + low] = _MODRM
        table[base + 4], table[base + 5] = _IMM8, _IMMZ
    for opcode in (0x63, *range(0x84, 0x90), *range(0xD0, 0xD4), *range(0xD8, 0xE0), 0xFE, 0xFF):
        table[opcode] = _MODRM
    for opcode in (0x6B, 0x80, 0x82, 0x83, 0xC0, 0xC1, 0xC6):
        table[opcode] = _MODRM | _IMM8
    for opcode in (0x69, 0x81, 0xC7):
        table[opcode] = _MODRM | _IMMZ
    for opcode in (0x6A, *range(0x70, 0x80), 0xA8, *range(0xB0, 0xB8), 0xCD, *range(0xE0, 0xE8), 0xEB):
        table[opcode] = _IMM8
    for opcode in (0x68, 0xA9, 0xE8, 0xE9):
        table[opcode] = _IMMZ
    for opcode in range(0xA0, 0xA4):
        table[opcode] = _MOFFS
    for opcode in range(0xB8, 0xC0):
        table[opcode] = _IMMV
    table[0xC2], table[0xC8] = _IMM16, _IMM16 | _IMM8
    table[0xF6], table[0xF7] = _MODRM | _GROUP3, _MODRM | _GROUP3 | _WORD
    return bytes(table)


def _two_byte_map() -> bytes:
    table = bytearray([_MODRM] * 256)
    for opcode in (
        *range(0x05, 0x0A),
        0x0B,
        0x0E,
        *range(0x30, 0x38),
        0x77,
        *range(0xA0, 0xA3),
        *range(0xA8, 0xAB),
    ):
        table[opcode] = 0
    for opcode in range(0xC8, 0xD0):
        table[opcode] = 0
    for opcode in range(0x80, 0x90):
        table[opcode] = _IMMZ
    for opcode in (0x70, 0x71, 0x72, 0x73, 0xA4, 0xAC, 0xBA, 0xC2, 0xC4, 0xC5, 0xC6):
        table[opcode] = _MODRM | _IMM8
    return bytes(table)


_ONE, _TWO = _one_byte_map(), _two_byte_map()


def find_bad_instruction(code: bytes) -> BadInstruction | None:
    """Return the first instruction of the block `code` that must not be executed, or None."""
    return _walk(code) if _suspicious(code) else None


def _walk(code: bytes) -> BadInstruction | None:
    at, size = 0, len(code)
    while at < size:
        start = at
        operand16 = address32 = False
        while at < size and code[at] in _PREFIXES:
            operand16 |= code[at] == 0x66
            address32 |= code[at] == 0x67
            at += 1
        wide = False
        if at < size and code[at] & 0xF0 == 0x40:
            wide = bool(code[at] & 8)
            at += 1
        if at + 1 >= size:
            return None
        opcode = code[at]
        at += 1
        if opcode == 0x62:
            return BadInstruction(start, "an EVEX (AVX-512) instruction", "AVX-512 is not emulated")
        if opcode in (0xC4, 0xC5):
            if at + (1 if opcode == 0xC5 else 2) >= size:
                return None
            mapping, opcode, at = (
                (1, code[at + 1], at + 2) if opcode == 0xC5 else (code[at] & 31, code[at + 2], at + 3)
            )
            if opcode not in _VEX_GENERAL.get(mapping, ()):
                return BadInstruction(start, "a VEX (AVX) instruction", "AVX is not emulated")
            layout = _MODRM | (_IMM8 if mapping == 3 else 0)
        elif opcode != 0x0F:
            layout = _ONE[opcode]
        else:
            opcode = code[at]
            at += 1
            if opcode in (0x38, 0x3A):
                layout = _MODRM | (_IMM8 if opcode == 0x3A else 0)
                at += 1
            else:
                layout = _TWO[opcode]
                if opcode == 0xC7 and at < size and code[at] >= 0xF0 and not operand16:
                    name = "RDRAND" if code[at] < 0xF8 else "RDSEED"
                    return BadInstruction(start, name, "the host's random numbers are not given to the guest")
        at = _operands(code, at, layout, operand16, address32, wide)
    return None


def _operands(code: bytes, at: int, layout: int, operand16: bool, address32: bool, wide: bool) -> int:
    """Return the position after ModRM, SIB, displacement and immediates."""
    immediate = 0
    full = 2 if operand16 and not wide else 4
    if layout & _MODRM and at < len(code):
        modrm = code[at]
        at += 1
        mode, rm = modrm >> 6, modrm & 7
        if mode != 3:
            if rm == 4 and at < len(code):
                base = code[at] & 7
                at += 1
                if mode == 0 and base == 5:
                    at += 4
            elif mode == 0 and rm == 5:
                at += 4
            at += (0, 1, 4)[mode]
        if layout & _GROUP3 and (modrm >> 3 & 7) < 2:
            immediate = full if layout & _WORD else 1
    if layout & _IMM8:
        immediate += 1
    if layout & _IMM16:
        immediate += 2
    if layout & _IMMZ:
        immediate += full
    if layout & _IMMV:
        immediate += 8 if wide else full
    if layout & _MOFFS:
        immediate += 4 if address32 else 8
    return at + immediate
