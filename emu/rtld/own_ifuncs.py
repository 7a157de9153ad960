"""Which relocations wait for an object's own IFUNC resolvers:
a resolver may use whatever another relocation fills in.

Seen in 2.44's ld.so: entries without a symbol (IRELATIVE), and those whose symbol is an IFUNC in the object's
own table, wherever it is bound in the end; a PLT slot that is left to its first call does not wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.elf import constants as c
from emu.elf.relocations import iter_rela

if TYPE_CHECKING:
    from emu.elf.symtab import SymbolTable


def split(table: bytes, symtab: SymbolTable, *, lazy: bool) -> tuple[bytes, bytes]:
    """Return the entries of a table that come now, and those that wait, each in table order.

    Raises ElfError for a symbol outside of its table, or where the table is no whole number of entries.
    """
    now, later = bytearray(), bytearray()
    for number, (_, info, _) in enumerate(iter_rela(table, symtab.name)):
        kind, symbol = info & 0xFFFFFFFF, info >> 32
        waits = kind == c.R_X86_64_IRELATIVE
        if symbol and not (lazy and kind == c.R_X86_64_JUMP_SLOT):
            _, st_info, _, shndx, _, _ = symtab.entry(symbol)
            waits = waits or (st_info & 15 == c.STT_GNU_IFUNC and shndx != c.SHN_UNDEF)
        (later if waits else now).extend(table[number * c.RELA_SIZE : (number + 1) * c.RELA_SIZE])
    return bytes(now), bytes(later)
