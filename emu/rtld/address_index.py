"""Which object contains an address: one index over the ranges of all objects of all namespaces.

Source: the job is that of glibc elf/dl-open.c:_dl_find_dso_for_object and elf/dl-find_object.c.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from emu.rtld.link_map import LinkMap


class Departed(NamedTuple):
    """An object that is gone: the range that was its own, when it went (virtual ns, and the number of its event if traced), by whom."""

    start: int
    end: int
    name: str
    path: str
    addr: int
    time: int
    sequence: int
    by: str
    file_id: tuple[int, int]


class AddressIndex:
    """Objects by address. Ranges do not overlap; one whose segments leave holes contains only what its segments do."""

    def __init__(self) -> None:
        self._starts: list[tuple[int, int]] = []
        self._maps: dict[int, LinkMap] = {}
        self.departed: list[Departed] = []

    def add(self, map_: LinkMap) -> None:
        """Enter an object by its `map_start` and `map_end`."""
        insort(self._starts, (map_.map_start, map_.map_end))
        self._maps[map_.map_start] = map_

    def remove(self, map_: LinkMap) -> None:
        """Take an object out."""
        self._starts.remove((map_.map_start, map_.map_end))
        del self._maps[map_.map_start]

    def find(self, address: int) -> LinkMap | None:
        """Return the object that contains `address`."""
        at = bisect_right(self._starts, (address, 1 << 64)) - 1
        if at < 0:
            return None
        map_ = self._maps[self._starts[at][0]]
        return map_ if map_.contains(address) else None

    def depart(self, gone: Departed) -> None:
        """Remember an object that is being unloaded, in the place of an earlier one of the same name and range."""
        same = (gone.start, gone.end, gone.name)
        self.departed = [d for d in self.departed if (d.start, d.end, d.name) != same]
        self.departed.append(gone)

    def find_departed(self, address: int) -> Departed | None:
        """Return the object that was the last to be unloaded from `address`."""
        return next((d for d in reversed(self.departed) if d.start <= address < d.end), None)
