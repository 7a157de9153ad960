"""Where the parts of an `ElfBuilder` go: addresses, file offsets, the dynamic section and the headers."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from emu.core.record import NamedTuple
from emu.elf import constants as c
from emu.elf import encode
from emu.elf.eh_frame import eh_frame_hdr_size, encode_eh_frame, encode_eh_frame_hdr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.elf.builder import ElfBuilder

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_SYM = struct.Struct("<IBBHQQ")
_RELA = struct.Struct("<QQq")


class DynSymbol(NamedTuple):
    """A symbol of the dynamic table under construction, in the fields of the format."""

    name: bytes
    value: int
    size: int
    info: int
    other: int
    shndx: int
    versym: int


class Region:
    """Bytes under construction at a known link-time address."""

    __slots__ = ("content", "vaddr")

    def __init__(self, vaddr: int) -> None:
        self.vaddr = vaddr
        self.content = bytearray()

    @property
    def end(self) -> int:
        """The link-time address behind the last byte."""
        return self.vaddr + len(self.content)

    def add(self, content: bytes, align: int) -> int:
        """Append `content`, aligned; return its link-time address."""
        self.content += bytes(-self.end % align)
        vaddr = self.end
        self.content += content
        return vaddr


class FileLayout:
    """One build: places everything behind the code, then writes the file."""

    def __init__(self, parts: ElfBuilder) -> None:
        self.parts = parts
        self.strings = encode.Strings()
        self.dynamic: list[tuple[int, int]] = []
        self.phdrs: list[tuple[int, int, int, int, int, int]] = []  # type, flags, vaddr, filesz, memsz, align
        text_end = parts.text_region.end
        self.tables = Region(text_end if parts.single_segment else _page_up(text_end))
        self._check()

    def file(self) -> bytes:
        """Return the whole file."""
        parts = self.parts
        for name in parts.needed:
            self._entry(c.DT_NEEDED, self.strings.add(name))
        for tag, text in (
            (c.DT_SONAME, parts.soname),
            (c.DT_RPATH, parts.rpath),
            (c.DT_RUNPATH, parts.runpath),
        ):
            if text is not None:
                self._entry(tag, self.strings.add(text))
        handles = self._symbols()
        self._versions()
        strtab = self.tables.add(bytes(self.strings.data), 1)
        self._entry(c.DT_STRTAB, strtab)
        self._entry(c.DT_STRSZ, len(self.strings.data))
        self._frames()
        self._note_segments()
        relro = self._relocations_and_relro(handles)
        return self._write(relro)

    def _check(self) -> None:
        parts = self.parts
        writable = (
            parts.data_region.content,
            parts.bss_size,
            parts.tls_region.end + parts.tbss_size,
            parts.init_array,
            parts.fini_array,
            parts.preinit_array,
            parts.rela_records,
            parts.jmprel_records,
            parts.relr_places,
        )
        if parts.single_segment and any(writable):
            raise ValueError("a single segment holds neither data, TLS, arrays nor relocations")
        if parts.interp is not None and parts.single_segment:
            raise ValueError("a single-segment image has no interpreter")
        if (
            not parts.single_segment
            and (parts.text_region.vaddr | parts.data_region.vaddr | parts.base) % c.PAGE_SIZE
        ):
            raise ValueError("base, text_vaddr and data_vaddr must be page-aligned")

    def _entry(self, tag: int, value: int) -> None:
        self.dynamic.append((tag, value))

    def _symbols(self) -> list[int]:
        """Place .dynsym, the hash tables and .gnu.version; return the symbol index of each handle."""
        parts, strings = self.parts, self.strings
        undefined = [at for at, symbol in enumerate(parts.symbols) if symbol.shndx == c.SHN_UNDEF]
        defined = [at for at, symbol in enumerate(parts.symbols) if symbol.shndx != c.SHN_UNDEF]
        order = encode.gnu_hash_order([parts.symbols[at].name for at in defined])
        handles = undefined + [defined[at] for at in order]
        names = [parts.symbols[at].name for at in handles[len(undefined) :]]
        symtab = bytearray(c.SYM_SIZE)
        for at in handles:
            s = parts.symbols[at]
            symtab += _SYM.pack(strings.add(s.name), s.info, s.other, s.shndx, s.value, s.size)
        first = len(undefined) + 1
        if parts.hash_style in ("gnu", "both"):
            self._entry(c.DT_GNU_HASH, self.tables.add(encode.encode_gnu_hash(names, first), 8))
        if parts.hash_style in ("sysv", "both"):
            self._entry(c.DT_HASH, self.tables.add(encode.encode_sysv_hash(names, first), 8))
        self._entry(c.DT_SYMTAB, self.tables.add(bytes(symtab), 8))
        self._entry(c.DT_SYMENT, c.SYM_SIZE)
        if parts.versions or parts.needs:
            versym = [c.VER_NDX_LOCAL, *(parts.symbols[at].versym for at in handles)]
            self._entry(c.DT_VERSYM, self.tables.add(struct.pack(f"<{len(versym)}H", *versym), 2))
        index_of = [0] * len(handles)
        for index, at in enumerate(handles, 1):
            index_of[at] = index
        return index_of

    def _versions(self) -> None:
        parts = self.parts
        if parts.versions:
            own = encode.DefinedVersion(c.VER_NDX_GLOBAL, parts.soname or b"", c.VER_FLG_BASE)
            verdef = encode.encode_verdef([own, *parts.versions], self.strings)
            self._entry(c.DT_VERDEF, self.tables.add(verdef, 8))
            self._entry(c.DT_VERDEFNUM, len(parts.versions) + 1)
        if parts.needs:
            verneed = encode.encode_verneed(parts.needs, self.strings)
            self._entry(c.DT_VERNEED, self.tables.add(verneed, 8))
            self._entry(c.DT_VERNEEDNUM, len(parts.needs))

    def _frames(self) -> None:
        frames = self.parts.frames
        if not frames:
            return
        size = eh_frame_hdr_size(len(frames))
        hdr = self.tables.add(bytes(size), 4)
        self.tables.add(b"", 8)
        eh_frame = self.tables.end
        content, table = encode_eh_frame(frames, eh_frame)
        self.tables.add(content, 8)
        at = hdr - self.tables.vaddr
        self.tables.content[at : at + size] = encode_eh_frame_hdr(table, hdr, eh_frame)
        self.phdrs.append((c.PT_GNU_EH_FRAME, c.PF_R, hdr, size, size, 4))

    def _note_segments(self) -> None:
        parts = self.parts
        if parts.properties:
            note = encode.encode_properties(parts.properties)
            vaddr = self.tables.add(note, 8)
            for type_ in (c.PT_NOTE, c.PT_GNU_PROPERTY):
                self.phdrs.append((type_, c.PF_R, vaddr, len(note), len(note), 8))
        if parts.notes:
            vaddr = self.tables.add(bytes(parts.notes), 4)
            self.phdrs.append((c.PT_NOTE, c.PF_R, vaddr, len(parts.notes), len(parts.notes), 4))

    def _relocations_and_relro(self, handles: Sequence[int]) -> Region:
        """Place the relocation tables and the segment behind them: arrays, TLS image, .dynamic."""
        parts = self.parts
        arrays = (
            (c.DT_PREINIT_ARRAY, c.DT_PREINIT_ARRAYSZ, parts.preinit_array),
            (c.DT_INIT_ARRAY, c.DT_INIT_ARRAYSZ, parts.init_array),
            (c.DT_FINI_ARRAY, c.DT_FINI_ARRAYSZ, parts.fini_array),
        )
        slots = sum(len(functions) for _, _, functions in arrays) if parts.type == c.ET_DYN else 0
        relr = encode.encode_relr(parts.relr_places)
        self.tables.add(b"", 8)
        rela_vaddr = self.tables.end
        rela_size = (slots + len(parts.rela_records)) * c.RELA_SIZE
        jmprel_vaddr = rela_vaddr + rela_size
        relr_vaddr = jmprel_vaddr + len(parts.jmprel_records) * c.RELA_SIZE
        tables_end = relr_vaddr + len(relr)
        relro = self.tables if parts.single_segment else Region(_page_up(tables_end))
        rela = bytearray()
        for tag, size_tag, functions in arrays:
            if functions:
                vaddr = relro.add(struct.pack(f"<{len(functions)}Q", *functions), 8)
                self._entry(tag, vaddr)
                self._entry(size_tag, 8 * len(functions))
                for at, function in enumerate(functions if slots else ()):
                    rela += _RELA.pack(vaddr + 8 * at, c.R_X86_64_RELATIVE, function)
        rela += _encode_rela(parts.rela_records, handles)
        jmprel = _encode_rela(parts.jmprel_records, handles)
        self.tables.content += rela + jmprel + relr
        if rela:
            self.dynamic += [(c.DT_RELA, rela_vaddr), (c.DT_RELASZ, len(rela)), (c.DT_RELAENT, c.RELA_SIZE)]
        if jmprel:
            self.dynamic += [
                (c.DT_JMPREL, jmprel_vaddr),
                (c.DT_PLTRELSZ, len(jmprel)),
                (c.DT_PLTREL, c.DT_RELA),
            ]
        if relr:
            self.dynamic += [(c.DT_RELR, relr_vaddr), (c.DT_RELRSZ, len(relr)), (c.DT_RELRENT, c.RELR_SIZE)]
        self._tls_segment(relro)
        self._dynamic_segment(relro)
        return relro

    def _tls_segment(self, relro: Region) -> None:
        parts = self.parts
        filesz = len(parts.tls_region.content)
        if not filesz + parts.tbss_size:
            return
        vaddr = relro.add(bytes(parts.tls_region.content), parts.tls_align)
        self.phdrs.append((c.PT_TLS, c.PF_R, vaddr, filesz, filesz + parts.tbss_size, parts.tls_align))

    def _dynamic_segment(self, relro: Region) -> None:
        parts = self.parts
        for tag, value in ((c.DT_INIT, parts.init), (c.DT_FINI, parts.fini)):
            if value is not None:
                self._entry(tag, value)
        if parts.flags:
            self._entry(c.DT_FLAGS, parts.flags)
        if parts.flags_1:
            self._entry(c.DT_FLAGS_1, parts.flags_1)
        if parts.interp is not None:
            self._entry(c.DT_DEBUG, 0)
        self.dynamic += parts.extra_dynamic
        self._entry(c.DT_NULL, 0)
        content = b"".join(struct.pack("<qQ", tag, value) for tag, value in self.dynamic)
        vaddr = relro.add(content, 8)
        flags = c.PF_R if parts.single_segment else c.PF_R | c.PF_W
        self.phdrs.append((c.PT_DYNAMIC, flags, vaddr, len(content), len(content), 8))

    def _write(self, relro: Region) -> bytes:
        parts = self.parts
        head = Region(parts.base)
        loads: list[tuple[Region, int, int]] = []  # region, flags, bss bytes
        if not parts.single_segment:
            loads = [(head, c.PF_R, 0), (self.tables, c.PF_R, 0), (relro, c.PF_R | c.PF_W, 0)]
            if parts.text_region.content:
                loads.insert(1, (parts.text_region, c.PF_R | c.PF_X, 0))
            if parts.data_region.content or parts.bss_size:
                loads.append((parts.data_region, c.PF_R | c.PF_W, parts.bss_size))
            size = len(relro.content)
            self.phdrs.append((c.PT_GNU_RELRO, c.PF_R, relro.vaddr, size, _page_up(size), 1))
        self.phdrs.append(
            (c.PT_GNU_STACK, c.PF_R | c.PF_W | (c.PF_X if parts.exec_stack else 0), 0, 0, 0, 16)
        )
        leading = 0 if parts.interp is None else 2
        phnum = len(self.phdrs) + leading + (len(loads) or 1)
        table_vaddr = parts.base + c.EHDR_SIZE
        table_size = phnum * c.PHDR_SIZE
        head.content += bytes(c.EHDR_SIZE + table_size)
        front: list[tuple[int, int, int, int, int, int]] = []
        if parts.interp is not None:
            interp = parts.interp + b"\0"
            vaddr = head.add(interp, 1)
            front.append((c.PT_PHDR, c.PF_R, table_vaddr, table_size, table_size, 8))
            front.append((c.PT_INTERP, c.PF_R, vaddr, len(interp), len(interp), 1))
        if parts.single_segment:
            _append(head, parts.text_region)
            _append(head, self.tables)
            loads = [(head, c.PF_R | c.PF_X, 0)]
        out, offsets = _place(loads)
        for region, flags, bss in loads:
            size = len(region.content)
            front.append((c.PT_LOAD, flags, region.vaddr, size, size + bss, c.PAGE_SIZE))
        records = bytearray()
        for type_, flags, vaddr, filesz, memsz, align in front + self.phdrs:
            offset = _offset_of(vaddr, offsets) if type_ != c.PT_GNU_STACK else 0
            records += _PHDR.pack(type_, flags, offset, vaddr, vaddr, filesz, memsz, align)
        ident = c.ELFMAG + bytes([c.ELFCLASS64, c.ELFDATA2LSB, c.EV_CURRENT]) + bytes(9)
        sizes = (c.EHDR_SIZE, c.PHDR_SIZE, phnum, c.SHDR_SIZE, 0, 0)
        ehdr = _EHDR.pack(
            ident, parts.type, c.EM_X86_64, c.EV_CURRENT, parts.entry, c.EHDR_SIZE, 0, 0, *sizes
        )
        out[: c.EHDR_SIZE + table_size] = ehdr + records
        return bytes(out)


def _encode_rela(records: list[tuple[int, int, int | None, int]], handles: Sequence[int]) -> bytes:
    out = bytearray()
    for type_, vaddr, symbol, addend in records:
        index = 0 if symbol is None else handles[symbol]
        out += _RELA.pack(vaddr, index << 32 | type_, addend)
    return bytes(out)


def _append(head: Region, region: Region) -> None:
    """Continue `head` with `region` at its own address."""
    if region.content and region.vaddr < head.end:
        raise ValueError(f"the headers end at {head.end:#x}, behind {region.vaddr:#x}")
    if region.content:
        head.content += bytes(region.vaddr - head.end) + region.content


def _place(loads: list[tuple[Region, int, int]]) -> tuple[bytearray, list[tuple[int, int, int]]]:
    """Put the segments into the file; return it with (link-time address, size, file offset) of each."""
    out = bytearray()
    offsets: list[tuple[int, int, int]] = []
    end = 0
    for region, _, bss in loads:
        if region.vaddr < _page_up(end):
            raise ValueError(
                f"segment at {region.vaddr:#x} overlaps the one before it, which ends at {end:#x}"
            )
        out += bytes(-len(out) % c.PAGE_SIZE)
        offsets.append((region.vaddr, len(region.content), len(out)))
        out += region.content
        end = region.end + bss
    return out, offsets


def _offset_of(vaddr: int, offsets: list[tuple[int, int, int]]) -> int:
    for start, size, offset in offsets:
        if start <= vaddr <= start + size:
            return offset + vaddr - start
    raise ValueError(f"address {vaddr:#x} is in no segment")


def _page_up(value: int) -> int:
    return -(-value // c.PAGE_SIZE) * c.PAGE_SIZE
