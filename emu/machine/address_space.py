"""The guest's mappings: Linux's virtual memory areas over the arena.

Keeps what /proc/self/maps shows, answers mmap, munmap, mprotect and mremap with Linux's rules (top-down placement below
`mmap_base`, merging of alike neighbours, splitting at edges), and keeps the arena's page permissions equal to them.

Source: mmap(2), mremap(2); Linux mm/mmap.c for placement and merging.
"""

from __future__ import annotations

import errno
import mmap as host_mmap
from bisect import bisect_right
from collections.abc import Callable, Iterator

from emu.core.files import Backing
from emu.machine import host
from emu.machine.arena import (
    BUS,
    MAPPED,
    PAGE_SIZE,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
    SHARED,
    Arena,
    physical,
)
from emu.machine.gaps import Gaps
from emu.machine.shared_files import SharedFiles
from emu.machine.vma import Vma

MMAP_BASE = 0x7FFF_F7FF_F000
"""Where Linux puts the first mapping without randomisation and with the default stack limit."""
MREMAP_MAYMOVE, MREMAP_FIXED, MREMAP_DONTUNMAP = 1, 2, 4


def page_up(value: int) -> int:
    """Round up to a whole page."""
    return (value + PAGE_SIZE - 1) & -PAGE_SIZE


