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
    from emu.kernel.epoll import Interest
    from emu.kernel.kernel import Kernel

_FIONREAD = 0x541B
_COUNTER_MAX = 0xFFFF_FFFF_FFFF_FFFE
DEFAULT_CAPACITY = 1 << 16
_CLOSED = abi.POLLIN | abi.POLLOUT | abi.POLLRDNORM | abi.POLLWRNORM | abi.POLLERR | abi.POLLHUP


def wake(watchers: list[Interest], events: int) -> None:
    """Tell the epoll interests in a file that conditions have come about, the last comer first."""
    for interest in reversed(watchers):
        interest.wake(events)


class Pipe:
    """The bytes between two ends, and how many descriptions each end has.

    As in Linux the bytes lie in pages, each filled by one write and topped up by later ones only as far as a whole rest fits; `capacity`
    counts pages. Source: Linux fs/pipe.c:pipe_write.
    """

    __slots__ = ("capacity", "pages", "reader_watchers", "readers", "stat", "writer_watchers", "writers")

    def __init__(self, stat: Stat) -> None:
        self.pages: list[_Page] = []
        self.capacity = DEFAULT_CAPACITY
        self.readers = self.writers = 0
        self.reader_watchers: list[Interest] = []
        self.writer_watchers: list[Interest] = []
        self.stat = stat

    @property
    def size(self) -> int:
        """How many bytes wait."""
        return sum(len(page.data) - page.start for page in self.pages)

    def put(self, data: bytes) -> int:
        """Store as many bytes as there is room for; return how many."""
        done = 0
        rest = len(data) % abi.PAGE_SIZE
        if rest and self.pages and len(self.pages[-1].data) + rest <= abi.PAGE_SIZE:
            self.pages[-1].data += data[:rest]
            done = rest
        while done < len(data) and len(self.pages) < self.capacity // abi.PAGE_SIZE:
            self.pages.append(_Page(bytearray(data[done : done + abi.PAGE_SIZE])))
            done += len(self.pages[-1].data)
        return done

    def take(self, size: int) -> bytes:
        """Return up to `size` bytes."""
        taken = bytearray()
        while self.pages and len(taken) < size:
            page = self.pages[0]
            piece = page.data[page.start : page.start + size - len(taken)]
            taken += piece
            page.start += len(piece)
            if page.start == len(page.data):
                del self.pages[0]
        return bytes(taken)


class _Page:
    """One page of a pipe: the bytes from `start` on are still there."""

    __slots__ = ("data", "start")

    def __init__(self, data: bytearray) -> None:
        self.data = data
        self.start = 0


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
        pipe = self.pipe
        if not pipe.pages and size:
            if pipe.writers:
                raise fail(errno.EAGAIN)
            return b""
        was_full = len(pipe.pages) * abi.PAGE_SIZE >= pipe.capacity
        taken = pipe.take(size)
        if was_full:  # only then a writer could have waited
            wake(pipe.writer_watchers, abi.POLLOUT | abi.POLLWRNORM)
        return taken

    def write(self, data: bytes) -> int:
        """Put bytes in, as many as there is room for, up to PIPE_BUF all or none; EPIPE without a reader."""
        pipe = self.pipe
        if not pipe.readers:
            raise fail(errno.EPIPE)
        done = pipe.put(data)
        if data and not done:
            raise fail(errno.EAGAIN)
        wake(pipe.reader_watchers, abi.POLLIN | abi.POLLRDNORM)
        return done

    def watchers(self) -> list[Interest]:
        """Return the epoll interests in this end."""
        return self.pipe.reader_watchers if self.readable else self.pipe.writer_watchers

    def poll(self) -> int:
        """Return what holds for this end."""
        pipe = self.pipe
        if self.readable:
            return (abi.POLLIN | abi.POLLRDNORM if pipe.pages else 0) | (0 if pipe.writers else abi.POLLHUP)
        free = len(pipe.pages) * abi.PAGE_SIZE < pipe.capacity
        return (abi.POLLOUT | abi.POLLWRNORM if free else 0) | (0 if pipe.readers else abi.POLLERR)

    def ioctl(self, kernel: Kernel, request: int, argument: int) -> int:
        """Tell how many bytes wait (FIONREAD)."""
        if request != _FIONREAD:
            raise fail(errno.ENOTTY)
        kernel.arena.copy_out(argument, self.pipe.size.to_bytes(4, "little"))
        return 0

    def closed(self) -> None:
        """This end is gone."""
        if self.readable:
            self.pipe.readers -= 1
        else:
            self.pipe.writers -= 1
        if not self.pipe.readers or not self.pipe.writers:
            for watchers in (self.pipe.reader_watchers, self.pipe.writer_watchers):
                wake(watchers, _CLOSED)


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

    __slots__ = ("_stat", "_watchers", "count", "semaphore")

    def __init__(self, kernel: Kernel, count: int, semaphore: bool, flags: int) -> None:
        super().__init__("anon_inode:[eventfd]", abi.O_RDWR | flags)
        self.count = count
        self.semaphore = semaphore
        self._watchers: list[Interest] = []
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
        wake(self._watchers, abi.POLLOUT)
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
        wake(self._watchers, abi.POLLIN)
        return 8

    def watchers(self) -> list[Interest]:
        """Return the epoll interests in the counter."""
        return self._watchers

    def poll(self) -> int:
        """Readable with a count, writable with room for one."""
        return (abi.POLLIN | abi.POLLRDNORM if self.count else 0) | (
            abi.POLLOUT | abi.POLLWRNORM if self.count < _COUNTER_MAX else 0
        )


class TimerFile(OpenFile):
    """A timerfd: reading takes the number of expiries since the last read."""

    __slots__ = ("clock", "timer", "_kernel", "_stat", "_taken")

    def __init__(self, kernel: Kernel, clock: int, flags: int) -> None:
        super().__init__("anon_inode:[timerfd]", abi.O_RDONLY | flags)
        self.clock = clock
        self.timer = Timer(0, clock)
        self._taken = 0
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
        self._taken += count
        self.timer.expiry += count * self.timer.interval
        if not self.timer.interval:
            self.timer.expiry = 0
        return count.to_bytes(8, "little")

    def poll(self) -> int:
        """Readable after an expiry."""
        return abi.POLLIN | abi.POLLRDNORM if self._expiries() else 0

    def deadline(self) -> int | None:
        """Return the virtual time of the next expiry, None without one."""
        timer, now = self.timer, self._kernel.clock.now
        if now < timer.expiry:
            return timer.expiry
        return timer.expiry + self._expiries() * timer.interval if timer.interval else None

    def occasions(self) -> int:
        """Return the number of expiries so far."""
        return self._taken + self._expiries()
