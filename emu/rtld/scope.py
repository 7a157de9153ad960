"""Scopes: the lists of objects in which a symbol is looked up, in order; and the namespaces that hold them.

Source: glibc include/link.h (struct r_scope_elem), elf/dl-object.c, elf/dl-scope.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.ldso_events import ScopeListed

if TYPE_CHECKING:
    from emu.rtld.found import Found
    from emu.rtld.link_map import LinkMap
    from emu.rtld.rtld import Rtld

DL_NNS = 16
"""How many namespaces there can be."""


class Scope:
    """One search list: that of `owner`, shared with its `searchlist`, or (`symbolic`) the owner alone.

    Without an owner it stands for nobody's list, as a look-up in one object does.
    """

    __slots__ = ("maps", "owner", "symbolic")

    def __init__(self, maps: list[LinkMap], owner: LinkMap | None = None, *, symbolic: bool = False) -> None:
        self.maps, self.owner, self.symbolic = maps, owner, symbolic

    def __repr__(self) -> str:
        return f"<Scope {' '.join(m.display_name for m in self.maps)}>"


class Namespace:
    """A list of loaded objects that see each other: the base namespace (0), or one made by dlmopen.

    `unique` holds the STB_GNU_UNIQUE definitions by name: the first one found in the namespace wins for
    everybody. `main` is the program (base namespace only); `state` is `_r_debug`'s: RT_CONSISTENT 0, RT_ADD
    1, RT_DELETE 2.
    """

    __slots__ = ("index", "libc_map", "main", "maps", "state", "unique")

    def __init__(self, index: int) -> None:
        self.index = index
        self.maps: list[LinkMap] = []
        self.main: LinkMap | None = None
        self.libc_map: LinkMap | None = None
        self.unique: dict[bytes, Found] = {}
        self.state = 0


def set_up_scopes(namespace: Namespace, map_: LinkMap, *, deepbind: bool = False) -> None:
    """Give a new object, not yet in the namespace's list, its scopes.

    These are itself if symbolic, the search list of the namespace's first object (the global scope), that of
    the object that started its loading. RTLD_DEEPBIND puts the last before the global scope, and overrules
    DT_SYMBOLIC.
    Source: glibc elf/dl-object.c:_dl_new_object, elf/dl-load.c:_dl_map_object_from_fd.
    """
    scopes = [namespace.maps[0].local_scope] if namespace.maps else []
    root = map_
    while root.loader is not None:
        root = root.loader
    if not scopes or root.local_scope is not scopes[0]:
        scopes.insert(0 if deepbind else len(scopes), root.local_scope)
    if map_.symbolic and not deepbind and map_.local_scope is not scopes[0]:
        scopes.insert(0, Scope([map_], map_, symbolic=True))
    map_.scopes = scopes


def list_scopes(rtld: Rtld, map_: LinkMap, first: int = 0) -> None:
    """Tell of an object's scopes from number `first` on. Source: glibc elf/dl-open.c:_dl_show_scope."""
    if not rtld.bus.ldso:
        return
    listed = map_.scopes[first:]
    if not listed:
        rtld.bus.emit(ScopeListed(map_.display_name, map_.ns, first, (), True, True))
    for number, scope in enumerate(listed):
        members = tuple(member.name or rtld.program for member in scope.maps)
        is_last = number == len(listed) - 1
        rtld.bus.emit(ScopeListed(map_.display_name, map_.ns, first + number, members, number == 0, is_last))
