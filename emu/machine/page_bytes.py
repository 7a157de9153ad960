"""A byte for each page of an arena, where a reservation of terabytes must cost no
more than what is used of it.

The bytes are host memory of which only written pages exist. A long range of equal bytes is noted as a whole;
the bytes of a chunk of it are written when somebody first asks for one of its pages. So 0 in the table means:
nothing is mapped there, or it has to be asked for.
"""

from __future__ import annotations

import mmap
from bisect import bisect_left, insort

from emu.core.record import NamedTuple

_NORESERVE = 0x4000
CHUNK = 4096
"""Pages whose bytes are written together: one page of the table."""
LONG = 1 << 16
"""Ranges of fewer pages are written at once."""


def table(pages: int) -> mmap.mmap:
    """Return a byte for each page; what nobody has written costs nothing."""
    return mmap.mmap(-1, pages, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE)


class Whole(NamedTuple):
    """The pages [start, end), in whole chunks, that all have the byte `value` and no bytes in the table."""

    start: int
    end: int
    value: int


class Saved(NamedTuple):
    """What a range of the table held: ranges noted as a whole, and bytes by where they begin."""

    wholes: tuple[Whole, ...]
    parts: tuple[tuple[int, bytes], ...]


class PageBytes:
    """The ranges of one table that are noted as a whole, sorted; pages are told by their numbers."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._wholes: list[Whole] = []

    def __bool__(self) -> bool:
        return bool(self._wholes)

    def fill(self, first: int, last: int, value: int) -> None:
        """Give the pages [first, last) a byte."""
        if last - first < LONG:
            if self._wholes:
                self.settle(first, last)
            self._data[first:last] = bytes((value,)) * (last - first)
            return
        start, end = -(-first // CHUNK) * CHUNK, last // CHUNK * CHUNK
        self.fill(first, start, value)
        self.fill(end, last, value)
        self._cut(start, end)
        self._data.madvise(mmap.MADV_DONTNEED, start, end - start)
        if value:
            insort(self._wholes, Whole(start, end, value))

    def settle(self, first: int, last: int) -> bool:
        """Write the bytes of the pages [first, last) that are noted as a whole; whether there were any."""
        if first >= last:
            return False
        start, end = first // CHUNK * CHUNK, -(-last // CHUNK) * CHUNK
        cut = self._cut(start, end)
        for whole in cut:
            self._data[whole.start : whole.end] = bytes((whole.value,)) * (whole.end - whole.start)
        return bool(cut)

    def written(self, first: int, last: int) -> list[tuple[int, int]]:
        """Return the ranges of [first, last) whose bytes are in the table."""
        found, at = [], first
        for whole in self._within(first, last):
            if whole.start > at:
                found.append((at, whole.start))
            at = whole.end
        return [*found, (at, last)] if at < last else found

    def save(self, first: int, last: int) -> Saved:
        """Return what the pages [first, last) have."""
        wholes = tuple(
            Whole(max(w.start, first), min(w.end, last), w.value) for w in self._within(first, last)
        )
        return Saved(wholes, tuple((at, self._data[at:end]) for at, end in self.written(first, last)))

    def load(self, saved: Saved) -> None:
        """Give the pages what `save` has returned."""
        for whole in saved.wholes:
            self.fill(*whole)
        for at, data in saved.parts:
            self.settle(at, at + len(data))
            self._data[at : at + len(data)] = data

    def _within(self, first: int, last: int) -> list[Whole]:
        at = bisect_left(self._wholes, (first,))
        if at and self._wholes[at - 1].end > first:
            at -= 1
        found = []
        while at < len(self._wholes) and self._wholes[at].start < last:
            found.append(self._wholes[at])
            at += 1
        return found

    def _cut(self, start: int, end: int) -> list[Whole]:
        """Take [start, end) out of what is noted; return the parts that were in it."""
        cut = []
        for whole in self._within(start, end):
            self._wholes.remove(whole)
            if whole.start < start:
                insort(self._wholes, Whole(whole.start, start, whole.value))
            if whole.end > end:
                insort(self._wholes, Whole(end, whole.end, whole.value))
            cut.append(Whole(max(whole.start, start), min(whole.end, end), whole.value))
        return cut
