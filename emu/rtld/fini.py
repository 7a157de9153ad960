"""Destructors of objects at the end of the process. Source: glibc elf/dl-fini.c:_dl_fini."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from emu.core.effects import CallGuest, Effect
from emu.core.events import Finalizer, FiniStarted
from emu.core.ldso_events import FinalStatistics
from emu.elf import constants as c
from emu.rtld.audit import LA_ACT_CONSISTENT, LA_ACT_DELETE, activity, objclose
from emu.rtld.link_map import LinkMap
from emu.rtld.sort_maps import sort_maps

if TYPE_CHECKING:
    from emu.rtld.rtld import Rtld


def fini(rtld: Rtld) -> Generator[Effect, int, None]:
    """Call the destructors of every initialised object, namespaces from the highest,
    each in the order of the fini sort.

    All open counts go up first, so that nothing is unloaded by a destructor that closes it. Namespaces of
    auditors come after all others.
    """
    yield from _fini_of(rtld, auditors=False)
    if rtld.auditors:
        yield from _fini_of(rtld, auditors=True)
    if rtld.bus.ldso:
        rtld.bus.emit(FinalStatistics(rtld.lookups, rtld.cached_lookups))


def _fini_of(rtld: Rtld, *, auditors: bool) -> Generator[Effect, int, None]:
    for namespace in reversed(list(rtld.namespaces)):
        yield from rtld.lock("_dl_load_lock")
        if not namespace.maps or namespace.maps[0].auditing != auditors:
            yield from rtld.unlock("_dl_load_lock")
            continue
        if rtld.rules.second_audit_interface:
            yield from activity(rtld, namespace, LA_ACT_DELETE)
        proxies = bool(rtld.auditors) and rtld.rules.proxies_audited
        maps = [map_ for map_ in namespace.maps if map_.real is map_ or proxies]
        for map_ in maps:
            map_.direct_opencount += 1
            rtld.mirror.opencount(map_)
        is_base = namespace.index == 0
        ordered = sort_maps(
            maps,
            force_first=is_base,
            for_fini=True,
            algorithm=rtld.sort_algorithm,
            first_always=rtld.rules.closed_goes_first,
        )
        yield from rtld.unlock("_dl_load_lock")
        for map_ in ordered:
            if map_.init_called:
                yield from call_fini(rtld, map_)
                yield from objclose(rtld, map_)
            elif map_.real is not map_:
                yield from objclose(rtld, map_)
            map_.direct_opencount -= 1
            rtld.mirror.opencount(map_)
        if rtld.rules.second_audit_interface:
            yield from activity(rtld, namespace, LA_ACT_CONSISTENT)


def call_fini(rtld: Rtld, map_: LinkMap, *, once: bool = True) -> Generator[Effect, int, None]:
    """Call one object's fini array from the back, then its DT_FINI; with `once` never again.

    Source: elf/dl-call_fini.c.
    """
    told = rtld.rules.empty_ends_told or any(
        map_.dynamic.get(tag) is not None for tag in (c.DT_FINI, c.DT_FINI_ARRAY)
    )
    if rtld.bus.fini and told:
        rtld.bus.emit(FiniStarted(map_.display_name, map_.ns))
    if once:
        map_.init_called = False
        rtld.mirror.flags(map_)
    data = map_.table(rtld.memory, c.DT_FINI_ARRAY)
    for at in range(len(data) - 8, -1, -8):
        yield from _call(rtld, map_, "fini_array", int.from_bytes(data[at : at + 8], "little"))
    fini_function = map_.dynamic.get(c.DT_FINI)
    if fini_function is not None:
        yield from _call(rtld, map_, "DT_FINI", map_.addr + fini_function)


def _call(rtld: Rtld, map_: LinkMap, kind: str, address: int) -> Generator[Effect, int, None]:
    if rtld.bus.fini:
        rtld.bus.emit(Finalizer(map_.display_name, kind, address, rtld.describe(address)))
    yield CallGuest(address)
