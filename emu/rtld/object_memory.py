"""The memory of the program's malloc that one object takes as it is opened and closed.

See `emu.rtld.owed`.

Source: glibc elf/dl-object.c:_dl_new_object, elf/dl-load.c:lose, elf/dl-open.c:resize_scopes,
add_to_global_resize, elf/dl-find_object.c:_dl_find_object_update, elf/dl-close.c:_dl_close_worker.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Generator
from typing import TYPE_CHECKING

from emu.core.effects import Effect
from emu.core.errors import LoaderError
from emu.rtld.link_map import LT_LOADED, SCOPE_ROOM, LinkMap
from emu.rtld.search_memory import NEVER

if TYPE_CHECKING:
    from emu.rtld.given import Work
    from emu.rtld.rtld import Rtld

_GETCWD = 128
_GLOBAL_SURPLUS = 8
_FIRST_MAPPINGS, _MAPPING, _MAPPINGS_HEAD = 63, 32, 288
"""How many objects the first part of the table for `_dl_find_object` holds, the size of each, and what the
part needs beside them.
"""


class ObjectTable:
    """How much room the two tables of `_dl_find_object` have: one is in use, the other is filled at the next
    change.
    """

    def __init__(self) -> None:
        self.parts: tuple[list[int], list[int]] = ([], [])
        self.active = 0
        self.known: set[LinkMap] = set()


def new_object(rtld: Rtld, name: str, path: str, realname: int) -> Generator[Effect, int, dict[str, int]]:
    """Allocate what a link map consists of, for an object looked for as `name` and found at `path`;
    `realname` is the block for that.

    Raises LoaderError "cannot create shared object descriptor".
    """
    owed, lent = rtld.owed, {"name": realname}
    size = rtld.mirror.size_of_map() + 8 + len(os.fsencode(name)) + 1
    lent["map"] = yield from owed.call(b"calloc", size, 1)
    if not lent["map"]:
        owed.free_nothing(1)
        owed.free(realname)
        yield from owed.settle()
        raise LoaderError(name, "cannot create shared object descriptor")
    length = len(os.fsencode(path)) + 1
    if path.startswith("/"):
        origin = yield from owed.call(b"malloc", length)
    else:
        origin, here = 0, len(os.fsencode(rtld.files.realpath("."))) + 1
        for room in range(_GETCWD, here + _GETCWD, _GETCWD):
            larger = yield from owed.call(b"realloc", origin, length + room)
            if not larger:
                yield from owed.call(b"free", origin)
                origin = 0
                break
            origin = larger
    if origin:
        lent["origin"] = origin
    return lent


def give_back(rtld: Rtld, lent: dict[str, int]) -> Work:
    """Free what a link map consists of that came to nothing."""
    for what in ("origin", "phdr", "map", "name"):
        if what in lent:
            yield from rtld.owed.call(b"free", lent[what])


def make_room(rtld: Rtld, new: LinkMap, *, to_global: bool) -> Work:
    """Allocate all that an open needs once nothing may fail any more. Raises LoaderError."""
    if not rtld.owed.active:
        return
    for map_ in new.searchlist:
        if map_.init_called and map_.type == LT_LOADED and new.local_scope not in map_.scopes:
            yield from _more_scopes(rtld, map_)
    if to_global:
        yield from extend_global(rtld, new)
    yield from _enter_table(rtld, new)


def _more_scopes(rtld: Rtld, map_: LinkMap) -> Work:
    if len(map_.scopes) + 1 < map_.scope_room:
        return
    room = 2 * map_.scope_room
    block = yield from rtld.owed.call(b"malloc", 8 * room)
    if not block:
        raise LoaderError("dlopen", "cannot create scope list", errno.ENOMEM)
    yield from _replace(rtld, map_, "scope", block)
    map_.scope_room = room
    rtld.mirror.scopes(map_)


def _replace(rtld: Rtld, map_: LinkMap, what: str, block: int) -> Work:
    old = map_.lent.get(what)
    map_.lent[what] = block
    if old:
        yield from rtld.owed.call(b"free", old)


def fewer_scopes(rtld: Rtld, map_: LinkMap) -> Work:
    """Move the scopes of a survivor, some of which are gone."""
    if not rtld.owed.active:
        return
    old = map_.lent.pop("scope", 0)
    if old and len(map_.scopes) < SCOPE_ROOM:
        map_.scope_room = SCOPE_ROOM
    else:
        map_.lent["scope"] = yield from rtld.owed.call(b"malloc", 8 * map_.scope_room)
        if not map_.lent["scope"]:
            raise LoaderError("dlclose", "cannot create scope list", errno.ENOMEM)
    rtld.mirror.scopes(map_)
    if old:
        yield from rtld.owed.call(b"free", old)


def extend_global(rtld: Rtld, new: LinkMap) -> Work:
    """Make room in the global scope for an object and what it needs. Raises LoaderError."""
    main = rtld.namespaces[new.ns].main
    if main is None or not rtld.owed.active:
        return
    needed = len(main.searchlist) + sum(not map_.global_ for map_ in new.searchlist)
    room = main.lent.get("global room", 0)
    if room and needed <= room:
        return
    wanted = 2 * needed if room else needed + _GLOBAL_SURPLUS
    block = yield from rtld.owed.call(b"malloc", 8 * wanted)
    if not block:
        raise LoaderError(new.lib_names[0], "cannot extend global scope", errno.ENOMEM)
    old = main.lent.get("global", 0)
    main.lent["global"], main.lent["global room"] = block, wanted
    rtld.mirror.searchlist(main)
    yield from rtld.owed.call(b"free", old)


def _enter_table(rtld: Rtld, new: LinkMap) -> Work:
    """Enter new objects into the table of `_dl_find_object`."""
    table = rtld.object_table
    fresh = [map_ for map_ in new.searchlist if map_.type == LT_LOADED and map_ not in table.known]
    if not fresh or not rtld.rules.objects_in_table:
        return
    scratch = yield from rtld.owed.call(b"malloc", 8 * len(fresh))
    enough = bool(scratch)
    target = table.parts[1 - table.active]
    missing = len(table.known) + len(fresh) - sum(target)
    if enough and missing > 0:
        entry = _MAPPING + 8 * rtld.rules.frames_in_table
        size = max(missing, 2 * target[-1] if target else _FIRST_MAPPINGS)
        enough = bool((yield from rtld.owed.call(b"malloc", entry * size + _MAPPINGS_HEAD)))
        if enough:
            target.append(size)
    if scratch:
        yield from rtld.owed.call(b"free", scratch)
    if not enough:
        raise LoaderError(new.lib_names[0], "cannot allocate address lookup data", errno.ENOMEM)
    table.active = 1 - table.active
    table.known.update(fresh)


def release(rtld: Rtld, map_: LinkMap) -> Work:
    """Give back all that an object has, in ld.so's order: it is gone."""
    lent, owed = map_.lent, rtld.owed
    rtld.object_table.known.discard(map_)
    if not owed.active or not lent:
        return
    names = [lent[what] for what in sorted(lent) if what.startswith("libname ")]
    whole = "map" in lent
    order = [lent.get("versions", 0)]
    order += [lent["origin"]] if "origin" in lent else []
    order += [lent.get("reldeps", 0), lent.get("name", 0), *names, lent.get("initfini", 0)]
    order += [lent[what] for what in ("scope", "phdr") if what in lent]
    lists = [owed.lists.pop((map_, tag), 0) for tag in ("RPATH", "RUNPATH")]
    order += [block for block in lists if block != NEVER]
    for block in [*order, lent.get("map", 0)]:
        if block or (whole and owed.interposed):
            yield from owed.call(b"free", block)
    lent.clear()
