"""Dependencies: load what an object needs, breadth-first, and put the result in
look-up order and in init order.

Source: glibc elf/dl-deps.c:_dl_map_object_deps, elf/dl-load.c:_dl_map_object.
"""

from __future__ import annotations

import errno
from collections.abc import Generator
from typing import TYPE_CHECKING

from emu.core.dl_events import ObjectNeeded
from emu.core.effects import Effect
from emu.core.errors import EmuError, LoaderError
from emu.core.events import LibraryReused
from emu.core.ldso_events import AuxiliaryRequested
from emu.elf import constants as c
from emu.elf.dynamic import Dynamic
from emu.elf.symtab import SymbolTable
from emu.rtld.audit import RTLD_AUDIT, head_is_auditing, objopen, objsearch
from emu.rtld.dst import has_dst
from emu.rtld.failure import NoFile
from emu.rtld.link_map import LT_EXECUTABLE, LT_LIBRARY, LinkMap, MappedImage, MapType
from emu.rtld.map_object import NewObject, enter, map_object
from emu.rtld.scope import set_up_scopes
from emu.rtld.search_attempt import LA_SER_ORIG
from emu.rtld.search_path import Who
from emu.rtld.sort_maps import sort_maps

if TYPE_CHECKING:
    from emu.rtld.given import Work
    from emu.rtld.rtld import Rtld

RTLD_NOLOAD, RTLD_DEEPBIND = 4, 8
RTLD_DLOPEN, RTLD_CALLMAP = 0x80000000, 0x10000000
"""Internal mode bits: the opening is dlopen's; the loader only lends its search path."""


def map_named(
    rtld: Rtld,
    name: str,
    loader: LinkMap | None,
    type_: MapType,
    ns: int,
    mode: int = 0,
    rule: str = "",
    *,
    trace: bool = False,
) -> Generator[Effect, int, LinkMap | None]:
    """Return the object that `name` means to `loader`:
    one that is loaded already, or the file that the search finds.

    Auditors may change the name first. None only with RTLD_NOLOAD, for a file that is there but not loaded.
    Raises LoaderError "cannot open shared object file" when there is none; with `trace` an empty object
    stands for it. Of any error the fact tells for whom it was.
    Source: glibc elf/dl-load.c:_dl_map_object.
    """
    try:
        return (yield from _map_named(rtld, name, loader, type_, ns, mode, rule, trace=trace))
    except EmuError as error:
        error.fact = error.fact or NoFile(name, loader, ns, bool(mode & RTLD_CALLMAP))
        raise


def _map_named(
    rtld: Rtld,
    name: str,
    loader: LinkMap | None,
    type_: MapType,
    ns: int,
    mode: int,
    rule: str,
    *,
    trace: bool,
) -> Generator[Effect, int, LinkMap | None]:
    namespace = rtld.namespaces[ns]
    loaded = rtld.find_loaded(name, namespace)
    yield from rtld.owed.settle()
    if loaded is not None:
        if loader is not None and rtld.bus.libs and not mode & RTLD_CALLMAP:
            _tell_reused(rtld, name, loader, loaded)
        return loaded
    if loader is not None and rtld.bus.dl:
        dynamic = bool(mode & RTLD_CALLMAP)
        rtld.bus.emit(ObjectNeeded(name, ns, loader.display_name, loader.ns, dynamic))
    asked_for = name
    if rtld.auditors and loader is not None:
        chosen = yield from objsearch(rtld, name, loader, LA_SER_ORIG)
        if chosen is None:
            raise LoaderError("", "cannot open shared object file", rtld.search.last_errno)
        name = chosen
    who = Who(
        loader,
        rtld.namespaces[0].main,
        namespace.maps[0] if namespace.maps else None,
        bool(mode & RTLD_AUDIT),
        loader is not None and head_is_auditing(rtld, loader.ns),
    )
    found = yield from rtld.search.finding(name, who, namespace=ns, any_class=trace)
    if found is None and trace:
        return _missing(rtld, name, loader, type_, ns)
    if found is None:
        number = rtld.search.last_errno or (0 if rtld.auditors else errno.ENOENT)
        raise LoaderError(name, "cannot open shared object file", number)
    identity = (found.backing.dev, found.backing.ino)
    for known in namespace.maps:
        if known.file_id == identity and identity != (0, 0) and not known.removed:
            if found.block:
                yield from rtld.owed.call(b"free", found.block)
            if name not in known.lib_names:
                known.lib_names.append(name)
                rtld.mirror.names(known)
                yield from rtld.owed.settle()
            return known
    if mode & RTLD_CALLMAP:
        loader = None
    if ns and rtld.ld_so is not None and (rtld.ld_so.file_id == identity or rtld.ld_so.matches_name(name)):
        if found.block:
            yield from rtld.owed.call(b"free", found.block)
        proxy = _stand_in(rtld, rtld.ld_so, found.path, name, type_, ns, loader)
        if rtld.auditors and rtld.rules.proxies_audited and not head_is_auditing(rtld, ns):
            yield from objopen(rtld, proxy)
        return proxy
    if mode & RTLD_NOLOAD:
        if found.block:
            yield from rtld.owed.call(b"free", found.block)
        return None
    new = NewObject(name, loader, type_, ns, mode, rule or found.rule, asked_for, found.block)
    return (yield from map_object(rtld, found.backing, found.path, new))


