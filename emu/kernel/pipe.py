"""Pipes and the counters of eventfd and timerfd, in memory.

Source: pipe(7), eventfd(2), timerfd_create(2).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.inodes import MEMORY_DEV, Stat, fail
from emu.kernel.openfile import OpenFile
from emu.kernel.timers import Timer

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel

_FIONREAD = 0x541B
_PIPE_BUF = 4096
_COUNTER_MAX = 0xFFFF_FFFF_FFFF_FFFE
DEFAULT_CAPACITY = 1 << 16


class Pipe:
    """The bytes between two ends, and how many descriptions each end has."""

    __slots__ = ("capacity", "data", "puts", "readers", "stat", "takes", "writers")

    def __init__(self, stat: Stat) -> None:
        self.data = bytearray()
        self.capacity = DEFAULT_CAPACITY
        self.readers = self.writers = self.puts = self.takes = 0
        self.stat = stat


class PipeEnd(OpenFile):
    """One end of a pipe."""

    __slots__ = ("pipe",)

    def __init__(self, pipe: Pipe, flags: int) -> None:
        super().__init__(f"pipe:[{pipe.stat.ino}]", flags)
        self.pipe = pipe
        if self.readable:
            pipe.readers += 1
        else:
            pipe.writers += 1

    def stat(self) -> Stat:
        """Return the attributes of the pipe, alike at both ends."""
        return self.pipe.stat

    def read(self, size: int) -> bytes:
        """Take bytes out; empty when no writer is left, EAGAIN while one is."""
        data = self.pipe.data
        if not data and size:
            if self.pipe.writers:
                raise fail(errno.EAGAIN)
            return b""
        taken = bytes(data[:size])
        del data[:size]
        self.pipe.takes += 1
        return taken

    def write(self, data: bytes) -> int:
        """Put bytes in, as many as there is room for, up to PIPE_BUF all or none; EPIPE without a reader."""
        pipe = self.pipe
        if not pipe.readers:
            raise fail(errno.EPIPE)
        room = pipe.capacity - len(pipe.data)
        if data and (room <= 0 or room < len(data) <= _PIPE_BUF):
            raise fail(errno.EAGAIN)
        pipe.data += data[:room]
        pipe.puts += 1
        return min(room, len(data))

    def activity(self) -> int:
        """Return how often the other end has acted."""
        return self.pipe.puts if self.readable else self.pipe.takes

    def poll(self) -> int:
        """Return what holds for this end."""
        pipe = self.pipe
        if self.readable:
            return (abi.POLLIN | abi.POLLRDNORM if pipe.data else 0) | (0 if pipe.writers else abi.POLLHUP)
        free = pipe.capacity - len(pipe.data) >= _PIPE_BUF
        return (abi.POLLOUT | abi.POLLWRNORM if free else 0) | (0 if pipe.readers else abi.POLLERR)

    def ioctl(self, kernel: Kernel, request: int, argument: int) -> int:
        """Tell how many bytes wait (FIONREAD)."""
        if request != _FIONREAD:
            raise fail(errno.ENOTTY)
        kernel.arena.copy_out(argument, len(self.pipe.data).to_bytes(4, "little"))
        return 0

    def closed(self) -> None:
        """This end is gone."""
        if self.readable:
            self.pipe.readers -= 1
        else:
            self.pipe.writers -= 1


def anonymous_stat(kernel: Kernel, mode: int) -> Stat:
    """Return the attributes of a file without a name."""
    fs, now = kernel.fs, kernel.clock.realtime
    return Stat(MEMORY_DEV, fs.new_ino(), mode, 1, fs.uid, fs.gid, 0, 0, abi.PAGE_SIZE, 0, now, now, now)


def make_pipe(kernel: Kernel, flags: int) -> tuple[PipeEnd, PipeEnd]:
    """Return the reading and the writing end of a new pipe; `flags` may hold O_NONBLOCK and O_DIRECT."""
    pipe = Pipe(anonymous_stat(kernel, abi.S_IFIFO | 0o600))
    return PipeEnd(pipe, abi.O_RDONLY | flags), PipeEnd(pipe, abi.O_WRONLY | flags)


class EventFile(OpenFile):
    """An eventfd: a counter that writes add to and a read takes (or decrements, with EFD_SEMAPHORE)."""

    __slots__ = ("_activity", "_stat", "count", "semaphore")

    def __init__(self, kernel: Kernel, count: int, semaphore: bool, flags: int) -> None:
        super().__init__("anon_inode:[eventfd]", abi.O_RDWR | flags)
        self.count = count
        self.semaphore = semaphore
        self._activity = 0
        self._stat = anonymous_stat(kernel, 0o600)

    def stat(self) -> Stat:
        """Return the attributes of an anonymous inode."""
        return self._stat

    def read(self, size: int) -> bytes:
        """Take the count."""
        if size < 8:
            raise fail(errno.EINVAL)
        if not self.count:
            raise fail(errno.EAGAIN)
        taken = 1 if self.semaphore else self.count
        self.count -= taken
        return taken.to_bytes(8, "little")

    def write(self, data: bytes) -> int:
        """Add to the count."""
        if len(data) < 8:
            raise fail(errno.EINVAL)
        added = int.from_bytes(data[:8], "little")
        if added > _COUNTER_MAX:
            raise fail(errno.EINVAL)
        if self.count + added > _COUNTER_MAX:
            raise fail(errno.EAGAIN)
        self.count += added
        self._activity += 1
        return 8

    def activity(self) -> int:
        """Return the number of writes so far."""
        return self._activity

    def poll(self) -> int:
        """Readable with a count, writable with room for one."""
        return (abi.POLLIN | abi.POLLRDNORM if self.count else 0) | (
            abi.POLLOUT | abi.POLLWRNORM if self.count < _COUNTER_MAX else 0
        )


class TimerFile(OpenFile):
    """A timerfd: reading takes the number of expiries since the last read."""

    __slots__ = ("clock", "timer", "_kernel", "_stat")

    def __init__(self, kernel: Kernel, clock: int, flags: int) -> None:
        super().__init__("anon_inode:[timerfd]", abi.O_RDONLY | flags)
        self.clock = clock
        self.timer = Timer(0, clock)
        self._kernel = kernel
        self._stat = anonymous_stat(kernel, 0o600)

    def stat(self) -> Stat:
        """Return the attributes of an anonymous inode."""
        return self._stat

    def _expiries(self) -> int:
        timer, now = self.timer, self._kernel.clock.now
        if not timer.expiry or now < timer.expiry:
            return 0
        return 1 + (now - timer.expiry) // timer.interval if timer.interval else 1

    def read(self, size: int) -> bytes:
        """Take the expiries."""
        if size < 8:
            raise fail(errno.EINVAL)
        count = self._expiries()
        if not count:
            raise fail(errno.EAGAIN)
        self.timer.expiry += count * self.timer.interval
        if not self.timer.interval:
            self.timer.expiry = 0
        return count.to_bytes(8, "little")

    def poll(self) -> int:
        """Readable after an expiry."""
        return abi.POLLIN | abi.POLLRDNORM if self._expiries() else 0

    def deadline(self) -> int | None:
        """Return the virtual time at which it becomes readable, None if never."""
        return self.timer.expiry or None
