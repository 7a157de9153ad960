"""One object, from its file to its place in a namespace: checked, mapped and entered, in ld.so's order.

Source: glibc elf/dl-load.c:_dl_map_object_from_fd.
"""

from __future__ import annotations

import errno
import posixpath
import struct
from collections.abc import Generator
from functools import partial
from typing import TYPE_CHECKING

from emu.core.dl_events import NodeleteSet
from emu.core.effects import Effect
from emu.core.errors import CpuLevelError, ElfError, EmuError, LinkError, LoaderError
from emu.core.events import LibraryLoad
from emu.core.ldso_events import LinkMapStarted, ObjectMapped, UnknownFlags
from emu.core.record import NamedTuple
from emu.elf import constants as c
from emu.elf.header import check_loadable, parse_ehdr, parse_phdrs
from emu.elf.notes import first_properties, loaded_properties
from emu.rtld import exec_stack
from emu.rtld.audit import LA_ACT_ADD, RTLD_AUDIT, activity, head_is_auditing, objopen
from emu.rtld.link_map import LT_EXECUTABLE, LinkMap, MappedImage, MapType
from emu.rtld.map_segments import map_segments
from emu.rtld.object_memory import give_back, new_object
from emu.rtld.scope import set_up_scopes

if TYPE_CHECKING:
    from emu.core.files import Backing
    from emu.elf.notes import GnuProperties
    from emu.rtld.rtld import Rtld

LIBC_SO = "libc.so.6"
RT_CONSISTENT, RT_ADD, RT_DELETE = 0, 1, 2
_PAGE = 4096
_M64 = (1 << 64) - 1
_RTLD_DEEPBIND, _RTLD_DLOPEN = 8, 0x80000000
_EMULATED = 2
"""The level of the CPU that needs nothing of the host's."""
_ISA_LEVELS = {1: "x86-64-baseline", 2: "x86-64-v2", 4: "x86-64-v3", 8: "x86-64-v4"}
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


class NewObject(NamedTuple):
    """An object that is to be mapped from a file that was found: `name` is what it was looked for by,
    `asked_for` what by before auditors changed that (empty if nobody asked them), `rule` how it was
    found.

    `loader`, `type` and `ns` are the link map's, `mode` dlopen's, `block` the memory for the path (see
    `Owed`).
    """

    name: str
    loader: LinkMap | None
    type: MapType
    ns: int
    mode: int
    rule: str
    asked_for: str
    block: int = 0


def map_object(rtld: Rtld, backing: Backing, path: str, new: NewObject) -> Generator[Effect, int, LinkMap]:
    """Map the open file `backing`, which was opened by `path`,
    as a new object, and enter it in its namespace.

    On failure nothing is left of it.
    Raises ElfError, LoaderError, or UnsupportedError for an object that needs a CPU that is not emulated.
    """
    if rtld.bus.ldso:
        rtld.bus.emit(LinkMapStarted(new.name, new.ns))
    lent = (yield from new_object(rtld, new.name, path, new.block)) if rtld.owed.active else {}
    try:
        map_ = _mapped(rtld, backing, path, new)
        yield from rtld.owed.settle()
    except EmuError:
        yield from give_back(rtld, lent)
        raise
    if lent and "origin" not in lent:
        map_.origin = None
    map_.lent.update(lent)
    if rtld.bus.ldso:
        place = (map_.ld, map_.addr, map_.map_end - map_.map_start, map_.entry, map_.phdr)
        rtld.bus.emit(ObjectMapped(map_.display_name, *place, len(map_.phdrs)))
    if map_.dynamic.flags_1 & c.DF_1_NODELETE:
        map_.nodelete_pending = True
        if rtld.bus.dl:
            rtld.bus.emit(NodeleteSet(map_.display_name, new.ns, "DF_1_NODELETE", "", new.ns, "", True))
    namespace = rtld.namespaces[new.ns]
    set_up_scopes(namespace, map_, deepbind=bool(new.mode & _RTLD_DEEPBIND))
    if map_.dynamic.flags_1 & c.DF_1_INITFIRST:
        rtld.init_first = map_
    enter(rtld, map_, quiet=True)
    if rtld.auditors:
        yield from _tell_auditors(rtld, map_, new.mode)
    if rtld.started and namespace.state == RT_CONSISTENT:
        rtld.set_state(namespace, RT_ADD)
    return map_


def _mapped(rtld: Rtld, backing: Backing, path: str, new: NewObject) -> LinkMap:
    """Return the link map of a file that is mapped and was found good; it is in no list yet.

    Raises as `map_object` does.
    """
    name = new.name
    header = backing.pread(4096, 0)
    ehdr = parse_ehdr(header, path)
    size = ehdr.phnum * c.PHDR_SIZE
    if ehdr.phoff + size > backing.size():
        raise LoaderError(path, "cannot read file data")
    phdrs = parse_phdrs(backing.pread(size, ehdr.phoff), ehdr._replace(phoff=0), path)
    check_loadable(ehdr, phdrs, name, own_alignment=not rtld.rules.alignment_kept)
    bias = map_segments(rtld, backing, phdrs, name)
    map_ = LinkMap(path, backing.path, new.type, new.ns, new.loader)
    map_.addr = bias
    map_.phdrs = phdrs
    map_.entry = bias + ehdr.entry
    map_.file_id = (backing.dev, backing.ino)
    map_.found_by = new.rule
    map_.lib_names = [name]
    if new.asked_for and new.asked_for != name:
        map_.lib_names.append(new.asked_for)  # an auditor changed the name; it is known by the old one, too
    map_.needed_as = name
    map_.read_phdrs()
    try:
        # Up to the last slash, and no more: what stands before it may end in slashes.
        map_.origin = posixpath.join(rtld.files.realpath("."), path).rpartition("/")[0] or "/"
        map_.read_dynamic(rtld.memory)
        _tell_flags(rtld, map_)
        _check_openable(map_, name, new.mode)
        place_phdrs(rtld, map_, ehdr.phoff)
        _check_isa(rtld, map_)
        exec_stack.require(rtld, phdrs, name)
    except EmuError:
        unmap_object(rtld, map_)
        raise
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
    _write_phdrs(rtld, map_)
    rtld.owed.malloc(size, partial(_move_phdrs, rtld, map_))


