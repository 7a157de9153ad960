"""The descriptors that the host gave: standard input, output and error."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.fs.file import OpenFile
from emu.kernel.fs.stat import Stat, from_host

if TYPE_CHECKING:
    from emu.kernel.run.journal import Journal
    from emu.machine.arena import Arena

T = TypeVar("T")

_STATUS = os.O_ACCMODE | abi.O_APPEND | abi.O_NONBLOCK
TCGETS, TCSETS, TCSETSW, TCSETSF = 0x5401, 0x5402, 0x5403, 0x5404
TIOCGPGRP, TIOCSPGRP, TIOCOUTQ, TIOCGWINSZ, TIOCSWINSZ, FIONREAD = (
    0x540F,
    0x5410,
    0x5411,
    0x5413,
    0x5414,
    0x541B,
)
TIOCGSID, FIONBIO, FIOASYNC, FIOCLEX, FIONCLEX = 0x5429, 0x5421, 0x5452, 0x5451, 0x5450
_READS = {TCGETS: 36, TIOCGWINSZ: 8, FIONREAD: 4, TIOCOUTQ: 4}
_WRITES = {TCSETS: 36, TCSETSW: 36, TCSETSF: 36}


def _host_flags(host: int) -> int:
    import fcntl

    return fcntl.fcntl(host, fcntl.F_GETFL) & _STATUS


class HostFile(OpenFile):
    """A host descriptor: file, pipe or terminal. Its offset is the host's, shared as across fork.

    With a `journal` the host is asked once, however often the run is repeated.
    """

    __slots__ = ("asked", "host", "seekable_host", "regular", "journal")

    def __init__(self, host: int) -> None:
        super().__init__("", _host_flags(host))
        self.host = host
        self.journal: Journal | None = None
        self.asked: Callable[[str, Callable[[], object]], None] | None = None
        st = os.fstat(host)
        fmt = st.st_mode & abi.S_IFMT
        self.regular = fmt in (abi.S_IFREG, abi.S_IFBLK)
        self.flags &= ~abi.O_NONBLOCK
        with suppress(FileNotFoundError):  # a host without /proc does not tell the name
            self.path = os.readlink(f"/proc/self/fd/{host}")

    def _ask(self, kind: str, act: Callable[[], T]) -> T:
        if self.asked is not None:
            self.asked(kind, act)
        return act() if self.journal is None else self.journal.ask(f"{kind} of {self.path}", act)

    def watch(self, asked: Callable[[str, Callable[[], object]], None] | None) -> None:
        """From now on tell `asked` (None: nobody) of what is about to be asked of the host, and how."""
        self.asked = asked

    @property
    def seekable(self) -> bool:  # type: ignore[override]
        """Whether the host's file has an offset."""
        return self.regular

    def stat(self) -> Stat:
        """Return the host's attributes."""
        return self._ask("stat", lambda: from_host(os.fstat(self.host)))

    def read(self, size: int) -> bytes:
        """Read from the host; BlockingIOError if there is nothing yet."""
        if not self.regular and not self.poll() & (abi.POLLIN | abi.POLLHUP | abi.POLLERR):
            raise fail(errno.EAGAIN)
        return self._ask("read", lambda: os.read(self.host, size))

    def write(self, data: bytes) -> int:
        """Write all of `data` to the host, however long it takes."""
        return self._ask("write", lambda: self._write(data))

    def _write(self, data: bytes) -> int:
        written = 0
        view = memoryview(data)
        while written < len(data):
            try:
                written += os.write(self.host, view[written:])
            except BlockingIOError:
                self._await_room()
            except OSError:
                if written:
                    break
                raise
        return written

    def _await_room(self) -> None:
        import select

        room = select.poll()  # select has none for a descriptor of 1024 or more
        room.register(self.host, select.POLLOUT)
        room.poll()

    def pread(self, size: int, offset: int) -> bytes:
        """Read at an offset of the host's file."""
        return self._ask("pread", lambda: os.pread(self.host, size, offset))

    def pwrite(self, data: bytes, offset: int) -> int:
        """Write at an offset of the host's file."""
        return self._ask("pwrite", lambda: os.pwrite(self.host, data, offset))

    def seek(self, offset: int, whence: int) -> int:
        """Move the offset that the host shares."""
        return self._ask("lseek", lambda: os.lseek(self.host, offset, whence))

    def truncate(self, size: int) -> None:
        """Set the length of the host's file."""
        self._ask("ftruncate", lambda: os.ftruncate(self.host, size))

    def sync(self) -> None:
        """Flush the host's file."""
        self._ask("fsync", lambda: os.fsync(self.host))

    def poll(self) -> int:
        """Ask the host, without waiting."""
        return self._ask("poll", self._poll)

    def _poll(self) -> int:
        import select

        poller = select.poll()
        poller.register(self.host, abi.POLLIN | abi.POLLPRI | abi.POLLOUT)
        ready = poller.poll(0)
        mask = ready[0][1] if ready else 0
        if mask & abi.POLLIN:
            mask |= abi.POLLRDNORM
        if mask & abi.POLLOUT:
            mask |= abi.POLLWRNORM
        return mask

    def host_wait(self) -> int | None:
        """Return the host's descriptor."""
        return self.host

    def ioctl(self, arena: Arena, request: int, argument: int) -> int:
        """Serve terminal requests that stay within this terminal; the host decides whether it is one."""
        import fcntl

        if request in _READS:
            data = self._ask("ioctl", lambda: fcntl.ioctl(self.host, request, bytes(_READS[request])))
            arena.copy_out(argument, data)
            return 0
        if request in _WRITES:
            wanted = arena.copy_in(argument, _WRITES[request])
            self._ask("ioctl", lambda: fcntl.ioctl(self.host, request, wanted))
            return 0
        if request in (TIOCGPGRP, TIOCGSID, TIOCSPGRP):
            if not self._ask("isatty", lambda: os.isatty(self.host)):
                raise fail(errno.ENOTTY)
            if request != TIOCSPGRP:
                arena.copy_out(
                    argument, (abi.PGID if request == TIOCGPGRP else abi.SID).to_bytes(4, "little")
                )
            return 0
        raise fail(errno.ENOTTY)
