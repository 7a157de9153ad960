"""What LD_ASSUME_KERNEL says, and what an ABI tag asks for, as 2.31's ld.so takes them."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, cast

import pytest

from emu.core.errors import LoaderError
from emu.elf.header import ForeignObjectError
from emu.elf.notes import wanted_system
from emu.rtld.kernel_asked import check_kernel, known_kernel

if TYPE_CHECKING:
    from emu.core.files import Backing

_SEEN_IN_2_31 = {
    "3": 0x030000, "3.1": 0x030100, "3.2.0x": 0x030200, "0x3.1": 0x030100, "03.010": 0x030800, "3.1.254": 0x0301FE,
    " 3.1": 0x030100, "+3.1": 0x030100, "3.1.2.": 0x030102, "3.2.0.1": 0x030200,
    "0x7.0": 0x060100, "300.1": 0x060100, "3.300": 0x060100, "3.2-foo": 0x060100, "3.1.255": 0x060100, "-3.1": 0x060100,
    "\t3.1": 0x030100, "\n3.1": 0x060100, "\v3.1": 0x060100, "-0.3": 0x000300, "3.-0": 0x030000, "3.1.-0": 0x030100,
    "0x.3": 0x000300, "9" * 5000: 0x060100, "0" * 5000 + "3.1": 0x030100, "0x" + "f" * 16: 0x060100,
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


class _File:
    """An object with one PT_NOTE, and behind its headers a tag for Linux 9."""

    def __init__(self, offset: int, size: int, align: int) -> None:
        ident = b"\x7fELF\2\1\1" + bytes(9)
        ehdr = ident + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 1, 64, 0, 0)
        phdr = struct.pack("<IIQQQQQQ", 4, 4, offset, 0, 0, size, size, align)
        self._data = ehdr + phdr + _note(1, 0, 9, 0, 0)

    def size(self) -> int:
        return len(self._data)

    def pread(self, size: int, offset: int) -> bytes:
        assert size < 1 << 20 and offset < 1 << 63
        return self._data[offset : offset + size]


@pytest.mark.parametrize(
    ("where", "outcome", "code"),
    [
        ((120, 32, 4), "asks for Linux 9.0.0", 0),
        ((120, 32, 8), "asks for Linux 9.0.0", 0),
        ((120, 32, 16), "", 0),
        ((120, 31, 4), "", 0),
        ((120, 33, 4), "cannot read file data", 0),
        ((1 << 20, 64, 4), "cannot read file data", 0),
        ((120, 1 << 20, 4), "cannot read file data", 0),
        ((2**64 - 4096, 64, 4), "cannot read file data", errno.EINVAL),
        ((120, 1 << 63, 4), "cannot read file data", errno.ENOMEM),
        ((2**63 - 1, 1 << 63, 4), "cannot read file data", errno.ENOMEM),
    ],
)
def test_notes_that_lie_nowhere_are_refused_in_ld_so_s_words(
    where: tuple[int, int, int], outcome: str, code: int
) -> None:
    """What 2.31 did with a library whose segment says so."""
    file, newest = cast("Backing", _File(*where)), known_kernel("6.1.0", "")
    if not outcome:
        check_kernel(file, "./l.so", newest)
        return
    with pytest.raises((ForeignObjectError, LoaderError), match=outcome) as refused:
        check_kernel(file, "./l.so", newest)
    assert getattr(refused.value, "errno", 0) == code
