"""Destructors of objects at the end of the process. Source: glibc elf/dl-fini.c:_dl_fini."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from emu.core.effects import CallGuest
from emu.core.events import Finalizer
from emu.elf import constants as c
from emu.rtld.link_map import LinkMap
from emu.rtld.sort_maps import sort_maps

if TYPE_CHECKING:
    from emu.rtld.rtld import Rtld


def fini(rtld: Rtld) -> Generator[CallGuest, int, None]:
    """Call the destructors of every initialised object, namespaces from the highest, each in the order of the fini sort.

    All open counts go up first, so that nothing is unloaded by a destructor that closes it.
    """
    for namespace in reversed(rtld.namespaces):
        maps = [map_ for map_ in namespace.maps if not map_.faked]
        if not maps:
            continue
        for map_ in maps:
            map_.direct_opencount += 1
        is_base = namespace.index == 0
        for map_ in sort_maps(maps, force_first=is_base, for_fini=True, algorithm=rtld.sort_algorithm):
            if map_.init_called:
                map_.init_called = False
                rtld.mirror.flags(map_)
                yield from call_fini(rtld, map_)
            map_.direct_opencount -= 1


def call_fini(rtld: Rtld, map_: LinkMap) -> Generator[CallGuest, int, None]:
    """Call one object's fini array from the back, then its DT_FINI."""
    data = map_.table(rtld.memory, c.DT_FINI_ARRAY)
    for at in range(len(data) - 8, -1, -8):
        yield from _call(rtld, map_, "fini_array", int.from_bytes(data[at : at + 8], "little"))
    fini_function = map_.dynamic.get(c.DT_FINI)
    if fini_function is not None:
        yield from _call(rtld, map_, "DT_FINI", map_.addr + fini_function)


def _call(rtld: Rtld, map_: LinkMap, kind: str, address: int) -> Generator[CallGuest, int, None]:
    if rtld.bus.fini:
        rtld.bus.emit(Finalizer(map_.display_name, kind, address, rtld.describe(address)))
    yield CallGuest(address)
