"""The link map: what the dynamic linker knows of one loaded object.

This Python object is the truth; the guest's `struct link_map` is a mirror of it (see `emu.glibc`). The one
exception is the count of pending thread_local destructors, which lives in guest memory only, because libc's
own code may change it too.

Source: glibc include/link.h, elf/dl-object.c:_dl_new_object.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from emu.core.errors import ElfError, MemoryFault
from emu.elf import constants as c
from emu.elf.dynamic import Dynamic, read_dynamic
from emu.elf.header import file_backed_end
from emu.elf.image import read_some
from emu.elf.symtab import SymbolTable
from emu.rtld.scope import Scope

if TYPE_CHECKING:
    from emu.core.types import Memory, Readable
    from emu.elf.header import Phdr
    from emu.rtld.audit_binding import RelocResult
    from emu.rtld.version import Version, VersionDefinitions


class MapType(IntEnum):
    """Why an object is here: the program itself, needed at start-up,
    opened at run time (glibc's `l_type`).
    """

    EXECUTABLE = 0
    LIBRARY = 1
    LOADED = 2


LT_EXECUTABLE, LT_LIBRARY, LT_LOADED = MapType

SCOPE_ROOM = 4
"""How many scopes a `struct link_map` has room for."""
NO_TLS_OFFSET = 0
FORCED_DYNAMIC_TLS_OFFSET = -1
_MOST_BEHIND = 1 << 20
"""The most bytes of a table that are read where it passes the end of its segment."""


class MappedImage:
    """An object's mapped bytes by link-time address (`emu.elf.image.Image` over guest memory)."""

    __slots__ = ("_bias", "_memory", "_name")

    def __init__(self, memory: Readable, bias: int, name: str) -> None:
        self._memory, self._bias, self._name = memory, bias, name

    def read(self, vaddr: int, size: int) -> bytes:
        """Return `size` bytes at the link-time address. Raises ElfError outside the mapped object."""
        try:
            return self._memory.read(self._bias + vaddr, size)
        except MemoryFault:
            raise ElfError(self._name, f"address range {vaddr:#x}+{size:#x} is not mapped") from None


class LinkMap:
    """One loaded object.

    - `name`, `path`, `origin`: l_name, empty for the program; the file; what $ORIGIN stands for
    - `soname`, `lib_names`, `needed_as`: DT_SONAME; the names it is known by; the one it was first needed by
    - `file_id`, `found_by`: device and inode; the rule of the search that found it
    - `type`, `ns`, `serial`: program, library or dlopened; the namespace; l_serial, a number of its own
    - `loader`: the object for which it was loaded first, whose scope it is looked up in as well
    - `address`: where the guest's `struct link_map` lies, 0 until it has one
    - `addr`, `map_start`, `map_end`, `text_end`: the load bias; the mapped range; where the code ends
    - `contiguous`: whether nothing lies between its segments
    - `phdrs`, `phdr`, `phdr_allocated`: the program headers; the address of them, and whether that is a copy
    - `ld`, `entry`, `dynamic`, `symtab`: the addresses of the dynamic section and the entry point; what the
      former says; the symbols
    - `rpath`, `runpath`, `symbolic`, `relro`: DT_RPATH, DT_RUNPATH, DF_SYMBOLIC; address and size of what is
      to be protected
    - `needed_1`, `gnu_property_isa`: the bits of its GNU properties 1_NEEDED and x86 ISA_1_NEEDED
    - `versions`, `version_definitions`: by version index what it defines or needs; what it defines
    - `searchlist`: itself and what it needs, breadth-first; empty for one that was loaded only because
      another needs it
    - `local_scope`, `scopes`: `searchlist` as a scope; those that its references are looked up in, in order
    - `initfini`: itself and what it needs, in the order in which destructors run
    - `reldeps`: what it was bound to beyond that, None as long as no look-up ever added one: ld.so's sort
      tells that from a list that has become empty
    - `real`: the map itself, except for the one that stands for ld.so in a namespace of dlmopen
    - `main_map`: whether it is the program of an `ld.so PROGRAM` command
    - `left_marked`: whether a list of dependencies for which there was no memory has left its mark
      (l_reserved)
    - `faked`: whether there is no file, the library having not been found (`Rtld.keep_going`)
    - `global_`, `relocated`, `init_called`, `used`: whether it is in the global scope, is relocated, has had
      its constructors called, has had any reference bound to it
    - `direct_opencount`, `nodelete_active`, `nodelete_pending`, `removed`: how often dlopen has returned it;
      that it stays for ever; that it will if the open succeeds; that it is being closed
    - `tls_modid`, `tls_offset`: its TLS module's id, 0 for none; the distance below the thread pointer
    - `tls_blocksize`, `tls_align`, `tls_firstbyte_offset`: of its TLS block, in bytes
    - `tls_initimage`, `tls_initimage_size`, `need_tls_init`: what such a block begins with; whether threads
      have to be given it yet
    - `tlsdesc_arguments`: the guest addresses of its dynamic TLS descriptors' arguments
    - `auditing`: whether it is an auditor
    - `bind_flags`, `audit_any_plt`: what auditors returned of it, by their number; whether that was ever
      anything
    - `reloc_results`, `reloc_result`: what auditors have said of each PLT slot, None where nobody is to be
      asked; the guest's memory for it
    - `lent`: the blocks of the program's malloc that it holds, by what is in them
    - `scope_room`, `reldeps_room`: for how many ld.so has room
    """

    __slots__ = (
        "addr", "address", "audit_any_plt", "auditing", "bind_flags", "contiguous", "direct_opencount", "dynamic", "entry", "faked", "file_id", "found_by",
        "global_", "init_called", "initfini", "ld", "left_marked", "lib_names", "loader", "local_scope", "main_map", "map_end", "map_start", "name",
        "need_tls_init", "needed_as", "nodelete_active", "nodelete_pending", "ns", "origin", "path", "phdr", "phdr_allocated", "phdrs", "real", "reldeps",
        "reloc_result", "reloc_results", "relocated", "relro", "removed", "rpath", "runpath", "scopes", "searchlist", "soname", "symbolic", "symtab",
        "text_end", "tls_align", "tlsdesc_arguments",
        "tls_blocksize", "tls_firstbyte_offset", "tls_initimage", "tls_initimage_size", "tls_modid", "tls_offset", "type", "version_definitions", "versions",
        "gnu_property_isa", "lent", "needed_1", "reldeps_room", "scope_room", "serial", "used",
    )  # fmt: skip

    def __init__(self, name: str, path: str, type_: MapType, ns: int, loader: LinkMap | None) -> None:
        self.name, self.path, self.type, self.ns, self.loader = name, path, type_, ns, loader
        self.addr = self.ld = self.entry = self.phdr = self.address = self.map_start = self.map_end = (
            self.text_end
        ) = 0
        self.serial = 0
        self.phdrs: list[Phdr] = []
        self.dynamic: Dynamic
        self.symtab: SymbolTable
        self.soname: str | None = None
        self.lib_names: list[str] = [name]
        self.file_id: tuple[int, int] = (0, 0)
        self.origin: str | None = None
        self.rpath: str | None = None
        self.runpath: str | None = None
        self.found_by = self.needed_as = ""
        self.contiguous = True
        self.versions: list[Version | None] = []
        self.searchlist: list[LinkMap] = []
        self.initfini: list[LinkMap] | None = None
        self.reldeps: list[LinkMap] | None = None
        self.local_scope = Scope(self.searchlist, self)
        self.scopes: list[Scope] = []
        self.real = self
        self.symbolic = self.global_ = self.relocated = self.init_called = self.left_marked = self.faked = (
            self.removed
        ) = False
        self.main_map = self.need_tls_init = self.phdr_allocated = False
        self.direct_opencount = 0
        self.used = self.auditing = self.audit_any_plt = False
        self.reloc_result = 0
        self.bind_flags: dict[int, int] = {}
        self.reloc_results: dict[int, RelocResult] | None = None
        self.nodelete_active = self.nodelete_pending = False
        self.relro: tuple[int, int] | None = None
        self.tls_blocksize = self.tls_initimage = self.tls_initimage_size = self.tls_firstbyte_offset = 0
        self.tls_align = 1
        self.tls_modid = 0
        self.tlsdesc_arguments: list[int] = []
        self.lent: dict[str, int] = {}
        self.scope_room, self.reldeps_room = SCOPE_ROOM, 0
        self.tls_offset = NO_TLS_OFFSET
        self.gnu_property_isa = self.needed_1 = 0
        self.version_definitions: VersionDefinitions | None = None

    def __repr__(self) -> str:
        return f"<LinkMap {self.display_name} at {self.addr:#x}>"

    @property
    def display_name(self) -> str:
        """The name for people: the path, or the program's own for the main map, whose `name` is empty."""
        return self.name or self.path

    def read_dynamic(self, memory: Readable) -> None:
        """Read the dynamic section and the tables that it leads to from the mapped object.

        Raises ElfError.
        """
        dynamic = next((p for p in reversed(self.phdrs) if p.type == c.PT_DYNAMIC), None)
        if dynamic is None:
            raise ElfError(self.display_name, "object file has no dynamic section")
        self.ld = self.addr + dynamic.vaddr
        image = MappedImage(memory, self.addr, self.display_name)
        is_program = self.type == LT_EXECUTABLE
        self.dynamic = Dynamic(
            read_dynamic(image, dynamic.vaddr, self.display_name), self.display_name, is_program=is_program
        )
        self.symtab = SymbolTable(image, self.phdrs, self.dynamic, self.display_name)
        strings = self.symtab.strings
        if self.dynamic.soname is not None:
            self.soname = strings.at(self.dynamic.soname).decode(errors="surrogateescape")
        if self.dynamic.runpath is not None:
            self.runpath = strings.at(self.dynamic.runpath).decode(errors="surrogateescape")
        elif self.dynamic.rpath is not None:
            self.rpath = strings.at(self.dynamic.rpath).decode(errors="surrogateescape")
        self.symbolic = bool(self.dynamic.flags & c.DF_SYMBOLIC)

    def read_phdrs(self) -> None:
        """Take TLS, RELRO and the mapped range from the program headers, at
        the load address already known.
        """
        loads = [p for p in self.phdrs if p.type == c.PT_LOAD]
        if loads:
            self.map_start = self.addr + (min(p.vaddr for p in loads) & -4096)
            self.map_end = self.addr + max(p.vaddr + p.memsz for p in loads)
            self.text_end = max(
                (self.addr + p.vaddr + p.memsz for p in loads if p.flags & c.PF_X), default=self.map_start
            )
        for phdr in self.phdrs:
            if phdr.type == c.PT_TLS and phdr.memsz:
                self.tls_blocksize, self.tls_align = phdr.memsz, max(phdr.align, 1)
                self.tls_firstbyte_offset = phdr.vaddr & (self.tls_align - 1)
                self.tls_initimage, self.tls_initimage_size = self.addr + phdr.vaddr, phdr.filesz
            elif phdr.type == c.PT_GNU_RELRO and phdr.memsz:
                self.relro = (self.addr + phdr.vaddr, phdr.memsz)

    def needed_names(self) -> list[str]:
        """Return the DT_NEEDED names in file order."""
        at = self.symtab.strings.at
        return [at(offset).decode(errors="surrogateescape") for offset in self.dynamic.needed]

    def matches_name(self, name: str) -> bool:
        """Whether the object is known under `name`; a DT_SONAME that matches becomes a known name.

        Source: glibc elf/dl-load.c:_dl_map_object, elf/dl-misc.c:_dl_name_match_p.
        """
        if name in self.lib_names or (self.name and name == self.name):
            return True
        if self.faked or self.soname is None or self.soname != name:
            return False
        self.lib_names.append(name)
        return True

    def contains(self, address: int) -> bool:
        """Whether `address` lies in one of the object's segments."""
        if not self.map_start <= address < self.map_end:
            return False
        if self.contiguous:
            return True
        at = address - self.addr
        return any(p.type == c.PT_LOAD and p.vaddr <= at < p.vaddr + p.memsz for p in self.phdrs)

    def leading_table(self, memory: Memory, tag: int) -> tuple[bytes, bool]:
        """Return the entries of a table of relocations as far as memory has them,
        and whether more are said to be there.
        """
        vaddr, size = self.dynamic.table(tag)
        if not size or vaddr + size <= file_backed_end(self.phdrs, vaddr):
            return memory.read(self.addr + vaddr, size) if size else b"", False
        image = MappedImage(memory, self.addr, self.display_name)
        found = read_some(image, vaddr, min(size, _MOST_BEHIND))
        return found[: len(found) // c.RELA_SIZE * c.RELA_SIZE], len(found) < size

    def table(self, memory: Memory, tag: int) -> bytes:
        """Return the bytes of a table of the dynamic section that has its size
        in a tag of its own (see `Dynamic.table`).
        """
        vaddr, size = self.dynamic.table(tag)
        if size and vaddr + size > file_backed_end(self.phdrs, vaddr):
            raise ElfError(
                self.display_name,
                f"the table of tag {tag:#x}, {vaddr:#x}+{size:#x}, is not inside one segment of the file",
            )
        return memory.read(self.addr + vaddr, size) if size else b""
