"""The guest's memory at one moment, to be put back in place.

What is noted are the pages that the guest or the loader has written: of a file's private mapping those that are no longer the file's own, of
anonymous memory those that exist at all. The host's kernel knows which; so the cost goes with what was written, not with what is mapped.
To put the memory back, mappings that have changed are made again, pages that were written since are dropped, and noted ones are copied back.

Source: Linux Documentation/admin-guide/mm/pagemap.rst; madvise(2), MADV_DONTNEED.
"""

from __future__ import annotations

import mmap
import os
from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from emu.core.errors import EmuError
from emu.machine import host
from emu.machine.arena import BUS, PAGE_SIZE, PROT_EXEC, physical

if TYPE_CHECKING:
    from emu.core.files import Backing
    from emu.machine.address_space import AddressSpace
    from emu.machine.cpu import Cpu
    from emu.machine.vma import Vma

_PAGEMAP = "/proc/self/pagemap"
_PRESENT, _SWAPPED, _OF_FILE = 1 << 63, 1 << 62, 1 << 61
_IN_FILE = bytes(0 if perm & BUS else 1 for perm in range(256))
_AT_ONCE = 4096
"""Pages whose entries are looked at together: where none exists, that is one comparison."""


class _Mapping(NamedTuple):
    """One area as it was: where, what lies under it (`descriptor`: the host's file), its permission bytes."""

    start: int
    end: int
    shared: bool
    offset: int
    backing: Backing | None
    host_mapped: bool
    descriptor: int | None
    perms: bytes
    executable: bool

    @property
    def in_file(self) -> int:
        """How many bytes, in whole pages, the file reaches."""
        inside = self.perms.translate(_IN_FILE).find(0)
        return (inside if inside >= 0 else len(self.perms)) * PAGE_SIZE


class MemorySnapshot:
    """The memory of `space` at the time this is made; `size` is what it holds, in bytes. Raises EmuError if the host does not tell its pages."""

    def __init__(self, space: AddressSpace) -> None:
        self._space = space
        arena = self._arena = space.arena
        self._mappings = [_mapping(space, area) for area in space]
        self._pages: list[dict[int, bytes]] = []
        with _Pages(arena.host_base) as pages:
            for area in self._mappings:
                noted = {}
                first = physical(area.start)
                last = first + area.end - area.start
                if area.host_mapped and area.descriptor is None:
                    noted[first] = arena.mapping[first : first + area.in_file]  # its file is gone
                elif not _in_memory_file(area):
                    for start, end in pages.written(first, last):
                        noted[start] = arena.mapping[start:end]
                self._pages.append(noted)
        self.size = sum(len(run) for noted in self._pages for run in noted.values())

    def restore(self, cpu: Cpu) -> None:
        """Put the memory back, permissions included, and let the CPU forget code that is not what it was.

        The areas of the space must still be the present ones; they are for the caller to put back afterwards.
        """
        arena, space = self._arena, self._space
        present = {area.start: _mapping(space, area) for area in space}
        same = {area.start for area in self._mappings if _alike(area, present.get(area.start))}
        for start, area in present.items():
            arena.set_perms(start, area.end - start, 0)
            if start not in same:
                space.clear(start, area.end, area.host_mapped)
                if area.executable:
                    cpu.range_changes(start, area.end, True)
        with _Pages(arena.host_base) as pages:
            for area, noted in zip(self._mappings, self._pages, strict=True):
                first = physical(area.start)
                at = first >> 12
                arena.perms[at : at + len(area.perms)] = area.perms
                if area.start not in same:
                    self._map(area)
                if _in_memory_file(area):
                    continue
                written = list(pages.written(first, first + area.end - area.start))
                if area.executable and not self._holds(noted, written):
                    cpu.range_changes(area.start, area.end, True)
                for start, end in _without(written, noted):
                    arena.mapping.madvise(mmap.MADV_DONTNEED, start, end - start)
                for start, data in noted.items():
                    arena.bytes[start : start + len(data)] = data
        cpu.engine.flush_tlb()

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
    perms = bytes(space.arena.perms[first : first + (area.end - area.start >> 12)])
    backing, descriptor = area.backing, None
    if area.host_mapped and backing is not None:
        descriptor = space.shared_files.find(backing.dev, backing.ino) or backing.host_fd()
    return _Mapping(
        area.start, area.end, area.shared, area.offset, backing, area.host_mapped, descriptor, perms,
        bool(area.prot & PROT_EXEC),
    )  # fmt: skip


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


class _Pages:
    """What the host's kernel knows of the pages of the arena, whose first byte is at the host address `base`."""

    def __init__(self, base: int) -> None:
        self._base = base

    def __enter__(self) -> _Pages:
        try:
            self._file = open(_PAGEMAP, "rb", buffering=0)
        except OSError as error:
            raise EmuError(f"{_PAGEMAP}: {error.strerror}: a snapshot needs it") from None
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()

    def written(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges in [first, last), offsets in the arena, of pages that are private copies, or exist in anonymous memory."""
        begin = end = first
        for at in range(first, last, _AT_ONCE * PAGE_SIZE):
            count = min(_AT_ONCE, last - at >> 12)
            raw = os.pread(self._file.fileno(), 8 * count, (self._base + at >> 12) * 8)
            if len(raw) != 8 * count:
                raise EmuError(f"{_PAGEMAP}: too short: a snapshot needs it")
            if not raw.strip(b"\0"):
                continue
            for index, entry in enumerate(array("Q", raw)):
                if entry & (_PRESENT | _SWAPPED) and not entry & _OF_FILE:
                    page = at + (index << 12)
                    if page != end:
                        if end > begin:
                            yield begin, end
                        begin = page
                    end = page + PAGE_SIZE
        if end > begin:
            yield begin, end
