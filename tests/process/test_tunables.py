"""Numbers in tunables are read as ld.so reads them."""

from __future__ import annotations

import pytest

from emu.glibc.tunables import strtoul


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("17", 17),
        ("017", 15),
        ("0x1F", 31),
        ("0xg", 0),
        (" \t12 apples", 12),
        ("089", 0),
        ("+3", 3),
        ("-1", (1 << 64) - 1),
        ("many", 0),
        ("", 0),
        ("\n5", 0),
        ("99999999999999999999999", (1 << 64) - 1),
    ],
)
def test_numbers(text: str, number: int) -> None:
    assert strtoul(text) == number
