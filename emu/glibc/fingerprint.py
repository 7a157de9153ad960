"""What a stripped ld.so and libc show of how their structures are laid out, held against a layout table.

ld.so tells the sizes of its two big structures; libc (before 2.34 libpthread) tells some offsets to
libthread_db in `_thread_db_*`, and one in the code of `__cxa_thread_atexit_impl`. A table that agrees with
all of them fits; one that does not is refused before anything runs.

Source: glibc nptl_db/structs.def, nptl_db/db_info.c (descriptors: bits, count, offset);
stdlib/cxa_thread_atexit_impl.c.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

from emu.core.errors import UnsupportedError
from emu.elf import constants as c
from emu.glibc.layout import Build
from emu.glibc.probe import find_own

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.core.types import Readable
    from emu.glibc.layout import Layout
    from emu.rtld.link_map import LinkMap

_STRUCTURES = (b"_rtld_global", b"_rtld_global_ro")
_RELEASE = re.compile(rb" release version (2\.[0-9]+)")
_DESCRIPTORS = (
    (b"_thread_db_pthread_list", "pthread", "list"),
    (b"_thread_db_pthread_tid", "pthread", "tid"),
    (b"_thread_db_pthread_specific", "pthread", "specific[]"),
    (b"_thread_db_pthread_start_routine", "pthread", "start_routine"),
    (b"_thread_db_rtld_global__dl_stack_used", "rtld_global", "_dl_stack_used"),
    (b"_thread_db_rtld_global__dl_tls_dtv_slotinfo_list", "rtld_global", "_dl_tls_dtv_slotinfo_list"),
    (b"_thread_db_link_map_l_tls_offset", "link_map", "l_tls_offset"),
    (b"_thread_db_link_map_l_tls_modid", "link_map", "l_tls_modid"),
)
_SIZE_OF_PTHREAD = b"_thread_db_sizeof_pthread"
_COUNT_UP = re.compile(rb"\xf0\x48(?:\x83[\x80-\x87](....)\x01|\xff[\x80-\x87](....))", re.DOTALL)
"""lock addq $1, l_tls_dtor_count(%reg), or lock incq"""


def build_of(ld_so: LinkMap, memory: Readable) -> Build:
    """Return what an ld.so shows of the build it belongs to.

    Raises UnsupportedError for one that is not glibc's.
    """
    sizes = [symbol.size for name in _STRUCTURES if (symbol := find_own(ld_so, name)) is not None]
    if len(sizes) != len(_STRUCTURES):
        raise UnsupportedError("interpreter: not glibc's ld.so", ld_so.display_name)
    return Build(release_of(ld_so, memory), *sizes)


def release_of(map_: LinkMap, memory: Readable) -> str:
    """Return the release that an object's own text names: libc's does, ld.so's (for --version) since 2.33;
    "" for none.
    """
    constant = [p for p in map_.phdrs if p.type == c.PT_LOAD and not p.flags & c.PF_W]
    # The text is among the read-only data; linkers before 2.31 put those behind the code, into one segment.
    for phdr in sorted(constant, key=lambda p: p.flags & c.PF_X):
        match = _RELEASE.search(memory.read(map_.addr + phdr.vaddr, phdr.filesz))
        if match is not None:
            return match[1].decode()
    return ""


def misfit(layout: Layout, libc: LinkMap, memory: Readable) -> UnsupportedError | None:
    """Return in what a libc shows that the table is not one of its own, None where it fits."""
    for what, shown, said in _evidence(layout, libc, memory):
        if shown != said:
            return UnsupportedError(
                f"build of glibc {layout.version}: {what} is {shown} there and {said} in ld.so's layout table",
                libc.display_name,
                "is this the C library that belongs to that ld.so?",
            )
    return None


def fits(layout: Layout, libc: LinkMap, memory: Readable) -> bool:
    """Whether a table agrees with all that a libc shows."""
    return all(shown == said for _, shown, said in _evidence(layout, libc, memory))


def _evidence(layout: Layout, libc: LinkMap, memory: Readable) -> Iterator[tuple[str, int, int]]:
    """Yield what each place in libc is about, its value there, and the table's."""
    for name, structure, member in _DESCRIPTORS:
        symbol = find_own(libc, name)
        if symbol is not None and layout.has(structure, member):
            shown = struct.unpack("<3I", memory.read(libc.addr + symbol.value, 12))[2]
            yield f"the offset of {structure}.{member}", shown, layout.offset(structure, member)
    symbol = find_own(libc, _SIZE_OF_PTHREAD)
    if symbol is not None:
        shown = struct.unpack("<I", memory.read(libc.addr + symbol.value, 4))[0]
        yield "the size of struct pthread", shown, layout.size("pthread")
    symbol = find_own(libc, b"__cxa_thread_atexit_impl")
    count_up = (
        _COUNT_UP.search(memory.read(libc.addr + symbol.value, symbol.size)) if symbol is not None else None
    )
    if count_up is not None:
        shown = struct.unpack("<i", count_up[1] or count_up[2])[0]
        said = layout.offset("link_map", "l_tls_dtor_count")
        yield "the offset of link_map.l_tls_dtor_count", shown, said
