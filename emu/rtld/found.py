"""What a reference binds to: one symbol of one object, and the address that it amounts to.

Source: psABI 4.4.1 (S, Z); glibc elf/dl-lookup.c: struct sym_val, include/ldsodefs.h: SYMBOL_ADDRESS.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from emu.core.record import NamedTuple
from emu.elf import constants as c
from emu.elf.symbol_fields import SymbolFields

if TYPE_CHECKING:
    from emu.rtld.link_map import LinkMap

_SYM = struct.Struct("<IBBHQQ").unpack_from
_M64 = (1 << 64) - 1


class _FoundSymbol(NamedTuple):
    map: LinkMap
    number: int
    info: int
    other: int
    shndx: int
    value: int
    size: int


class Found(_FoundSymbol, SymbolFields):
    """Symbol number `number` of an object, with the fields of its entry;
    number 0 stands for the object itself.

    `value` is st_value as it stands, an offset in the TLS block for STT_TLS; `size` is psABI's Z, `address`
    its S.
    """

    __slots__ = ()

    @property
    def address(self) -> int:
        """The run-time address. What is absolute (SHN_ABS) does not move with its object."""
        return self.value if self.shndx == c.SHN_ABS else self.value + self.map.addr & _M64

    @property
    def is_ifunc(self) -> bool:
        """Whether the address is that of a resolver, which returns the function's."""
        return self.info & 15 == c.STT_GNU_IFUNC and self.shndx != c.SHN_UNDEF

    @property
    def name(self) -> bytes:
        """The symbol's name."""
        return self.map.symtab.symbol_name(self.number)


def symbol_of(map_: LinkMap, number: int) -> Found:
    """Return symbol number `number` of an object.

    One without a table has null symbols. Raises ElfError for a number behind which nothing lies.
    """
    table = map_.symtab
    if not table.count:
        return Found(map_, 0, 0, 0, 0, 0, 0)
    if number >= table.room:
        return Found(map_, number, *table.entry(number)[1:])
    _, info, other, shndx, value, size = _SYM(table.data, number * 24)
    return Found(map_, number, info, other, shndx, value, size)
