"""What LD_ASSUME_KERNEL says, and what an ABI tag asks for, as 2.31's ld.so takes them."""

from __future__ import annotations

import struct

import pytest

from emu.elf.notes import wanted_system
from emu.rtld.kernel_asked import known_kernel

_SEEN_IN_2_31 = {
    "3": 0x030000, "3.1": 0x030100, "3.2.0x": 0x030200, "0x3.1": 0x030100, "03.010": 0x030800, "3.1.254": 0x0301FE,
    " 3.1": 0x030100, "+3.1": 0x030100, "3.1.2.": 0x030102, "3.2.0.1": 0x030200,
    "0x7.0": 0x060100, "300.1": 0x060100, "3.300": 0x060100, "3.2-foo": 0x060100, "3.1.255": 0x060100, "-3.1": 0x060100,
    "3.": 0x060100, "3..2": 0x060100, ".3.2": 0x060100, "3.1.": 0x060100, "": 0x060100, "99": 0x060100, "x": 0x060100,
}  # fmt: skip


@pytest.mark.parametrize("text", _SEEN_IN_2_31)
def test_what_is_assumed(text: str) -> None:
    assert known_kernel("6.1.0", text) == _SEEN_IN_2_31[text]


def _note(kind: int, *words: int) -> bytes:
    return struct.pack(f"<III4s{len(words)}I", 4, 4 * len(words), kind, b"GNU", *words)


_TAG, _OTHER = _note(1, 0, 5, 4, 3), _note(9, 1)


@pytest.mark.parametrize(
    ("data", "version"),
    [
        (_TAG, (5, 4, 3)),
        (_OTHER + _TAG, (5, 4, 3)),
        (_note(1, 0, 9, 9, 9, 9) + _TAG, (5, 4, 3)),
        (_TAG + _note(1, 0, 9, 0, 0), (5, 4, 3)),
        (_TAG[:-1], None),
        (struct.pack("<III4s", 4, 1 << 30, 9, b"GNU") + _TAG, None),
        (b"", None),
    ],
    ids=["alone", "behind", "behind-longer", "first", "short", "past-the-end", "empty"],
)
def test_the_first_tag_counts(data: bytes, version: tuple[int, int, int] | None) -> None:
    found = wanted_system(data, 4)
    assert (found and found[1:]) == version
