"""The search for a place: the highest that is free below a bound, as Linux gives it.

Source: mmap(2); Linux mm/mmap.c:arch_get_unmapped_area_topdown.
"""

from __future__ import annotations

import errno
from bisect import bisect_right
from typing import TYPE_CHECKING

from emu.machine.arena import HIGH_START

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.machine.vma import Vma


class Gaps:
    """Remembers how far the last search below `top` went, and the largest hole that it passed: what it passed
    over is not looked at again while it has no hole of the length that is wanted. So many mappings, one below
    the other, take no time that grows with their number.
    """

    __slots__ = ("_hole", "_searched", "_top")

    def __init__(self, top: int) -> None:
        self._top = self._searched = top
        self._hole = 0

    def copy(self) -> Gaps:
        """Return the same for another space with the same areas."""
        gaps = Gaps(self._top)
        gaps._searched, gaps._hole = self._searched, self._hole
        return gaps

    def opened(self, stop: int) -> None:
        """There is a new hole that ends at `stop`."""
        if stop > self._searched:
            self._searched, self._hole = self._top, 0

    def find(
        self,
        starts: Sequence[int],
        areas: Sequence[Vma],
        length: int,
        below: int,
        align: int,
        bottom: int = HIGH_START,
    ) -> int:
        """Return the highest free address for `length` bytes under `below`, and not under `bottom`; `areas`
        are sorted by `starts`.

        Raises OSError(ENOMEM).
        """
        end, hole = below, 0
        if below == self._top and length > self._hole:
            end, hole = self._searched, self._hole
        index = bisect_right(starts, end) - 1
        while end - length >= bottom:
            area = areas[index] if index >= 0 else None
            floor = area.end if area is not None else bottom
            place = (end - length) & -align
            if place >= max(floor, bottom):
                if below == self._top:
                    self._searched, self._hole = end, hole
                return place
            if area is None:
                break
            hole = max(hole, end - floor)
            end = min(end, area.start)
            index -= 1
        raise OSError(errno.ENOMEM, "no room in the address space")
