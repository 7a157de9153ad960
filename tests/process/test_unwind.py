"""The walk over the stack: it ends with a reason, whatever stack, registers and unwind information are."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.core.types import ReadableMemory
from emu.elf import cfi
from emu.elf.cfi import UnwindTable
from emu.elf.eh_frame import FrameEntry as Unwind
from emu.elf.eh_frame import encode_eh_frame, encode_eh_frame_hdr
from emu.process.unwind import MAX_FRAMES, Surroundings, UnwoundFrame, walk
from tests.elf.test_cfi import Bytes

_CODE, _FRAMES, _HEADER, _STACK, _OTHER = 0x1000, 0x8000, 0x9000, 0x20000, 0x40000
_CALL = b"\xe8\0\0\0\0"
#: Functions of 32 bytes: a leaf, one with rbp saved, one with a CFA by expression, a signal trampoline, the
#: outermost, one that recurses.
_FUNCTIONS = [
    Unwind(_CODE, 32),
    Unwind(_CODE + 32, 32, bytes.fromhex("0e10 8602 0d06")),
    Unwind(_CODE + 64, 32, bytes.fromhex("0f04 7710 2300")),
    Unwind(_CODE + 96, 32, bytes.fromhex("0f03 7710 06 1007 04 7710 2308 1010 04 7710 2310"), signal=True),
    Unwind(_CODE + 128, 32, b"\x07\x10"),
]


def _around(
    stack: bytes, section: bytes, header: bytes, code: bytes = b"", extra: dict[int, bytes] | None = None
) -> Surroundings:
    code = code or (_CALL * 64)[:320]
    memory: ReadableMemory = Bytes(
        {_CODE: code, _FRAMES: section, _HEADER: header, _STACK: stack} | (extra or {})
    )
    table = UnwindTable(memory, _HEADER, len(header), "made")
    return Surroundings(
        memory,
        lambda address: table if _CODE <= address < _CODE + 160 else None,
        lambda address: _CODE <= address < _CODE + len(code),
        lambda address: _STACK if _STACK <= address < _STACK + len(stack) else None,
        lambda address: 0,
        lambda address: False,
    )


def _sections() -> tuple[bytes, bytes]:
    section, table = encode_eh_frame(_FUNCTIONS, _FRAMES)
    return section, encode_eh_frame_hdr(table, _HEADER, _FRAMES)


def _walk(registers: Sequence[int], around: Surroundings) -> tuple[list[UnwoundFrame], str]:
    frames = []
    steps = walk(registers, around)
    while True:
        try:
            frames.append(next(steps))
        except StopIteration as stop:
            return frames, stop.value


def _registers(pc: int, rsp: int = _STACK, rbp: int = 0) -> list[int]:
    registers = [0] * cfi.REGISTERS
    registers[cfi.RSP], registers[cfi.RBP], registers[cfi.RETURN_ADDRESS] = rsp, rbp, pc
    return registers


def _words(*words: int) -> bytes:
    return struct.pack(f"<{len(words)}Q", *words).ljust(4096, b"\0")


def test_rules_lead_to_the_outermost_frame() -> None:
    stack = _words(_CODE + 40, 1, 2, _STACK + 64, _CODE + 70, _CODE + 136)
    # leaf -> rbp frame (CFA = rbp + 16) -> expression frame (CFA = rsp + 16, from a register) -> outermost
    around = _around(stack, *_sections())
    frames, reason = _walk(_registers(_CODE + 4, rbp=_STACK + 24), around)
    assert [(frame.pc, frame.cfa) for frame in frames[:2]] == [
        (_CODE + 4, _STACK + 8),
        (_CODE + 40, _STACK + 40),
    ]
    assert frames[2].pc == _CODE + 70
    assert [frame.exact for frame in frames] == [True] + [False] * (len(frames) - 1)
    assert reason == "" and not any(frame.guess or frame.signal for frame in frames)


def test_an_interrupted_frame_is_looked_up_exactly() -> None:
    # the trampoline's frame: rsp at +16, the word behind is rsp, the next the pc: the first byte of the
    # outermost function
    stack = _words(0, 0, _STACK + 256, _STACK + 256, _CODE + 128)
    frames, reason = _walk(_registers(_CODE + 100), _around(stack, *_sections()))
    assert [(frame.pc, frame.signal, frame.exact) for frame in frames] == [
        (_CODE + 100, True, True),
        (_CODE + 128, False, True),
    ]
    assert reason == ""


@pytest.mark.parametrize(
    ("pc", "stack", "reason", "count"),
    [
        (0, _words(_CODE + 25, 0), "", 2),
        (0, _words(_STACK, 0), "no return address lies on the stack's top", 1),
        (0xDEAD0000, _words(_CODE + 25, 0), "", 2),
        (_CODE, _words(0xDEAD0000), "the stack is corrupt: a return to where no code is", 2),
        (_CODE, _words(*[_CODE + 25] * 512), f"the walk ends after {MAX_FRAMES} frames", MAX_FRAMES),
        (_CODE + 200, _words(1, 2, 3), "code without unwind information", 1),
    ],
)
def test_ends(pc: int, stack: bytes, reason: str, count: int) -> None:
    frames, why = _walk(_registers(pc), _around(stack, *_sections()))
    assert (why, len(frames)) == (reason, count)


def test_no_memory_below_the_stack() -> None:
    _, reason = _walk(_registers(_CODE, rsp=0x10), _around(_words(0), *_sections()))
    assert reason == "the stack is corrupt: no memory at 0x10"


def test_frame_pointers_are_a_guess() -> None:
    stack = _words(0, 0, _STACK + 64, _CODE + 205, 0, 0, 0, 0, _STACK + 16, _CODE + 25, 0)
    frames, reason = _walk(_registers(_CODE + 200, rbp=_STACK + 16), _around(stack, *_sections()))
    assert [(frame.pc, frame.guess) for frame in frames] == [
        (_CODE + 200, False),
        (_CODE + 205, True),
        (_CODE + 25, True),
    ]
    assert reason == ""


def test_a_circle_of_frames_ends() -> None:
    # rbp points at itself: the function with rbp as its frame would be its own caller
    stack = _words(0, _STACK + 8, _CODE + 45)
    _, reason = _walk(_registers(_CODE + 45, rbp=_STACK + 8), _around(stack, *_sections()))
    assert reason in (
        "the stack is corrupt: the next frame was there before",
        "the stack is corrupt: the next frame lies inside this one",
    )


_words_near = st.one_of(
    st.integers(_CODE, _CODE + 330), st.integers(_STACK, _STACK + 600), st.integers(0, (1 << 64) - 1)
)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(_words_near, min_size=1, max_size=64),
    st.lists(_words_near, min_size=17, max_size=17),
    st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=12),
    st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=3),
)
def test_corrupt_unwind_information_ends_with_a_reason(
    stack: list[int],
    registers: list[int],
    damage: list[tuple[int, int]],
    header_damage: list[tuple[int, int]],
) -> None:
    section, header = (bytearray(part) for part in _sections())
    for at, byte in damage:
        section[at % len(section)] = byte
    for at, byte in header_damage:
        header[at % len(header)] = byte
    around = _around(struct.pack(f"<{len(stack)}Q", *stack), bytes(section), bytes(header))
    frames, reason = _walk(registers, around)
    assert 1 <= len(frames) <= MAX_FRAMES
    assert isinstance(reason, str)
    assert frames[0].pc == registers[-1]
