"""Mapping one object: its segments, their protection, the zero-filled tail.

Source: glibc elf/dl-load.c:_dl_map_object_from_fd, elf/dl-map-segments.h:_dl_map_segments.
"""

from __future__ import annotations

import posixpath
import struct
from collections.abc import Generator
from typing import TYPE_CHECKING

from emu.core.dl_events import NodeleteSet
from emu.core.effects import Effect
from emu.core.errors import EmuError, LoaderError, UnsupportedError
from emu.core.events import LibraryLoad
from emu.core.ldso_events import LinkMapStarted, ObjectMapped, UnknownFlags
from emu.elf import constants as c
from emu.elf.header import check_loadable, parse_ehdr, parse_phdrs
from emu.elf.notes import gnu_properties, parse_notes
from emu.rtld.audit import LA_ACT_ADD, RTLD_AUDIT, activity, head_is_auditing, objopen
from emu.rtld.link_map import LinkMap
from emu.rtld.scope import set_up_scopes

if TYPE_CHECKING:
    from emu.core.files import Backing
    from emu.elf.header import Phdr
    from emu.rtld.rtld import Rtld

LIBC_SO = "libc.so.6"
RT_CONSISTENT, RT_ADD, RT_DELETE = 0, 1, 2
_PAGE = 4096
_RTLD_DEEPBIND, _RTLD_DLOPEN = 8, 0x80000000
_PROT = (0, 4, 2, 6, 1, 5, 3, 7)
"""mmap's protection for each value of p_flags: the two number read, write and execute in opposite order."""
_ISA_LEVELS = {1: "x86-64-baseline", 2: "x86-64-v2", 4: "x86-64-v3", 8: "x86-64-v4"}
_ISA_SUPPORTED = 1 | 2
_FLAGS_1_KNOWN = (
    c.DF_1_NOW
    | c.DF_1_NODELETE
    | c.DF_1_INITFIRST
    | c.DF_1_NOOPEN
    | c.DF_1_ORIGIN
    | c.DF_1_NODEFLIB
    | c.DF_1_PIE
)
"""Source: glibc include/elf.h, DT_1_SUPPORTED_MASK."""


