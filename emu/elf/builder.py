"""A small ELF writer: builds an x86-64 DSO or executable in memory, without a linker.

For images that exist in no file (the emulated vDSO) and for tests that need an object of an exact shape. What
it writes is valid for the native ld.so too. There are no section headers: nothing at run time reads them.

Layout, by link-time address from `base`: the headers; the code at `text_vaddr`; the read-only tables; the
RELRO segment (.dynamic, the arrays, the TLS image); the data at `data_vaddr`. Because the code's and the
data's addresses are fixed before anything is added, code can be written with its displacements, and every
place in this module's interface is a plain link-time address.
"""

from __future__ import annotations

import struct
from typing import Literal

from emu.elf import constants as c
from emu.elf import encode
from emu.elf.eh_frame import FrameEntry
from emu.elf.layout import DynSymbol, FileLayout, Region

_DATA_DISTANCE = 0x100000
_SECTION = 1
"""The st_shndx of what the object defines: any ordinary section will do, there are no section headers."""


class ElfBuilder:
    """Collects the parts of an object; `build` returns its bytes.

    `type_` is ET_DYN or ET_EXEC, `base` the link-time address of the ELF header. With `single_segment` the
    whole file is one PT_LOAD (R+X) whose offsets equal its addresses, as a vDSO is: data, TLS, arrays and
    relocations are then impossible.

    Attributes to set before `build`: `needed` (SONAMEs in order), `soname`, `runpath`, `rpath`, `interp`,
    `entry`, `init`, `fini` (link-time addresses or None), `init_array`, `fini_array`, `preinit_array`
    (addresses of functions; an ET_DYN gets their RELATIVE relocations), `flags`, `flags_1`, `frames` (unwind
    information), `extra_dynamic` ((tag, value) pairs as they are), `exec_stack`.

    Raises `ValueError` for parts that do not fit together: the caller's mistake, never an input's.
    Source: gABI chapters 4 and 5; LSB "Symbol Versioning"; psABI 5.
    """

    def __init__(
        self,
        *,
        type_: int = c.ET_DYN,
        base: int = 0,
        soname: bytes | None = None,
        hash_style: Literal["gnu", "sysv", "both"] = "gnu",
        text_vaddr: int | None = None,
        data_vaddr: int | None = None,
        single_segment: bool = False,
    ) -> None:
        self.type = type_
        self.base = base
        self.soname = soname
        self.hash_style = hash_style
        self.single_segment = single_segment
        self.needed: list[bytes] = []
        self.runpath: bytes | None = None
        self.rpath: bytes | None = None
        self.interp: bytes | None = None
        self.entry = 0
        self.init: int | None = None
        self.fini: int | None = None
        self.init_array: list[int] = []
        self.fini_array: list[int] = []
        self.preinit_array: list[int] = []
        self.flags = 0
        self.flags_1 = 0
        self.frames: list[FrameEntry] = []
        self.extra_dynamic: list[tuple[int, int]] = []
        self.exec_stack = False
        self.text_region = Region(base + c.PAGE_SIZE if text_vaddr is None else text_vaddr)
        self.data_region = Region(base + _DATA_DISTANCE if data_vaddr is None else data_vaddr)
        self.bss_size = 0
        self.tls_region = Region(0)
        self.tbss_size = 0
        self.tls_align = 1
        self.symbols: list[DynSymbol] = []
        self.versions: list[encode.DefinedVersion] = []
        self.needs: dict[bytes, list[encode.NeededVersion]] = {}
        self._next_version = c.VER_NDX_GLOBAL + 1
        self.rela_records: list[tuple[int, int, int | None, int]] = []
        self.jmprel_records: list[tuple[int, int, int | None, int]] = []
        self.relr_places: list[int] = []
        self.notes = bytearray()
        self.properties: dict[int, int] = {}

    # Contents

    def text(self, code: bytes, align: int = 16) -> int:
        """Append code; return its link-time address."""
        return self.text_region.add(code, align)

    def data(self, content: bytes, align: int = 8) -> int:
        """Append initialised data; return its link-time address. Raises `ValueError` after `bss`."""
        if self.bss_size:
            raise ValueError("data after bss")
        return self.data_region.add(content, align)

    def bss(self, size: int, align: int = 8) -> int:
        """Append zeroed data; return its link-time address."""
        vaddr = self.data_region.end + self.bss_size
        start = vaddr + -vaddr % align
        self.bss_size = start + size - self.data_region.end
        return start

    def tls(self, content: bytes, align: int = 8) -> int:
        """Append to the TLS image; return the offset in the module's TLS block.

        Raises `ValueError` after `tbss`.
        """
        if self.tbss_size:
            raise ValueError("TLS image after tbss")
        self.tls_align = max(self.tls_align, align)
        return self.tls_region.add(content, align)

    def tbss(self, size: int, align: int = 8) -> int:
        """Append zeroed TLS; return the offset in the module's TLS block."""
        self.tls_align = max(self.tls_align, align)
        start = self.tls_region.end + self.tbss_size
        start += -start % align
        self.tbss_size = start + size - self.tls_region.end
        return start

    def note(self, owner: bytes, type_: int, desc: bytes) -> None:
        """Append a note (4-byte aligned; GNU properties go to `gnu_property`)."""
        self.notes += encode.encode_note(owner, type_, desc)

    def gnu_property(self, type_: int, value: int) -> None:
        """Set a 32-bit GNU property."""
        self.properties[type_] = value

    # Symbols and versions

    def define(
        self,
        name: bytes,
        value: int,
        *,
        size: int = 0,
        type_: int = c.STT_FUNC,
        bind: int = c.STB_GLOBAL,
        visibility: int = c.STV_DEFAULT,
        version: bytes | None = None,
        default: bool = True,
        shndx: int = _SECTION,
    ) -> int:
        """Define a dynamic symbol; return its handle for relocations.

        `value` is a link-time address, a TLS block offset for STT_TLS, or absolute with `shndx` SHN_ABS.
        `default` False makes `version` a hidden one (NAME@VERSION, not NAME@@VERSION).
        """
        versym = c.VER_NDX_GLOBAL
        if version is not None:
            versym = self.version(version) | (0 if default else c.VERSYM_HIDDEN)
        return self._add(DynSymbol(name, value, size, bind << 4 | type_, visibility, shndx, versym))

    def undefined(
        self,
        name: bytes,
        *,
        bind: int = c.STB_GLOBAL,
        type_: int = c.STT_NOTYPE,
        version: bytes | None = None,
        file: bytes | None = None,
        weak_version: bool = False,
    ) -> int:
        """Refer to a symbol of another object, in `version` of the needed object `file`;
        return its handle.
        """
        versym = c.VER_NDX_GLOBAL
        if version is not None:
            if file is None:
                raise ValueError(f"version {version!r} without the file that defines it")
            versym = self.need_version(file, version, c.VER_FLG_WEAK if weak_version else 0)
        return self._add(DynSymbol(name, 0, 0, bind << 4 | type_, 0, c.SHN_UNDEF, versym))

    def version(self, name: bytes, parents: tuple[bytes, ...] = ()) -> int:
        """Define a symbol version, once; return its index."""
        for known in self.versions:
            if known.name == name:
                return known.ndx
        self.versions.append(encode.DefinedVersion(self._next_version, name, 0, parents))
        self._next_version += 1
        return self._next_version - 1

    def need_version(self, file: bytes, name: bytes, flags: int = 0) -> int:
        """Need version `name` of the needed object `file`, with or without a symbol that uses it;
        return its index.
        """
        wanted = self.needs.setdefault(file, [])
        for known in wanted:
            if known.name == name:
                return known.ndx
        wanted.append(encode.NeededVersion(self._next_version, name, flags))
        self._next_version += 1
        return self._next_version - 1

    def _add(self, symbol: DynSymbol) -> int:
        self.symbols.append(symbol)
        return len(self.symbols) - 1

    # Relocations

    def rela(
        self, type_: int, vaddr: int, symbol: int | None = None, addend: int = 0, *, plt: bool = False
    ) -> None:
        """Relocate the place `vaddr` against the symbol with that handle;
        with `plt` the record goes to DT_JMPREL.
        """
        (self.jmprel_records if plt else self.rela_records).append((type_, vaddr, symbol, addend))

    def relr(self, vaddr: int, target: int) -> None:
        """Write link-time address `target` into the data word at `vaddr`, and relocate it by DT_RELR.

        Raises `ValueError` when the word is not aligned data that was added already.
        """
        at = vaddr - self.data_region.vaddr
        if at < 0 or at + 8 > len(self.data_region.content) or vaddr % 8:
            raise ValueError(f"{vaddr:#x} is not an aligned word of the data")
        struct.pack_into("<Q", self.data_region.content, at, target)
        self.relr_places.append(vaddr)

    # The file

    def build(self) -> bytes:
        """Return the object's bytes. Raises `ValueError` when its parts do not fit together."""
        return FileLayout(self).file()
