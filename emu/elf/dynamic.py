"""The dynamic section: what an object asks of the dynamic linker.

Every d_ptr is kept as the link-time address that the file holds; nothing is relocated here. Offsets of names
are offsets into the string table.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from emu.core.errors import ElfError, Inconsistency
from emu.elf import constants as c
from emu.elf.header import file_backed_end
from emu.elf.image import read_some

if TYPE_CHECKING:
    from emu.elf.header import Phdr
    from emu.elf.image import Image

_DYN = struct.Struct("<qQ")

_TABLES = (
    c.DT_HASH,
    c.DT_STRTAB,
    c.DT_SYMTAB,
    c.DT_RELA,
    c.DT_JMPREL,
    c.DT_RELR,
    c.DT_GNU_HASH,
    c.DT_VERSYM,
    c.DT_VERDEF,
    c.DT_VERNEED,
    c.DT_INIT,
    c.DT_FINI,
    c.DT_PLTGOT,
    c.DT_INIT_ARRAY,
    c.DT_FINI_ARRAY,
    c.DT_PREINIT_ARRAY,
)
"""Tags whose values are addresses of tables or code: where one starts, the table before it has ended."""

_FILE, _FUNCTION = "get-dynamic-info.h", "elf_get_dynamic_info"
_ASSERTED = (
    (c.DT_PLTREL, c.DT_PLTREL, c.DT_RELA, 115, "info[DT_PLTREL]->d_un.d_val == DT_RELA"),
    (c.DT_RELA, c.DT_RELAENT, c.RELA_SIZE, 123, "info[DT_RELAENT]->d_un.d_val == sizeof (ElfW(Rela))"),
    (c.DT_RELR, c.DT_RELRENT, c.RELR_SIZE, 130, "info[DT_RELRENT]->d_un.d_val == sizeof (ElfW(Relr))"),
)
"""What ld.so asserts: where the first tag is there, the second one has this value.

