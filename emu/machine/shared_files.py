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


class MemoryFile:
    """A file of the host's memory. It is closed when nobody refers to it."""

    __slots__ = ("fd",)

    def __init__(self) -> None:
        self.fd = os.memfd_create("emu-shared", os.MFD_CLOEXEC)

    def __del__(self) -> None:
        os.close(self.fd)

    @property
    def size(self) -> int:
        """The length in bytes."""
        return os.fstat(self.fd).st_size

    def content(self) -> bytes:
        """Return all bytes."""
        return os.pread(self.fd, self.size, 0)

    def set_content(self, data: bytes) -> None:
        """Give the file `data`, then zeroes: it never gets shorter."""
        os.pwrite(self.fd, data + bytes(max(self.size - len(data), 0)), 0)


class SharedFiles:
    """The memory files of one process, by (device, inode). Their lengths are whole pages and never shrink: no guest can make the host fault."""

    def __init__(self) -> None:
        self._files: dict[tuple[int, int], MemoryFile] = {}

    def __bool__(self) -> bool:
        return bool(self._files)

    def find(self, dev: int, ino: int) -> int | None:
        """Return the host descriptor of the memory file, None for a file that nobody has mapped shared."""
        file = self._files.get((dev, ino))
        return file.fd if file is not None else None

    def copy_of(self, backing: Backing) -> int:
        """Return the host descriptor of the memory file for `backing`, made or grown as need be. Raises OSError."""
        key = (backing.dev, backing.ino)
        size = -(-backing.size() // _PAGE) * _PAGE
        file = self._files.get(key)
        if file is None:
            file = self._files[key] = MemoryFile()
        known = file.size
        if known < size:
            os.ftruncate(file.fd, size)
            at = known
            while at < size and (data := backing.pread(min(size - at, _PIECE), at)):
                os.pwrite(file.fd, data, at)
                at += len(data)
        return file.fd

    def stored(self, dev: int, ino: int, data: bytes, offset: int) -> None:
        """Show what was written to a file in the mappings that share it."""
        file = self._files.get((dev, ino))
        if file is not None:
            os.pwrite(file.fd, data[: max(file.size - offset, 0)], offset)

    def cut(self, dev: int, ino: int, size: int) -> None:
        """Make zeroes of what lies past the end of a file: should it grow again, they are its new bytes."""
        file = self._files.get((dev, ino))
        if file is not None:
            beyond = file.size - size
            if beyond > 0:
                os.pwrite(file.fd, bytes(beyond), size)
