"""Steps of start-up beside the linking: what is refused, and what only LD_DEBUG shows (the scopes, ld.so's
own look-ups, the sums).

Source: glibc elf/rtld.c:dl_main, print_statistics; elf/dl-minimal.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.effects import CallGuest
from emu.core.errors import UnsupportedError
from emu.core.ldso_events import InitialScopes, StartupStatistics
from emu.elf import constants as c
from emu.elf.hash import sysv_hash
from emu.rtld.audit_binding import symbind_dlsym
from emu.rtld.lookup import Query, find_symbol, lookup_symbol
from emu.rtld.relocate import relocate_object
from emu.rtld.runtime import undefined
from emu.rtld.scope import Scope, list_scopes
from emu.rtld.sort_maps import sort_maps
from emu.rtld.version import Version

if TYPE_CHECKING:
    from emu.rtld.given import Work
    from emu.rtld.link_map import LinkMap
    from emu.rtld.rtld import Rtld

_MALLOC_VERSION = b"GLIBC_2.2.5"
_ALLOCATOR = (b"calloc", b"free", b"malloc", b"realloc")
CYCLES_PER_NS = 3
"""The rate of the emulated time-stamp counter."""


_LONGEST_NAME = 4096


def auditor_names(rtld: Rtld, main: LinkMap) -> list[str] | None:
    """Return the auditors that LD_AUDIT, DT_AUDIT and DT_DEPAUDIT ask for, in this order;
    None where none of them says anything.

    Raises UnsupportedError for a listing by ld.so itself (LD_TRACE_LOADED_OBJECTS): it is made before any
    guest code can run.
    Source: glibc elf/rtld.c:audit_list_add_string, audit_list_next.
    """
    strings = [("LD_AUDIT", rtld.env.get("LD_AUDIT", ""))]
    tags = ((c.DT_AUDIT, "DT_AUDIT"), (c.DT_DEPAUDIT, "DT_DEPAUDIT")) if rtld.rules.audit_tags else ()
    for tag, source in tags:
        if (offset := main.dynamic.get(tag)) is not None:
            strings.append((source, main.symtab.strings.at(offset).decode(errors="surrogateescape")))
    asked = [(source, text) for source, text in strings if text]
    if asked and rtld.trace:
        raise UnsupportedError(f"{asked[0][0]} (auditing) in a listing of objects", rtld.program)
    names = [name for _, text in asked for name in text.split(":") if 0 < len(name) < _LONGEST_NAME]
    return names if asked else None


def refuse_profiling(rtld: Rtld) -> None:
    """Raise UnsupportedError where ld.so would count calls into a file."""
    if rtld.env.get("LD_PROFILE"):
        raise UnsupportedError("LD_PROFILE (profiling)", rtld.program, "unset it: --env LD_PROFILE=")


def tell_scopes(rtld: Rtld) -> None:
    """Tell of the scopes of everybody in the base namespace."""
    maps = rtld.namespaces[0].maps
    if rtld.bus.ldso:
        rtld.bus.emit(InitialScopes(len(maps)))
    for map_ in maps:
        list_scopes(rtld, map_)


def relocation_order(rtld: Rtld, new: LinkMap, *, opened: bool = False) -> list[LinkMap]:
    """Return the objects that come with `new`, which a dlopen has `opened` or is the program, in the order in
    which they are relocated.
    """
    maps = list(reversed(new.initfini or [new]))
    if opened and not rtld.rules.relocated_as_initialised:
        loaded = rtld.namespaces[new.ns].maps
        fresh = [map_ for map_ in loaded[loaded.index(new) :] if not map_.real.relocated]
        maps = sort_maps(fresh, force_first=False, for_fini=False, algorithm=rtld.sort_algorithm)[::-1]
    libc = rtld.namespaces[new.ns].libc_map
    if rtld.rules.libc_relocated_first and libc in maps:
        maps.remove(libc)
        maps.insert(0, libc)
    return maps


def relocate_again(rtld: Rtld, main: LinkMap, ld_so: LinkMap) -> Work:
    """Something needs ld.so as a library: relocate it again, now with everybody's symbols, and let it find
    the allocator. Raises LoaderError.
    """
    # Up to 2.31 ld.so exports a malloc itself, and its own slots lead to the program's once it is relocated.
    exports_malloc = find_symbol(rtld, Query(b"malloc", ld_so), [Scope([ld_so])]) is not None
    if not rtld.rules.ld_so_relocated_before_malloc and not exports_malloc:
        yield from bind_malloc(rtld, main)
    ld_so.relocated = False
    yield from relocate_object(rtld, ld_so, False)
    if exports_malloc:
        yield from _follow_slots(rtld, main, ld_so)
    if rtld.rules.ld_so_relocated_before_malloc:
        yield from bind_malloc(rtld, main)
        lookup_symbol(rtld, Query(b"_r_debug", main), main.scopes)


def _follow_slots(rtld: Rtld, main: LinkMap, ld_so: LinkMap) -> Work:
    """Take the allocator that ld.so's own slots lead to, of which nobody is told once more."""
    version = Version(_MALLOC_VERSION, sysv_hash(_MALLOC_VERSION), False, b"")
    for name in _ALLOCATOR:
        found = find_symbol(rtld, Query(name, main, version=version), main.scopes)
        if found is not None and found.map is not ld_so:
            rtld.allocator[name] = (yield CallGuest(found.address)) if found.is_ifunc else found.address


def bind_malloc(rtld: Rtld, main: LinkMap) -> Work:
    """Look up the allocator that ld.so uses from now on; auditors hear of it.

    Raises LoaderError. Source: __rtld_malloc_init_real.
    """
    version = Version(_MALLOC_VERSION, sysv_hash(_MALLOC_VERSION), False, b"")
    for name in _ALLOCATOR:
        found = lookup_symbol(rtld, Query(name, main, version=version), main.scopes)
        if found is None and not rtld.accept_undefined:
            raise undefined(rtld, main, name, version)
        if found is not None:
            value = found.address
            if found.is_ifunc:
                value = yield CallGuest(value)
            if rtld.auditors:
                value = yield from symbind_dlsym(rtld, main, found, value)
            rtld.allocator[name] = value


def tell_statistics(rtld: Rtld, relocation_time: int) -> None:
    """Sum start-up up; `relocation_time` is in nanoseconds of virtual time, of which loading takes none."""
    firsts = [namespace.maps[0] for namespace in rtld.namespaces if namespace.maps]
    maps = [map_ for first in firsts for map_ in first.searchlist]
    relative = sum(map_.dynamic.get(c.DT_RELACOUNT) or 0 for map_ in maps if map_.addr)
    cycles = (rtld.bus.now() * CYCLES_PER_NS, relocation_time * CYCLES_PER_NS, 0)
    rtld.bus.emit(StartupStatistics(*cycles, rtld.lookups, rtld.cached_lookups, relative))
