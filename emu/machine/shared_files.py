"""Files with shared mappings: each stands in a memory file that all its mappings show, and its descriptors
use. So what one stores every other sees.

A file of the host, in a directory that the guest may write to, gets the bytes at munmap, msync, fsync and at
exit.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from emu.core.descriptors import for_guest
from emu.machine.host import punch_hole
from emu.machine.images import PageStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.core.files import Backing
    from emu.core.files import MemoryFile as Held


class MemoryFile:
    """A file of the host's memory. It is closed when nobody refers to it."""

    __slots__ = ("fd",)

    def __init__(self) -> None:
        self.fd = -1
        self.fd = for_guest(os.memfd_create("emu-shared", os.MFD_CLOEXEC))

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)

    @property
    def size(self) -> int:
        """The length in bytes."""
        return os.fstat(self.fd).st_size

    def content(self) -> list[tuple[int, bytes]]:
        """Return all bytes that are no hole, with where they are."""
        return [(start, os.pread(self.fd, end - start, start)) for start, end in self._extents()]

    def set_content(self, parts: list[tuple[int, bytes]]) -> None:
        """Give the file what `content` has returned, and holes for the rest: it never gets shorter."""
        punch_hole(self.fd, 0, self.size)
        for start, data in parts:
            os.pwrite(self.fd, data, start)

    def _extents(self) -> Iterator[tuple[int, int]]:
        at, size = 0, self.size
        while at < size:
            try:
                start = os.lseek(self.fd, at, os.SEEK_DATA)
            except OSError:  # no data from there on
                return
            at = os.lseek(self.fd, start, os.SEEK_HOLE)
            yield start, at


class SharedMemory:
    """Anonymous memory that processes share: a file of no name,
    as it is on Linux (`emu.core.files.Backing`).
    """

    path = "/dev/zero (deleted)"
    dev = 1

    def __init__(self, ino: int, size: int) -> None:
        self.ino = ino
        self.file = MemoryFile()
        os.ftruncate(self.file.fd, size)

    def size(self) -> int:
        """Return the length in bytes."""
        return self.file.size

    def pread(self, size: int, offset: int) -> bytes:
        """Return bytes from `offset`."""
        return os.pread(self.file.fd, size, offset)

    def pwrite(self, data: bytes, offset: int) -> int:
        """Store bytes at `offset`."""
        return os.pwrite(self.file.fd, data, offset)

    def host_fd(self) -> int | None:
        """Return the host's descriptor."""
        return self.file.fd

    def memory_file(self) -> MemoryFile:
        """Return the memory itself."""
        return self.file

    def write_back(self, offset: int, size: int) -> None:
        """Nothing: it is kept nowhere else."""


class SharedFiles:
    """The memory files of all processes, by (device, inode).

    Their lengths are whole pages and never shrink: no guest can make the host fault.

    `pages` are those that processes share since a fork.
    """

    def __init__(self) -> None:
        self._files: dict[tuple[int, int], Held] = {}
        self._memories = self._spaces = 0
        self.pages = PageStore()

    def find(self, dev: int, ino: int) -> int | None:
        """Return the host descriptor of the memory file, None for a file that nobody has mapped shared."""
        file = self._files.get((dev, ino))
        return file.fd if file is not None else None

    def new_space(self) -> int:
        """Return the number of another address space whose mappings show these files."""
        self._spaces += 1
        return self._spaces

    def memory(self, size: int) -> SharedMemory:
        """Return new anonymous memory to be shared, `size` bytes of zeroes."""
        self._memories += 1
        return SharedMemory(self._memories, size)

    def copy_of(self, backing: Backing) -> int:
        """Return the host descriptor of the memory file for `backing`, which is there from now on.

        Raises OSError.
        """
        file = backing.memory_file()
        if not isinstance(backing, SharedMemory):
            self._files[backing.dev, backing.ino] = file
        return file.fd
