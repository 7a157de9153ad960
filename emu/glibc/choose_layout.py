"""Which layout table serves the ld.so at hand:
one made for this very build, one that comes with emu and fits, else one made on the spot.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from emu.core.errors import ElfError, UnsupportedError
from emu.elf import constants as c
from emu.elf.header import parse_ehdr, parse_phdrs
from emu.elf.notes import build_id, parse_notes
from emu.glibc.fingerprint import fits, release_of
from emu.glibc.layout import Layout, read_layout, releases, shipped
from emu.glibc.make_layout import cache_path, keep, libc_beside, make_table
from emu.rtld.link_map import LT_LIBRARY, LinkMap

if TYPE_CHECKING:
    from emu.core.files import Backing
    from emu.core.types import Readable
    from emu.glibc.debug_files import DebugSystem
    from emu.glibc.layout import Build

_HEADER = 4096


class _FileMemory:
    """An object's bytes by link-time address, read from its file: all of `Memory` that is asked of it."""

    def __init__(self, backing: Backing) -> None:
        header = backing.pread(_HEADER, 0)
        ehdr = parse_ehdr(header, backing.path)
        self._backing, self.phdrs = backing, parse_phdrs(header, ehdr, backing.path)

    def read(self, address: int, size: int) -> bytes:
        """Return `size` bytes at a link-time address. Raises ElfError."""
        for load in self.phdrs:
            if (
                load.type == c.PT_LOAD
                and load.vaddr <= address
                and address + size <= load.vaddr + load.filesz
            ):
                return self._backing.pread(size, load.offset + address - load.vaddr)
        raise ElfError(self._backing.path, f"address range {address:#x}+{size:#x} is not in the file")


def choose_layout(ld_so: LinkMap, build: Build, memory: Readable, system: DebugSystem) -> Layout:
    """Return the table for the libc that `ld_so` belongs to.

    Raises UnsupportedError where there is none and none can be made.
    """
    known = cache_path(_build_id(ld_so, memory))
    if os.path.exists(known):
        return _read_kept(known)
    layout = shipped(build)
    try:
        libc = read_libc(system, ld_so.path)
    except (OSError, ElfError) as error:
        if layout is not None and build.release:
            return layout  # whatever libc it turns out to have is held against the table when it is mapped
        raise _unknown(build, ld_so.path, f"there is no C library beside it ({error})") from None
    if layout is not None and fits(layout, *libc):
        if build.release or release_of(*libc) == layout.version:
            return layout
    return _make(build, ld_so.path, system, build.release or release_of(*libc))


def release_at(system: DebugSystem, ld_so: str) -> str:
    """Return the release of the libc beside an ld.so (a guest path).

    Raises UnsupportedError, OSError, ElfError.
    """
    release = release_of(*read_libc(system, ld_so))
    if not release:
        raise UnsupportedError("C library: not glibc's", libc_beside(system, ld_so))
    return release


def _build_id(ld_so: LinkMap, memory: Readable) -> str:
    for note in ld_so.phdrs:
        if note.type == c.PT_NOTE:
            data = memory.read(ld_so.addr + note.vaddr, note.filesz)
            found = build_id(parse_notes(data, note.align, ld_so.display_name))
            if found is not None:
                return found.hex()
    return ""


def _read_kept(path: str) -> Layout:
    try:
        return read_layout(path)
    except (OSError, ValueError, KeyError) as error:
        raise UnsupportedError(f"layout table ({error})", path, "remove it, and it is made again") from None


def read_libc(system: DebugSystem, ld_so: str) -> tuple[LinkMap, Readable]:
    """Return the libc beside an ld.so as its file has it, with its bytes by link-time address.

    Raises OSError, ElfError.
    """
    path = libc_beside(system, ld_so)
    memory = _FileMemory(system.files.look_at(path))
    libc = LinkMap(path, path, LT_LIBRARY, 0, None)
    libc.phdrs = memory.phdrs
    libc.read_dynamic(memory)
    return libc, memory


def _make(build: Build, ld_so: str, system: DebugSystem, release: str) -> Layout:
    """Make a table on the spot; it is kept, if that can be."""
    try:
        table = make_table(system, ld_so, release or "of unknown release")
    except (OSError, ElfError) as error:
        raise _unknown(build, ld_so, str(error)) from None
    sizes = tuple(table["structures"][name]["size"] for name in ("rtld_global", "rtld_global_ro"))
    if sizes != build[1:]:
        raise _unknown(build, ld_so, f"its debug files say {sizes[0]} and {sizes[1]}")
    try:
        keep(system, ld_so, table)
    except OSError as error:
        print(f"emu: the layout table of {ld_so} cannot be kept: {error}", file=sys.stderr)
    return Layout(table["version"], table)


def _unknown(build: Build, where: str, why: str) -> UnsupportedError:
    return UnsupportedError(
        f"build of glibc {build.release or 'before 2.33'}: its _rtld_global has {build.global_size} bytes, "
        f"_rtld_global_ro {build.ro_size} (there are tables for {', '.join(releases())}); {why}",
        where,
    )
