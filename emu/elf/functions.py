"""The functions of a symbol table, by address: one name for each."""

from __future__ import annotations

import struct
from bisect import bisect_right
from typing import TYPE_CHECKING

from emu.core.record import NamedTuple
from emu.elf import constants as c

if TYPE_CHECKING:
    from emu.elf.strtab import StringTable

_SYM = struct.Struct("<IBBHQQ")
FUNCTION_TYPES = (c.STT_FUNC, c.STT_GNU_IFUNC)
BIND_RANK = {c.STB_GLOBAL: 0, c.STB_GNU_UNIQUE: 0, c.STB_WEAK: 1, c.STB_LOCAL: 2}
"""Of several names for one address the one that others can see."""


class DebugFunction(NamedTuple):
    """A function written in assembly may have no size:
    `end` is then its section's, and the next one may come before.
    """

    start: int
    end: int
    name: str
    sized: bool = True


def find_function(functions: list[DebugFunction], vaddr: int) -> DebugFunction | None:
    """Return the function at an address, from what `read_functions` gave."""
    at = bisect_right(functions, (vaddr, 1 << 64)) - 1
    if at < 0 or vaddr >= functions[at].end:
        return None
    return functions[at]


def read_functions(data: bytes, strings: StringTable, ends: list[int]) -> list[DebugFunction]:
    """Return the functions of a symbol table by address, one for each;
    `ends` are the ends of the sections by number, for those without a size.
    """
    best: dict[int, tuple[tuple[bool, bool, int, int, int], DebugFunction]] = {}
    for st_name, info, _, shndx, value, size in _SYM.iter_unpack(
        data[: len(data) // c.SYM_SIZE * c.SYM_SIZE]
    ):
        if info & 0xF not in FUNCTION_TYPES or shndx == c.SHN_UNDEF:
            continue
        # GNU ld appends @VERSION or @@VERSION to names in .symtab.
        name = strings.at(st_name).partition(b"@")[0].decode("utf-8", "backslashreplace")
        underscores = 0 if name.startswith("_Z") else len(name) - len(name.lstrip("_"))
        resolves = (
            info & 0xF == c.STT_GNU_IFUNC
        )  # of a resolver's names its own is the function's, the other what it resolves
        rank = (size == 0, resolves, BIND_RANK.get(info >> 4, 3), underscores, len(name))
        known = best.get(value)
        if known is None or rank < known[0]:
            end = value + size if size else ends[shndx] if shndx < len(ends) else value + 1
            best[value] = rank, DebugFunction(value, end, name, bool(size))
    return [best[value][1] for value in sorted(best)]