def _tell_reused(rtld: Rtld, name: str, loader: LinkMap, loaded: LinkMap) -> None:
    """Tell by which of its names an object that is there serves a DT_NEEDED."""
    known_by = "needed-as" if name == loaded.needed_as else "soname" if name == loaded.soname else "path"
    event = LibraryReused(name, loaded.ns, loader.display_name, loaded.display_name, loaded.path, known_by)
    rtld.bus.emit(event)


def _stand_in(
    rtld: Rtld, ld_so: LinkMap, path: str, name: str, type_: MapType, ns: int, loader: LinkMap | None
) -> LinkMap:
    """Let the one ld.so be seen in another namespace, by a map of its own that refers to the real one."""
    map_ = LinkMap(path, path, type_, ns, loader)
    map_.lib_names = [name]
    map_.real, map_.addr, map_.ld = ld_so, ld_so.addr, ld_so.ld
    map_.symtab, map_.dynamic = ld_so.symtab, Dynamic(bytes(c.DYN_SIZE), path)
    set_up_scopes(rtld.namespaces[ns], map_)
    enter(rtld, map_)
    return map_


def _missing(rtld: Rtld, name: str, loader: LinkMap | None, type_: MapType, ns: int) -> LinkMap:
    """Let an empty object stand for a file that is not there, where the objects are only to be listed."""
    map_ = LinkMap(name, "", type_, ns, loader)
    map_.dynamic = Dynamic(bytes(c.DYN_SIZE), name)
    map_.symtab = SymbolTable(MappedImage(rtld.memory, 0, name), [], map_.dynamic, name)
    map_.faked = map_.relocated = True
    set_up_scopes(rtld.namespaces[ns], map_)
    enter(rtld, map_)
    return map_


class _Entry:
    """A place in the list of dependencies: `done` once the object's own needs have been looked at."""

    __slots__ = ("done", "map")

    def __init__(self, map_: LinkMap, done: bool = False) -> None:
        self.map, self.done = map_, done


class _NoListError(LoaderError):
    """There is no memory for a list: unlike what _visit meets else, this ends map_deps at once."""


def _leave_marked(entries: list[_Entry]) -> None:
    """Leave the marks of a list that comes to nothing: those objects count for listed in the next."""
    for entry in entries:
        entry.map.left_marked = True


