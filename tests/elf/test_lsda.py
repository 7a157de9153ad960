"""Exception tables, written by hand after the C++ ABI; what real compilers write is
read in the tests of `emu check`.
"""

from __future__ import annotations

import pytest

from emu.core.errors import ElfError, MemoryFault
from emu.elf.lsda import CATCH_ALL, caught_types

_AT, _START, _TYPE = 0x1000, 0x2000, 0x4242


class Bytes:
    """Guest memory with one area."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def read(self, address: int, size: int) -> bytes:
        """Return bytes of the area."""
        start = address - _AT
        if start < 0 or start + size > len(self.content):
            raise MemoryFault(address, "read")
        return self.content[start : start + size]


def table(type_encoding: int = 0) -> bytes:
    """Two call sites: one in no try block, one with a handler for a type and one for everything behind it."""
    head = bytes([0xFF, type_encoding, 30, 0x01, 8])
    sites = bytes([0, 4, 0, 0, 4, 4, 0x10, 1])
    actions = bytes([1, 1, 2, 0])
    return head + sites + actions + CATCH_ALL.to_bytes(8, "little") + _TYPE.to_bytes(8, "little")


@pytest.mark.parametrize(
    ("pc", "expected"), [(1, []), (3, []), (4, [_TYPE, CATCH_ALL]), (7, [_TYPE, CATCH_ALL]), (8, None)]
)
def test_the_handlers_around_a_call(pc: int, expected: list[int] | None) -> None:
    assert caught_types(Bytes(table()), _AT, _START, _START + pc) == expected


def test_what_is_cut_off_or_relative_to_nothing() -> None:
    with pytest.raises(MemoryFault):
        caught_types(Bytes(table()[:10]), _AT, _START, _START + 5)
    with pytest.raises(ElfError, match="pointer encoding 0x30"):
        caught_types(Bytes(table(0x30)), _AT, _START, _START + 5)


def test_a_chain_that_turns_in_circles_ends() -> None:
    turned = bytearray(table())
    turned[14] = 0x7F  # one back: the action itself
    assert len(caught_types(Bytes(bytes(turned)), _AT, _START, _START + 5) or []) <= 4096
