"""Reads out of an ld.so what its distribution has compiled in: no table could know every build.

Its read-only data hold the default directories as consecutive strings, and an array of their lengths;
`$LIB`'s value among the strings of dl-load.c; the names of the glibc-hwcaps subdirectories in one string,
since 2.33; and a line of `--help` about the legacy subdirectories, from 2.33 to 2.36.

Source: glibc elf/dl-load.c:system_dirs, system_dirs_len, _dl_dst_substitute, elf/dl-hwcaps_subdirs.c,
elf/dl-usage.c. $PLATFORM is the kernel's AT_PLATFORM; ld.so puts haswell or xeon_phi in its place for CPUs
that have more than the emulated one.
"""

from __future__ import annotations

import os
import re
import struct
from typing import TYPE_CHECKING

from emu.core.errors import UnsupportedError
from emu.elf import constants as c
from emu.rtld.system_dirs import USABLE_HWCAPS, SystemDirs, usable_hwcaps

if TYPE_CHECKING:
    from emu.machine.arena import Arena
    from emu.rtld.link_map import LinkMap

# Each begins with a plain character: that is what makes the search through 60 KB of data quick.
_DIRECTORIES = re.compile(rb"/(?:[!-.0-~]+/)+\0(?:/(?:[!-.0-~]+/)+\0)*")
_LIB = re.compile(rb"ORIGIN\0PLATFORM\0LIB\0([^\0]+)\0")
_HWCAPS = re.compile(rb"x86-64-v\d(?::x86-64-v\d)*\0")
_CACHE = re.compile(rb"/(?:[!-.0-~]+/)+ld\.so\.cache\0")
_LEGACY = b"Legacy HWCAP subdirectories"


def system_dirs(ld_so: LinkMap, arena: Arena, level: int) -> SystemDirs:
    """Return what a mapped ld.so has compiled in.

    Raises UnsupportedError where its default directories are not found.
    """
    constant = [phdr for phdr in ld_so.phdrs if phdr.type == c.PT_LOAD and not phdr.flags & c.PF_W]
    # Linkers before 2.31 put the read-only data behind the code, into one segment.
    segments = [phdr for phdr in constant if not phdr.flags & c.PF_X] or constant
    data = b"\0".join(arena.read(ld_so.addr + phdr.vaddr, phdr.filesz) for phdr in segments)
    return read_system_dirs(data, ld_so.display_name, usable_hwcaps(level))


def read_system_dirs(data: bytes, name: str, usable: tuple[str, ...] = USABLE_HWCAPS) -> SystemDirs:
    """Return what the read-only data of the ld.so `name` say, with those of its hwcaps that are `usable`.

    Raises UnsupportedError where its default directories are not found."""
    directories = _directories(data, name)
    found = _LIB.search(data)
    lib = os.fsdecode(found[1]) if found is not None else ""
    if not any(directory.endswith(f"/{lib}/") for directory in directories):
        lib = directories[0].rstrip("/").rpartition("/")[2]  # upstream's rule: the last part of the first one
    named = _HWCAPS.search(data)
    hwcaps = named[0][:-1].decode().split(":") if named is not None else []
    cache = _CACHE.search(data)
    return SystemDirs(
        directories,
        lib,
        tuple(hwcap for hwcap in hwcaps if hwcap in usable),
        named is None or _LEGACY in data,
        os.fsdecode(cache[0][:-1]) if cache is not None else "",
    )


def _directories(data: bytes, name: str) -> tuple[str, ...]:
    """Find the default directories: the longest row of strings whose lengths stand in
    an array, too, else the only row.
    """
    rows = {tuple(match[0].split(b"\0")[:-1]) for match in _DIRECTORIES.finditer(data)}
    proven = [row for row in rows if struct.pack(f"<{len(row)}Q", *map(len, row)) in data]
    chosen = max(proven, key=len) if proven else rows.pop() if len(rows) == 1 else ()
    if not chosen:
        raise UnsupportedError("ld.so whose default directories cannot be told", name)
    return tuple(map(os.fsdecode, chosen))
