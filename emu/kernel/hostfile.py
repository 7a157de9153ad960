"""The descriptors that the host gave: standard input, output and error."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.inodes import Stat, fail, from_host
from emu.kernel.openfile import OpenFile

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel

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
    """A host descriptor: file, pipe or terminal. Its offset is the host's, shared as across fork."""

    __slots__ = ("host", "seekable_host", "regular")

    def __init__(self, host: int) -> None:
        super().__init__("", _host_flags(host))
        self.host = host
        st = os.fstat(host)
        fmt = st.st_mode & abi.S_IFMT
        self.regular = fmt in (abi.S_IFREG, abi.S_IFBLK)
        self.flags &= ~abi.O_NONBLOCK
        self.path = os.readlink(f"/proc/self/fd/{host}")

    @property
    def seekable(self) -> bool:  # type: ignore[override]
        """Whether the host's file has an offset."""
        return self.regular

    def stat(self) -> Stat:
        """Return the host's attributes."""
        return from_host(os.fstat(self.host))

    def read(self, size: int) -> bytes:
        """Read from the host; BlockingIOError if there is nothing yet."""
        if not self.regular and not self.poll() & (abi.POLLIN | abi.POLLHUP | abi.POLLERR):
            raise fail(errno.EAGAIN)
        return os.read(self.host, size)

    def write(self, data: bytes) -> int:
        """Write all of `data` to the host, however long it takes."""
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

        select.select([], [self.host], [])

    def pread(self, size: int, offset: int) -> bytes:
        """Read at an offset of the host's file."""
        return os.pread(self.host, size, offset)

    def pwrite(self, data: bytes, offset: int) -> int:
        """Write at an offset of the host's file."""
        return os.pwrite(self.host, data, offset)

    def seek(self, offset: int, whence: int) -> int:
        """Move the offset that the host shares."""
        return os.lseek(self.host, offset, whence)

    def truncate(self, size: int) -> None:
        """Set the length of the host's file."""
        os.ftruncate(self.host, size)

    def sync(self) -> None:
        """Flush the host's file."""
        os.fsync(self.host)

    def poll(self) -> int:
        """Ask the host, without waiting."""
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

    def ioctl(self, kernel: Kernel, request: int, argument: int) -> int:
        """Serve terminal requests that stay within this terminal; the host decides whether it is one."""
        import fcntl

        if request in _READS:
            data = fcntl.ioctl(self.host, request, bytes(_READS[request]))
            kernel.arena.copy_out(argument, data)
            return 0
        if request in _WRITES:
            fcntl.ioctl(self.host, request, kernel.arena.copy_in(argument, _WRITES[request]))
            return 0
        if request in (TIOCGPGRP, TIOCGSID, TIOCSPGRP):
            if not os.isatty(self.host):
                raise fail(errno.ENOTTY)
            if request != TIOCSPGRP:
                kernel.arena.copy_out(
                    argument, (abi.PGID if request == TIOCGPGRP else abi.SID).to_bytes(4, "little")
                )
            return 0
        raise fail(errno.ENOTTY)
