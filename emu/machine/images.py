"""Pages that processes share since a fork, until one of them writes:
parts of a memory file that lie under private memory.

At a fork the pages that the parent has to itself go to the file, and both processes map that, copy-on-write:
the host's kernel then makes a page's copy when it is written. One file serves all processes; a part of it is
given back when it lies under nobody's memory any more.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from typing import TYPE_CHECKING

from emu.core.descriptors import for_guest
from emu.core.record import NamedTuple
from emu.machine import host

if TYPE_CHECKING:
    from collections.abc import Iterator


class Extent:
    """A part of the file of a `PageStore`; it is given back with the last reference to it."""

    __slots__ = ("_fd", "_size", "offset")

    def __init__(self, fd: int, offset: int, size: int) -> None:
        self._fd, self.offset, self._size = fd, offset, size

    def __del__(self) -> None:
        host.punch_hole(self._fd, self.offset, self._size)


class PageStore:
    """The file, which is made when it is first wanted, and stays as long as the host's process."""

    __slots__ = ("_end", "fd")

    def __init__(self) -> None:
        self.fd = -1
        self._end = 0

    def save(self, pages: memoryview) -> Extent:
        """Keep the bytes of some pages. Raises OSError."""
        if self.fd < 0:
            self.fd = for_guest(os.memfd_create("emu-pages", os.MFD_CLOEXEC))
        offset, size, done = self._end, len(pages), 0
        while done < size:
            done += os.pwrite(self.fd, pages[done:], offset + done)
        self._end += size
        return Extent(self.fd, offset, size)


class Run(NamedTuple):
    """The bytes [start, end) of the arena that show the store's file from `offset`
    on, in `extent`, but for pages written since.
    """

    start: int
    end: int
    extent: Extent
    offset: int

    def part(self, start: int, end: int) -> Run:
        """Return what is left of it within [start, end)."""
        start, end = max(start, self.start), min(end, self.end)
        return Run(start, end, self.extent, self.offset + start - self.start)


class Images:
    """The runs of one arena, in order; they do not overlap."""

    def __init__(self, runs: list[Run] | None = None) -> None:
        self._runs = runs if runs is not None else []

    def __len__(self) -> int:
        return len(self._runs)

    def copy(self) -> Images:
        """Return the same runs for a child."""
        return Images(list(self._runs))

    def clear(self) -> list[Run]:
        """Forget all runs, and return them."""
        runs, self._runs = self._runs, []
        return runs

    def within(self, start: int, end: int) -> Iterator[Run]:
        """Yield the runs of a range, cut to it."""
        index = max(bisect_right(self._runs, start, key=lambda run: run.start) - 1, 0)
        while index < len(self._runs) and self._runs[index].start < end:
            if self._runs[index].end > start:
                yield self._runs[index].part(start, end)
            index += 1

    def drop(self, start: int, end: int) -> None:
        """Something else lies under a range now."""
        if not self._runs:
            return
        kept: list[Run] = []
        for run in self._runs:
            if run.end <= start or run.start >= end:
                kept.append(run)
                continue
            if run.start < start:
                kept.append(run.part(run.start, start))
            if run.end > end:
                kept.append(run.part(end, run.end))
        self._runs = kept

    def put(self, runs: list[Run]) -> None:
        """Put new runs, in order, over what there was."""
        if not runs:
            return
        for run in runs:
            self.drop(run.start, run.end)
        self._runs = sorted([*self._runs, *runs], key=lambda run: run.start)

    def move(self, old: int, size: int, new: int) -> None:
        """Let the runs of a range go where its pages go."""
        if not self._runs:
            return
        moved = [
            run._replace(start=run.start - old + new, end=run.end - old + new)
            for run in self.within(old, old + size)
        ]
        self.drop(old, old + size)
        self.put(moved)
