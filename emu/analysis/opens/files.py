"""Objects as their files have them, for questions about what is not loaded;
and what a file is that ld.so refuses.
"""

from __future__ import annotations

import re
import struct
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from emu.core.errors import ElfError, EmuError, LoaderError, UnsupportedError
from emu.elf import constants as c
from emu.elf import machines
from emu.elf.dynamic import Dynamic, read_dynamic
from emu.elf.hash import gnu_hash, sysv_hash
from emu.elf.header import check_complete, check_loadable, parse_ehdr, parse_phdrs
from emu.elf.image import FileImage
from emu.elf.symtab import SymbolTable
from emu.elf.versions import version_defs
from emu.kernel.fs.directory import Directory
from emu.rtld.kernel_asked import check_kernel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.core.files import Backing, FileSystem
    from emu.elf.header import Phdr
    from emu.kernel.fs.vfs import FileSystem as Vfs

REMEDY = "the process is x86-64: install or build the 64-bit one"
"""What there is to say of a file for another machine."""
_HEAD = 4096
_LISTED = 4000
"""Names of a directory that are looked at."""
_MAGICS = (
    (b"!<arch>\n", "a static library (ar archive), for the linker only: link it into the program, or build it as a shared object"),
    (b"version https://git-lfs", "a Git LFS pointer in place of the file: fetch it (git lfs pull)"),
    (b"#!", "a script"),
    (b"MZ", "a Windows DLL or program"),
    (b"\xcf\xfa\xed\xfe", "a Mach-O file, for macOS"),
    (b"\xca\xfe\xba\xbe", "a Mach-O or Java class file"),
    (b"BC\xc0\xde", "LLVM bitcode: it was not compiled to the end"),
    (b"\x1f\x8b", "gzip data: unpack it"),
    (b"\xfd7zXZ", "xz data: unpack it"),
    (b"\x28\xb5\x2f\xfd", "zstd data: unpack it"),
    (b"PK\x03\x04", "a zip archive: unpack it"),
)  # fmt: skip
_SCRIPT = re.compile(rb"\b(GROUP|INPUT|OUTPUT_FORMAT)\s*\(")
_SCRIPT_FILES = re.compile(r"(?:GROUP|INPUT)\s*\(([^)]*)")


class _Content:
    """A file's content by slices, read only where it is asked for."""

    def __init__(self, backing: Backing) -> None:
        self._backing = backing

    def __getitem__(self, part: slice) -> bytes:
        size = min(part.stop, self._backing.size()) - part.start
        return self._backing.pread(size, part.start) if size > 0 else b""


class ObjectFile:
    """A shared object in a file: its names, its symbols, the versions that it defines.

    Raises OSError, EmuError where ld.so could not load it, or dies of it (a file that was cut off).
    """

    def __init__(self, files: FileSystem, path: str) -> None:
        self.path = path
        backing = files.look_at(path)
        header = backing.pread(_HEAD, 0)
        ehdr = parse_ehdr(header, path)
        table = backing.pread(ehdr.phnum * c.PHDR_SIZE, ehdr.phoff)
        phdrs = parse_phdrs(table, ehdr._replace(phoff=0), path)
        check_loadable(ehdr, phdrs, path)
        check_complete(phdrs, backing.size(), path)
        dynamic = next(phdr for phdr in reversed(phdrs) if phdr.type == c.PT_DYNAMIC)
        self._image = FileImage(_Content(backing), phdrs, path)  # type: ignore[arg-type]
        self._phdrs = phdrs
        self.dynamic = Dynamic(read_dynamic(self._image, dynamic.vaddr, path), path)

    def segment(self, type_: int) -> Phdr | None:
        """Return the first program header of a type."""
        return next((phdr for phdr in self._phdrs if phdr.type == type_), None)

    @property
    def extent(self) -> int:
        """The bytes of address space that it takes."""
        loads = [phdr for phdr in self._phdrs if phdr.type == c.PT_LOAD]
        return loads[-1].vaddr + loads[-1].memsz - loads[0].vaddr

    @cached_property
    def symtab(self) -> SymbolTable:
        """The dynamic symbol table."""
        return SymbolTable(self._image, self._phdrs, self.dynamic, self.path)

    @property
    def soname(self) -> str:
        """DT_SONAME, empty if there is none."""
        at = self.dynamic.soname
        return os_text(self.symtab.strings.at(at)) if at is not None else ""

    @property
    def needed(self) -> list[str]:
        """The DT_NEEDED names."""
        return [os_text(self.symtab.strings.at(offset)) for offset in self.dynamic.needed]

    def may_define(self, name: bytes) -> bool:
        """Whether the Bloom filter lets the name pass: without reading any more of the file."""
        at = self.dynamic.get(c.DT_GNU_HASH)
        if at is None:
            return True
        _, _, words, shift = struct.unpack("<4I", self._image.read(at, 16))
        value = gnu_hash(name)
        if not words:
            return False
        word = int.from_bytes(self._image.read(at + 16 + 8 * ((value >> 6) % words), 8), "little")
        return bool((word >> (value & 63)) & (word >> ((value >> shift) & 63)) & 1)

    def versions(self) -> list[str]:
        """Return the versions that it defines, its base name left out."""
        if self.dynamic.get(c.DT_VERDEF) is None:
            return []
        defined = version_defs(self._image, self.dynamic, self.symtab.strings, self.path)
        return [os_text(one.name) for one in defined if not one.flags & c.VER_FLG_BASE]

    def defines(self, name: bytes) -> bool:
        """Whether a look-up in it finds a definition of that name, of whatever version."""
        if not self.may_define(name):
            return False
        table = self.symtab
        if table.gnu_hash is not None:
            candidates = table.gnu_hash.candidates(name, gnu_hash(name))
        elif table.sysv_hash is not None:
            candidates = table.sysv_hash.candidates(name, sysv_hash(name))
        else:
            return False
        for index in candidates:
            st_name, info, other, shndx, _, _ = table.entry(index)
            exported = info >> 4 != c.STB_LOCAL and other & 3 in (c.STV_DEFAULT, c.STV_PROTECTED)
            if exported and shndx != c.SHN_UNDEF and table.strings.holds(name + b"\0", st_name):
                return True
        return False

    def exported(self) -> Iterator[str]:
        """Yield the names that it defines for others."""
        for symbol in self.symtab.symbols():
            if symbol.defined and symbol.bind != c.STB_LOCAL and symbol.visibility in (0, 3) and symbol.name:
                yield os_text(symbol.name)


