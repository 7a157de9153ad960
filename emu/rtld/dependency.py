"""What a binding makes permanent: relocation dependencies, and NODELETE.

An object that binds to one that it does not need by DT_NEEDED keeps it from then on (a relocation
dependency). Where the object that binds was there at start-up and so can never go, what it binds to must
never go either: NODELETE. (One that is itself NODELETE only by a flag records a dependency like any other.)

Source: glibc elf/dl-lookup.c:add_dependency, mark_nodelete, is_nodelete.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.dl_events import NodeleteSet, RelocationDependency
from emu.rtld.link_map import LT_LOADED, LinkMap

if TYPE_CHECKING:
    from emu.rtld.rtld import Rtld

ADD_DEPENDENCY, RETURN_NEWEST, FOR_RELOCATE = 1, 2, 8
"""Flags of a look-up (DL_LOOKUP_*): record a dependency; an unversioned name means the newest version;
the object is being relocated.
"""


_FIRST_ROOM = 10
"""How many dependencies ld.so first has room for."""


def is_nodelete(map_: LinkMap, flags: int) -> bool:
    """Whether an object counts as NODELETE. A pending mark counts for the
    relocation that is going on, and for nothing else.
    """
    return map_.nodelete_active or bool(flags & FOR_RELOCATE and map_.nodelete_pending)


def mark_nodelete(
    rtld: Rtld, map_: LinkMap, flags: int, why: str, by: LinkMap | None = None, symbol: bytes = b""
) -> None:
    """Make an object NODELETE: at once, or while objects are relocated when their opening succeeds."""
    pending = bool(flags & FOR_RELOCATE)
    if pending:
        map_.nodelete_pending = True
    else:
        map_.nodelete_active = True
    rtld.mirror.nodelete(map_)
    if rtld.bus.dl:
        name = by.display_name if by is not None else ""
        number = by.ns if by is not None else map_.ns
        text = symbol.decode(errors="replace")
        rtld.bus.emit(NodeleteSet(map_.display_name, map_.ns, why, name, number, text, pending))


def add_dependency(rtld: Rtld, undef_map: LinkMap, map_: LinkMap, flags: int, symbol: bytes) -> None:
    """Let `undef_map`, which has just bound `symbol` to the dlopened object `map_`, keep that object."""
    if map_.type != LT_LOADED or undef_map is map_ or is_nodelete(map_, flags):
        return
    if map_ in (undef_map.initfini or ()) or map_ in (undef_map.reldeps or ()):
        return
    if map_ not in rtld.namespaces[undef_map.ns].maps:
        return
    if undef_map.type != LT_LOADED:
        mark_nodelete(rtld, map_, flags, "reference", undef_map, symbol)
        return
    undef_map.reldeps = [*(undef_map.reldeps or ()), map_]
    rtld.mirror.reldeps(undef_map)
    if len(undef_map.reldeps) > undef_map.reldeps_room and rtld.owed.active:
        _owe_room(rtld, undef_map, map_, flags, symbol)
    if rtld.bus.dl:
        text = symbol.decode(errors="replace")
        rtld.bus.emit(
            RelocationDependency(map_.display_name, map_.ns, undef_map.display_name, undef_map.ns, text)
        )


def _owe_room(rtld: Rtld, undef_map: LinkMap, map_: LinkMap, flags: int, symbol: bytes) -> None:
    """Owe a larger list of dependencies; without the memory for it what would be noted there can never go."""
    room = 2 * undef_map.reldeps_room or _FIRST_ROOM

    def then(block: int) -> None:
        if not block:
            undef_map.reldeps = [known for known in undef_map.reldeps or () if known is not map_]
            mark_nodelete(rtld, map_, flags, "reference", undef_map, symbol)
            return
        old = undef_map.lent.get("reldeps", 0)
        undef_map.lent["reldeps"], undef_map.reldeps_room = block, room
        rtld.mirror.reldeps(undef_map)
        if old:
            rtld.owed.free(old)

    rtld.owed.malloc(8 * (room + 1), then)
