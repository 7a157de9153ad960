"""The descriptor table of a process."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.kernel.errors import fail
from emu.kernel.fs.locks import key_of

if TYPE_CHECKING:
    from emu.kernel.fs.file import OpenFile
    from emu.kernel.fs.locks import FileLocks


class FdTable:
    """Descriptor numbers, their descriptions in `files`, and which of them close on exec.

    `limit` is RLIMIT_NOFILE; `_users` counts the processes that have it (CLONE_FILES).
    """

    __slots__ = ("files", "cloexec", "limit", "_locks", "_users")

    def __init__(self, limit: int) -> None:
        self.files: dict[int, OpenFile] = {}
        self.cloexec: set[int] = set()
        self.limit = limit
        self._users = 1
        self._locks: tuple[FileLocks, int] | None = None

    def watch_closes(self, locks: FileLocks, pid: int) -> None:
        """A process has locked a part of a file: it loses its locks of a file when
        it closes any descriptor of it.
        """
        self._locks = locks, pid

    def copy(self) -> FdTable:
        """Return what a child begins with: the same numbers for the same descriptions."""
        twin = FdTable(self.limit)
        twin.files, twin.cloexec = dict(self.files), set(self.cloexec)
        for file in twin.files.values():
            file.hold()
        return twin

    def share(self) -> FdTable:
        """Return the table itself, which another process has as well."""
        self._users += 1
        return self

    def leave(self) -> None:
        """A process has it no more; after the last all is closed."""
        self._users -= 1
        if not self._users:
            for fd in list(self.files):
                self.close(fd)

    def executed(self) -> FdTable:
        """Return the table of a process that has called execve: its own, without what closes then."""
        table = self
        if self._users > 1:
            table = self.copy()
            self._users -= 1
        for fd in list(table.cloexec):
            table.close(fd)
        return table

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
        file.hold()
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
        if self._locks is not None:
            locks, pid = self._locks
            locks.records.drop(pid, key_of(file))
        file.release()

    def replace(self, fd: int, file: OpenFile, cloexec: bool) -> int:
        """Make `fd` refer to `file`, closing what it was (dup2)."""
        if not 0 <= fd < self.limit:
            raise fail(errno.EBADF)
        file.hold()
        if fd in self.files:
            self.close(fd)
        self.files[fd] = file
        if cloexec:
            self.cloexec.add(fd)
        return fd
