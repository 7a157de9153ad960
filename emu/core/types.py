"""The guest's memory as the loader sees it.

Addresses are integers in the guest's address space; sizes are bytes.
"""

from __future__ import annotations

from typing import Protocol

from emu.core.files import Backing


class ReadableMemory(Protocol):
    """Bytes of the guest to look at. Raises MemoryFault."""

    def read(self, address: int, size: int) -> bytes:
        """Return `size` bytes."""
        ...


class Readable(Protocol):
    """Bytes of one object or of the guest, to be looked at. Raises MemoryFault or ElfError."""

    def read(self, address: int, size: int) -> bytes:
        """Return `size` bytes."""


class Memory(Readable, Protocol):
    """Bytes of the guest, for the loader: any mapped page will do, whatever its protection.

    All raise MemoryFault.
    """

    def read(self, address: int, size: int) -> bytes:
        """Return `size` bytes."""

    def write(self, address: int, data: bytes) -> None:
        """Store bytes."""

    def read_u64(self, address: int) -> int:
        """Return a 64-bit word."""

    def write_u64(self, address: int, value: int) -> None:
        """Store a 64-bit word."""

    def read_cstr(self, address: int, limit: int = 4096) -> bytes:
        """Return the bytes before a NUL."""

    def view(self, address: int, size: int) -> memoryview:
        """Return a writable window on the bytes."""

    def span(self, address: int, size: int) -> memoryview:
        """Return a writable window on a range that may have unmapped holes."""


class Mappings(Protocol):
    """The guest's mappings, for the loader. All raise OSError."""

    def mmap(
        self,
        address: int,
        length: int,
        prot: int,
        *,
        fixed: bool = False,
        backing: Backing | None = None,
        offset: int = 0,
        name: str = "",
    ) -> int:
        """Map anonymous zeroes or a file; return the address."""

    def munmap(self, address: int, length: int) -> None:
        """Remove mappings."""

    def mprotect(self, address: int, length: int, prot: int) -> None:
        """Change the protection."""

    def discard(self, address: int, length: int) -> None:
        """Give pages their first content again: zeros, where nothing else was mapped."""

    def find_gap(self, length: int, *, align: int = 4096) -> int:
        """Return where a mapping of `length` bytes would go."""
