"""Pipes, in memory. Source: pipe(7)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.fs.file import OpenFile, fresh
from emu.kernel.fs.stat import Stat
from emu.kernel.fs.watch import wake

if TYPE_CHECKING:
    from emu.kernel.fs.file import Volume
    from emu.kernel.fs.watch import Watcher
    from emu.machine.arena import Arena

_FIONREAD = 0x541B
DEFAULT_CAPACITY = 1 << 16
_CLOSED = abi.POLLIN | abi.POLLOUT | abi.POLLRDNORM | abi.POLLWRNORM | abi.POLLERR | abi.POLLHUP


class Pipe:
    """The bytes between two ends, and how many descriptions each end has.

    As in Linux the bytes lie in pages, each filled by one write and topped up by later ones only as far as a
    whole rest fits; `capacity` counts pages. Source: Linux fs/pipe.c:pipe_write.
    """

    __slots__ = (
        "capacity",
        "pages",
        "charge",
        "reader_watchers",
        "readers",
        "stat",
        "writer_watchers",
        "writers",
    )

    def __init__(self, volume: Volume, stat: Stat) -> None:
        self.charge = volume.charge
        self.pages: list[_Page] = []
        self.capacity = DEFAULT_CAPACITY
        self.readers = self.writers = 0
        self.reader_watchers: list[Watcher] = []
        self.writer_watchers: list[Watcher] = []
        self.stat = stat

    @property
    def size(self) -> int:
        """Return how many bytes wait to be read."""
        return sum(len(page.data) - page.start for page in self.pages)

    def put(self, data: bytes) -> int:
        """Store as many bytes as there is room for; return how many.

        Raises OSError(ENOMEM) at the memory limit.
        """
        done = 0
        rest = len(data) % abi.PAGE_SIZE
        if rest and self.pages and len(self.pages[-1].data) + rest <= abi.PAGE_SIZE:
            self.pages[-1].data += data[:rest]
            done = rest
        while done < len(data) and len(self.pages) < self.capacity // abi.PAGE_SIZE:
            try:
                self.charge(abi.PAGE_SIZE)
            except OSError:
                if not done:
                    raise fail(errno.ENOMEM) from None
                break
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
                self.charge(-abi.PAGE_SIZE)
        return bytes(taken)

    def peek(self, size: int) -> bytes:
        """Return the first bytes that wait, which stay."""
        found = bytearray()
        for page in self.pages:
            if len(found) >= size:
                break
            found += page.data[page.start : page.start + size - len(found)]
        return bytes(found)

    def room(self) -> int:
        """Return how many bytes fit for sure."""
        return self.capacity - len(self.pages) * abi.PAGE_SIZE

    def drop(self) -> None:
        """Nobody is left who could read what waits."""
        self.charge(-abi.PAGE_SIZE * len(self.pages))
        self.pages.clear()


class _Page:
    """One page of a pipe: the bytes from `start` on are still there."""

    __slots__ = ("data", "start")

    def __init__(self, data: bytearray) -> None:
        self.data = data
        self.start = 0


class PipeEnd(OpenFile):
    """One end of a pipe."""

    __slots__ = ("pipe",)
    tells_owner = True

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

    def watchers(self) -> list[Watcher]:
        """Return who watches this end."""
        return self.pipe.reader_watchers if self.readable else self.pipe.writer_watchers

    def poll(self) -> int:
        """Return what holds for this end."""
        pipe = self.pipe
        if self.readable:
            return (abi.POLLIN | abi.POLLRDNORM if pipe.pages else 0) | (0 if pipe.writers else abi.POLLHUP)
        free = len(pipe.pages) * abi.PAGE_SIZE < pipe.capacity
        return (abi.POLLOUT | abi.POLLWRNORM if free else 0) | (0 if pipe.readers else abi.POLLERR)

    def ioctl(self, arena: Arena, request: int, argument: int) -> int:
        """Tell how many bytes wait (FIONREAD)."""
        if request != _FIONREAD:
            raise fail(errno.ENOTTY)
        arena.copy_out(argument, self.pipe.size.to_bytes(4, "little"))
        return 0

    def closed(self) -> None:
        """Count one end fewer, and wake who waits at the other."""
        if self.readable:
            self.pipe.readers -= 1
        else:
            self.pipe.writers -= 1
        if not self.pipe.readers or not self.pipe.writers:
            for watchers in (self.pipe.reader_watchers, self.pipe.writer_watchers):
                wake(watchers, _CLOSED)
        if not self.pipe.readers and not self.pipe.writers:
            self.pipe.drop()


def make_pipe(volume: Volume, flags: int) -> tuple[PipeEnd, PipeEnd]:
    """Return the reading and the writing end of a new pipe, whose inode `volume` numbers;
    `flags` may hold O_NONBLOCK and O_DIRECT.
    """
    pipe = Pipe(volume, fresh(volume, abi.S_IFIFO | 0o600))
    return PipeEnd(pipe, abi.O_RDONLY | flags), PipeEnd(pipe, abi.O_WRONLY | flags)