class AddressSpace:
    """All areas of one process. Methods raise OSError with Linux's errno; lengths and addresses are in bytes.

    `on_change(start, end, had_exec)` is called before an existing range changes, so that the CPU drops what
    it keeps of it. `shares_code` tells that a shared mapping of a file has been executable. `max_memory` and `limit` (RLIMIT_AS) bound what is mapped.
    """

    def __init__(self, arena: Arena, max_memory: int = 1 << 62) -> None:
        self.arena = arena
        self.max_memory = self.limit = max_memory
        self.total = 0
        self.shared_files = SharedFiles()
        self.shares_code = False
        self._starts: list[int] = []
        self._areas: list[Vma] = []
        self._files: set[tuple[int, int]] = set()
        self._gaps = Gaps(MMAP_BASE)
        self.on_change: Callable[[int, int, bool], None] = lambda start, end, had_exec: None

    def __iter__(self) -> Iterator[Vma]:
        return iter(self._areas)

    def find(self, address: int) -> Vma | None:
        """Return the area that holds `address`."""
        index = bisect_right(self._starts, address) - 1
        if index >= 0 and address < self._areas[index].end:
            return self._areas[index]
        return None

    def overlapping(self, start: int, end: int) -> list[Vma]:
        """Return the areas that share a byte with [start, end), in order."""
        index = max(bisect_right(self._starts, start) - 1, 0)
        found = []
        while index < len(self._areas) and self._areas[index].start < end:
            if self._areas[index].end > start:
                found.append(self._areas[index])
            index += 1
        return found

    def find_gap(self, length: int, *, below: int = MMAP_BASE, align: int = PAGE_SIZE) -> int:
        """Return the highest free address for `length` bytes under `below`. Raises OSError(ENOMEM)."""
        return self._gaps.find(self._starts, self._areas, length, below, align)

    def mmap(
        self,
        address: int,
        length: int,
        prot: int,
        *,
        fixed: bool = False,
        noreplace: bool = False,
        shared: bool = False,
        backing: Backing | None = None,
        offset: int = 0,
        name: str = "",
        grows_down: bool = False,
    ) -> int:
        """Map `length` bytes, anonymous zeroes or the bytes of `backing` from `offset`; return the address.

        Without `fixed`, `address` is a hint. `grows_down` is accepted: the caller maps the whole of such an area.
        """
        if length <= 0 or address & (PAGE_SIZE - 1) and fixed or offset & (PAGE_SIZE - 1):
            raise OSError(errno.EINVAL, "mmap: bad length, address or offset")
        length = page_up(length)
        address &= -PAGE_SIZE
        self._charge(length - (self._mapped(address, address + length) if fixed and not noreplace else 0))
        if fixed:
            if not self.reachable(address, length):
                raise OSError(errno.ENOMEM, "address outside the guest's windows")
            if self.overlapping(address, address + length):
                if noreplace:
                    raise OSError(errno.EEXIST, "range is in use")
                self.munmap(address, length)
        elif not address or not self._is_free(address, length):
            address = self.find_gap(length)
        area = Vma(
            address, address + length, prot, shared=shared, offset=offset if backing else 0, backing=backing,
            name=name or (backing.path if backing else ""),
        )  # fmt: skip
        self._enter(area)
        return address

    def munmap(self, address: int, length: int) -> None:
        """Remove every mapping in the range; pages outside any mapping are no error."""
        if length <= 0 or address & (PAGE_SIZE - 1):
            raise OSError(errno.EINVAL, "munmap: bad range")
        end = address + page_up(length)
        for area in self.overlapping(address, end):
            start, stop = max(area.start, address), min(area.end, end)
            self.on_change(start, stop, bool(area.prot & PROT_EXEC))
            self._write_back(area, start, stop)
            self._cut(area, start, stop)
            self._release(start, stop, area.host_mapped)
            self._gaps.opened(stop)
            self.total -= stop - start

    def mprotect(self, address: int, length: int, prot: int) -> None:
        """Change the protection of a range that must be mapped throughout: it changes up to the first hole, which is ENOMEM."""
        if address & (PAGE_SIZE - 1):
            raise OSError(errno.EINVAL, "mprotect: address not page-aligned")
        end = address + page_up(length)
        at = address
        areas = self.overlapping(address, end)
        for area in areas:
            if area.start > at:
                break
            at = area.end
        for area in areas:
            start, stop = max(area.start, address), min(area.end, end)
            if area.prot == prot or start >= at:
                continue
            self.on_change(start, stop, bool(area.prot & PROT_EXEC))
            middle = self._cut(area, start, stop)
            middle.prot = prot
            self._set_perms(middle)
            self._insert(middle)
        if at < end:
            raise OSError(errno.ENOMEM, "range not mapped")

    def mremap(self, old: int, old_size: int, new_size: int, flags: int = 0, new_address: int = 0) -> int:
        """Resize or move a mapping; return its address. `flags` are MREMAP_*."""
        if old & (PAGE_SIZE - 1) or new_size <= 0 or flags & ~(MREMAP_MAYMOVE | MREMAP_FIXED):
            raise OSError(errno.EINVAL, "mremap: bad arguments")
        old_size, new_size = page_up(old_size), page_up(new_size)
        if flags & MREMAP_FIXED:
            if not flags & MREMAP_MAYMOVE or new_address & (PAGE_SIZE - 1) or physical(new_address) < 0:
                raise OSError(errno.EINVAL, "mremap: bad new address")
            if new_address < old + old_size and old < new_address + new_size:
                raise OSError(errno.EINVAL, "mremap: ranges overlap")
        area = self.find(old)
        if area is not None and old_size == 0 and not area.shared:
            raise OSError(errno.EINVAL, "mremap: only a shared mapping can be doubled")
        if area is None or old_size == 0 or old + old_size > area.end:
            raise OSError(errno.EFAULT, "mremap: range is not one mapping")
        if flags & MREMAP_FIXED:
            return self._move(area, old, old_size, new_size, new_address)
        if new_size <= old_size:
            if new_size < old_size:
                self.munmap(old + new_size, old_size - new_size)
            return old
        if old + old_size == area.end and self._is_free(area.end, new_size - old_size):
            self._extend(area, old + old_size, new_size - old_size)
            return old
        if not flags & MREMAP_MAYMOVE:
            raise OSError(errno.ENOMEM, "mremap: no room to grow")
        return self._move(area, old, old_size, new_size, self.find_gap(new_size))

    def discard(self, address: int, length: int) -> None:
        """Give the pages their first content again (MADV_DONTNEED): zeroes, or the file's bytes."""
        end = address + page_up(length)
        for area in self.overlapping(address, end):
            start, stop = max(area.start, address), min(area.end, end)
            self.on_change(start, stop, bool(area.prot & PROT_EXEC))
            if area.shared:
                continue
            self._zero(start, stop, area.host_mapped)
            if area.backing is not None:
                self._fill(area.part(start, stop), area.backing)

    def clear(self, start: int, stop: int, host_mapped: bool) -> None:
        """Make anonymous zero pages of a range, whatever lies there; the areas are not changed."""
        self._zero(start, stop, host_mapped)

    def sync(self, address: int, length: int) -> None:
        """Write shared file mappings of the range back to their files (msync)."""
        for area in self.overlapping(address, address + page_up(length)):
            self._write_back(area, area.start, area.end)

    def sync_all(self) -> None:
        """Write every shared file mapping back (at exit)."""
        for area in self._areas:
            self._write_back(area, area.start, area.end)

    def file_resized(self, dev: int, ino: int) -> None:
        """A file has another length: its mappings can be accessed up to there, and what they gain is the file's bytes."""
        if (dev, ino) not in self._files:
            return
        for area in self._areas:
            backing = area.backing
            if backing is None or (backing.dev, backing.ino) != (dev, ino):
                continue
            self.on_change(area.start, area.end, bool(area.prot & PROT_EXEC))
            self.shared_files.cut(dev, ino, backing.size())
            first = physical(area.start) >> 12
            perms = self.arena.perms[first : first + (area.end - area.start >> 12)]
            before = area.start + PAGE_SIZE * sum(1 for perm in perms if not perm & BUS)
            now = self._bus_start(area)
            if now < before and not area.shared:
                self._zero(now, before, area.host_mapped)
            elif now > before:
                gained = area if area.shared else area.part(before, now)
                self._fill(gained, backing)
                area.host_mapped |= gained.host_mapped
            self._set_perms(area)

    def reachable(self, address: int, length: int) -> bool:
        """Whether the range lies in one of the arena's windows."""
        start = physical(address)
        return start >= 0 and physical(address + length - 1) == start + length - 1

    def _is_free(self, address: int, length: int) -> bool:
        return self.reachable(address, length) and not self.overlapping(address, address + length)

    def _mapped(self, start: int, end: int) -> int:
        return sum(min(area.end, end) - max(area.start, start) for area in self.overlapping(start, end))

    def _charge(self, length: int) -> None:
        if length > 1 << 46:
            raise OSError(errno.ENOMEM, "absurd length")
        if length > 0 and self.total + length > min(self.max_memory, self.limit):
            raise OSError(errno.ENOMEM, "--max-memory or RLIMIT_AS reached")

    def _enter(self, area: Vma) -> None:
        """Make a new area's bytes and permissions, then let it join its neighbours."""
        if area.backing is not None:
            self._files.add((area.backing.dev, area.backing.ino))
            self._fill(area, area.backing)
        self.total += area.end - area.start
        self._set_perms(area)
        self._insert(area)

    def _set_perms(self, area: Vma) -> None:
        """Give the pages of `area` its protection; to be done before it joins another, whose file may end elsewhere."""
        # x86 has no page that can be written or executed but not read.
        perms = MAPPED | area.prot | (PROT_READ if area.prot & (PROT_WRITE | PROT_EXEC) else 0)
        if area.shared and area.backing is not None:
            perms |= SHARED
            self.shares_code = self.shares_code or bool(area.prot & PROT_EXEC)
        bus = self._bus_start(area)
        self.arena.set_perms(area.start, bus - area.start, perms)
        self.arena.set_perms(bus, area.end - bus, perms | BUS)

    def _bus_start(self, area: Vma) -> int:
        """Return the first address of `area` past the end of its file (`area.end` if there is none)."""
        if area.backing is None:
            return area.end
        return min(max(area.start + page_up(max(area.backing.size() - area.offset, 0)), area.start), area.end)

    def _fill(self, area: Vma, backing: Backing) -> None:
        """Put the bytes of the file under `area`, as far as the file reaches."""
        length = self._bus_start(area) - area.start
        if not length:
            return
        start = physical(area.start)
        if area.shared:
            descriptor = self.shared_files.copy_of(backing)
            host.map_shared(self.arena.host_base + start, length, descriptor, area.offset)
            area.host_mapped = True
            return
        host_fd = self.shared_files.find(backing.dev, backing.ino) or backing.host_fd()
        if host_fd is not None:
            host.map_file(self.arena.host_base + start, length, host_fd, area.offset)
            area.host_mapped = True
            return
        at = 0
        while at < length and (data := backing.pread(min(length - at, 1 << 20), area.offset + at)):
            self.arena.bytes[start + at : start + at + len(data)] = data
            at += len(data)

    def _write_back(self, area: Vma, start: int, stop: int) -> None:
        if not area.shared or area.backing is None or not area.prot & PROT_WRITE:
            return
        offset = area.offset + start - area.start
        size = min(stop - start, area.backing.size() - offset)
        if size > 0:
            at = physical(start)
            area.backing.pwrite(bytes(self.arena.bytes[at : at + size]), offset)

    def _zero(self, start: int, stop: int, host_mapped: bool) -> None:
        at = physical(start)
        if host_mapped:
            host.map_anonymous(self.arena.host_base + at, stop - start)
        else:
            self.arena.mapping.madvise(host_mmap.MADV_DONTNEED, at, stop - start)

    def _release(self, start: int, stop: int, host_mapped: bool) -> None:
        self._zero(start, stop, host_mapped)
        self.arena.set_perms(start, stop - start, 0)

    def _insert(self, area: Vma) -> None:
        index = bisect_right(self._starts, area.start)
        if index > 0 and self._areas[index - 1].joins(area):
            index -= 1
            area.start, area.offset = self._areas[index].start, self._areas[index].offset
            area.host_mapped |= self._areas[index].host_mapped
            del self._starts[index], self._areas[index]
        if index < len(self._areas) and area.joins(self._areas[index]):
            area.end = self._areas[index].end
            area.host_mapped |= self._areas[index].host_mapped
            del self._starts[index], self._areas[index]
        self._starts.insert(index, area.start)
        self._areas.insert(index, area)

    def _cut(self, area: Vma, start: int, stop: int) -> Vma:
        """Take [start, stop) out of `area`, keep what is left on both sides, return the piece."""
        index = bisect_right(self._starts, area.start) - 1
        pieces = []
        if area.start < start:
            pieces.append(area.part(area.start, start))
        if stop < area.end:
            pieces.append(area.part(stop, area.end))
        self._areas[index : index + 1] = pieces
        self._starts[index : index + 1] = [piece.start for piece in pieces]
        return area.part(start, stop)

    def _extend(self, area: Vma, start: int, length: int) -> None:
        self._charge(length)
        offset = area.offset + start - area.start if area.backing is not None else 0
        self._enter(
            Vma(
                start,
                start + length,
                area.prot,
                shared=area.shared,
                name=area.name,
                offset=offset,
                backing=area.backing,
            )
        )

    def _move(self, area: Vma, old: int, old_size: int, new_size: int, new: int) -> int:
        self._charge(new_size - old_size)
        if self.overlapping(new, new + new_size):
            self.munmap(new, new_size)
        kept = min(old_size, new_size)
        if old_size > kept:
            self.munmap(old + kept, old_size - kept)
            area = self.find(old) or area
        self.on_change(old, old + kept, bool(area.prot & PROT_EXEC))
        piece = self._cut(area, old, old + kept)
        base = self.arena.host_base
        host.move_pages(base + physical(old), kept, base + physical(new))
        host.map_anonymous(base + physical(old), kept)
        self.arena.set_perms(old, kept, 0)
        self._gaps.opened(old + kept)
        piece.start, piece.end = new, new + kept
        self._set_perms(piece)
        template = piece.part(new, new + kept)
        self._insert(piece)
        if new_size > kept:
            self._extend(template, new + kept, new_size - kept)
        return new
