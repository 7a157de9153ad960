"""The dynamic symbol table, with the strings, versions and hash tables that belong to it.

All of it is copied to the host once, in bulk: a start-up does tens of thousands of look-ups in tables that
never change.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from emu.core.errors import ElfError
from emu.core.record import NamedTuple
from emu.elf import constants as c
from emu.elf.hash import GnuHash, SysvHash, table_size
from emu.elf.header import file_backed_end
from emu.elf.image import read_some
from emu.elf.strtab import StringTable
from emu.elf.symbol_fields import SymbolFields

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.elf.dynamic import Dynamic
    from emu.elf.header import Phdr
    from emu.elf.image import Image

_SYM = struct.Struct("<IBBHQQ")
_M64 = (1 << 64) - 1
_BEHIND = 1 << 22
"""The most bytes of a table that are read where it passes the end of its segment's part of the file."""
_MORE = 1 << 12
"""Symbols behind the last one that a hash table knows which may still be symbols."""


class _NamedSymbol(NamedTuple):
    name: bytes
    value: int
    size: int
    info: int
    other: int
    shndx: int


class _SymbolEntry(NamedTuple):
    name: int
    info: int
    other: int
    shndx: int
    value: int
    size: int


class ElfSymbol(_NamedSymbol, SymbolFields):
    """One symbol; `value` is a link-time address, an offset in the TLS block for
    STT_TLS, or absolute for SHN_ABS.
    """

    __slots__ = ()


class Entry(_SymbolEntry, SymbolFields):
    """One Elf64_Sym as it stands: `name` is an offset in the string table,
    the others are st_info to st_size.
    """

    __slots__ = ()


