"""Which object contains an address: one index over the ranges of all objects of all namespaces.

Source: the job is that of glibc elf/dl-open.c:_dl_find_dso_for_object and elf/dl-find_object.c.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from typing import TYPE_CHECKING

from emu.core.record import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from emu.rtld.link_map import LinkMap


class Departed(NamedTuple):
    """An object that is gone: the range that was its own, when it went (virtual ns, and the number of its
    event if traced), by whom.
    """

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
    """Objects by address.

    Ranges do not overlap; one whose segments leave holes contains only what its segments do.
    """

    def __init__(self) -> None:
        self._starts: list[tuple[int, int]] = []
        self._maps: dict[int, LinkMap] = {}
        self.departed: list[Departed] = []
        self._known: set[LinkMap] | None = None
        """Whom _dl_find_object knows; None until start-up has ended: everybody."""
        self._early: set[LinkMap] = set()
        self._early_opens = 0

    def add(self, map_: LinkMap) -> None:
        """Enter an object by its `map_start` and `map_end`."""
        insort(self._starts, (map_.map_start, map_.map_end))
        self._maps[map_.map_start] = map_

    def present(self) -> tuple[LinkMap, ...]:
        """Return the objects that are there."""
        return tuple(self._maps.values())

    def remove(self, map_: LinkMap) -> None:
        """Take an object out."""
        self._starts.remove((map_.map_start, map_.map_end))
        del self._maps[map_.map_start]
        self._early.discard(map_)
        if self._known is not None:
            self._known.discard(map_)

    def find(self, address: int) -> LinkMap | None:
        """Return the object that contains `address`."""
        at = bisect_right(self._starts, (address, 1 << 64)) - 1
        if at < 0:
            return None
        map_ = self._maps[self._starts[at][0]]
        return map_ if map_.contains(address) else None

    def know_initial(self, maps: Iterable[LinkMap]) -> None:
        """Start-up has ended: from now on _dl_find_object, and so unwinders, know the base namespace's `maps`
        and what is opened later.

        Auditors and what they have opened are known after an odd number of opens only: ld.so writes each
        change into the other one of two tables, and takes a new first table now. Seen in 2.36 to 2.44 with
        one to three auditors.
        """
        self._known = set(maps)
        if self._early_opens % 2:
            self._known |= self._early

    def know(self, maps: Iterable[LinkMap]) -> None:
        """Let _dl_find_object know what has been opened."""
        if self._known is not None:
            self._known.update(maps)
        else:
            self._early.update(maps)
            self._early_opens += 1

    def find_known(self, address: int) -> LinkMap | None:
        """Return what _dl_find_object finds at `address`."""
        map_ = self.find(address)
        return map_ if map_ is not None and (self._known is None or map_ in self._known) else None

    def depart(self, gone: Departed) -> None:
        """Remember an object that is being unloaded, in the place of an earlier
        one of the same name and range.
        """
        same = (gone.start, gone.end, gone.name)
        self.departed = [d for d in self.departed if (d.start, d.end, d.name) != same]
        self.departed.append(gone)

    def find_departed(self, address: int) -> Departed | None:
        """Return the object that was the last to be unloaded from `address`."""
        return next((d for d in reversed(self.departed) if d.start <= address < d.end), None)
