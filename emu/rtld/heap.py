"""Guest memory for the loader's own structures: link maps, scopes, TLS blocks.

Plays the part of ld.so's minimal malloc, but also takes memory back: freed blocks are kept by size and given
out again.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emu.core.types import Mappings, Memory

_CHUNK = 1 << 16


class Heap:
    """Zeroed, aligned blocks from anonymous mappings. Sizes are bytes."""

    def __init__(self, mappings: Mappings, memory: Memory) -> None:
        self._mappings, self._memory = mappings, memory
        self._next = self._end = 0
        self._free: dict[tuple[int, int], list[int]] = {}
        self._sizes: dict[int, tuple[int, int]] = {}

    def allocate(self, size: int, align: int = 16) -> int:
        """Return the address of `size` zero bytes. Raises OSError(ENOMEM)."""
        size = -(-max(size, 1) // 16) * 16
        free = self._free.get((size, align))
        if free:
            address = free.pop()
            self._memory.write(address, bytes(size))
        else:
            address = -(-self._next // align) * align
            if address + size > self._end:
                chunk = max(_CHUNK, -(-(size + align) // 4096) * 4096)
                self._next = self._mappings.mmap(0, chunk, 3)
                self._end = self._next + chunk
                address = -(-self._next // align) * align
            self._next = address + size
        self._sizes[address] = (size, align)
        return address

    def free(self, address: int) -> bool:
        """Take a block back; False if it is none of ours."""
        kind = self._sizes.pop(address, None)
        if kind is None:
            return False
        self._free.setdefault(kind, []).append(address)
        return True

    def owns(self, address: int) -> bool:
        """Whether a block that has not been freed begins at `address`."""
        return address in self._sizes

    def words(self, values: list[int]) -> int:
        """Return the address of an array of 64-bit words."""
        address = self.allocate(8 * len(values), 8)
        self._memory.write(address, struct.pack(f"<{len(values)}Q", *values))
        return address

    def string(self, text: bytes) -> int:
        """Return the address of a NUL-terminated copy of `text`."""
        address = self.allocate(len(text) + 1, 1)
        self._memory.write(address, text + b"\0")
        return address