def os_text(name: bytes) -> str:
    """Return a name of a file as text."""
    return name.decode(errors="surrogateescape")


def read_object(files: FileSystem, path: str) -> ObjectFile | None:
    """Return the object in a file, None where ld.so could not load it."""
    try:
        return ObjectFile(files, path)
    except (OSError, EmuError):
        return None


def refusal(files: FileSystem, path: str, kernel: int = 0) -> str:
    """Return why ld.so would not load a file, in its words or the system's; empty if it would.

    `kernel` is the newest that an object may ask for, 0 where that does not count.
    """
    try:
        ObjectFile(files, path)
        if kernel:
            check_kernel(files.look_at(path), path, kernel)
    except OSError as error:
        return error.strerror or str(error)
    except ElfError as error:
        return error.reason
    except LoaderError as error:
        return error.text
    except UnsupportedError as error:
        return str(error)
    return ""


def what_is(files: FileSystem, path: str) -> str:
    """Return what a file is that is no shared object for this machine, as a noun with what to do;
    empty if nothing can be told.
    """
    try:
        head = files.look_at(path).pread(_HEAD, 0)
    except OSError:
        return ""
    if not head:
        return "an empty file"
    if head[:4] == c.ELFMAG:
        return _elf_kind(head) + _cut_off(files, path)
    for magic, text in _MAGICS:
        if head.startswith(magic):
            return text
    if _SCRIPT.search(head):
        text = head.decode(errors="replace")
        names = [w for group in _SCRIPT_FILES.findall(text) for w in group.split() if "/" in w or ".so" in w]
        named = f": it leads to {', '.join(names)}" if names else ""
        return f"a linker script, which only ld reads, when a program is linked{named}"
    printable = sum(32 <= byte < 127 or byte in b"\t\r\n" for byte in head)
    if printable > len(head) * 19 // 20:
        line = head.splitlines()[0][:40].decode(errors="replace")
        return f"text, which begins with {line!r}"
    return ""


def _elf_kind(head: bytes) -> str:
    if len(head) < c.EHDR_SIZE:
        return f"an ELF file that was cut off after {len(head)} bytes"
    order: Literal["big", "little"] = "big" if head[c.EI_DATA] == c.ELFDATA2MSB else "little"
    type_ = int.from_bytes(head[16:18], order)
    kind = {
        c.ET_REL: "an object file (.o): link it with -shared",
        c.ET_CORE: "a core file",
        c.ET_EXEC: "a program with fixed addresses (ET_EXEC)",
        c.ET_DYN: "a shared object",
    }.get(type_, f"an ELF file of type {type_}")
    other = machines.foreign(head)
    return f"{kind} for {other}; {REMEDY}" if other else kind


def foreign(files: FileSystem, path: str) -> str:
    """Return the machine that a file is for if it is not this one, empty
    otherwise (also if it cannot be read).
    """
    try:
        return machines.foreign(files.look_at(path).pread(machines.HEAD, 0))
    except OSError:
        return ""


def _cut_off(files: FileSystem, path: str) -> str:
    """Return that a file ends before its segments do, and where;
    empty if it is whole or no object for this machine.
    """
    backing = files.look_at(path)
    try:
        ehdr = parse_ehdr(backing.pread(_HEAD, 0), path)
        table = backing.pread(ehdr.phnum * c.PHDR_SIZE, ehdr.phoff)
        phdrs = parse_phdrs(table, ehdr._replace(phoff=0), path)
    except ElfError:
        return ""
    end = max((phdr.offset + phdr.filesz for phdr in phdrs if phdr.type == c.PT_LOAD), default=0)
    if end <= backing.size():
        return ""
    return f" that was cut off: its segments reach to byte {end}, and the file has {backing.size()}; copy it again, or see whether the disk was full"


def listing(files: Vfs, directory: str) -> list[str]:
    """Return the names in a directory of the guest, sorted; none where it cannot be read."""
    try:
        found = files.find(directory or ".")
        names = found.listing() if isinstance(found, Directory) else []
    except OSError:
        return []
    return [name for name, _, _ in names[:_LISTED]]
