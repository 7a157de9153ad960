"""The guest's mappings: Linux's virtual memory areas over the arena.

Keeps what /proc/self/maps shows, answers mmap, munmap, mprotect and mremap with Linux's rules (top-down
placement below `mmap_base`, merging of alike neighbours, splitting at edges), and keeps the arena's page
permissions equal to them.

One piece: every operation keeps the areas, the gaps and the permissions equal to each other.

Source: mmap(2), mremap(2); Linux mm/mmap.c for placement and merging.
"""

from __future__ import annotations

import errno
import mmap as host_mmap
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import suppress

from emu.core.files import Backing
from emu.machine import host
from emu.machine.arena import (
    BUS,
    EDGES,
    HIGH_END,
    MAPPED,
    PAGE_SIZE,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
    RESERVED,
    SHARED,
    Arena,
    physical,
    pieces,
)
from emu.machine.budget import NO_LIMIT
from emu.machine.fork_advice import ForkAdvice
from emu.machine.gaps import Gaps
from emu.machine.guards import Guards
from emu.machine.images import Images
from emu.machine.shared_files import SharedFiles, SharedMemory
from emu.machine.vma import Vma

MMAP_BASE = 0x7FFF_F7FF_F000
"""Where Linux puts the first mapping without randomisation and with the default stack limit."""
MAX_AREAS = 65530
"""How many areas a process may have (/proc/sys/vm/max_map_count as Linux sets it)."""
OnChange = Callable[[int, int, bool], None]
MREMAP_MAYMOVE, MREMAP_FIXED, MREMAP_DONTUNMAP = 1, 2, 4


def page_up(value: int) -> int:
    """Round up to a whole page."""
    return (value + PAGE_SIZE - 1) & -PAGE_SIZE


