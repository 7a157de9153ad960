"""The dynamic section: what an object asks of the dynamic linker.

Every d_ptr is kept as the link-time address that the file holds; nothing is relocated here. Offsets of names are offsets into
the string table.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from emu.core.errors import ElfError, UnsupportedError
from emu.elf import constants as c
from emu.elf.header import file_backed_end

if TYPE_CHECKING:
    from emu.elf.header import Phdr

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

_FIXED = (
    (c.DT_RELAENT, c.RELA_SIZE, "DT_RELAENT"),
    (c.DT_SYMENT, c.SYM_SIZE, "DT_SYMENT"),
    (c.DT_RELRENT, c.RELR_SIZE, "DT_RELRENT"),
    (c.DT_PLTREL, c.DT_RELA, "DT_PLTREL"),
)

_SIZED = (
    (c.DT_RELA, c.DT_RELASZ, c.RELA_SIZE, "DT_RELASZ"),
    (c.DT_JMPREL, c.DT_PLTRELSZ, c.RELA_SIZE, "DT_PLTRELSZ"),
    (c.DT_RELR, c.DT_RELRSZ, c.RELR_SIZE, "DT_RELRSZ"),
    (c.DT_INIT_ARRAY, c.DT_INIT_ARRAYSZ, 8, "DT_INIT_ARRAYSZ"),
    (c.DT_FINI_ARRAY, c.DT_FINI_ARRAYSZ, 8, "DT_FINI_ARRAYSZ"),
    (c.DT_PREINIT_ARRAY, c.DT_PREINIT_ARRAYSZ, 8, "DT_PREINIT_ARRAYSZ"),
    (c.DT_STRTAB, c.DT_STRSZ, 1, "DT_STRSZ"),
)
_NEED_STRINGS = (c.DT_NEEDED, c.DT_SONAME, c.DT_RPATH, c.DT_RUNPATH, c.DT_AUXILIARY, c.DT_FILTER, c.DT_SYMTAB)
_NEED_SYMBOLS = (c.DT_HASH, c.DT_GNU_HASH, c.DT_VERSYM)


class Dynamic:
    """The entries of one PT_DYNAMIC, up to its DT_NULL.

    Attributes: `entries` is every (tag, value) in order, `needed`, `auxiliary` and `filter` hold string table offsets in order;
    `flags` is DT_FLAGS with the older DT_SYMBOLIC, DT_TEXTREL and DT_BIND_NOW folded in as ld.so does; `flags_1` is DT_FLAGS_1.
    `soname`, `rpath` and `runpath` are string table offsets or None. Sizes are bytes.

    Raises `ElfError` for a section without end, a wrong entry size, a table without its size (and the reverse), or a table
    that is needed and not there; `UnsupportedError` for DT_REL, which x86-64 does not have.
    Source: gABI chapter 5 "Dynamic Section"; glibc elf/get-dynamic-info.h:elf_get_dynamic_info.
    Differs: where glibc ends in an assertion failure, or uses what is not there, this is an error that names the tag.
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

    def __init__(self, data: bytes, name: str) -> None:
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
        self._check()

    def get(self, tag: int) -> int | None:
        """Return the value of `tag`, the last one when it occurs more than once (as in glibc's l_info), or None."""
        return self._last.get(tag)

    def all(self, tag: int) -> list[int]:
        """Return every value of `tag` in order."""
        return [value for entry_tag, value in self.entries if entry_tag == tag] if tag in self._last else []

    def table(self, tag: int) -> tuple[int, int]:
        """Return (link-time address, size in bytes) of a table whose size has a tag of its own; (0, 0) when it is absent.

        `tag` is DT_RELA, DT_JMPREL, DT_RELR, DT_INIT_ARRAY, DT_FINI_ARRAY, DT_PREINIT_ARRAY or DT_STRTAB.
        """
        return self._last.get(tag, 0), self._last.get(_SIZE_TAG[tag], 0)

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

        The sizes of the symbol, version and hash tables are not in the dynamic section. A linker lays tables out without
        overlap, so the next table's start, or else the end of the segment's file content, is an upper bound.
        """
        end = file_backed_end(phdrs, vaddr)
        last = self._last
        for tag in _TABLES:
            start = last.get(tag)
            if start is not None and vaddr < start < end:
                end = start
        return end

    def _check(self) -> None:
        last, name = self._last, self.name
        if c.DT_REL in last:
            raise UnsupportedError("DT_REL relocations", name, "x86-64 uses DT_RELA only")
        for tag, expected, text in _FIXED:
            if last.get(tag, expected) != expected:
                raise ElfError(name, f"{text} is {last[tag]}, not {expected}")
        for tag, size_tag, unit, text in _SIZED:
            size = last.get(size_tag)
            if size is None and tag in last:
                raise ElfError(name, f"dynamic section has a table without its {text}")
            if size and tag not in last:
                raise ElfError(name, f"dynamic section has {text} {size} without the table")
            if size and size % unit:
                raise ElfError(name, f"{text} {size} is not a multiple of {unit}")
        if c.DT_STRTAB not in last and any(tag in last for tag in _NEED_STRINGS):
            raise ElfError(name, "dynamic section has no DT_STRTAB")
        if c.DT_SYMTAB not in last and any(tag in last for tag in _NEED_SYMBOLS):
            raise ElfError(name, "dynamic section has no DT_SYMTAB")


_SIZE_TAG = {tag: size_tag for tag, size_tag, _, _ in _SIZED}


def _entries(data: bytes, name: str) -> list[tuple[int, int]]:
    entries: list[tuple[int, int]] = []
    for entry in _DYN.iter_unpack(data[: len(data) - len(data) % c.DYN_SIZE]):
        if entry[0] == c.DT_NULL:
            return entries
        entries.append(entry)
    raise ElfError(name, "dynamic section has no DT_NULL at its end")
