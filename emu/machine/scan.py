"""Finds, in a block of code about to run, instructions that Unicorn would execute wrongly without a word.

Unicorn 2.1.4 runs VEX.128 as its destructive SSE form, takes the host's random numbers for RDRAND, allows
port I/O and any `int N` to user code, has only a double's precision for the x87's transcendental functions,
and keeps SSE's exception flags out of MXCSR. A byte search clears most blocks in half a microsecond; only a
block that holds a suspicious byte is walked instruction by instruction.

Source: Intel SDM volume 2, appendix A (opcode maps), 2.3 (VEX), 2.7 (EVEX).
"""

from __future__ import annotations

import re

from emu.core.record import NamedTuple

REFUSED, PROTECTED, X87, STORES_MXCSR, LOADS_MXCSR = range(5)
"""What to do at an instruction: end the run with an error; #GP; have the host's CPU compute;
give MXCSR its flags; clear them.
"""

_suspicious = re.compile(
    rb"[\x62\xc4\xc5\x6c-\x6f\xe4-\xe7\xec-\xef\xcd]"
    rb"|\x0f(?:\xc7[\xf0-\xff]|[\x00\x01\x34]|\xae[\x00-\x1f\x40-\x5f\x80-\x9f])|\xd9[\xf0-\xff]"
).search

_MODRM, _IMM8, _IMM16, _IMMZ, _IMMV, _MOFFS, _GROUP3, _WORD = 1, 2, 4, 8, 16, 32, 64, 128
_PREFIXES = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")
_VEX_GENERAL = {2: frozenset((0xF2, 0xF3, 0xF5, 0xF6, 0xF7)), 3: frozenset((0xF0,))}
"""BMI1 and BMI2 on general registers: VEX-coded, announced by CPUID, and right in Unicorn."""


_NO_AVX = (
    "the emulated CPU is x86-64-v2, and its CPUID says so: build this with -march=x86-64-v2 in place of -mavx or -march=native, "
    "or let the program ask CPUID before it takes that code"
)
_PORTS = frozenset((*range(0x6C, 0x70), *range(0xE4, 0xE8), *range(0xEC, 0xF0)))
_SOFT_INTERRUPTS = frozenset((3, 4))
"""The interrupt vectors that Linux lets user code call; 0x80 is the third."""
_X87 = frozenset((*range(0xF0, 0xF6), 0xF8, 0xF9, 0xFB, 0xFD, 0xFE, 0xFF))
"""Second byte, after D9, of F2XM1 FYL2X FPTAN FPATAN FXTRACT FPREM1 FPREM
FYL2XP1 FSINCOS FSCALE FSIN FCOS.
"""
_TABLES = {0x00: {0: "SLDT", 1: "STR"}, 0x01: {0: "SGDT", 1: "SIDT", 4: "SMSW"}}
"""Group 6 and 7 instructions that tell of the kernel's tables."""


class Special(NamedTuple):
    """An instruction `offset` bytes into the block that must not simply be executed,
    and its length (0 if it is refused).

    For people: its name, and why it cannot run. `error` is the error code of its #GP.
    """

    offset: int
    size: int
    action: int
    name: str = ""
    why: str = ""
    error: int = 0


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


def find_special(code: bytes) -> list[Special]:
    """Return the instructions of the block `code` that need care, up to the first that is refused."""
    return _walk(code) if _suspicious(code) else []


def _walk(code: bytes) -> list[Special]:
    found: list[Special] = []
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
        if at >= size:
            break
        opcode = code[at]
        at += 1
        following = code[at] if at < size else 0
        special: Special | None = None
        if opcode == 0x62:
            special = Special(start, 0, REFUSED, "an EVEX (AVX-512) instruction", _NO_AVX)
        elif opcode in (0xC4, 0xC5):
            if at + (1 if opcode == 0xC5 else 2) >= size:
                break
            mapping, opcode, at = (
                (1, code[at + 1], at + 2) if opcode == 0xC5 else (code[at] & 31, code[at + 2], at + 3)
            )
            if opcode not in _VEX_GENERAL.get(mapping, ()):
                special = Special(start, 0, REFUSED, "a VEX (AVX) instruction", _NO_AVX)
            layout = _MODRM | (_IMM8 if mapping == 3 else 0)
        elif opcode != 0x0F:
            layout = _ONE[opcode]
            special = _one_byte(start, opcode, following)
        else:
            opcode = following
            at += 1
            if opcode in (0x38, 0x3A):
                layout = _MODRM | (_IMM8 if opcode == 0x3A else 0)
                at += 1
            else:
                layout = _TWO[opcode]
                if at < size or opcode == 0x34:
                    special = _two_byte(start, opcode, code[at] if at < size else 0, operand16)
        if special is not None and special.action == REFUSED:
            found.append(special)
            break
        at = _operands(code, at, layout, operand16, address32, wide)
        if special is not None:
            found.append(special._replace(size=at - start))
    return found


def _one_byte(start: int, opcode: int, following: int) -> Special | None:
    if opcode == 0xD9 and following in _X87:
        return Special(start, 0, X87)
    if opcode in _PORTS:
        return Special(start, 0, PROTECTED)
    if opcode == 0xCD and following not in _SOFT_INTERRUPTS:
        if following == 0x80:
            return Special(start, 0, REFUSED, "int $0x80", "32-bit system calls are not emulated")
        return Special(start, 0, PROTECTED, error=following * 8 + 2)
    return None


def _two_byte(start: int, opcode: int, modrm: int, operand16: bool) -> Special | None:
    register = modrm >> 3 & 7
    if opcode == 0xC7 and modrm >= 0xF0 and not operand16:
        name = "RDRAND" if modrm < 0xF8 else "RDSEED"
        return Special(start, 0, REFUSED, name, "the host's random numbers are not given to the guest")
    if opcode == 0x34:
        return Special(start, 0, REFUSED, "SYSENTER", "32-bit system calls are not emulated")
    if opcode in _TABLES and register in _TABLES[opcode] and (opcode == 0 or modrm < 0xC0 or register == 4):
        name = _TABLES[opcode][register]
        return Special(start, 0, REFUSED, name, "what it tells is the host kernel's affair")
    if opcode == 0xAE and modrm < 0xC0 and register < 4:
        return Special(start, 0, LOADS_MXCSR if register in (1, 2) else STORES_MXCSR)
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