class AddressSpace:
    """All areas of one process. Methods raise OSError with Linux's errno; lengths and addresses are in bytes.

    `on_change(start, end, had_exec)` is called before an existing range changes, so that the CPU drops what
    it keeps of it. `number` tells the space from others, `images` are the pages that it shares with others
    since a fork. `shares_code` tells that a shared mapping of a file has been executable. `limit` (RLIMIT_AS)
    bounds what is mapped, the arena's budget what is touched.
    """

    def __init__(
        self, arena: Arena, shared_files: SharedFiles | None = None, on_change: OnChange | None = None
    ) -> None:
        self.arena = arena
        self.limit = NO_LIMIT
        self.total = 0
        self.shared_files = shared_files if shared_files is not None else SharedFiles()
        self.images = Images()
        self.number = self.shared_files.new_space()
        self.shares_code = False
        self._starts: list[int] = []
        self._areas: list[Vma] = []
        self._files: dict[tuple[int, int], int] = {}
        self._gaps = Gaps(MMAP_BASE)
        self._guards, self.fork_advice = Guards(), ForkAdvice()
        self._on_change: OnChange = on_change or (lambda start, end, had_exec: None)

    def __iter__(self) -> Iterator[Vma]:
        return iter(self._areas)

    def twin(self, arena: Arena, on_change: OnChange) -> AddressSpace:
        """Return the address space of a child, over its own arena, in which nothing lies yet."""
        twin = AddressSpace(arena, self.shared_files, on_change)
        twin.limit, twin.total, twin.shares_code = self.limit, self.total, self.shares_code
        twin._starts, twin._files = self._starts[:], dict(self._files)
        twin._areas = [area.part(area.start, area.end) for area in self._areas]
        twin._gaps, twin._guards = self._gaps.copy(), self._guards.copy()
        twin.fork_advice = self.fork_advice.copy()
        return twin

    def refill(self, area: Vma) -> None:
        """Put what is under an area into an arena in which nothing lies yet:
        the file, and the images over it.
        """
        first = physical(area.start)
        if area.backing is not None and (area.shared or area.backing.host_fd() is not None):
            self._fill(area, area.backing)
        for run in self.images.within(first, first + area.end - area.start):
            host.map_file(
                self.arena.host_base + run.start, run.end - run.start, self.shared_files.pages.fd, run.offset
            )
            area.host_mapped = True

    def placed(self) -> Iterator[Vma]:
        """Yield the areas that lie in a window: what lies elsewhere nobody can access."""
        return (area for area in self._areas if self._place(area.start) >= 0)

    def release(self) -> None:
        """Give all memory back: nobody will use it again."""
        for area in self._areas:
            self._write_back(area, area.start, area.end)
            self._zero(area.start, area.end, area.host_mapped)
        self._areas, self._starts = [], []
        self.total = 0

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
        reserve: bool = True,
    ) -> int:
        """Map `length` bytes, anonymous zeroes or the bytes of `backing` from `offset`; return the address.

        Without `fixed`, `address` is a hint. `grows_down` is accepted: the caller maps the whole of such an
        area. Private memory to be written must find room in the budget, as far as can be said before it is
        touched, unless `reserve` is false.
        """
        if length <= 0 or address & (PAGE_SIZE - 1) and fixed or offset & (PAGE_SIZE - 1):
            raise OSError(errno.EINVAL, "mmap: bad length, address or offset")
        if len(self._areas) > MAX_AREAS:
            raise OSError(errno.ENOMEM, "vm.max_map_count reached")
        length = page_up(length)
        address &= -PAGE_SIZE
        self._charge(length - (self._mapped(address, address + length) if fixed and not noreplace else 0))
        if prot & PROT_WRITE and not shared and reserve:
            self.arena.budget.commit(length)
        if fixed:
            if not self.has_place(address, length, prot, backing):
                raise OSError(errno.ENOMEM, "address outside the guest's windows")
            if self.overlapping(address, address + length):
                if noreplace:
                    raise OSError(errno.EEXIST, "range is in use")
                self.munmap(address, length)
        elif not address or not self._is_free(address, length):
            address = self._away_from(address, length, prot, backing)
        if shared and backing is None:
            backing, offset = self.shared_files.memory(length), 0
        self._enter(Vma(
            address, address + length, prot, shared=shared, offset=offset if backing else 0, backing=backing,
            name=name or (backing.path if backing else ""),
        ))  # fmt: skip
        return address

    def munmap(self, address: int, length: int) -> None:
        """Remove every mapping in the range; pages outside any mapping are no error."""
        if length <= 0 or address & (PAGE_SIZE - 1):
            raise OSError(errno.EINVAL, "munmap: bad range")
        end = address + page_up(length)
        areas = self.overlapping(address, end)
        if len(self._areas) >= MAX_AREAS and areas and areas[0].start < address and end < areas[0].end:
            raise OSError(errno.ENOMEM, "vm.max_map_count reached")
        for area in areas:
            start, stop = max(area.start, address), min(area.end, end)
            self._on_change(start, stop, bool(area.prot & PROT_EXEC))
            self._write_back(area, start, stop)
            self._cut(area, start, stop)
            self._release(start, stop, area.host_mapped)
            self._gaps.opened(stop)
            self.total -= stop - start

    def mprotect(self, address: int, length: int, prot: int) -> None:
        """Change the protection of a range that must be mapped throughout: it changes up to the first hole,
        which is ENOMEM.
        """
        if address & (PAGE_SIZE - 1):
            raise OSError(errno.EINVAL, "mprotect: address not page-aligned")
        if not length:
            return
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
            if not self.reachable(start, stop - start):
                raise OSError(errno.ENOMEM, "address outside the guest's windows")
            if len(self._areas) + 1 >= MAX_AREAS and not self._may_split(area, start, stop, prot):
                raise OSError(errno.ENOMEM, "vm.max_map_count reached")
            self._on_change(start, stop, bool(area.prot & PROT_EXEC))
            if prot & ~area.prot & PROT_WRITE and not area.shared and not area.prot:
                self.arena.budget.commit(stop - start)
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
            if not flags & MREMAP_MAYMOVE or new_address & (PAGE_SIZE - 1) or self._place(new_address) < 0:
                raise OSError(errno.EINVAL, "mremap: bad new address")
            if new_address < old + old_size and old < new_address + new_size:
                raise OSError(errno.EINVAL, "mremap: ranges overlap")
        area = self.find(old)
        if area is not None and old_size == 0 and not area.shared:
            raise OSError(errno.EINVAL, "mremap: only a shared mapping can be doubled")
        if area is None or old_size == 0 or old + old_size > area.end or self._place(old) < 0:
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
        return self._move(
            area, old, old_size, new_size, self._away_from(0, new_size, area.prot, area.backing)
        )

    def discard(self, address: int, length: int) -> None:
        """Give the pages their first content again (MADV_DONTNEED): zeroes, or the file's bytes."""
        end = address + page_up(length)
        for area in self.overlapping(address, end):
            start, stop = max(area.start, address), min(area.end, end)
            self._on_change(start, stop, bool(area.prot & PROT_EXEC))
            if area.shared:
                continue
            self._zero(start, stop, area.host_mapped)
            if area.backing is not None:
                self._fill(area.part(start, stop), area.backing)

    def guard(self, address: int, length: int, install: bool) -> None:
        """Make guard pages of a mapped range, which loses its content, or pages again.

        Raises OSError(EINVAL) but for private anonymous memory.
        """
        end = address + page_up(length)
        areas = self.overlapping(address, end)
        if any(area.shared or area.backing is not None or self._place(area.start) < 0 for area in areas):
            raise OSError(errno.EINVAL, "guard pages in a file's or shared memory")
        for area in areas:
            start, stop = max(area.start, address), min(area.end, end)
            if install:
                self._on_change(start, stop, bool(area.prot & PROT_EXEC))
                self._zero(start, stop, area.host_mapped)
                self._guards.add(start, stop)
            else:
                self._guards.drop(start, stop)
            self._set_perms(area)

    def is_guard_fault(self, page: int, access: str) -> bool:
        """Whether an access fails because of a guard page, its area not having forbidden it:
        Linux says SEGV_MAPERR then, not SEGV_ACCERR.

        Source: Linux arch/x86/mm/fault.c:access_error.
        """
        area = self.find(page)
        if area is None or page not in self._guards:
            return False
        return bool(area.prot & PROT_WRITE if access == "write" else area.prot)

    def clear(self, start: int, stop: int, host_mapped: bool) -> None:
        """Make anonymous zero pages of a range, whatever lies there; the areas are not changed."""
        self._zero(start, stop, host_mapped)

    def sync(self, address: int, length: int) -> None:
        """Write shared file mappings of the range back to their files (msync)."""
        end = address + page_up(length)
        for area in self.overlapping(address, end):
            self._write_back(area, max(area.start, address), min(area.end, end))

    def sync_all(self) -> None:
        """Write every shared file mapping back (at exit)."""
        for area in self._areas:
            self._write_back(area, area.start, area.end)

    def file_resized(self, dev: int, ino: int) -> None:
        """A file has another length: its mappings can be accessed up to there,
        and what they gain is the file's bytes.
        """
        known = self._files.get((dev, ino))
        if known is None:
            return
        for area in self._areas:
            backing = area.backing
            if backing is None or (backing.dev, backing.ino) != (dev, ino):
                continue
            self._on_change(area.start, area.end, bool(area.prot & PROT_EXEC))
            before, now = self._bus_start(area, known), self.bus_start(area)
            if now < before and not area.shared:
                self._zero(now, before, area.host_mapped)
            elif now > before:
                gained = area if area.shared else area.part(before, now)
                self._fill(gained, backing)
                area.host_mapped |= gained.host_mapped
            self._set_perms(area)
            self._files[dev, ino] = backing.size()

    def end(self) -> int:
        """Return the offset in the arena behind all that is mapped there."""
        return max((physical(area.end - 1) + 1 for area in self.placed()), default=0)

    def _place(self, address: int) -> int:
        """Return where an address lies in this arena; -1 where it does not, as a mere reservation may."""
        at = physical(address)
        return at if at < self.arena.size else -1

    def reachable(self, address: int, length: int) -> bool:
        """Whether the range lies in the arena's windows, as far as this arena has them."""
        return address + length <= HIGH_END and all(
            physical(start) >= 0 and physical(end - 1) < self.arena.size
            for start, end in pieces(address, address + length)
        )

    def has_place(self, address: int, length: int, prot: int, backing: Backing | None) -> bool:
        """Whether a mapping can be there; one that nobody may access need not lie in a window."""
        if not prot and backing is None and 0 <= address <= HIGH_END - length:
            return True
        return self.reachable(address, length)

    def _away_from(self, hint: int, length: int, prot: int, backing: Backing | None) -> int:
        """Return where a mapping goes that cannot be at `hint`:
        where it may become accessible later, or else as a reservation only, at `hint` if need be.
        """
        try:
            gap = self.find_gap(length)
            if self.reachable(gap, length):
                return gap
            start, end, at = RESERVED
            if at + end - start <= self.arena.size:
                with suppress(OSError):
                    return Gaps(end).find(self._starts, self._areas, length, end, PAGE_SIZE, start)
            if not self.has_place(gap, length, prot, backing):
                raise OSError(errno.ENOMEM, "no memory of emu lies there")
            return gap
        except OSError:
            if (
                not hint
                or self.overlapping(hint, hint + length)
                or not self.has_place(hint, length, prot, backing)
            ):
                raise
            return hint

    def _is_free(self, address: int, length: int) -> bool:
        return self.reachable(address, length) and not self.overlapping(address, address + length)

    def _mapped(self, start: int, end: int) -> int:
        return sum(min(area.end, end) - max(area.start, start) for area in self.overlapping(start, end))

    def _charge(self, length: int) -> None:
        if length > 1 << 47:
            raise OSError(errno.ENOMEM, "absurd length")
        if length > 0 and self.total + length > self.limit:
            raise OSError(errno.ENOMEM, "RLIMIT_AS reached")

    def _enter(self, area: Vma) -> None:
        """Make a new area's bytes and permissions, one for each window that it lies
        in, then let it join its neighbours.
        """
        parts = pieces(area.start, area.end)
        if len(parts) > 1:
            for start, end in parts:
                self._enter(area.part(start, end))
            return
        if self._place(area.start) < 0:
            self.total += area.end - area.start
            self._insert(area)
            return
        if area.backing is not None:
            self._files[area.backing.dev, area.backing.ino] = area.backing.size()
            self._fill(area, area.backing)
        self.total += area.end - area.start
        self._set_perms(area)
        self._insert(area)

    def _set_perms(self, area: Vma) -> None:
        """Give the pages of `area` its protection;
        to be done before it joins another, whose file may end elsewhere.
        """
        # x86 has no page that can be written or executed but not read.
        perms = MAPPED | area.prot | (PROT_READ if area.prot & (PROT_WRITE | PROT_EXEC) else 0)
        if area.shared and area.backing is not None:
            perms |= SHARED
            self.shares_code = self.shares_code or bool(area.prot & PROT_EXEC)
        bus = self.bus_start(area)
        self.arena.set_perms(area.start, bus - area.start, perms)
        self.arena.set_perms(bus, area.end - bus, perms | BUS)
        for page in self._guards.within(area.start, area.end):
            self.arena.set_perms(page, PAGE_SIZE, MAPPED)

    def bus_start(self, area: Vma) -> int:
        """Return the first address of `area` past the end of its file (`area.end` if there is none)."""
        return self._bus_start(area, area.backing.size()) if area.backing is not None else area.end

    @staticmethod
    def _bus_start(area: Vma, size: int) -> int:
        """Return the same for a file of `size` bytes."""
        return min(max(area.start + page_up(max(size - area.offset, 0)), area.start), area.end)

    def _fill(self, area: Vma, backing: Backing) -> None:
        """Put the bytes of the file under `area`, as far as the file reaches."""
        length = self.bus_start(area) - area.start
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
            self.arena.touch(start + at >> 12, start + at + len(data) - 1 >> 12)
            at += len(data)

    def _write_back(self, area: Vma, start: int, stop: int) -> None:
        backing = area.backing
        if (
            not area.shared
            or not area.prot & PROT_WRITE
            or backing is None
            or isinstance(backing, SharedMemory)
        ):
            return
        offset = area.offset + start - area.start
        size = min(stop - start, backing.size() - offset)
        if size > 0:
            backing.write_back(offset, size)

    def _zero(self, start: int, stop: int, host_mapped: bool) -> None:
        at = self._place(start)
        if at < 0:
            return
        self.images.drop(at, at + stop - start)
        if host_mapped:
            host.map_anonymous(self.arena.host_base + at, stop - start)
        else:
            self.arena.mapping.madvise(host_mmap.MADV_DONTNEED, at, stop - start)
        self.arena.leave(at >> 12, at + stop - start >> 12)

    def _release(self, start: int, stop: int, host_mapped: bool) -> None:
        self._zero(start, stop, host_mapped)
        self._guards.drop(start, stop)
        self.fork_advice.drop(start, stop)
        if self._place(start) >= 0:
            self.arena.set_perms(start, stop - start, 0)

    def _insert(self, area: Vma) -> None:
        index = bisect_right(self._starts, area.start)
        if index > 0 and area.start not in EDGES and self._areas[index - 1].joins(area):
            index -= 1
            area.start, area.offset = self._areas[index].start, self._areas[index].offset
            area.host_mapped |= self._areas[index].host_mapped
            del self._starts[index], self._areas[index]
        if index < len(self._areas) and area.end not in EDGES and area.joins(self._areas[index]):
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

    def _may_split(self, area: Vma, start: int, stop: int, prot: int) -> bool:
        """Whether a part of an area may get another protection with as many areas as there are: each edge
        inside of it makes one more, unless the part joins a neighbour.

        Source: Linux mm/mprotect.c:mprotect_fixup, mm/mmap.c:split_vma.
        """
        piece = area.part(start, stop)
        piece.prot = prot
        before, behind = self.find(start - 1), self.find(stop)
        if before is not None and before.joins(piece) or behind is not None and piece.joins(behind):
            return True
        return len(self._areas) + (area.start < start) + (stop < area.end) <= MAX_AREAS

    def _move(self, area: Vma, old: int, old_size: int, new_size: int, new: int) -> int:
        if len(self._areas) >= MAX_AREAS - 3:
            raise OSError(errno.ENOMEM, "vm.max_map_count reached")
        self._charge(new_size - old_size)
        if len(pieces(new, new + new_size)) != 1 or not self.reachable(new, new_size):
            raise OSError(errno.ENOMEM, "mremap: no such place")
        if self.overlapping(new, new + new_size):
            self.munmap(new, new_size)
        kept = min(old_size, new_size)
        if old_size > kept:
            self.munmap(old + kept, old_size - kept)
            area = self.find(old) or area
        self._on_change(old, old + kept, bool(area.prot & PROT_EXEC))
        piece = self._cut(area, old, old + kept)
        base = self.arena.host_base
        host.move_pages(base + physical(old), kept, base + physical(new))
        host.map_anonymous(base + physical(old), kept)
        self.arena.set_perms(old, kept, 0)
        self.arena.move(physical(old) >> 12, physical(old) + kept >> 12, physical(new) >> 12)
        self._guards.move(old, kept, new)
        self.fork_advice.move(old, kept, new)
        self.images.move(physical(old), kept, physical(new))
        self._gaps.opened(old + kept)
        piece.start, piece.end = new, new + kept
        self._set_perms(piece)
        template = piece.part(new, new + kept)
        self._insert(piece)
        if new_size > kept:
            self._extend(template, new + kept, new_size - kept)
        return new
