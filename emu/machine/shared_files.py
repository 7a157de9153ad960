"""Files with shared mappings: each stands in a memory file that all its mappings show, so what one stores every other sees.

The guest's file itself gets the bytes at munmap, msync, before a system call on a file, and at exit; what is written to it goes the other way at once.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emu.core.files import Backing

_PAGE = 4096
_PIECE = 1 << 20


class SharedFiles:
    """The memory files of one process, by (device, inode). Their lengths are whole pages and never shrink: no guest can make the host fault."""

    def __init__(self) -> None:
        self._descriptors: dict[tuple[int, int], int] = {}

    def __bool__(self) -> bool:
        return bool(self._descriptors)

    def find(self, dev: int, ino: int) -> int | None:
        """Return the host descriptor of the memory file, None for a file that nobody has mapped shared."""
        return self._descriptors.get((dev, ino))

    def copy_of(self, backing: Backing) -> int:
        """Return the host descriptor of the memory file for `backing`, made or grown as need be. Raises OSError."""
        key = (backing.dev, backing.ino)
        size = -(-backing.size() // _PAGE) * _PAGE
        descriptor = self._descriptors.get(key)
        if descriptor is None:
            descriptor = self._descriptors[key] = os.memfd_create("emu-shared", os.MFD_CLOEXEC)
        known = os.fstat(descriptor).st_size
        if known < size:
            os.ftruncate(descriptor, size)
            at = known
            while at < size and (data := backing.pread(min(size - at, _PIECE), at)):
                os.pwrite(descriptor, data, at)
                at += len(data)
        return descriptor

    def stored(self, dev: int, ino: int, data: bytes, offset: int) -> None:
        """Show what was written to a file in the mappings that share it."""
        descriptor = self.find(dev, ino)
        if descriptor is not None:
            os.pwrite(descriptor, data[: max(os.fstat(descriptor).st_size - offset, 0)], offset)

    def cut(self, dev: int, ino: int, size: int) -> None:
        """Make zeroes of what lies past the end of a file: should it grow again, they are its new bytes."""
        descriptor = self.find(dev, ino)
        if descriptor is not None:
            beyond = os.fstat(descriptor).st_size - size
            if beyond > 0:
                os.pwrite(descriptor, bytes(beyond), size)
