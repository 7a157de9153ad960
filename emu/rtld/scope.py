"""Scopes: the lists of objects in which a symbol is looked up, in order.

Source: glibc include/link.h (struct r_scope_elem), elf/dl-scope.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emu.rtld.link_map import LinkMap


class Scope:
    """One search list. `maps` may grow (the global scope) or be shared between objects; `address` is its guest mirror."""

    __slots__ = ("address", "maps")

    def __init__(self, maps: list[LinkMap]) -> None:
        self.maps = maps
        self.address = 0

    def __repr__(self) -> str:
        return f"<Scope {' '.join(m.display_name for m in self.maps)}>"


class Namespace:
    """A list of loaded objects that see each other: the base namespace (0), or one made by dlmopen.

    `unique` holds the STB_GNU_UNIQUE definitions by name: the first one found in the namespace wins for everybody.
    """

    __slots__ = ("global_scope", "index", "libc_map", "main", "maps", "unique")

    def __init__(self, index: int) -> None:
        self.index = index
        self.maps: list[LinkMap] = []
        self.main: LinkMap | None = None
        self.libc_map: LinkMap | None = None
        self.global_scope = Scope([])
        self.unique: dict[bytes, tuple[LinkMap, int]] = {}