def _write_phdrs(rtld: Rtld, map_: LinkMap) -> None:
    rtld.memory.write(map_.phdr, b"".join(struct.pack("<IIQQQQQQ", *phdr) for phdr in map_.phdrs))


def _move_phdrs(rtld: Rtld, map_: LinkMap, block: int) -> None:
    if not block:
        unmap_object(rtld, map_)
        name = map_.lib_names[0]
        rtld.owed.fail(LoaderError(name, "cannot allocate memory for program header", errno.ENOMEM))
        return
    rtld.heap.free(map_.phdr)
    map_.phdr = map_.lent["phdr"] = block
    _write_phdrs(rtld, map_)


def _check_load_address(map_: LinkMap) -> None:
    """Refuse a program whose PT_PHDR does not tell where the kernel has put it:
    ld.so has no other way to know, and would die.

    Source: glibc elf/rtld.c:rtld_setup_main_map.
    """
    told = 0
    for phdr in map_.phdrs:
        if phdr.type == c.PT_PHDR:
            told = (map_.phdr - phdr.vaddr) & _M64
        elif phdr.type == c.PT_DYNAMIC and told != map_.addr:
            break
    if told != map_.addr:
        text = (
            f"its PT_PHDR says that it lies at {told:#x}, not at {map_.addr:#x}: ld.so dies of that (SIGSEGV)"
        )
        raise ElfError(map_.display_name, text)


def adopt(rtld: Rtld, map_: LinkMap, mirror_address: int = 0) -> None:
    """Read what an object says of itself that the kernel has mapped, and enter it into its namespace.

    Raises ElfError.
    """
    if map_.type == LT_EXECUTABLE and map_.phdr and not rtld.keep_going:  # a list is made of libraries, too
        _check_load_address(map_)
    map_.read_phdrs()
    map_.read_dynamic(rtld.memory)
    _tell_flags(rtld, map_)
    _check_isa(rtld, map_)
    set_up_scopes(rtld.namespaces[map_.ns], map_)
    enter(rtld, map_, mirror_address)


def enter(rtld: Rtld, map_: LinkMap, mirror_address: int = 0, *, quiet: bool = False) -> None:
    """Put a new object at the end of its namespace's list, give it its TLS module id, and let everybody know;
    `quiet` leaves the namespace's state.
    """
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
    """Refuse an object marked as needing an x86-64 level that the CPU does not have.

    Of the segments that are read the last aligned to 8 decides; a PT_NOTE only where no PT_GNU_PROPERTY has
    been read. Source: glibc sysdeps/x86/dl-prop.h, elf/dl-load.c.
    """
    image, name = MappedImage(rtld.memory, map_.addr, map_.display_name), map_.display_name
    properties: GnuProperties | None = None
    for phdr in reversed(map_.phdrs):
        if phdr.type == c.PT_GNU_PROPERTY and phdr.align == 8:
            try:
                found = first_properties(image, phdr.vaddr, phdr.memsz, name)
            except ElfError as error:
                text = (
                    f"its PT_GNU_PROPERTY is wrong ({error.reason}), and ld.so dies of that (SIGSEGV) when it reads"
                    " the properties of a program"
                )
                raise ElfError(name, text) from None
            if rtld.rules.property_segment_read:
                properties = found
        elif (
            phdr.type == c.PT_NOTE
            and phdr.align == 8
            and properties is None
            and rtld.rules.property_notes_read
        ):
            properties = loaded_properties(image, phdr.vaddr, phdr.memsz, name)
    if properties is None:
        return
    map_.needed_1, map_.gnu_property_isa = properties.needed_1, properties.isa_1_needed
    missing = properties.isa_1_needed & ~((1 << rtld.cpu_level) - 1)
    if missing and rtld.started:
        raise LoaderError(map_.name, "CPU ISA level is lower than required")
    if missing & ~sum(_ISA_LEVELS):
        raise LinkError(f"{map_.name or rtld.program}: CPU ISA level is lower than required")
    for bit, level in _ISA_LEVELS.items():
        if missing & bit:
            way_out = (
                "--engine kvm runs on the host's CPU"
                if rtld.cpu_level <= _EMULATED
                else "no engine here runs it"
            )
            has = f"the CPU is x86-64-v{rtld.cpu_level}: rebuild it with -march=x86-64-v{rtld.cpu_level}"
            raise CpuLevelError(level, map_.display_name, f"{has}; {way_out}")
