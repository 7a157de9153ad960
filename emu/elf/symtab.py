"""The dynamic symbol table, with the strings, versions and hash tables that belong to it.

All of it is copied to the host once, in bulk: a start-up does tens of thousands of look-ups in tables that never change.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from emu.core.errors import ElfError
from emu.elf import constants as c
from emu.elf.hash import GnuHash, SysvHash
from emu.elf.image import read_table
from emu.elf.strtab import StringTable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.elf.dynamic import Dynamic
    from emu.elf.header import Phdr
    from emu.elf.image import Image

_SYM = struct.Struct("<IBBHQQ")


class Symbol(NamedTuple):
    """One symbol; `value` is a link-time address, an offset in the TLS block for STT_TLS, or absolute for SHN_ABS."""

    name: bytes
    value: int
    size: int
    info: int
    other: int
    shndx: int

    @property
    def bind(self) -> int:
        """STB_*: the high half of st_info."""
        return self.info >> 4

    @property
    def type(self) -> int:
        """STT_*: the low half of st_info."""
        return self.info & 0xF

    @property
    def visibility(self) -> int:
        """STV_*: the low two bits of st_other."""
        return self.other & 3

    @property
    def defined(self) -> bool:
        """Whether the object itself defines the symbol."""
        return self.shndx != c.SHN_UNDEF


class SymbolTable:
    """The .dynsym of one object.

    Attributes: `data` (the raw entries, 24 bytes each), `count`, `strings`, `versym` (native 16-bit words, one a symbol, or None),
    `gnu_hash` and `sysv_hash` (or None). An object without DT_SYMTAB has an empty table.

    `count` is exact when a hash table tells it; an object whose GNU hash table indexes no symbol gets an upper bound, so that every
    relocation's symbol index is inside, and entries past the true end may be seen.

    Raises `ElfError` when a table is outside the object's file content or contradicts another.
    Source: gABI chapter 4 "Symbol Table", chapter 5 "Hash Table"; LSB "Symbol Versioning".
    """

    __slots__ = ("count", "data", "gnu_hash", "name", "strings", "sysv_hash", "versym")

    def __init__(self, image: Image, phdrs: list[Phdr], dynamic: Dynamic, name: str) -> None:
        self.name = name
        strtab, strsz = dynamic.table(c.DT_STRTAB)
        self.strings = StringTable(read_table(image, phdrs, strtab, strsz, "DT_STRTAB", name), name)
        self.gnu_hash: GnuHash | None = None
        self.sysv_hash: SysvHash | None = None
        self.versym: memoryview | None = None
        self.data = b""
        self.count = 0
        symtab = dynamic.get(c.DT_SYMTAB)
        if symtab is None:
            return
        # Without a hash table nobody can look a symbol up, but relocations still name symbols by index.
        room = (dynamic.table_end(phdrs, symtab) - symtab) // c.SYM_SIZE
        gnu = dynamic.get(c.DT_GNU_HASH)
        if gnu is not None:
            self.gnu_hash = GnuHash(_open_table(image, phdrs, dynamic, gnu, "DT_GNU_HASH"), name)
        sysv = dynamic.get(c.DT_HASH)
        if sysv is not None:
            self.sysv_hash = SysvHash(_open_table(image, phdrs, dynamic, sysv, "DT_HASH"), name)
        count = self._known_count()
        self.count = room if count is None else count
        if self.count > room:
            raise ElfError(
                name, f"DT_SYMTAB has room for {room} symbols, the hash table indexes {self.count}"
            )
        self.data = read_table(image, phdrs, symtab, self.count * c.SYM_SIZE, "DT_SYMTAB", name)
        versym = dynamic.get(c.DT_VERSYM)
        if versym is not None:
            if count is None:
                # The version table may be the shorter bound of the two.
                self.count = min(self.count, (dynamic.table_end(phdrs, versym) - versym) // 2)
            self.versym = memoryview(
                read_table(image, phdrs, versym, self.count * 2, "DT_VERSYM", name)
            ).cast("H")

    def _known_count(self) -> int | None:
        if self.sysv_hash is not None:
            return self.sysv_hash.nchain
        if self.gnu_hash is not None:
            return self.gnu_hash.symbol_count()
        return None

    def __len__(self) -> int:
        return self.count

    def fields(self, index: int) -> tuple[int, int, int, int, int, int]:
        """Return (st_name, st_info, st_other, st_shndx, st_value, st_size) of symbol `index`, for hot loops.

        Raises `ElfError` for an index outside the table.
        """
        if not 0 <= index < self.count:
            raise ElfError(self.name, f"symbol index {index} is outside the table of {self.count} symbols")
        return _SYM.unpack_from(self.data, index * c.SYM_SIZE)

    def symbol(self, index: int) -> Symbol:
        """Return symbol `index`. Raises `ElfError` for an index or a name outside its table."""
        st_name, info, other, shndx, value, size = self.fields(index)
        return Symbol(self.strings.at(st_name), value, size, info, other, shndx)

    def symbol_name(self, index: int) -> bytes:
        """Return the name of symbol `index`. Raises `ElfError` for an index or a name outside its table."""
        return self.strings.at(self.fields(index)[0])

    def version_index(self, index: int) -> int:
        """Return the .gnu.version word of symbol `index` (with VERSYM_HIDDEN), VER_NDX_GLOBAL without a version table."""
        if self.versym is None:
            return c.VER_NDX_GLOBAL
        if not 0 <= index < self.count:
            raise ElfError(self.name, f"symbol index {index} is outside the table of {self.count} symbols")
        return int(self.versym[index])

    def symbols(self) -> Iterator[Symbol]:
        """Yield every symbol in table order, the null symbol included. Raises `ElfError` for a name outside the strings."""
        at = self.strings.at
        for st_name, info, other, shndx, value, size in _SYM.iter_unpack(
            self.data[: self.count * c.SYM_SIZE]
        ):
            yield Symbol(at(st_name), value, size, info, other, shndx)


def _open_table(image: Image, phdrs: list[Phdr], dynamic: Dynamic, vaddr: int, field: str) -> bytes:
    """Read a table that does not say its size, up to where it must have ended."""
    return read_table(image, phdrs, vaddr, dynamic.table_end(phdrs, vaddr) - vaddr, field, dynamic.name)
