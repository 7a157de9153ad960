"""The descriptor table of the process."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.kernel.inodes import fail

if TYPE_CHECKING:
    from emu.kernel.locks import FileLocks
    from emu.kernel.openfile import OpenFile


class FdTable:
    """Descriptor numbers, their descriptions in `files`, and which of them close on exec.

    `limit` is RLIMIT_NOFILE. The `locks` of a description go with its last number.
    """

    __slots__ = ("files", "cloexec", "limit", "_locks")

    def __init__(self, limit: int, locks: FileLocks) -> None:
        self._locks = locks
        self.files: dict[int, OpenFile] = {}
        self.cloexec: set[int] = set()
        self.limit = limit

    def get(self, fd: int) -> OpenFile:
        """Return the description of `fd`. Raises OSError(EBADF)."""
        file = self.files.get(fd)
        if file is None:
            raise fail(errno.EBADF)
        return file

    def lowest(self, start: int = 0) -> int:
        """Return the lowest free number from `start` on. Raises OSError(EMFILE)."""
        while start in self.files:
            start += 1
        if start >= self.limit:
            raise fail(errno.EMFILE)
        return start

    def install(self, file: OpenFile, cloexec: bool = False, fd: int | None = None) -> int:
        """Give `file` the number `fd` (the lowest free one when None) and return it."""
        if fd is None:
            fd = self.lowest()
        file.references += 1
        self.files[fd] = file
        if cloexec:
            self.cloexec.add(fd)
        return fd

    def close(self, fd: int) -> None:
        """Free a number. Raises OSError(EBADF)."""
        file = self.files.pop(fd, None)
        if file is None:
            raise fail(errno.EBADF)
        self.cloexec.discard(fd)
        self.release(file)

    def release(self, file: OpenFile) -> None:
        """One reference to a description is gone."""
        file.references -= 1
        if not file.references:
            self._locks.release(file)
            file.closed()

    def replace(self, fd: int, file: OpenFile, cloexec: bool) -> int:
        """Make `fd` refer to `file`, closing what it was (dup2)."""
        if not 0 <= fd < self.limit:
            raise fail(errno.EBADF)
        file.references += 1
        if fd in self.files:
            self.close(fd)
        self.files[fd] = file
        if cloexec:
            self.cloexec.add(fd)
        return fd
