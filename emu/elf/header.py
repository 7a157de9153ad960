"""The ELF header and the program headers, and what makes ld.so or the kernel refuse them.

Two judges look at a file before any of its code runs: the kernel at a program (`check_executable`), ld.so at
everything that it maps itself (`parse_ehdr`, `parse_phdrs`, `check_loadable`). Each refuses in its own words,
and they check different things.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from emu.core.errors import EXIT_NOT_EXECUTABLE, ElfError
from emu.core.record import NamedTuple
from emu.elf import constants as c

if TYPE_CHECKING:
    import mmap

    Data = bytes | bytearray | memoryview | mmap.mmap

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_PAGE_MASK = c.PAGE_SIZE - 1
_GNU_ABI_VERSION_LIMIT = 4
"""The first EI_ABIVERSION of ELFOSABI_GNU that glibc 2.36 does not know (its LIBC_ABI_MAX)."""
_TASK_SIZE = (1 << 47) - c.PAGE_SIZE
_PATH_MAX = 4096
_KERNEL_PHDRS_LIMIT = 0x10000
_ENOEXEC = 8
_ARCHIVE = b"!<arch>\n"
_NO_PROGRAMS = {c.ET_REL: "an object file: link it first", c.ET_CORE: "a core file"}


class Ehdr(NamedTuple):
    """The ELF header; the members are `e_NAME` of the gABI, offsets and sizes in bytes."""

    ident: bytes
    type: int
    machine: int
    version: int
    entry: int
    phoff: int
    shoff: int
    flags: int
    ehsize: int
    phentsize: int
    phnum: int
    shentsize: int
    shnum: int
    shstrndx: int


class Phdr(NamedTuple):
    """One program header; the members are `p_NAME` of the gABI, addresses as linked
    (not relocated), sizes in bytes.
    """

    type: int
    flags: int
    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int
    align: int


class ForeignObjectError(ElfError):
    """A sound object for another machine or word size, or for a later kernel.

    A search along a path goes on after it; an explicit name fails. `respect` is "machine", "class" or
    "kernel".
    """

    def __init__(self, object_name: str, reason: str, respect: str) -> None:
        super().__init__(object_name, reason)
        self.respect = respect


class NotExecutableError(ElfError):
    """The kernel refuses to execute the file. `errno` is what execve returns: always ENOEXEC here."""

    exit_code = EXIT_NOT_EXECUTABLE
    errno = _ENOEXEC

    def __init__(self, object_name: str, why: str) -> None:
        super().__init__(object_name, f"Exec format error ({why})")


def parse_ehdr(data: Data, name: str) -> Ehdr:
    """Read the ELF header from the first bytes of a file, checked as ld.so does before it maps an object.

    Raises `ElfError` with ld.so's words in ld.so's order; `ForeignObjectError` for another class or machine.
    Source: gABI chapter 4; glibc elf/dl-load.c:open_verify, sysdeps/gnu/ldsodefs.h.
    """
    if len(data) < c.EHDR_SIZE:
        raise ElfError(name, "file too short")
    ehdr = Ehdr._make(_EHDR.unpack_from(data))
    _check_ident(ehdr.ident, name)
    if ehdr.version != c.EV_CURRENT:
        raise ElfError(name, "ELF file version does not match current one")
    if ehdr.machine != c.EM_X86_64:
        raise ForeignObjectError(name, f"ELF machine is {ehdr.machine}, not EM_X86_64", "machine")
    if ehdr.type not in (c.ET_DYN, c.ET_EXEC):
        raise ElfError(name, "only ET_DYN and ET_EXEC can be loaded")
    if ehdr.phentsize != c.PHDR_SIZE:
        raise ElfError(name, "ELF file's phentsize not the expected size")
    return ehdr


def _check_ident(ident: bytes, name: str) -> None:
    if ident[:4] != c.ELFMAG:
        raise ElfError(name, "invalid ELF header")
    if ident[c.EI_CLASS] != c.ELFCLASS64:
        raise ForeignObjectError(name, "wrong ELF class: ELFCLASS32", "class")
    if ident[c.EI_DATA] != c.ELFDATA2LSB:
        raise ElfError(name, "ELF file data encoding not little-endian")
    if ident[c.EI_VERSION] != c.EV_CURRENT:
        raise ElfError(name, "ELF file version ident does not match current one")
    os_abi, abi_version = ident[c.EI_OSABI], ident[c.EI_ABIVERSION]
    if os_abi not in (c.ELFOSABI_SYSV, c.ELFOSABI_GNU):
        raise ElfError(name, "ELF file OS ABI invalid")
    if abi_version and not (os_abi == c.ELFOSABI_GNU and abi_version < _GNU_ABI_VERSION_LIMIT):
        raise ElfError(name, "ELF file ABI version invalid")
    if any(ident[c.EI_PAD :]):
        raise ElfError(name, "nonzero padding in e_ident")


def parse_phdrs(data: Data, ehdr: Ehdr, name: str) -> list[Phdr]:
    """Read the program headers; `data` is the file, or its beginning as far as the program headers reach.

    Raises `ElfError` "cannot read file data" when the table passes the end of `data`.
    Source: gABI chapter 5 "Program Header"; glibc elf/dl-load.c:open_verify.
    """
    size = ehdr.phnum * c.PHDR_SIZE
    if ehdr.phoff + size > len(data):
        raise ElfError(name, "cannot read file data")
    return [Phdr._make(fields) for fields in _PHDR.iter_unpack(data[ehdr.phoff : ehdr.phoff + size])]


def check_loadable(
    ehdr: Ehdr, phdrs: list[Phdr], name: str, *, open_exec: bool = False, own_alignment: bool = False
) -> None:
    """Refuse what ld.so would not map, in its order.

    Whether there is room for the segments shows when they are mapped.

    `open_exec` is the case of a program that is mapped by ld.so itself (`ld.so PROGRAM`): an ET_EXEC is then
    allowed, and one without a dynamic section too. With `own_alignment` segments are judged by the alignment
    that they ask for, as ld.so did until 2.34. That a DSO is not a PIE shows only in its DT_FLAGS_1: see
    `Dynamic.is_pie`.

    Raises `ElfError`.
    Source: glibc elf/dl-load.c:_dl_map_object_from_fd.
    """
    if own_alignment:
        _check_own_alignment(phdrs, name)
    else:
        _check_alignment(phdrs, name)
    if not any(phdr.type == c.PT_LOAD for phdr in phdrs):
        raise ElfError(name, "object file has no loadable segments")
    if ehdr.type != c.ET_DYN and not open_exec:
        raise ElfError(name, "cannot dynamically load executable")
    dynamic = [phdr for phdr in phdrs if phdr.type == c.PT_DYNAMIC]
    # A file of debugging information alone has an empty one.
    missing = not any(phdr.vaddr for phdr in dynamic) and ehdr.type == c.ET_DYN and not open_exec
    if missing or not all(phdr.filesz for phdr in dynamic):
        raise ElfError(name, "object file has no dynamic section")


def check_complete(phdrs: list[Phdr], file_size: int, name: str) -> None:
    """Check that the file has all that its segments say, which ld.so does not ask:
    a copy may have been cut off. Raises `ElfError`.
    """
    for index, phdr in enumerate(phdrs):
        end = phdr.offset + phdr.filesz
        if phdr.type == c.PT_LOAD and end > file_size:
            raise ElfError(
                name, f"program header {index}: segment ends at offset {end:#x}, past the end of the file"
            )


def _check_alignment(phdrs: list[Phdr], name: str) -> None:
    for phdr in phdrs:
        if phdr.type == c.PT_LOAD and (phdr.vaddr - phdr.offset) & _PAGE_MASK:
            raise ElfError(name, "ELF load command address/offset not page-aligned")


def _check_own_alignment(phdrs: list[Phdr], name: str) -> None:
    for phdr in phdrs:
        if phdr.type != c.PT_LOAD:
            continue
        if phdr.align & _PAGE_MASK:
            raise ElfError(name, "ELF load command alignment not page-aligned")
        if (phdr.vaddr - phdr.offset) & (phdr.align - 1):
            raise ElfError(name, "ELF load command address/offset not properly aligned")


def _check_executed(phdrs: list[Phdr], name: str) -> None:
    """Refuse segments with which Linux kills the process in the middle of execve.

    Source: Linux fs/binfmt_elf.c:load_elf_binary.
    """
    _check_alignment(phdrs, name)
    for index, phdr in enumerate(phdrs):
        if phdr.type != c.PT_LOAD:
            continue
        if phdr.filesz > phdr.memsz:
            raise ElfError(
                name, f"program header {index}: p_filesz {phdr.filesz:#x} exceeds p_memsz {phdr.memsz:#x}"
            )
        if phdr.vaddr + phdr.memsz > _TASK_SIZE:
            field = "vaddr" if phdr.vaddr > _TASK_SIZE else "memsz"
            value = getattr(phdr, field)
            raise ElfError(name, f"program header {index}: p_{field} {value:#x} passes the address space")


def file_backed_end(phdrs: list[Phdr], vaddr: int) -> int:
    """Return the link-time address where the file-backed part of `vaddr`'s segment
    ends, `vaddr` itself when it has none.

    No table that a linker wrote passes this address; it bounds every table whose size the format does not
    say.
    """
    for phdr in phdrs:
        if phdr.type == c.PT_LOAD and phdr.vaddr <= vaddr < phdr.vaddr + phdr.filesz:
            return phdr.vaddr + phdr.filesz
    return vaddr


def check_executable(data: Data, name: str) -> tuple[Ehdr, list[Phdr], bytes | None]:
    """Judge a whole file as Linux's execve judges a 64-bit program;
    return its headers and its PT_INTERP path, if it has one.

    Fewer fields count than for ld.so: neither the class nor e_version nor the OS ABI matter, and no dynamic
    section is needed. A script (`#!`) is not an ELF program and is refused like any other file.

    Raises `NotExecutableError` (ENOEXEC), or `ElfError` for segments with which the kernel kills the process.
    What else program headers say is ld.so's business.
    Source: Linux fs/binfmt_elf.c:load_elf_binary, load_elf_phdrs; execve(2).
    """
    if len(data) < c.EHDR_SIZE or data[:4] != c.ELFMAG:
        archive = data[: len(_ARCHIVE)] == _ARCHIVE
        raise NotExecutableError(name, "an archive of object files" if archive else "not an ELF file")
    ehdr = Ehdr._make(_EHDR.unpack_from(data))
    if ehdr.ident[c.EI_DATA] != c.ELFDATA2LSB and ehdr.machine != c.EM_X86_64:  # Linux looks at e_machine
        raise NotExecutableError(name, "not a little-endian ELF file")
    if ehdr.type not in (c.ET_EXEC, c.ET_DYN):
        what = _NO_PROGRAMS.get(ehdr.type, f"e_type {ehdr.type} is neither ET_EXEC nor ET_DYN")
        raise NotExecutableError(name, what)
    if ehdr.machine != c.EM_X86_64:
        raise NotExecutableError(name, f"e_machine {ehdr.machine} is not EM_X86_64")
    if ehdr.phentsize != c.PHDR_SIZE:
        raise NotExecutableError(name, f"e_phentsize is {ehdr.phentsize}, not {c.PHDR_SIZE}")
    size = ehdr.phnum * c.PHDR_SIZE
    if not 0 < size <= _KERNEL_PHDRS_LIMIT:
        raise NotExecutableError(name, f"e_phnum is {ehdr.phnum}")
    if ehdr.phoff + size > len(data):
        raise NotExecutableError(name, "the program headers pass the end of the file")
    phdrs = parse_phdrs(data, ehdr, name)
    interpreter = _interpreter(data, phdrs, name)
    if not any(phdr.type == c.PT_LOAD for phdr in phdrs):
        raise ElfError(name, "object file has no loadable segments")
    _check_executed(phdrs, name)
    return ehdr, phdrs, interpreter


def _interpreter(data: Data, phdrs: list[Phdr], name: str) -> bytes | None:
    for phdr in phdrs:
        if phdr.type != c.PT_INTERP:
            continue
        if not 2 <= phdr.filesz <= _PATH_MAX:
            raise NotExecutableError(name, f"PT_INTERP p_filesz is {phdr.filesz}")
        path = bytes(data[phdr.offset : phdr.offset + phdr.filesz])
        if len(path) != phdr.filesz or path[-1]:
            raise NotExecutableError(name, "PT_INTERP is not a NUL-terminated path")
        return path[: path.index(0)]
    return None