class SymbolTable:
    """The .dynsym of one object.

    Attributes: `data` (the raw entries, 24 bytes each), `count`, `strings`, `versym` (native 16-bit words,
    one a symbol, or None), `gnu_hash` and `sysv_hash` (or None). An object without DT_SYMTAB has an empty
    table.

    `count` is exact when a hash table tells it; an object whose GNU hash table indexes no symbol gets an
    upper bound, so that every relocation's symbol index is inside, and entries past the true end may be seen.

    What lies behind a table is read when it is asked for, since ld.so knows of no ends. Tables that
    contradict each other are taken as they are.
    Source: gABI chapter 4 "Symbol Table", chapter 5 "Hash Table"; LSB "Symbol Versioning".
    """

    __slots__ = (
        "_at", "_image", "_versions_at", "count", "data", "gnu_hash", "name", "room", "strings", "sysv_hash", "versym",
    )  # fmt: skip

    def __init__(self, image: Image, phdrs: list[Phdr], dynamic: Dynamic, name: str) -> None:
        self.name = name
        self.strings = _strings(image, phdrs, dynamic, name)
        self.gnu_hash: GnuHash | None = None
        self.sysv_hash: SysvHash | None = None
        self.versym: memoryview | None = None
        self.data = b""
        self.count = self.room = 0
        self._image = image
        self._hashes(image, phdrs, dynamic)
        self._at = symtab = dynamic.get(c.DT_SYMTAB)
        self._versions_at = versym = dynamic.get(c.DT_VERSYM)
        if symtab is None:
            return
        count = self._known_count()
        # Without a hash table nobody can look a symbol up, but relocations still name symbols by index.
        room = (dynamic.table_end(phdrs, symtab) - symtab) // c.SYM_SIZE
        if count is not None and count > room:
            room = min(count, max(file_backed_end(phdrs, symtab) - symtab, _BEHIND) // c.SYM_SIZE)
        self.count = room if count is None else min(count, room)
        if versym is not None and count is None:
            # The version table may be the shorter bound of the two.
            self.count = min(self.count, (dynamic.table_end(phdrs, versym) - versym) // 2)
        # A hash table may know of too few: relocations name the others all the same.
        self.room = max(self.count, min(room, self.count + _MORE)) if count is not None else self.count
        data = read_some(image, symtab, self.room * c.SYM_SIZE)
        self.room = len(data) // c.SYM_SIZE
        self.count = min(self.count, self.room)
        self.data = data[: self.room * c.SYM_SIZE]
        if versym is not None:
            words = read_some(image, versym, self.room * 2)
            self.versym = memoryview(words.ljust(self.room * 2, b"\xff")).cast("H")

    def _hashes(self, image: Image, phdrs: list[Phdr], dynamic: Dynamic) -> None:
        """Read the hash tables; one without buckets hides the object from every
        look-up, DT_GNU_HASH goes first.
        """
        gnu, sysv = dynamic.get(c.DT_GNU_HASH), dynamic.get(c.DT_HASH)
        if gnu is not None:
            rest = file_backed_end(phdrs, gnu) - gnu + _BEHIND
            data = _open_table(image, phdrs, dynamic, gnu, gnu=True)
            found = GnuHash(data, self.name, lambda: read_some(image, gnu, rest))
            if not found.nbuckets:
                return
            self.gnu_hash = found
        if sysv is not None:
            chained = SysvHash(_open_table(image, phdrs, dynamic, sysv, gnu=False), self.name)
            self.sysv_hash = chained if chained.nbuckets else None

    def _known_count(self) -> int | None:
        """Return what the table that look-ups use says.

        DT_HASH is looked at where the other one indexes nothing.
        """
        count = self.gnu_hash.symbol_count() if self.gnu_hash is not None else None
        return self.sysv_hash.nchain if count is None and self.sysv_hash is not None else count

    def __len__(self) -> int:
        return self.count

    def entry(self, index: int) -> Entry:
        """Return the entry of symbol `index`, or what lies there.

        Raises `ElfError` for an index where nothing is.
        """
        if 0 <= index < self.room:
            return Entry._make(_SYM.unpack_from(self.data, index * c.SYM_SIZE))
        return Entry._make(_SYM.unpack(self._behind(self._at, index, c.SYM_SIZE)))

    def _behind(self, table: int | None, index: int, size: int) -> bytes:
        found = b""
        if table is not None and index >= 0:
            found = read_some(self._image, table + index * size, size)
        if len(found) < size:
            raise ElfError(self.name, f"symbol index {index} is outside the table of {self.count} symbols")
        return found

    def symbol(self, index: int) -> ElfSymbol:
        """Return symbol `index`. Raises `ElfError` for an index or a name where nothing is."""
        st_name, info, other, shndx, value, size = self.entry(index)
        return ElfSymbol(self.strings.at(st_name), value, size, info, other, shndx)

    def symbol_name(self, index: int) -> bytes:
        """Return the name of symbol `index`. Raises `ElfError` for an index or a name outside its table."""
        return self.strings.at(self.entry(index).name)

    def version_index(self, index: int) -> int:
        """Return the .gnu.version word of symbol `index` (with VERSYM_HIDDEN),
        VER_NDX_GLOBAL without a version table.
        """
        if self.versym is None:
            return c.VER_NDX_GLOBAL
        if 0 <= index < self.room:
            return self.versym[index]
        return int.from_bytes(self._behind(self._versions_at, index, 2), "little")

    def symbols(self) -> Iterator[ElfSymbol]:
        """Yield every symbol in table order, the null symbol included.

        Raises `ElfError` for a name outside the strings.
        """
        at = self.strings.at
        for st_name, info, other, shndx, value, size in _SYM.iter_unpack(
            self.data[: self.count * c.SYM_SIZE]
        ):
            yield ElfSymbol(at(st_name), value, size, info, other, shndx)


def _strings(image: Image, phdrs: list[Phdr], dynamic: Dynamic, name: str) -> StringTable:
    """Copy the strings up to the next table, or as far as DT_STRSZ says;
    ld.so knows of neither, so the rest is read when it is asked for.
    """
    vaddr, size = dynamic.table(c.DT_STRTAB)
    end = file_backed_end(phdrs, vaddr)
    size = max(size if vaddr + size <= end else 0, dynamic.table_end(phdrs, vaddr) - vaddr)
    data = image.read(vaddr, size) if size else b""
    has_table = dynamic.get(c.DT_STRTAB) is not None
    beyond = lambda offset, size: read_some(image, vaddr + offset & _M64, size)  # noqa: E731
    return StringTable(data, name, beyond if has_table else None)


def _open_table(image: Image, phdrs: list[Phdr], dynamic: Dynamic, vaddr: int, *, gnu: bool) -> bytes:
    """Read a hash table up to where it must have ended, or as far as it says, if that is there."""
    size = dynamic.table_end(phdrs, vaddr) - vaddr
    said = table_size(read_some(image, vaddr, 16), gnu=gnu)
    if said > size:
        size = max(file_backed_end(phdrs, vaddr) - vaddr, min(said, _BEHIND))
    return read_some(image, vaddr, size)
