"""The guest's memory at one moment, to be put back in place.

What is noted are the pages that the guest or the loader has written: of a file's private mapping those that
are no longer the file's own, of anonymous memory those that exist at all. The host's kernel knows which; so
the cost goes with what was written, not with what is mapped. To put the memory back, mappings that have
changed are made again, pages that were written since are dropped, and noted ones are copied back.

Source: Linux Documentation/admin-guide/mm/pagemap.rst; madvise(2), MADV_DONTNEED.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from emu.core.record import NamedTuple
from emu.machine import host
from emu.machine.arena import PROT_EXEC, physical
from emu.machine.pages import Pages

if TYPE_CHECKING:
    from emu.core.files import Backing
    from emu.machine.address_space import AddressSpace
    from emu.machine.engine import Cpu
    from emu.machine.page_bytes import Saved
    from emu.machine.vma import Vma


class _Mapping(NamedTuple):
    """One area as it was: where, what lies under it (`descriptor`: the host's file), its permission bytes."""

    start: int
    end: int
    shared: bool
    offset: int
    backing: Backing | None
    host_mapped: bool
    descriptor: int | None
    in_file: int
    perms: Saved
    counted: list[tuple[int, bytes]]
    executable: bool


class MemorySnapshot:
    """The memory of `space` at the time this is made; `size` is what it holds, in bytes.

    Raises EmuError if the host does not tell its pages.
    """

    def __init__(self, space: AddressSpace) -> None:
        self._space = space
        arena = self._arena = space.arena
        self._mappings = [_mapping(space, area) for area in space.placed()]
        self._counted = arena.budget.pages, arena.resident
        self._pages: list[dict[int, bytes]] = []
        with Pages(arena.host_base) as pages:
            for area in self._mappings:
                noted = {}
                first = physical(area.start)
                last = first + area.end - area.start
                if area.host_mapped and area.descriptor is None:
                    noted[first] = arena.mapping[first : first + area.in_file]  # its file is gone
                elif not _in_memory_file(area):
                    for start, end in pages.of(arena, first, last):
                        noted[start] = arena.mapping[start:end]
                self._pages.append(noted)
        self.size = sum(len(run) for noted in self._pages for run in noted.values())

    def restore(self, cpu: Cpu) -> None:
        """Put the memory back, permissions included, and let the CPU forget code that is not what it was.

        The areas of the space must still be the present ones; they are for the caller to put back afterwards.
        """
        arena, space = self._arena, self._space
        present = {area.start: _mapping(space, area) for area in space.placed()}
        same = {
            area.start
            for area in self._mappings
            if _alike(area, present.get(area.start)) and not _shares_pages(space, area)
        }
        for start, area in present.items():
            arena.set_perms(start, area.end - start, 0)
            arena.leave(physical(start) >> 12, physical(start) + area.end - start >> 12)
            if start not in same:
                space.clear(start, area.end, area.host_mapped)
                if area.executable:
                    cpu.range_changes(start, area.end, True)
        with Pages(arena.host_base) as pages:
            for area, noted in zip(self._mappings, self._pages, strict=True):
                first = physical(area.start)
                arena.permissions.load(area.perms)
                arena.count_again(area.counted)
                if area.start not in same:
                    self._map(area)
                if _in_memory_file(area):
                    continue
                written = list(pages.of(arena, first, first + area.end - area.start))
                if area.executable and not self._holds(noted, written):
                    cpu.range_changes(area.start, area.end, True)
                for start, end in _without(written, noted):
                    arena.mapping.madvise(mmap.MADV_DONTNEED, start, end - start)
                for start, data in noted.items():
                    arena.bytes[start : start + len(data)] = data
        arena.budget.pages, arena.resident = self._counted
        cpu.permissions_replaced()

    def _holds(self, noted: dict[int, bytes], written: list[tuple[int, int]]) -> bool:
        """Whether the pages written are those noted, and hold the same."""
        return dict(written) == {start: start + len(data) for start, data in noted.items()} and all(
            self._arena.mapping[start : start + len(data)] == data for start, data in noted.items()
        )

    def _map(self, area: _Mapping) -> None:
        """Put the file under an area that had one; the rest of the arena is anonymous memory already."""
        if not area.host_mapped or area.descriptor is None or not area.in_file:
            return
        put = host.map_shared if area.shared else host.map_file
        put(self._arena.host_base + physical(area.start), area.in_file, area.descriptor, area.offset)


def _mapping(space: AddressSpace, area: Vma) -> _Mapping:
    first = physical(area.start) >> 12
    last = first + (area.end - area.start >> 12)
    backing, descriptor = area.backing, None
    if area.host_mapped and backing is not None:
        descriptor = space.shared_files.find(backing.dev, backing.ino) or backing.host_fd()
    return _Mapping(
        area.start, area.end, area.shared, area.offset, backing, area.host_mapped, descriptor, space.bus_start(area) - area.start,
        space.arena.permissions.save(first, last), space.arena.counted(first, last), bool(area.prot & PROT_EXEC),
    )  # fmt: skip


def _shares_pages(space: AddressSpace, area: _Mapping) -> bool:
    """Whether pages lie under an area that it shares with a child since a fork."""
    first = physical(area.start)
    return any(True for _ in space.images.within(first, first + area.end - area.start))


def _in_memory_file(area: _Mapping) -> bool:
    """Whether the bytes are those of a memory file that other mappings may share."""
    return area.shared and area.host_mapped


def _alike(area: _Mapping, other: _Mapping | None) -> bool:
    """Whether the same pages of the host lie under both, written or not."""
    return other is not None and area[:3] == other[:3] and area.offset == other.offset and (
        area.backing is other.backing and area.host_mapped == other.host_mapped
        and area.executable == other.executable
    )  # fmt: skip


def _without(written: list[tuple[int, int]], noted: dict[int, bytes]) -> Iterator[tuple[int, int]]:
    """Yield the parts of the ranges `written` that no noted run covers; both are in order."""
    runs = [(start, start + len(data)) for start, data in noted.items()]
    index = 0
    for start, end in written:
        while index < len(runs) and runs[index][1] <= start:
            index += 1
        ahead = index
        while ahead < len(runs) and runs[ahead][0] < end:
            first, last = runs[ahead]
            if first > start:
                yield start, first
            start = max(start, last)
            ahead += 1
        if start < end:
            yield start, end