def map_segments(rtld: Rtld, backing: Backing, phdrs: list[Phdr], name: str) -> int:
    """Map the PT_LOAD segments of a DSO where there is room; return the load bias. Raises LoaderError."""
    loads = [p for p in phdrs if p.type == c.PT_LOAD]
    align = max(_PAGE, *(p.align for p in loads))
    start = loads[0].vaddr & -_PAGE
    end = -(-(loads[-1].vaddr + loads[-1].memsz) // _PAGE) * _PAGE
    mappings = rtld.mappings
    base = 0
    try:
        base = mappings.find_gap(end - start, align=align)
        for index, load in enumerate(loads):
            first = load.vaddr & -_PAGE
            file_end = load.vaddr + load.filesz
            map_end = -(-file_end // _PAGE) * _PAGE
            prot = _PROT[load.flags & 7]
            where = base + first - start
            if map_end > first and load.filesz:
                mappings.mmap(
                    where,
                    map_end - first,
                    prot,
                    fixed=True,
                    backing=backing,
                    offset=load.offset & -_PAGE,
                    name=backing.path,
                )
            else:
                map_end = first
            _zero_fill(rtld, base - start, load, map_end, prot)
            mem_end = -(-(load.vaddr + load.memsz) // _PAGE) * _PAGE
            if index + 1 < len(loads):
                hole = loads[index + 1].vaddr & -_PAGE
                if hole > mem_end:
                    mappings.mmap(base + mem_end - start, hole - mem_end, 0, fixed=True, name=backing.path)
    except OSError:
        if base:
            mappings.munmap(base, end - start)
        raise LoaderError(name, "failed to map segment from shared object") from None
    return base - start


def _zero_fill(rtld: Rtld, bias: int, load: Phdr, map_end: int, prot: int) -> None:
    """Clear the rest of the last file page and map zero pages for what follows it."""
    if load.memsz <= load.filesz:
        return
    zero = bias + load.vaddr + load.filesz
    zero_page = bias + map_end
    if zero_page > zero:
        rtld.memory.write(zero, bytes(zero_page - zero))
    mem_end = -(-(bias + load.vaddr + load.memsz) // _PAGE) * _PAGE
    if mem_end > zero_page:
        rtld.mappings.mmap(zero_page, mem_end - zero_page, prot, fixed=True)


def map_object(
    rtld: Rtld,
    backing: Backing,
    path: str,
    name: str,
    loader: LinkMap | None,
    type_: int,
    ns: int,
    mode: int,
    rule: str,
    asked_for: str = "",
) -> Generator[Effect, int, LinkMap]:
    """Map the open file `backing` as a new object of namespace `ns` and enter it there.

    `path` is what it was opened by and becomes the object's l_name, `name` what it was looked for by, `asked_for` what by before auditors
    changed that. On failure nothing is left of it.
    Raises ElfError, LoaderError, or UnsupportedError for an object that needs a CPU that is not emulated.
    """
    if rtld.bus.ldso:
        rtld.bus.emit(LinkMapStarted(name, ns))
    header = backing.pread(4096, 0)
    ehdr = parse_ehdr(header, path)
    end = ehdr.phoff + ehdr.phnum * c.PHDR_SIZE
    if end > backing.size():
        raise LoaderError(path, "cannot read file data")
    if end > len(header):
        header = backing.pread(end, 0)
    phdrs = parse_phdrs(header, ehdr, path)
    check_loadable(ehdr, phdrs, backing.size(), name)
    bias = map_segments(rtld, backing, phdrs, name)
    map_ = LinkMap(path, backing.path, type_, ns, loader)
    map_.addr = bias
    map_.phdrs = phdrs
    map_.entry = bias + ehdr.entry
    map_.file_id = (backing.dev, backing.ino)
    map_.found_by = rule
    map_.lib_names = [name]
    if asked_for and asked_for != name:
        map_.lib_names.append(asked_for)  # an auditor changed the name; it is known by the old one, too
    map_.needed_as = name
    map_.read_phdrs()
    try:
        map_.origin = posixpath.dirname(posixpath.join(rtld.files.realpath("."), path))
        map_.read_dynamic(rtld.memory)
        _tell_flags(rtld, map_)
        _check_openable(map_, name, mode)
        place_phdrs(rtld, map_, ehdr.phoff)
        _check_isa(rtld, map_)
    except EmuError:
        unmap_object(rtld, map_)
        raise
    needs_stack = next((bool(p.flags & c.PF_X) for p in phdrs if p.type == c.PT_GNU_STACK), True)
    if needs_stack and not rtld.executable_stack:
        rtld.executable_stack = True
        rtld.make_stacks_executable()
    if rtld.bus.ldso:
        place = (map_.ld, map_.addr, map_.map_end - map_.map_start, map_.entry, map_.phdr)
        rtld.bus.emit(ObjectMapped(map_.display_name, *place, len(map_.phdrs)))
    if map_.dynamic.flags_1 & c.DF_1_NODELETE:
        map_.nodelete_pending = True
        if rtld.bus.dl:
            rtld.bus.emit(NodeleteSet(map_.display_name, ns, "DF_1_NODELETE", "", ns, "", True))
    set_up_scopes(rtld.namespaces[ns], map_, deepbind=bool(mode & _RTLD_DEEPBIND))
    if map_.dynamic.flags_1 & c.DF_1_INITFIRST:
        rtld.init_first = map_
    enter(rtld, map_, quiet=True)
    if rtld.auditors:
        yield from _tell_auditors(rtld, map_, mode)
    if rtld.started and rtld.namespaces[ns].state == RT_CONSISTENT:
        rtld.set_state(rtld.namespaces[ns], RT_ADD)
    return map_


def _tell_auditors(rtld: Rtld, map_: LinkMap, mode: int) -> Generator[Effect, int, None]:
    namespace = rtld.namespaces[map_.ns]
    if namespace.state == RT_CONSISTENT and not mode & RTLD_AUDIT:
        yield from activity(rtld, namespace, LA_ACT_ADD)
    if namespace.state == RT_CONSISTENT:
        rtld.set_state(namespace, RT_ADD)
    if not head_is_auditing(rtld, map_.ns):
        yield from objopen(rtld, map_)


def _tell_flags(rtld: Rtld, map_: LinkMap) -> None:
    """Tell of DT_FLAGS_1 bits that ld.so does not know; they do nothing."""
    unknown = map_.dynamic.flags_1 & ~_FLAGS_1_KNOWN
    if unknown and rtld.bus.ldso:
        rtld.bus.emit(UnknownFlags(map_.display_name, unknown))


def _check_openable(map_: LinkMap, name: str, mode: int) -> None:
    flags = map_.dynamic.flags_1
    if flags & c.DF_1_PIE:
        raise LoaderError(name, "cannot dynamically load position-independent executable")
    if flags & c.DF_1_NOOPEN and mode & _RTLD_DLOPEN:
        raise LoaderError(name, "shared object cannot be dlopen()ed")


def unmap_object(rtld: Rtld, map_: LinkMap) -> None:
    """Give back the pages of an object. Source: glibc elf/dl-unmap-segments.h."""
    start = map_.map_start & -_PAGE
    end = -(-map_.map_end // _PAGE) * _PAGE
    if end > start:
        rtld.mappings.munmap(start, end - start)
    if map_.phdr_allocated:
        rtld.heap.free(map_.phdr)


def place_phdrs(rtld: Rtld, map_: LinkMap, phoff: int) -> None:
    """Find the program headers in memory, or put a copy there when no segment holds them."""
    for phdr in map_.phdrs:
        if phdr.type == c.PT_PHDR:
            map_.phdr = map_.addr + phdr.vaddr
            return
    size = len(map_.phdrs) * c.PHDR_SIZE
    for phdr in map_.phdrs:
        if phdr.type == c.PT_LOAD and phdr.offset <= phoff and phoff + size <= phdr.offset + phdr.filesz:
            map_.phdr = map_.addr + phdr.vaddr + phoff - phdr.offset
            return
    map_.phdr, map_.phdr_allocated = rtld.heap.allocate(size, 8), True
    rtld.memory.write(map_.phdr, b"".join(struct.pack("<IIQQQQQQ", *phdr) for phdr in map_.phdrs))


def adopt(rtld: Rtld, map_: LinkMap, mirror_address: int = 0) -> None:
    """Read what an object says of itself that the kernel has mapped, and enter it into its namespace."""
    map_.read_phdrs()
    map_.read_dynamic(rtld.memory)
    _tell_flags(rtld, map_)
    _check_isa(rtld, map_)
    set_up_scopes(rtld.namespaces[map_.ns], map_)
    enter(rtld, map_, mirror_address)


def enter(rtld: Rtld, map_: LinkMap, mirror_address: int = 0, *, quiet: bool = False) -> None:
    """Put a new object at the end of its namespace's list, give it its TLS module id, and let everybody know; `quiet` leaves the namespace's state."""
    namespace = rtld.namespaces[map_.ns]
    map_.serial = rtld.next_serial()
    if map_.soname == LIBC_SO and namespace.libc_map is None:
        namespace.libc_map = map_
    if map_.tls_blocksize:
        rtld.tls.assign_module_id(map_)
    namespace.maps.append(map_)
    if map_.map_end:
        rtld.index.add(map_)
    rtld.mirror.new_map(map_, mirror_address)
    if rtld.started:
        rtld.mirror.appended(map_)
        if namespace.state == RT_CONSISTENT and not quiet:
            rtld.set_state(namespace, RT_ADD)
    if rtld.bus.libs:
        needed_by = map_.loader.display_name if map_.loader is not None else ""
        rtld.bus.emit(
            LibraryLoad(
                map_.name,
                map_.path,
                map_.addr,
                map_.map_start,
                map_.map_end,
                needed_by,
                map_.found_by,
                map_.ns,
            )
        )


def _check_isa(rtld: Rtld, map_: LinkMap) -> None:
    """Refuse an object marked as needing an x86-64 level that Unicorn does not execute. Source: dl-prop.h, cpu-features.c."""
    for phdr in map_.phdrs:
        if phdr.type == c.PT_GNU_PROPERTY and phdr.filesz:
            data = rtld.memory.read(map_.addr + phdr.vaddr, phdr.filesz)
            properties = gnu_properties(parse_notes(data, 8, map_.display_name), map_.display_name)
            if properties is not None:
                map_.needed_1 = properties.needed_1
            if properties is None or not properties.isa_1_needed:
                continue
            map_.gnu_property_isa = properties.isa_1_needed
            missing = properties.isa_1_needed & ~_ISA_SUPPORTED
            for bit, level in _ISA_LEVELS.items():
                if missing & bit and rtld.started:
                    raise LoaderError(map_.name, "CPU ISA level is lower than required")
                if missing & bit:
                    raise UnsupportedError(
                        f"CPU: the object needs {level} (GNU_PROPERTY_X86_ISA_1_NEEDED)",
                        map_.display_name,
                        "emulated is x86-64-v2: rebuild it with -march=x86-64-v2",
                    )