def map_deps(rtld: Rtld, root: LinkMap, preloads: list[LinkMap], mode: int = 0) -> Work:
    """Load everything that `root` needs; set its search list (breadth-first) and everybody's `initfini`.

    A filtee (DT_FILTER, DT_AUXILIARY) comes before the object that names it, in the search list and in the
    namespace's list. Raises the error for an object that cannot be loaded once the lists hold what has been
    loaded so far (with `rtld.keep_going` it is recorded instead).
    """
    entries = [_Entry(map_) for map_ in (root, *preloads)]
    failure: EmuError | None = None
    at: int | None = 0
    while at is not None and failure is None:
        try:
            yield from _visit(rtld, root, entries, at, mode)
        except _NoListError:
            _leave_marked(entries)
            raise
        except EmuError as error:
            failure = error
        at = next((i for i in range(at, len(entries)) if not entries[i].done), None)
    known = [entry.map for entry in entries if not entry.map.faked]
    before = root.lent.get("initfini", 0)
    try:
        yield from _allocate_lists(rtld, root, len(known))
    except _NoListError:
        _leave_marked(entries)
        raise
    root.searchlist[:] = known
    for entry in entries:
        entry.map.left_marked = False
    if root.reldeps is not None and any(map_ in known and map_ is not root for map_ in root.reldeps):
        root.reldeps = [map_ for map_ in root.reldeps if map_ not in known or map_ is root]
        rtld.mirror.reldeps(root)
    maps = [root, *(map_ for map_ in known if map_ is not root)]
    force_first = root is not rtld.namespaces[root.ns].libc_map
    root.initfini = sort_maps(maps, force_first=force_first, for_fini=False, algorithm=rtld.sort_algorithm)
    rtld.mirror.dependencies(root)
    if before:
        yield from rtld.owed.call(b"free", before)
    if failure is not None:
        raise failure


def _visit(rtld: Rtld, root: LinkMap, entries: list[_Entry], at: int, mode: int) -> Work:
    """Load what one entry's object names; put new objects at the end, filtees before the entry."""
    entry = entries[at]
    entry.done = True
    map_ = entry.map
    direct = [map_]
    for tag, offset in map_.dynamic.entries:
        if tag not in (c.DT_NEEDED, c.DT_AUXILIARY, c.DT_FILTER):
            continue
        name = map_.symtab.strings.at(offset).decode(errors="surrogateescape")
        if has_dst(name):
            expanded = rtld.search.expand(name, map_, rtld.namespaces[0].main)
            if not expanded and tag == c.DT_AUXILIARY:
                raise LoaderError(name, "empty dynamic string token substitution")
            if not expanded:
                continue
            name = expanded
        if tag != c.DT_NEEDED and rtld.bus.ldso:
            rtld.bus.emit(AuxiliaryRequested(name, map_.display_name))
        type_ = LT_LIBRARY if map_.type == LT_EXECUTABLE else map_.type
        try:
            needed = yield from map_named(rtld, name, map_, type_, map_.ns, mode, trace=rtld.trace)
        except LoaderError:
            if tag == c.DT_AUXILIARY:
                continue
            if tag == c.DT_NEEDED and rtld.keep_going:
                rtld.missing.append((name, map_))
                continue
            raise
        assert needed is not None
        direct.append(needed)
        if tag != c.DT_NEEDED:
            _insert_filtee(rtld, entries, entry, needed)
        elif not needed.left_marked and all(known.map is not needed for known in entries):
            entries.append(_Entry(needed))
    if map_ is not root and map_.initfini is None and map_.real is map_:
        yield from _allocate_lists(rtld, map_, len(direct), root)
        map_.initfini = direct
        rtld.mirror.initfini(map_)


def _allocate_lists(rtld: Rtld, map_: LinkMap, count: int, root: LinkMap | None = None) -> Work:
    """Take the memory for the init order and the search list of an object.

    Raises LoaderError in the name of `root`, or its own.
    """
    if rtld.owed.active:
        block = yield from rtld.owed.call(b"malloc", 8 * (2 * count + 1))
        if not block:
            what = "dependency list" if root is not None else "symbol search list"
            raise _NoListError((root or map_).name, f"cannot allocate {what}", errno.ENOMEM)
        map_.lent["initfini"] = block


def _insert_filtee(rtld: Rtld, entries: list[_Entry], entry: _Entry, filtee: LinkMap) -> None:
    """Put a filtee right before the object that filters it, unless it comes earlier already."""
    here = entries.index(entry)
    place = next((i for i, known in enumerate(entries) if known.map is filtee), None)
    if place is not None and place <= here:
        return
    if place is not None:
        del entries[place]
    entries.insert(here, _Entry(filtee))
    rtld.move_before(filtee, entry.map)