Line and words are 2.36's.
"""

_SIZED = (
    (c.DT_RELA, c.DT_RELASZ, c.RELA_SIZE, "DT_RELASZ"),
    (c.DT_JMPREL, c.DT_PLTRELSZ, c.RELA_SIZE, "DT_PLTRELSZ"),
    (c.DT_RELR, c.DT_RELRSZ, c.RELR_SIZE, "DT_RELRSZ"),
)
"""Tables that ld.so goes over by entries: a last one that is not whole counts."""

_ARRAYS = (
    (c.DT_INIT_ARRAY, c.DT_INIT_ARRAYSZ, "DT_INIT_ARRAYSZ"),
    (c.DT_FINI_ARRAY, c.DT_FINI_ARRAYSZ, "DT_FINI_ARRAYSZ"),
    (c.DT_PREINIT_ARRAY, c.DT_PREINIT_ARRAYSZ, ""),
)
"""Tables of which it takes whole entries only; a preinit array without its size is none."""
_NEED_STRINGS = (c.DT_NEEDED, c.DT_SONAME, c.DT_RPATH, c.DT_RUNPATH, c.DT_AUXILIARY, c.DT_FILTER, c.DT_SYMTAB)


_LIMIT = 1 << 20
_AT_ONCE = 32 * c.DYN_SIZE


def read_dynamic(image: Image, vaddr: int, name: str) -> bytes:
    """Return the dynamic section at an address up to its DT_NULL: that ends it for
    ld.so, and not the size of its segment.

    Raises `ElfError` where it has no end inside the object.
    """
    found, missing = b"", False
    while len(found) < _LIMIT and not missing:
        more = read_some(image, vaddr + len(found), _AT_ONCE)
        for at in range(0, len(more) - c.DYN_SIZE + 1, c.DYN_SIZE):
            if not any(more[at : at + 8]):
                return found + more[: at + c.DYN_SIZE]
        found, missing = found + more, len(more) < _AT_ONCE
    raise ElfError(name, "dynamic section has no DT_NULL at its end")


class Dynamic:
    """The entries of one PT_DYNAMIC, up to its DT_NULL.

    Attributes: `entries` is every (tag, value) in order, `needed`, `auxiliary` and `filter` hold string table
    offsets in order; `flags` is DT_FLAGS with the older DT_SYMBOLIC, DT_TEXTREL and DT_BIND_NOW folded in as
    ld.so does; `flags_1` is DT_FLAGS_1. `soname`, `rpath` and `runpath` are string table offsets or None.
    Sizes are bytes.

    What ld.so does not look at counts for nothing here: DT_STRSZ, DT_SYMENT, DT_REL, sizes without a table.
    `is_program` tells whose words an assertion has: those of the program differ.

    Raises `ElfError` for a section without end, or a table that is needed and not there (ld.so dies of a null
    pointer then), `Inconsistency` where ld.so has an assertion.
    Source: gABI chapter 5 "Dynamic Section"; glibc elf/get-dynamic-info.h:elf_get_dynamic_info,
    elf/dynamic-link.h, elf/dl-init.c.
    """

    __slots__ = (
        "_last",
        "auxiliary",
        "entries",
        "filter",
        "flags",
        "flags_1",
        "name",
        "needed",
        "rpath",
        "runpath",
        "soname",
    )

    def __init__(self, data: bytes, name: str, *, is_program: bool = False) -> None:
        self.name = name
        self.entries = _entries(data, name)
        self._last = dict(self.entries)
        self.needed = self.all(c.DT_NEEDED)
        self.auxiliary = self.all(c.DT_AUXILIARY)
        self.filter = self.all(c.DT_FILTER)
        last = self._last
        self.soname = last.get(c.DT_SONAME)
        self.rpath = last.get(c.DT_RPATH)
        self.runpath = last.get(c.DT_RUNPATH)
        self.flags_1 = last.get(c.DT_FLAGS_1, 0)
        self.flags = last.get(c.DT_FLAGS, 0)
        if c.DT_SYMBOLIC in last:
            self.flags |= c.DF_SYMBOLIC
        if c.DT_TEXTREL in last:
            self.flags |= c.DF_TEXTREL
        if c.DT_BIND_NOW in last:
            self.flags |= c.DF_BIND_NOW
        self._check(is_program)

    def get(self, tag: int) -> int | None:
        """Return the value of `tag`, the last one when it occurs more than once (as
        in glibc's l_info), or None.
        """
        return self._last.get(tag)

    def all(self, tag: int) -> list[int]:
        """Return every value of `tag` in order."""
        return [value for entry_tag, value in self.entries if entry_tag == tag] if tag in self._last else []

    def table(self, tag: int) -> tuple[int, int]:
        """Return (link-time address, size in bytes) of a table whose size has a tag of its own;
        (0, 0) when it is absent.

        `tag` is DT_RELA, DT_JMPREL, DT_RELR, DT_INIT_ARRAY, DT_FINI_ARRAY, DT_PREINIT_ARRAY or DT_STRTAB. The
        size is one of whole entries. DT_RELA of 0 is no table, and without DT_PLTREL neither is DT_JMPREL.
        Raises `ElfError` for a table without its size, where ld.so follows a null pointer.
        """
        last = self._last
        vaddr = last.get(tag, 0)
        size = last.get(_SIZE_TAG[tag], 0)
        if tag == c.DT_JMPREL and c.DT_PLTREL in last and tag not in last:
            raise ElfError(self.name, "dynamic section has DT_PLTREL without DT_JMPREL")
        if (
            tag not in last
            or tag == c.DT_RELA
            and not vaddr
            or tag == c.DT_JMPREL
            and c.DT_PLTREL not in last
        ):
            return 0, 0
        if _SIZE_TAG[tag] not in last and tag in _NEED_SIZE:
            raise ElfError(self.name, f"dynamic section has a table without its {_NEED_SIZE[tag]}")
        unit, whole = _UNITS[tag]
        if tag in _COUNTED:
            size = (size // unit & _M32) * unit
        return vaddr, size // unit * unit if whole else -(-size // unit) * unit

    @property
    def is_pie(self) -> bool:
        """Whether this is a position-independent executable, which ld.so refuses to load as a DSO."""
        return bool(self.flags_1 & c.DF_1_PIE)

    @property
    def bind_now(self) -> bool:
        """Whether the object itself asks that its JUMP_SLOT relocations be bound when it is loaded."""
        return bool(self.flags & c.DF_BIND_NOW or self.flags_1 & c.DF_1_NOW)

    def table_end(self, phdrs: list[Phdr], vaddr: int) -> int:
        """Return a link-time address that the table at `vaddr` cannot pass.

        The sizes of the symbol, version and hash tables are not in the dynamic section. A linker lays tables
        out without overlap, so the next table's start, or else the end of the segment's file content, is an
        upper bound.
        """
        end = file_backed_end(phdrs, vaddr)
        last = self._last
        for tag in _TABLES:
            start = last.get(tag)
            if start is not None and vaddr < start < end:
                end = start
        return end

    def _check(self, is_program: bool) -> None:
        last, name = self._last, self.name
        for tag, entry, value, line, text in _ASSERTED:
            if tag in last and entry not in last:
                raise ElfError(name, f"dynamic section has tag {tag} without tag {entry}")
            if tag in last and last[entry] != value:
                raise Inconsistency("./" * is_program + _FILE, line, _FUNCTION, text)
        if c.DT_STRTAB not in last and any(tag in last for tag in _NEED_STRINGS):
            raise ElfError(name, "dynamic section has no DT_STRTAB")


_COUNTED = frozenset(tag for tag, *_ in _ARRAYS)
"""Tables whose entries ld.so counts in 32 bits."""
_M32 = (1 << 32) - 1
_SIZE_TAG = {tag: size_tag for tag, size_tag, *_ in (*_SIZED, *_ARRAYS)} | {c.DT_STRTAB: c.DT_STRSZ}
_NEED_SIZE = {tag: text for tag, *_, text in (*_SIZED, *_ARRAYS) if text}
_UNITS = (
    {tag: (unit, False) for tag, _, unit, _ in _SIZED}
    | {tag: (8, True) for tag, *_ in _ARRAYS}
    | {c.DT_STRTAB: (1, True)}
)


def _entries(data: bytes, name: str) -> list[tuple[int, int]]:
    entries: list[tuple[int, int]] = []
    for entry in _DYN.iter_unpack(data[: len(data) - len(data) % c.DYN_SIZE]):
        if entry[0] == c.DT_NULL:
            return entries
        entries.append(entry)
    raise ElfError(name, "dynamic section has no DT_NULL at its end")
