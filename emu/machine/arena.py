"""The guest's memory: one host mapping, seen through three windows of guest addresses, with a permission byte a page.

Unicorn is told of one flat physical memory; where a guest address lies in it, and what may be done there, is answered
on each TLB miss from the table kept here (the "soft MMU"). This is exact (page, kind of access, program
counter) and keeps RAM stores on Unicorn's fast path, which its own page protection does not.

The windows follow Linux without address randomisation: low addresses for non-PIE executables, 0x555555554000 for PIE
executables and their heap, the top of the lower half for shared objects, mappings and the stack.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Callable

from emu.core.errors import EmuError, MemoryFault

PAGE_SIZE = 4096
PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
MAPPED = 8
"""Bit of a permission byte: the page belongs to a mapping, even if PROT_NONE."""
BUS = 16
"""Bit of a permission byte: the page lies past the end of the mapped file, so an access is SIGBUS."""

SHARED = 32
"""Bit of a permission byte: the page is one of a shared mapping of a file, of which there may be others."""

_NORESERVE = 0x4000  # Python 3.11 does not name it
_GIB = 1 << 30
LOW_END = 4 * _GIB
PIE_START, PIE_END = 0x5555_5000_0000, 0x5555_5000_0000 + 12 * _GIB
HIGH_START, HIGH_END = 0x8000_0000_0000 - 40 * _GIB, 0x8000_0000_0000
PIE_DELTA = PIE_START - LOW_END
HIGH_DELTA = HIGH_START - LOW_END - 12 * _GIB
SIZE = 56 * _GIB

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_CAN_READ = bytes(1 if p & PROT_READ and not p & BUS else 0 for p in range(256))
_CAN_WRITE = bytes(1 if p & PROT_WRITE and not p & BUS else 0 for p in range(256))
_MAY_BE_CODE = bytes(1 if p & (PROT_EXEC | SHARED) else 0 for p in range(256))
_IS_MAPPED = bytes(1 if p & MAPPED else 0 for p in range(256))
_NEEDED = {PROT_READ: _CAN_READ, PROT_WRITE: _CAN_WRITE, 0: _IS_MAPPED}


def physical(address: int) -> int:
    """Return where the guest address lies in the arena, or -1 if it is outside every window."""
    if HIGH_START <= address < HIGH_END:
        return address - HIGH_DELTA
    if 0 <= address < LOW_END:
        return address
    if PIE_START <= address < PIE_END:
        return address - PIE_DELTA
    return -1


class Arena:
    """Guest memory as bytes. Addresses are guest addresses; a range must lie in one window.

    `read` and `write` act for the loader: any mapped page will do. `copy_in` and `copy_out` act for
    the kernel on behalf of the guest and obey the page permissions. All raise MemoryFault. `on_code(address, size)`
    is called when the kernel has written where there may be code.
    """

    def __init__(self) -> None:
        try:
            self.mapping = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE)
        except OSError as error:
            raise EmuError(
                f"cannot reserve {SIZE >> 30} GiB of address space for the guest ({error.strerror}); "
                "is there a limit on virtual memory (ulimit -v)?"
            ) from None
        self.bytes = memoryview(self.mapping)
        self.words = self.bytes.cast("Q")
        self.perms = bytearray(SIZE // PAGE_SIZE)
        self.on_code: Callable[[int, int], None] = lambda address, size: None
        self.host_base = ctypes.addressof(ctypes.c_char.from_buffer(self.mapping))

    def offset(self, address: int, size: int, needed: int = 0) -> int:
        """Return the arena offset of [address, address + size) after a check of every page.

        `needed` is 0 (mapped), PROT_READ or PROT_WRITE. Raises MemoryFault at the first byte that fails.
        """
        start = physical(address)
        if start < 0:
            raise MemoryFault(address, "write" if needed == PROT_WRITE else "read")
        first, last = start >> 12, (start + size - 1) >> 12
        table = _NEEDED[needed]
        perms = self.perms
        if first == last:
            if table[perms[first]]:
                return start
            bad = first
        elif size == 0:
            return start
        else:
            bad = perms[first : last + 1].translate(table).find(0)
            if bad < 0:
                return start
            bad += first
        fault = address if bad == first else address - (start & 0xFFF) + ((bad - first) << 12)
        raise MemoryFault(fault, "write" if needed == PROT_WRITE else "read")

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
            if self.perms[first] & (PROT_EXEC | SHARED) or (
                first != last and self.perms[first + 1 : last + 1].translate(_MAY_BE_CODE).find(1) >= 0
            ):
                self.on_code(address, size)

    def view(self, address: int, size: int) -> memoryview:
        """Return a writable window on `size` mapped bytes; do not keep it across an unmap."""
        start = self.offset(address, size)
        return self.bytes[start : start + size]

    def span(self, address: int, size: int) -> memoryview:
        """Return a writable window on a range of one window that may have holes: the caller knows what is mapped."""
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
        count = size >> 12
        self.perms[first : first + count] = bytes((perms,)) * count
