"""Dependencies: load what an object needs, breadth-first, and put the result in look-up order and in init order.

Source: glibc elf/dl-deps.c:_dl_map_object_deps, elf/dl-load.c:_dl_map_object.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.core.errors import LoaderError, UnsupportedError
from emu.rtld.dst import has_dst
from emu.rtld.link_map import LT_EXECUTABLE, LinkMap
from emu.rtld.map_object import map_object
from emu.rtld.scope import Scope
from emu.rtld.sort_maps import sort_maps

if TYPE_CHECKING:
    from emu.rtld.rtld import Rtld


def map_named(rtld: Rtld, name: str, loader: LinkMap | None, type_: int, ns: int, rule: str = "") -> LinkMap:
    """Return the object that `name` means to `loader`: one that is loaded already, or the file that the search finds.

    Raises LoaderError "cannot open shared object file" when there is none. Source: glibc elf/dl-load.c:_dl_map_object.
    """
    namespace = rtld.namespaces[ns]
    if (loaded := rtld.find_loaded(name, namespace)) is not None:
        return loaded
    found = rtld.search.find(name, loader, namespace.main)
    if found is None:
        number = rtld.search.last_errno or errno.ENOENT
        raise LoaderError(name, "cannot open shared object file", number)
    for known in namespace.maps:
        if known.file_id == (found.backing.dev, found.backing.ino) and known.file_id != (0, 0):
            known.lib_names.append(name)
            return known
    map_ = map_object(rtld, found.backing, found.path, loader, type_, ns, rule or found.rule)
    map_.needed_as = name
    if name != found.path:
        map_.lib_names.append(name)
    set_up_scopes(rtld, map_)
    rtld.mirror.new_map(map_)
    return map_


def set_up_scopes(rtld: Rtld, map_: LinkMap) -> None:
    """Give a new object its scopes: itself if symbolic, the namespace's global scope, the search list of its first loader.

    Source: glibc elf/dl-object.c:_dl_new_object, elf/dl-load.c:setup symbolic searchlist.
    """
    map_.local_scope = Scope(map_.searchlist)
    scopes = [rtld.namespaces[map_.ns].global_scope]
    root = map_
    while root.loader is not None:
        root = root.loader
    if root.type != LT_EXECUTABLE and root.local_scope is not scopes[0]:
        scopes.append(root.local_scope)
    if map_.symbolic:
        scopes.insert(0, Scope([map_]))
    map_.scopes = scopes


def map_deps(rtld: Rtld, root: LinkMap, preloads: list[LinkMap]) -> None:
    """Load everything that `root` needs; set its search list (breadth-first) and everybody's `initfini`.

    Raises LoaderError for an object that is not found (with `rtld.keep_going` it is recorded instead).
    """
    known: list[LinkMap] = [root, *preloads]
    seen = set(known)
    for map_ in known:
        direct = [map_]
        if map_.initfini is None or map_ is root or map_ in preloads:
            if map_.dynamic.filter or map_.dynamic.auxiliary:
                raise UnsupportedError("DT_FILTER or DT_AUXILIARY", map_.display_name)
        for written in map_.needed_names():
            name = rtld.search.expand(written, map_, rtld.namespaces[0].main) if has_dst(written) else written
            if not name:
                continue  # the token stands for nothing that is known
            try:
                needed = map_named(rtld, name, map_, root.type if root.type == 2 else 1, root.ns)
            except LoaderError:
                if not rtld.keep_going:
                    raise
                rtld.missing.append((name, map_))
                continue
            if needed not in seen:
                seen.add(needed)
                known.append(needed)
            if needed not in direct:
                direct.append(needed)
        if map_.initfini is None:
            map_.initfini = direct
    root.searchlist[:] = known
    root.initfini = sort_maps(known, force_first=True, for_fini=False, algorithm=rtld.sort_algorithm)
    rtld.mirror.dependencies(root)
