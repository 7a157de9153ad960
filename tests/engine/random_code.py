"""Random sequences of instructions, and the host's CPU to run them natively.

Sequences touch all general registers but rsp and rdi, xmm0-15, MXCSR, flags, and a page of data that rdi
points to.
Source: Intel SDM volume 2, appendix A (opcodes), 2.1 (ModRM, SIB).
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from random import Random
from typing import NamedTuple

CODE, DATA, SIZE = 0x1100_0000, 0x1200_0000, 4096
_REGISTERS = tuple(number for number in range(16) if number not in (4, 7))
_ALU = (0x00, 0x08, 0x10, 0x18, 0x20, 0x28, 0x30, 0x38)
_VECTORS = (0x58, 0x59, 0x5C, 0x5E, 0x5D, 0x5F, 0x51)
_PACKED = (
    0xFC, 0xFD, 0xFE, 0xD4, 0xF8, 0xF9, 0xFA, 0xFB, 0xDB, 0xDF, 0xEB, 0xEF, 0x74, 0x75, 0x76, 0x64, 0x65, 0x66, 0xE4, 0xE5, 0xD5, 0xF4, 0xF5, 0xDA,
    0xDE, 0xEA, 0xEE, 0xE0, 0xE3, 0xF6, 0x60, 0x61, 0x62, 0x63, 0x67, 0x68, 0x69, 0x6A, 0x6B, 0x6C, 0x6D, 0xDC, 0xDD, 0xEC, 0xED, 0xD8, 0xD9, 0xE8, 0xE9,
)  # fmt: skip
_SSSE3 = (
    0x00,
    0x01,
    0x02,
    0x03,
    0x04,
    0x05,
    0x06,
    0x07,
    0x08,
    0x09,
    0x0A,
    0x0B,
    0x1C,
    0x1D,
    0x1E,
    0x28,
    0x29,
    0x37,
    0x38,
    0x39,
    0x3A,
    0x3B,
    0x40,
)
_RESETS_FLAGS = b"\x48\x39\xd8"  # cmp %rbx, %rax


class State(NamedTuple):
    """Registers by number (rsp and rdi as they are), flags, MXCSR, vector registers, the page of data."""

    registers: tuple[int, ...]
    flags: int
    mxcsr: int
    vectors: tuple[bytes, ...]
    data: bytes


def random_state(random: Random) -> State:
    """Return registers, vectors and data with values at the edges more often than not."""

    def word() -> int:
        return random.choice(
            (
                random.getrandbits(64),
                random.getrandbits(8),
                (1 << 64) - 1 - random.getrandbits(4),
                1 << random.randrange(64),
            )
        )

    def vector() -> bytes:
        floats = (0.0, -0.0, 1.0, 1e-310, 3e38, -1.5, 1e300, 0.1, random.uniform(-9, 9))
        return (
            struct.pack("<2d", random.choice(floats), random.choice(floats))
            if random.random() < 0.6
            else random.randbytes(16)
        )

    registers = [word() for _ in range(16)]
    registers[7] = DATA
    return State(
        tuple(registers),
        0x202 | random.getrandbits(12) & 0x8D5,
        0x1F80,
        tuple(vector() for _ in range(16)),
        random.randbytes(256),
    )


def random_code(random: Random, length: int) -> bytes:
    """Return so many instructions, none of which faults or leaves a flag undefined that another could see."""
    return b"".join(_instruction(random) for _ in range(length))


def _operands(
    random: Random, opcode: bytes, *, prefix: bytes = b"", wide: int | None = None, reg: int | None = None
) -> bytes:
    """Return an instruction with a register and a register or memory (16-byte aligned) operand."""
    reg = random.choice(_REGISTERS) if reg is None else reg
    w = random.getrandbits(1) if wide is None else wide
    if random.random() < 0.3:
        rex, rest = (
            0x40 | w << 3 | (reg >> 3) << 2,
            bytes((0x47 | (reg & 7) << 3, random.randrange(0, 112, 16))),
        )
    else:
        rm = random.choice(_REGISTERS)
        rex, rest = 0x40 | w << 3 | (reg >> 3) << 2 | rm >> 3, bytes((0xC0 | (reg & 7) << 3 | rm & 7,))
    return prefix + bytes((rex,)) + opcode + rest


def _instruction(random: Random) -> bytes:
    kind = random.randrange(14)
    if kind < 3:
        return _operands(random, bytes((random.choice(_ALU) | random.choice((0, 1, 2, 3)),)))
    if kind == 3:  # shifts and rotations by a constant
        code = _operands(random, b"\xc1", reg=random.choice((0, 1, 2, 3, 4, 5, 7)))
        return code + bytes((random.randrange(1, 32),)) + _RESETS_FLAGS
    if kind == 4:  # not, neg, mul, imul
        return _operands(random, b"\xf7", reg=random.choice((2, 3, 4, 5))) + _RESETS_FLAGS
    if kind == 5:
        return _operands(random, b"\x0f\xaf") + _RESETS_FLAGS
    if kind == 6:  # setcc, cmovcc
        condition = random.randrange(16)
        return (
            _operands(random, bytes((0x0F, 0x90 | condition)), reg=0)
            if random.random() < 0.5
            else _operands(random, bytes((0x0F, 0x40 | condition)))
        )
    if kind == 7:  # movzx, movsx, movsxd, lea of a register pair, bswap
        return random.choice((
            _operands(random, bytes((0x0F, random.choice((0xB6, 0xB7, 0xBE, 0xBF))))), _operands(random, b"\x63", wide=1),
            bytes((0x48 | random.getrandbits(1), 0x0F, 0xC8 | random.choice((0, 1, 2, 3, 5, 6)))),
        ))  # fmt: skip
    if kind == 8:  # bt and its kin by a constant, xadd, cmpxchg, xchg
        return random.choice((
            _operands(random, b"\x0f\xba", reg=random.choice((4, 5, 6, 7))) + bytes((random.randrange(32),)) + _RESETS_FLAGS,
            _operands(random, b"\x0f\xc1"), _operands(random, b"\x0f\xb1"), _operands(random, b"\x87"),
        ))  # fmt: skip
    if kind == 9:  # floating point, packed and scalar
        prefix = random.choice((b"", b"\x66", b"\xf2", b"\xf3"))
        return _operands(random, bytes((0x0F, random.choice(_VECTORS))), prefix=prefix, wide=0)
    if kind == 10:
        return _operands(random, bytes((0x0F, random.choice(_PACKED))), prefix=b"\x66", wide=0)
    if kind == 11:
        return _operands(random, bytes((0x0F, 0x38, random.choice(_SSSE3))), prefix=b"\x66", wide=0)
    if kind == 12:  # conversions, compares into flags
        scalar, packed = random.choice((b"\xf2", b"\xf3")), random.choice((b"\xf2", b"\xf3", b"\x66"))
        return random.choice((
            _operands(random, b"\x0f\x2a", prefix=scalar),
            _operands(random, b"\x0f\x5a", prefix=packed, wide=0),
            _operands(random, b"\x0f\x2e", prefix=random.choice((b"", b"\x66")), wide=0),
            _operands(random, b"\x0f\x70", prefix=b"\x66", wide=0) + bytes((random.randrange(256),)),
        ))  # fmt: skip
    return _operands(random, b"\x0f\xb8", prefix=b"\xf3")  # popcnt


class Native:
    """Runs code on this host's CPU, in this process, at the guest's own addresses."""

    _STATE = 16 * 8 + 8 + 8 + 16 * 16

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_long,
        ]
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10_0000  # MAP_FIXED_NOREPLACE
        for address, prot in ((CODE, 7), (DATA, 3)):
            if libc.mmap(address, SIZE, prot, flags, -1, 0) != address:
                raise OSError(ctypes.get_errno(), "mmap of the code's own address")
        self._munmap = libc.munmap
        self._munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        self._state = (ctypes.c_char * self._STATE)()
        self._at = ctypes.addressof(self._state)
        self._call = ctypes.CFUNCTYPE(None)(CODE)

    def close(self) -> None:
        """Give the addresses back."""
        for address in (CODE, DATA):
            self._munmap(address, SIZE)

    def run(self, code: bytes, state: State) -> State:
        """Return the state after the code."""
        at = self._at
        into = b"\x48\xb8" + struct.pack("<Q", at)  # movabs $state, %rax
        text = bytearray(b"\x53\x55\x41\x54\x41\x55\x41\x56\x41\x57" + into)  # push %rbx, %rbp, %r12-%r15
        for number in range(16):  # movdqu 144+16n(%rax), %xmmN
            text += (
                b"\xf3"
                + bytes((0x40 | (number >> 3) << 2, 0x0F, 0x6F, 0x80 | (number & 7) << 3))
                + struct.pack("<i", 144 + 16 * number)
            )
        text += (
            b"\x0f\xae\x90" + struct.pack("<i", 136) + b"\xff\xb0" + struct.pack("<i", 128) + b"\x9d"
        )  # ldmxcsr; push flags; popf
        for number in (1, 2, 3, 5, 6, 7, *range(8, 16), 0):  # mov 8n(%rax), %r
            text += bytes((0x48 | (number >> 3) << 2, 0x8B, 0x80 | (number & 7) << 3)) + struct.pack(
                "<i", 8 * number
            )
        text += code + b"\x48\xa3" + struct.pack("<Q", at) + into  # mov %rax, state
        for number in (1, 2, 3, 5, 6, 7, *range(8, 16)):
            text += bytes((0x48 | (number >> 3) << 2, 0x89, 0x80 | (number & 7) << 3)) + struct.pack(
                "<i", 8 * number
            )
        text += (
            b"\x9c\x8f\x80" + struct.pack("<i", 128) + b"\x0f\xae\x98" + struct.pack("<i", 136)
        )  # pushf; pop flags; stmxcsr
        for number in range(16):
            text += (
                b"\xf3"
                + bytes((0x40 | (number >> 3) << 2, 0x0F, 0x7F, 0x80 | (number & 7) << 3))
                + struct.pack("<i", 144 + 16 * number)
            )
        usual = struct.pack("<I", 0x1F80)
        text += b"\x68" + usual + b"\x0f\xae\x14\x24\x58\xfc"  # push $0x1f80; ldmxcsr (%rsp); pop %rax; cld
        text += b"\x41\x5f\x41\x5e\x41\x5d\x41\x5c\x5d\x5b\xc3"
        ctypes.memmove(CODE, bytes(text), len(text))
        ctypes.memmove(DATA, state.data, len(state.data))
        packed = struct.pack("<16QQQ", *state.registers, state.flags, state.mxcsr) + b"".join(state.vectors)
        ctypes.memmove(at, packed, len(packed))
        self._call()
        raw = bytes(self._state)
        values = struct.unpack_from("<16QQQ", raw)
        vectors = tuple(raw[144 + 16 * n : 160 + 16 * n] for n in range(16))
        registers = list(values[:16])
        registers[4] = state.registers[4]
        return State(
            tuple(registers),
            values[16],
            values[17] & 0xFFFF,
            vectors,
            ctypes.string_at(DATA, len(state.data)),
        )
