"""Calls with arguments that nobody means: what Linux says of each, emu says.

Lengths beyond everything, offsets past 2^63, negative counts, structures that are not aligned, pointers to
nothing, descriptors of the wrong kind, in every argument of calls that do no harm. Hypothesis draws them.
EMU_WILD_EXAMPLES says how many lists of calls, 3 by default, and those always the same.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

_EXAMPLES = int(os.environ.get("EMU_WILD_EXAMPLES", "3"))
_CALLS = 250
_PLACE, _TEXTS, _NOTHING, _PAGE = 0x10000000, 0x20000000, 0x30000000, 4096
_S64, _U64 = 1 << 63, (1 << 64) - 1

_FD = st.sampled_from([*range(3, 19), *range(3, 19), 0, -1, 19, 1000, 1 << 31, (1 << 32) + 3, _U64 - 99])
_NOWHERE = [
    0,
    1,
    0xDEAD0000,
    _NOTHING,
    _PLACE + 2 * _PAGE - 4,
    _PLACE + 2 * _PAGE,
    1 << 47,
    0x7FFFFFFFF000,
    _S64,
    _U64,
]
_POINTER = st.sampled_from([
    _PLACE, _PLACE + 3, _PLACE + 0x100, _PLACE + 0x140, _PLACE + 0x180, _PLACE + 0x1C0, _PLACE + 0x200, _PLACE + 0x240,
    _PLACE + 0x2C0, _PLACE + 0x300, _PLACE + 0x800, _PLACE + _PAGE, _TEXTS, *_NOWHERE,
])  # fmt: skip
_GIVEN = _POINTER.filter(bool)
_PATH = st.sampled_from([*(_TEXTS + 64 * i for i in range(10)), _TEXTS + 700, _TEXTS + 2048, *_NOWHERE])
_LENGTH = st.sampled_from([
    0, 1, 2, 3, 4, 7, 8, 12, 16, 24, 32, 64, 112, 128, 144, 255, 1024, 1025, 4096, 8192, 1 << 16, (1 << 31) - 1, 1 << 31,
    (1 << 32) - 1, 1 << 32, _S64 - 1, _S64, _U64,
])  # fmt: skip
_OFFSET = st.sampled_from(
    [0, 1, 8, 15, 16, 17, 4095, 4096, 1 << 31, 1 << 40, _S64 - 1, _S64 - 16, _S64, _U64, _U64 - 15]
)
_NUMBER = st.sampled_from(
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64, 100, 1024, 4096, 1 << 31, (1 << 31) - 1, 1 << 32, _U64]
)
_FLAGS = st.one_of(_NUMBER, st.sampled_from([0x100, 0x200, 0x400, 0x800, 0x1000, 0x80000]))
_DIR = st.sampled_from([-100, -100, 4, 3, -1, 1000])
_ZERO = st.just(0)


def _any(*values: int) -> SearchStrategy[int]:
    return st.one_of(st.sampled_from(values), _NUMBER)


_CALLS_KNOWN: dict[int, tuple[SearchStrategy[int], ...]] = {
    0: (_FD, _POINTER, _LENGTH),
    1: (st.sampled_from([3, 4, 5, 6, 7, 8, 9, 11, 14, 15, 16, -1]), _POINTER, st.sampled_from([0, 1, 8, 16, 4096, _S64, _U64])),
    5: (_FD, _POINTER),
    4: (_PATH, _POINTER),
    6: (_PATH, _POINTER),
    7: (_POINTER, st.sampled_from([1, 2, 3, 4, 1 << 31, _U64]), _ZERO),
    8: (st.sampled_from([3, 5, 7, 9, 10, 11, 14, 15, 16, 17, -1]), _OFFSET, _any(0, 1, 2, 3, 4)),
    13: (_any(9, 19, 10, 65), _any(0, _PLACE + 0x10000, 1), _POINTER, _LENGTH),
    14: (_any(0, 1, 2), _any(0, 1, 0xDEAD0000, _PLACE + 3), _POINTER, _LENGTH),
    17: (_FD, _POINTER, _LENGTH, _OFFSET),
    18: (st.sampled_from([3, 4, 5, 8, 14, 15, -1]), _POINTER, st.sampled_from([0, 1, 16, _U64]), _OFFSET),
    19: (_FD, _POINTER, _any(0, 1, 2, 1024, 1025)),
    20: (st.sampled_from([3, 4, 6, 8, 14, -1]), _POINTER, _any(0, 1, 2, 1024, 1025)),
    21: (_PATH, _FLAGS),
    23: (st.sampled_from([0, 5, 12, 1024, 1 << 31]), _POINTER, _POINTER, _POINTER, st.sampled_from([_PLACE, *_NOWHERE[1:]])),
    26: (_any(_PLACE, _PLACE + 3, _NOTHING), st.sampled_from([0, 1, 4096, 8192, 1 << 20]), _FLAGS),
    27: (st.sampled_from([_PLACE, _PLACE + 3, 0xDEAD0000]), st.sampled_from([0, 1, 4096, 8192]), st.sampled_from([_PLACE, _PLACE + 3])),
    28: (st.sampled_from([_PLACE + 3, _NOTHING + 8]), st.sampled_from([0, 1, 4096, 8192]), _any(0, 1, 2, 3, 8, 10, 14)),
    35: (st.sampled_from([_PLACE, _PLACE + 0x200, *_NOWHERE]), _POINTER),
    36: (_any(0, 1, 2, 3), _POINTER),
    40: (_FD, st.sampled_from([3, 5, 7, 14, 15, -1]), st.sampled_from([0, _PLACE, _PLACE + 3, 1, 0xDEAD0000]), st.sampled_from([1, 16])),
    41: (st.sampled_from([1, 99, 1 << 31, _U64]), st.sampled_from([1, 2, 5, 0x80801, 0, 77]), st.sampled_from([0, 6, 17])),
    49: (st.sampled_from([3, 12, 13, -1]), _POINTER, _any(0, 2, 16, 110, 128, 129)),
    50: (st.sampled_from([3, 5, 7, 12, -1]), _NUMBER),
    51: (_FD, _GIVEN, _POINTER),
    52: (_FD, _GIVEN, _POINTER),
    72: (_FD, st.sampled_from([1, 3, 5, 6, 7, 9, 1032, 1034, 99, 1 << 31]), st.sampled_from([0, _PLACE + 0x300, _PLACE + 3, 1])),
    73: (_FD, st.sampled_from([0, 4, 5, 6, 8, 1 << 31])),
    74: (_FD,),
    75: (_FD,),
    76: (_PATH, st.sampled_from([0, 16, _S64, _U64])),
    77: (_FD, st.sampled_from([0, 16, _S64, _U64])),
    78: (_FD, _POINTER, _LENGTH),
    217: (_FD, _POINTER, _LENGTH),
    79: (st.sampled_from(_NOWHERE), _LENGTH),
    80: (st.sampled_from([_TEXTS, _TEXTS + 128, _TEXTS + 256, _TEXTS + 512, _TEXTS + 2048, 0, 0xDEAD0000]),),
    82: (st.sampled_from([_TEXTS + 128, _TEXTS + 192, _TEXTS + 256, _TEXTS + 2048, 0]), _PATH),
    83: (_PATH, _any(0o755)),
    87: (st.sampled_from([_TEXTS + 64, _TEXTS + 128, _TEXTS + 192, _TEXTS + 256, _TEXTS + 2048, 0, 1]),),
    84: (st.sampled_from([_TEXTS, _TEXTS + 64, _TEXTS + 128, _TEXTS + 192, _TEXTS + 256, _TEXTS + 2048, 0, 1]),),
    86: (_PATH, st.sampled_from([_TEXTS, _TEXTS + 64, _TEXTS + 256, _TEXTS + 2048, 0, 1])),
    88: (_PATH, st.sampled_from([_TEXTS, _TEXTS + 64, _TEXTS + 256, _TEXTS + 2048, 0, 1])),
    89: (_PATH, _POINTER, _any(0, 1, 100)),
    97: (_any(0, 3, 7, 15, 16), _POINTER),
    98: (_any(0, 1, -1 & _U64, 2), st.sampled_from(_NOWHERE)),
    115: (_NUMBER, st.sampled_from(_NOWHERE)),
    137: (_PATH, _POINTER),
    138: (_FD, _POINTER),
    191: (_PATH, _PATH, _POINTER, _LENGTH),
    221: (_FD, _OFFSET, _OFFSET, _any(0, 1, 2, 3, 4, 5, 6)),
    228: (st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 12, 99, 1 << 31]), st.sampled_from(_NOWHERE)),
    229: (st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 12, 99, 1 << 31]), _POINTER),
    232: (st.sampled_from([3, 5, 9, 12]), _POINTER, st.sampled_from([1, 8]), _ZERO),
    233: (_FD, _any(1, 2, 3), _FD, _POINTER),
    257: (_DIR, _PATH.filter(lambda place: place != _TEXTS + 576), st.sampled_from([0, 0x10000, 0x200000, 0x20000, 0x80000, 0x10000000]), _ZERO),
    262: (_DIR, _PATH, _POINTER, st.sampled_from([0, 0x100, 0x800, 4])),
    267: (_DIR, _PATH, _POINTER, _any(0, 1, 100)),
    269: (_DIR, _PATH, _FLAGS),
    270: (st.sampled_from([0, 5, 12, 1 << 31]), _POINTER, _POINTER, _POINTER, st.sampled_from([_PLACE, *_NOWHERE[1:]]), _ZERO),
    271: (_POINTER, st.sampled_from([1, 2, 4]), st.sampled_from([_PLACE, *_NOWHERE[1:]]), _POINTER, st.just(8)),
    275: (_FD, _POINTER, _FD, _POINTER, _any(0, 1, 16), _any(0, 1, 2, 4, 8)),
    277: (_FD, _OFFSET, _OFFSET, _any(0, 1, 2, 4, 7)),
    280: (_DIR, _PATH, _POINTER, _any(0, 0x100)),
    285: (st.sampled_from([3, 4, 5, 8, 14, 15, 17, -1]), st.sampled_from([0, 1, 2, 3, 0x100]), _OFFSET, st.sampled_from([0, 16, 4096, _S64, _U64])),
    286: (st.sampled_from([3, 11, -1]), _any(0, 1, 3), _POINTER, _POINTER),
    287: (st.sampled_from([3, 11, -1]), _POINTER),
    290: (_NUMBER, st.sampled_from([0x800, 0x80801, 1 << 20])),
    291: (_any(0, 0x80000),),
    292: (_FD, st.sampled_from([19, 20, 1000, 1 << 31, _U64]), _any(0, 0x80000)),
    293: (st.sampled_from(_NOWHERE), _any(0, 0x80000, 0x800)),
    295: (_FD, _POINTER, _any(0, 1, 2, 1025), _OFFSET, _ZERO),
    302: (_ZERO, _any(0, 3, 7, 15, 16), _ZERO, _POINTER),
    316: (_DIR, _PATH.filter(lambda place: place != _TEXTS + 700), _DIR, st.sampled_from([_TEXTS + 256, _TEXTS + 2048, 0]), st.sampled_from([0, 1])),
    318: (_POINTER, _any(0, 1, 16), _any(0, 1, 2, 4, 6)),
    319: (_PATH, st.sampled_from([0, 1, 2, 1 << 20])),
    326: (_FD, _POINTER, _FD, _POINTER, _any(0, 1, 16), _any(0, 1)),
    327: (_FD, _POINTER, _any(0, 1, 2, 1025), _OFFSET, _ZERO, _ZERO),
    332: (_DIR, _PATH.filter(bool), _any(0, 0x100, 0x1000, 0x2000), _any(0x7FF, 0xFFF), _POINTER),
    436: (st.sampled_from([30, 40, 1 << 31]), st.sampled_from([35, 29, _U64]), st.sampled_from([0, 4, 1 << 20])),
    437: (_DIR, _PATH, _POINTER, _any(0, 8, 23, 24, 32, 4096, 4097)),
    439: (_DIR, _PATH, _any(0, 1, 4), _any(0, 0x100, 0x200, 0x1000)),
}  # fmt: skip
"""By number, what each argument may be. Left out: what would wait, end the program, or reach others."""


@st.composite
def _one(draw: st.DrawFn) -> tuple[int, ...]:
    number = draw(st.sampled_from(sorted(_CALLS_KNOWN)))
    words = [draw(argument) & _U64 for argument in _CALLS_KNOWN[number]]
    return (number, *words, *[0] * (6 - len(words)))


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("wild") / "calls"
    source = Path(__file__).parent / "wild" / "calls.c"
    subprocess.run(["gcc", "-O1", "-w", "-static", "-o", str(program), str(source)], check=True)
    return program


def _said(words: list[str], raw: bytes, folder: Path) -> list[str]:
    folder.mkdir()
    done = subprocess.run(
        words, cwd=folder, input=raw, capture_output=True, timeout=120, env={**os.environ, "EMU_STRICT": "1"}
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout.decode().splitlines()


def _alike(number: int, native: str, emu: str) -> bool:
    """Whether two results are one: of a call that tells what is the machine's own, whether it succeeded."""
    return (
        native == emu
        or number in _OWN
        and not native.endswith("E")
        and native.split()[1:2] != ["-1"] != emu.split()[1:2]
    )


_OWN = {78, 217, 79, 291, 290, 319, 53, 41, 293}
"""getdents, getcwd, and calls that make descriptors."""


@settings(
    max_examples=_EXAMPLES, derandomize=_EXAMPLES == 3, deadline=None, suppress_health_check=list(HealthCheck)
)
@given(calls=st.lists(_one(), min_size=_CALLS, max_size=_CALLS))
def test_wild_arguments_get_what_linux_says(
    calls: list[tuple[int, ...]], caller: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    raw = b"".join(struct.pack("<7Q", *call) for call in calls)
    folder = tmp_path_factory.mktemp("run")
    native = _said([str(caller)], raw, folder / "native")
    emu = _said([sys.executable, "-m", "emu", "-q", "run", str(caller)], raw, folder / "emu")
    assert len(native) == len(emu) == len(calls)
    different = [
        ([hex(word) for word in call], expected, found)
        for call, expected, found in zip(calls, native, emu, strict=True)
        if not _alike(call[0], expected, found)
    ]
    assert len(different) <= len(calls) // 100, different  # kernels differ among themselves
