"""Changing how an object is linked, in its file:
what a change of a link command would do to its dynamic section.

What is changed goes into a segment of its own behind the others: a dynamic section, strings and symbols that
are longer than before. Its program header takes the place of a note's, so nothing else moves. What is written
is valid for the native ld.so, too.

Source: gABI chapters 4 and 5; LSB "Symbol Versioning".
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emu.core.errors import ElfError
from emu.elf import constants as c
from emu.elf import encode
from emu.elf.dynamic import Dynamic, read_dynamic
from emu.elf.header import Ehdr, Phdr, parse_ehdr, parse_phdrs
from emu.elf.image import FileImage
from emu.elf.pyelf import malformed
from emu.elf.symtab import SymbolTable

if TYPE_CHECKING:
    from collections.abc import Sequence

_PHDR = struct.Struct("<IIQQQQQQ")
_DYN = struct.Struct("<qQ")
_SYM = struct.Struct("<IBBHQQ")
_GLOBAL_VERSION = 1
"""The versym of a symbol without a version."""


@dataclass(frozen=True, slots=True)
class Edit:
    """What is to be different in one object.

    - `needed`: names added to the end of its DT_NEEDED; `renamed`: (old, new) of those that are there
    - `runpath`: its DT_RUNPATH; `inherited`: its DT_RUNPATH as a DT_RPATH
    - `without_runpath`: neither of the two
    - `lazy`: linked with -z lazy: not marked BIND_NOW
    - `exported`: names of its .symtab that it exports
    - `plain_stack`: linked with -z noexecstack
    """

    needed: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    runpath: str | None = None
    inherited: bool = False
    without_runpath: bool = False
    lazy: bool = False
    exported: tuple[str, ...] = ()
    plain_stack: bool = False


def edited(data: bytes, name: str, edit: Edit) -> bytes:
    """Return the file of an object, `name` being what it is called, with the changes made.

    Raises ElfError where that cannot be done.
    """
    return _Editor(data, name).apply(edit)


class _Editor:
    """One file that is being changed."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data, self.name = data, name
        self.ehdr: Ehdr = parse_ehdr(data, name)
        self.phdrs: list[Phdr] = parse_phdrs(data, self.ehdr, name)
        at = next((phdr for phdr in reversed(self.phdrs) if phdr.type == c.PT_DYNAMIC), None)
        if at is None:
            raise ElfError(name, "object file has no dynamic section")
        image = FileImage(data, self.phdrs, name)
        section = read_dynamic(image, at.vaddr, name)
        dynamic = Dynamic(section, name)
        self.table = SymbolTable(image, self.phdrs, dynamic, name)
        self.entries = [(tag, value) for tag, value in _DYN.iter_unpack(section) if tag != c.DT_NULL]
        self.strings = bytearray(self.table.strings.data)
        self.symbols = bytearray(self.table.data)
        versym = self.table.versym
        self.versions = bytearray(versym.tobytes()) if versym is not None else None

    def apply(self, edit: Edit) -> bytes:
        """Make the changes and return the new file."""
        for old, new in edit.renamed:
            self._rename(old, new)
        self._insert([(c.DT_NEEDED, self._string(name)) for name in edit.needed])
        if edit.inherited:
            self.entries = [
                (c.DT_RPATH if tag == c.DT_RUNPATH else tag, value) for tag, value in self.entries
            ]
        if edit.runpath is not None or edit.without_runpath:
            self._drop(c.DT_RUNPATH, c.DT_RPATH)
        if edit.runpath is not None:
            self._insert([(c.DT_RUNPATH, self._string(edit.runpath))])
        if edit.lazy:
            self._drop(c.DT_BIND_NOW)
            self._clear(c.DT_FLAGS, c.DF_BIND_NOW)
            self._clear(c.DT_FLAGS_1, c.DF_1_NOW)
        if edit.plain_stack:
            self.phdrs = [
                phdr._replace(flags=phdr.flags & ~c.PF_X) if phdr.type == c.PT_GNU_STACK else phdr
                for phdr in self.phdrs
            ]
        if edit.exported:
            self._export(edit.exported)
        return self._file(bool(edit.exported))

    def _string(self, text: str) -> int:
        """Return the offset of a string, which is added."""
        offset = len(self.strings)
        self.strings += text.encode(errors="surrogateescape") + b"\0"
        return offset

    def _insert(self, entries: list[tuple[int, int]]) -> None:
        """Add entries behind the last DT_NEEDED: the order among those counts."""
        last = max((n for n, (tag, _) in enumerate(self.entries) if tag == c.DT_NEEDED), default=-1)
        self.entries[last + 1 : last + 1] = entries

    def _drop(self, *tags: int) -> None:
        self.entries = [entry for entry in self.entries if entry[0] not in tags]

    def _clear(self, which: int, bits: int) -> None:
        self.entries = [(tag, value & ~bits if tag == which else value) for tag, value in self.entries]

    def _set(self, which: int, new: int) -> None:
        self._drop(which)
        self.entries.append((which, new))

    def _rename(self, old: str, new: str) -> None:
        wanted, offset = old.encode(errors="surrogateescape"), self._string(new)
        self.entries = [
            (tag, offset if tag == c.DT_NEEDED and self.table.strings.at(value) == wanted else value)
            for tag, value in self.entries
        ]

    def _export(self, names: Sequence[str]) -> None:
        """Add symbols of .symtab to the dynamic table. Raises ElfError for one that is not there."""
        from elftools.elf.elffile import ELFFile
        from elftools.elf.sections import SymbolTableSection

        with malformed(self.name):
            section = ELFFile(io.BytesIO(self.data)).get_section_by_name(".symtab")
            for name in names:
                known = isinstance(section, SymbolTableSection) and section.get_symbol_by_name(name)
                found = known or ()
                symbol = next((one for one in found if one.entry.st_shndx != "SHN_UNDEF"), None)
                if symbol is None or isinstance(symbol.entry.st_shndx, str):
                    raise ElfError(self.name, f"its .symtab has no definition of {name}")
                entry = symbol.entry
                kind = {"STT_FUNC": c.STT_FUNC, "STT_OBJECT": c.STT_OBJECT}.get(
                    entry.st_info.type, c.STT_NOTYPE
                )
                info = c.STB_GLOBAL << 4 | kind
                self.symbols += _SYM.pack(
                    self._string(name), info, c.STV_DEFAULT, entry.st_shndx, entry.st_value, entry.st_size
                )
                if self.versions is not None:
                    self.versions += _GLOBAL_VERSION.to_bytes(2, "little")

    # -- the file --------------------------------------------------------------------------------------------

    def _file(self, symbols: bool) -> bytes:
        """Return the file with the new segment; `symbols` tells whether there are new ones."""
        loads = [phdr for phdr in self.phdrs if phdr.type == c.PT_LOAD]
        if not loads:
            raise ElfError(self.name, "object file has no loadable segments")
        vaddr = _page_up(max(phdr.vaddr + phdr.memsz for phdr in loads))
        offset = _page_up(len(self.data))
        content = bytearray()

        def place(part: bytes) -> int:
            content.extend(bytes(-len(content) % 16))
            at = vaddr + len(content)
            content.extend(part)
            return at

        self._set(c.DT_STRTAB, place(bytes(self.strings)))
        self._set(c.DT_STRSZ, len(self.strings))
        if symbols:
            self._set(c.DT_SYMTAB, place(bytes(self.symbols)))
            self._drop(c.DT_GNU_HASH)
            self._set(c.DT_HASH, place(encode.encode_sysv_hash(self._names(), 1)))
            if self.versions is not None:
                self._set(c.DT_VERSYM, place(bytes(self.versions)))
        section = b"".join(_DYN.pack(*entry) for entry in (*self.entries, (c.DT_NULL, 0)))
        dynamic = place(section)
        size = len(content)
        new = Phdr(c.PT_LOAD, c.PF_R | c.PF_W, offset, vaddr, vaddr, size, size, c.PAGE_SIZE)
        at = offset + dynamic - vaddr
        table = self._table(
            new, Phdr(c.PT_DYNAMIC, c.PF_R | c.PF_W, at, dynamic, dynamic, len(section), len(section), 8)
        )
        start = self.ehdr.phoff
        whole = self.data[:start] + table + self.data[start + len(table) :]
        return whole + bytes(offset - len(whole)) + bytes(content)

    def _names(self) -> list[bytes]:
        strings = bytes(self.strings)
        offsets = [fields[0] for fields in _SYM.iter_unpack(self.symbols)][1:]
        return [strings[offset : strings.index(b"\0", offset)] for offset in offsets]

    def _table(self, new: Phdr, dynamic: Phdr) -> bytes:
        """Return the program headers, as many as before: the new segment's comes in for a note's,
        which nothing needs to run.
        """
        phdrs = [dynamic if phdr.type == c.PT_DYNAMIC else phdr for phdr in self.phdrs]
        note = next((n for n, phdr in enumerate(phdrs) if phdr.type in (c.PT_NOTE, c.PT_GNU_PROPERTY)), None)
        if note is None:
            raise ElfError(self.name, "there is no program header to spare")
        del phdrs[note]
        last = max(n for n, phdr in enumerate(phdrs) if phdr.type == c.PT_LOAD)
        phdrs.insert(last + 1, new)
        return b"".join(_PHDR.pack(*phdr) for phdr in phdrs)


def _page_up(value: int) -> int:
    return -(-value // c.PAGE_SIZE) * c.PAGE_SIZE
