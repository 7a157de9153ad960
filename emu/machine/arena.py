"""The guest's memory: one host mapping, seen through windows of guest addresses,
with a permission byte a page.

Unicorn is told of one flat physical memory; where a guest address lies in it, and what may be done there, is
answered on each TLB miss from the table kept here (the "soft MMU"). This is exact (page, kind of access,
program counter) and keeps RAM stores on Unicorn's fast path, which its own page protection does not.

The windows have what Linux without address randomisation uses, and what programs ask for: low addresses for
non-PIE executables and the shadows of sanitizers, what is around 0x555555554000 for PIE executables and
heaps, the top of the lower half for shared objects, mappings and the stack. They are far larger than any
host's memory: a page exists when it is used, and so do the bytes about it.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import NoReturn

from emu.core.errors import MemoryFault, NoRoomError
from emu.core.record import NamedTuple
from emu.machine.budget import Budget
from emu.machine.page_bytes import CHUNK, LONG, PageBytes, table

PAGE_SIZE = 4096
PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
MAPPED = 8
"""Bit of a permission byte: the page belongs to a mapping, even if PROT_NONE."""
BUS = 16
"""Bit of a permission byte: the page lies past the end of the mapped file, so an access is SIGBUS."""

SHARED = 32
"""Bit of a permission byte: the page is one of a shared mapping of a file, of which there may be others."""

_NORESERVE = 0x4000  # Python 3.11 does not name it
_GIB, _TIB = 1 << 30, 1 << 40
HIGH_END = 0x7FFF_FFFF_F000
"""The last page of the lower half is nobody's (Linux: TASK_SIZE_MAX), since a `syscall` at its end would
return to a non-canonical address.
"""


class Window(NamedTuple):
    """Guest addresses [start, end), which lie in the arena from `at` on."""

    start: int
    end: int
    at: int


def _windows(*ranges: tuple[int, int]) -> tuple[Window, ...]:
    found, at = [], 0
    for start, end in ranges:
        found.append(Window(start, end, at))
        at += end - start
    return tuple(found)


WINDOWS = _windows(
    (0x5555_5000_0000, 0x5555_5000_0000 + 12 * _GIB),
    (0x8000_0000_0000 - 128 * _GIB, 0x8000_0000_0000),
    (0, 0x1000_8000_0000),
    (0x6000_0000_0000, 0x6401_0000_0000),
    (0x3000_0000_0000, 0x3400_0000_0000),
    (0x7700_0000_0000, 0x8000_0000_0000 - 128 * _GIB),
    (0x1000_8000_0000, 32 * _TIB),
    (0x5000_0000_0000, 0x5555_5000_0000),
    (0x5555_5000_0000 + 12 * _GIB, 0x6000_0000_0000),
    (0x6401_0000_0000, 0x6500_0000_0000),
)
"""PIE executables and heaps; shared objects, mappings and stacks; low addresses, with the shadow of
AddressSanitizer; its heap; what ThreadSanitizer knows of locks; large reservations; the rest of
ThreadSanitizer's shadow; what is around PIE executables; what is behind that heap. Programs that ask for no
address far away need the first two, and 4 GiB of the third.
"""
_PIE, _HIGH, _LOW = WINDOWS[:3]
_PIE_START, _PIE_END, _PIE_DELTA = _PIE.start, _PIE.end, _PIE.start - _PIE.at
_HIGH_START, _HIGH_DELTA = _HIGH.start, _HIGH.start - _HIGH.at
_LOW_END, _LOW_AT = _LOW.end, _LOW.at
HIGH_START = WINDOWS[5].start
SIZES = (
    WINDOWS[-1].at + WINDOWS[-1].end - WINDOWS[-1].start, WINDOWS[6].at, WINDOWS[4].at, _LOW_AT + 4 * _GIB
)  # fmt: skip
"""How much of the host's addresses an arena takes, as far as they reach: for all windows (66 TiB of the
host's 128), for large reservations, for AddressSanitizer (20 TiB), for the least of programs.
"""
SIZE = SIZES[0]
RESERVED = WINDOWS[3]
"""Where large mappings go in an arena that has it, and not the window for them."""
LATER = SIZES[2:]
"""What a program gets that another process than the first executes, so that there is room for a few."""

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_CAN_READ = bytes(1 if p & PROT_READ and not p & BUS else 0 for p in range(256))
_CAN_WRITE = bytes(1 if p & PROT_WRITE and not p & BUS else 0 for p in range(256))
_MAY_BE_CODE = bytes(1 if p & (PROT_EXEC | SHARED) else 0 for p in range(256))
_IS_MAPPED = bytes(1 if p & MAPPED and not p & BUS else 0 for p in range(256))
_NEEDED = {PROT_READ: _CAN_READ, PROT_WRITE: _CAN_WRITE, 0: _IS_MAPPED}


def physical(address: int) -> int:
    """Return where the guest address lies in the arena, or -1 if it is outside every window."""
    if _HIGH_START <= address < HIGH_END:
        return address - _HIGH_DELTA
    if 0 <= address < _LOW_END:
        return address + _LOW_AT
    if _PIE_START <= address < _PIE_END:
        return address - _PIE_DELTA
    for window in WINDOWS[3:]:
        if window.start <= address < window.end:
            return address - window.start + window.at
    return -1


def virtual(offset: int) -> int:
    """Return the guest address of what lies at an offset in the arena; the converse of `physical`."""
    window = next(window for window in WINDOWS if offset < window.at + window.end - window.start)
    return offset - window.at + window.start


EDGES = frozenset(edge for window in WINDOWS for edge in (window.start, window.end))
"""Where the arena goes on elsewhere: no area lies over such an address."""
_SORTED_EDGES = sorted(EDGES)


def pieces(start: int, end: int) -> list[tuple[int, int]]:
    """Return the parts of a range of guest addresses that lie in one window each, or between two."""
    cuts = _SORTED_EDGES[bisect_right(_SORTED_EDGES, start) : bisect_left(_SORTED_EDGES, end)]
    return list(pairwise((start, *cuts, end)))


def size_for(end: int) -> int:
    """Return the least size of an arena in which the offset `end` is not passed."""
    return next(size for size in reversed(SIZES) if size >= end)


def _reserve(sizes: Sequence[int]) -> tuple[mmap.mmap, mmap.mmap, mmap.mmap]:
    """Return as much of the host's addresses as there is room for (other processes of the guest have arenas,
    too), with two tables of a byte a page. Raises NoRoomError.
    """
    for size in (*sizes, *sizes):
        try:
            memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE)
            return memory, table(SIZE // PAGE_SIZE), table(SIZE // PAGE_SIZE)
        except OSError as error:
            last = error
        if size == sizes[-1]:
            gc.unfreeze()
            gc.collect()  # there may be processes that nobody has any more
    raise NoRoomError(
        f"cannot reserve {sizes[-1] >> 30} GiB of address space for the guest ({last.strerror}); "
        "is there a limit on virtual memory (ulimit -v)?"
    )


class Arena:
    """Guest memory as bytes. Addresses are guest addresses; a range must lie in one window.

    `read` and `write` act for the loader: any mapped page will do that is not past its file's end. `copy_in`
    and `copy_out` act for the kernel on behalf of the guest and obey the page permissions. All raise
    MemoryFault. `on_code(address, size)` is called when the kernel has written where there may be code.
    `touched` has a byte a page: 1 for those that somebody has accessed and that count in `budget`; `size` is
    how much of the windows there is, in bytes, `resident` is how many they are. `perms` has a byte a page
    too, see `perm`. `sizes`: those to try, the largest first. Raises NoRoomError.
    """

    def __init__(self, budget: Budget | None = None, sizes: Sequence[int] = SIZES) -> None:
        self.budget = budget if budget is not None else Budget()
        self.resident = 0
        self.mapping, self.perms, self.touched = _reserve(sizes)
        self.size = len(self.mapping)
        self.bytes = memoryview(self.mapping)
        self.words = self.bytes.cast("Q")
        self.permissions = PageBytes(self.perms)
        self._used: set[int] = set()
        self.on_code: Callable[[int, int], None] = lambda address, size: None
        self.host_base = ctypes.addressof(ctypes.c_char.from_buffer(self.mapping))

    def close(self) -> None:
        """Give the host's addresses back: no page is anybody's any more, and none is mapped from here on."""
        self.perms = table(SIZE // PAGE_SIZE)
        self.words.release()
        self.bytes.release()
        with suppress(BufferError):  # a view that somebody has keeps them till it goes
            self.mapping.close()

    def offset(self, address: int, size: int, needed: int = 0) -> int:
        """Return the arena offset of [address, address + size) after a check of every page.

        `needed` is 0 (mapped), PROT_READ or PROT_WRITE. Raises MemoryFault at the first byte that fails.
        """
        start = physical(address)
        if start < 0:
            raise MemoryFault(address, "write" if needed == PROT_WRITE else "read")
        first, last = start >> 12, (start + size - 1) >> 12
        allowing = _NEEDED[needed]
        perms = self.perms
        if first == last:
            if allowing[perms[first]]:
                return start
            bad = first
        elif size == 0:
            return start
        elif physical(address + size - 1) != start + size - 1:
            return self._leaves_window(address, size, needed)
        else:
            bad = perms[first : last + 1].translate(allowing).find(0)
            if bad < 0:
                return start
            bad += first
        if self.permissions and self.permissions.settle(first, last + 1):
            return self.offset(address, size, needed)
        fault = address if bad == first else address - (start & 0xFFF) + ((bad - first) << 12)
        raise MemoryFault(fault, "write" if needed == PROT_WRITE else "read")

    def _leaves_window(self, address: int, size: int, needed: int) -> NoReturn:
        """Raise MemoryFault for a range that does not end in the window that it begins in:
        at the first byte that fails, the window's end at the latest.
        """
        end = min(next(window.end for window in WINDOWS if window.start <= address < window.end), HIGH_END)
        self.offset(address, end - address, needed)
        raise MemoryFault(end, "write" if needed == PROT_WRITE else "read")

    def check(self, address: int, size: int, needed: int) -> bool:
        """Whether every page of the range is mapped and allows `needed` (0, PROT_READ or PROT_WRITE)."""
        try:
            self.offset(address, size, needed)
        except MemoryFault:
            return False
        return True

    def read(self, address: int, size: int) -> bytes:
        """Return `size` bytes from mapped pages."""
        start = self.offset(address, size)
        return self.mapping[start : start + size]

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Store `data` in mapped pages, whatever their permissions."""
        size = len(data)
        start = self.offset(address, size)
        self.bytes[start : start + size] = data
        if size:
            first, last = start >> 12, (start + size - 1) >> 12
            if first != last or not self.touched[first]:
                self.touch(first, last)

    def copy_in(self, address: int, size: int) -> bytes:
        """Return `size` bytes that the guest may read."""
        if size == 0:
            return b""
        start = self.offset(address, size, PROT_READ)
        return self.mapping[start : start + size]

    def copy_out(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Store `data` where the guest may write."""
        size = len(data)
        if size:
            start = self.offset(address, size, PROT_WRITE)
            self.bytes[start : start + size] = data
            first, last = start >> 12, (start + size - 1) >> 12
            if first != last or not self.touched[first]:
                self.touch(first, last)
            if self.perms[first] & (PROT_EXEC | SHARED) or (
                first != last and self.perms[first + 1 : last + 1].translate(_MAY_BE_CODE).find(1) >= 0
            ):
                self.on_code(address, size)

    def perm(self, number: int) -> int:
        """Return the permission byte of a page by its number in the arena."""
        allowed = self.perms[number]
        if not allowed and self.permissions and self.permissions.settle(number, number + 1):
            return self.perms[number]
        return allowed

    def settle(self, first: int, last: int) -> None:
        """Make the permission bytes of the pages from `first` up to `last` be in `perms`."""
        if self.permissions:
            self.permissions.settle(first, last)

    def touch(self, first: int, last: int) -> None:
        """Count the pages from `first` to `last`, numbers in the arena, that nobody has accessed before."""
        fresh = self.touched[first : last + 1].count(b"\0")
        if fresh:
            self.touched[first : last + 1] = b"\1" * (last + 1 - first)
            self._used.update(range(first // CHUNK, last // CHUNK + 1))
            self.budget.pages += fresh
            self.resident += fresh

    def touch_one(self, number: int) -> bool:
        """Count a page that nobody has accessed before; false if there is no room for it."""
        budget = self.budget
        if budget.pages * PAGE_SIZE + budget.held >= budget.limit:
            return False
        self.touched[number] = 1
        self._used.add(number // CHUNK)
        budget.pages += 1
        self.resident += 1
        return True

    def touch_pages(self, numbers: list[int]) -> None:
        """Count pages as accessed, by number: they were not before, and the budget has room for them."""
        for number in numbers:
            self.touched[number] = 1
            self._used.add(number // CHUNK)
        self.budget.pages += len(numbers)
        self.resident += len(numbers)

    def leave(self, first: int, last: int) -> None:
        """Count the pages from `first` up to `last`, numbers in the arena, no more: their content is gone."""
        for start, end in self._used_within(first, last):
            gone = self.touched[start:end].count(b"\1")
            if gone:
                self.touched[start:end] = bytes(end - start)
                self.budget.pages -= gone
                self.resident -= gone

    def move(self, first: int, last: int, new: int) -> None:
        """Let the pages from `first` up to `last` be counted at `new`, which is a free place."""
        for start, end in self._used_within(first, last):
            counted = self.touched[start:end]
            self.touched[start:end] = bytes(end - start)
            at = new + start - first
            self.touched[at : at + end - start] = counted
            self._used.update(range(at // CHUNK, (at + end - start - 1) // CHUNK + 1))

    def counted(self, first: int, last: int) -> list[tuple[int, bytes]]:
        """Return which of the pages from `first` up to `last` count, as parts of `touched`."""
        return [(start, self.touched[start:end]) for start, end in self._used_within(first, last)]

    def count_again(self, parts: list[tuple[int, bytes]]) -> None:
        """Let pages count as they did, without a change of how many that are."""
        for start, counted in parts:
            self.touched[start : start + len(counted)] = counted
            self._used.update(range(start // CHUNK, (start + len(counted) - 1) // CHUNK + 1))

    def _used_within(self, first: int, last: int) -> list[tuple[int, int]]:
        """Return the parts of a range in whose chunks pages may have been touched."""
        if last - first <= LONG:
            return [(first, last)] if first < last else []
        used = sorted(chunk for chunk in self._used if first // CHUNK <= chunk <= (last - 1) // CHUNK)
        return [(max(chunk * CHUNK, first), min(chunk * CHUNK + CHUNK, last)) for chunk in used]

    def view(self, address: int, size: int) -> memoryview:
        """Return a writable window on `size` mapped bytes; do not keep it across an unmap."""
        start = self.offset(address, size)
        return self.bytes[start : start + size]

    def span(self, address: int, size: int) -> memoryview:
        """Return a writable window on a range of one window that may have holes:
        the caller knows what is mapped.
        """
        start = physical(address)
        if start < 0 or size and physical(address + size - 1) != start + size - 1:
            raise MemoryFault(address, "read")
        return self.bytes[start : start + size]

    def read_u32(self, address: int) -> int:
        """Return the unsigned 32-bit word at `address`."""
        value: int = _U32.unpack_from(self.bytes, self.offset(address, 4))[0]
        return value

    def read_u64(self, address: int) -> int:
        """Return the unsigned 64-bit word at `address`."""
        value: int = _U64.unpack_from(self.bytes, self.offset(address, 8))[0]
        return value

    def write_u32(self, address: int, value: int) -> None:
        """Store the low 32 bits of `value` at `address`."""
        _U32.pack_into(self.bytes, self.offset(address, 4), value & 0xFFFFFFFF)

    def write_u64(self, address: int, value: int) -> None:
        """Store the low 64 bits of `value` at `address`."""
        _U64.pack_into(self.bytes, self.offset(address, 8), value & 0xFFFFFFFFFFFFFFFF)

    def read_cstr(self, address: int, limit: int = 4096) -> bytes:
        """Return the bytes before the NUL at `address`; at most `limit` of them when there is none nearer."""
        parts = []
        while limit > 0:
            room = min(limit, PAGE_SIZE - (address & 0xFFF))
            start = self.offset(address, room, PROT_READ)
            end = self.mapping.find(b"\0", start, start + room)
            if end >= 0:
                parts.append(self.mapping[start:end])
                break
            parts.append(self.mapping[start : start + room])
            address += room
            limit -= room
        return b"".join(parts)

    def set_perms(self, address: int, size: int, perms: int) -> None:
        """Give every page of the page-aligned range the permission byte `perms`."""
        first = physical(address) >> 12
        self.permissions.fill(first, first + (size >> 12), perms)
