"""Who is sent a signal when something happens to an open file.

Source: fcntl(2), "Managing signals" and "File and directory change notification (dnotify)"; Linux fs/fcntl.c:
send_sigio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.fs.notices import (
    IN_ACCESS,
    IN_ATTRIB,
    IN_CREATE,
    IN_DELETE,
    IN_MODIFY,
    IN_MOVED_FROM,
    IN_MOVED_TO,
    RENAMED,
    FileWatch,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.kernel.fs.file import OpenFile
    from emu.kernel.fs.notices import Notices
    from emu.kernel.fs.owned import Owner

    Send = Callable[[Owner, int, tuple[int, int]], None]
    """Sends an owner the signal of a descriptor, with si_code and si_band."""

_READABLE, _WRITABLE = abi.POLLIN | abi.POLLRDNORM, abi.POLLOUT | abi.POLLWRNORM
_POLL_IN, _POLL_OUT, _POLL_MSG = (1, _READABLE), (2, _WRITABLE | 0x200), (3, _READABLE | 0x400)
_DN_MULTISHOT = 1 << 31
_DN_MASKS = (IN_ACCESS, IN_MODIFY, IN_CREATE | IN_MOVED_TO, IN_DELETE | IN_MOVED_FROM, RENAMED, IN_ATTRIB)
"""What DN_ACCESS and its kin, bit by bit, ask for."""


class AsyncFile:
    """A watcher of an open file (O_ASYNC) for its owner; it is over when the file is closed."""

    __slots__ = ("_fd", "_file", "_send")

    def __init__(self, file: OpenFile, fd: int, send: Send) -> None:
        self._file, self._fd, self._send = file, fd, send

    def wake(self, events: int) -> None:
        """The POLL* conditions `events` have come about."""
        if self._file.references:
            readable = events & (_READABLE | abi.POLLHUP)
            self._send(self._file.owner, self._fd, _POLL_IN if readable else _POLL_OUT)

    @staticmethod
    def switch(file: OpenFile, fd: int, send: Send, *, on: bool) -> bool:
        """Tell a file's owner from now on, or no longer; false for a kind of file that does not do it."""
        watchers = file.watchers() if file.tells_owner else None
        if watchers is None:
            return False
        old = [one for one in watchers if isinstance(one, AsyncFile) and one._file is file]
        for one in old:
            watchers.remove(one)
        if on:
            watchers.append(AsyncFile(file, fd, send))
        return True


class DirectoryNotice:
    """What an open directory's owner is told (F_NOTIFY). It is over when the directory is closed."""

    __slots__ = ("_alive", "_dn", "_fd", "_file", "_notices", "_send", "_watch")

    def __init__(
        self, file: OpenFile, fd: int, notices: Notices, send: Callable[[Owner, int, tuple[int, int]], None]
    ) -> None:
        assert file.inode is not None
        self._file, self._fd, self._notices, self._send = file, fd, notices, send
        self._dn, self._alive = 0, True
        self._watch = FileWatch(self, file.inode, 0, 0)
        notices.add(self._watch)

    def ask(self, dn: int) -> None:
        """Watch for these events (DN_*) as well."""
        self._dn |= dn
        self._watch.change(sum(mask for place, mask in enumerate(_DN_MASKS) if self._dn >> place & 1))

    def tell(self, watch: FileWatch, mask: int, name: str, cookie: int) -> None:
        """Something has happened to an entry."""
        if not name:
            return
        self._send(self._file.owner, self._fd, _POLL_MSG)
        if not self._dn & _DN_MULTISHOT:
            self.cancel()

    def ended(self, watch: FileWatch) -> None:
        """End the watch: the directory has been removed."""
        self._dn, self._alive = 0, False

    def cancel(self) -> None:
        """Tell of nothing any more."""
        self._dn = 0
        self._watch.change(0)

    def close(self) -> None:
        """End the watch: the descriptor has been closed."""
        if self._alive:
            self._notices.drop(self._watch)
