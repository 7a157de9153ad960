"""Names of what is no file: FIFOs, and sockets.

Source: mknod(2), fifo(7), unix(7); Linux fs/pipe.c: fifo_open, pipe_poll.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.fs.file import Inode, Meta, OpenFile, Volume
from emu.kernel.fs.inodes import SpecialInode
from emu.kernel.fs.pipe import Pipe, PipeEnd

if TYPE_CHECKING:
    from emu.kernel.fs.directory import Directory
    from emu.kernel.fs.vfs import FileSystem
    from emu.machine.arena import Arena


class Fifo(SpecialInode):
    """A pipe with a name.

    Its bytes last as long as somebody has it open; `opened` counts how often each end (reading, writing) was.
    """

    __slots__ = ("pipe", "opened")
    fmt = abi.S_IFIFO

    def __init__(self, volume: Volume, meta: Meta) -> None:
        super().__init__(volume, None, meta, abi.S_IFIFO)
        self.pipe = Pipe(volume, self.stat())
        self.opened = [0, 0]

    def open(self, path: str, flags: int) -> OpenFile:
        """Return an end of the pipe, or both; whoever opens waits for the other end afterwards.

        Raises OSError(ENXIO).
        """
        if flags & abi.O_ACCMODE == abi.O_WRONLY and flags & abi.O_NONBLOCK and not self.pipe.readers:
            raise fail(errno.ENXIO)
        return FifoFile(self, path, flags)


class FifoFile(OpenFile):
    """An open FIFO: one end of its pipe, or both."""

    __slots__ = ("fifo", "_reader", "_writer", "_seen")

    def __init__(self, fifo: Fifo, path: str, flags: int) -> None:
        super().__init__(path, flags, fifo)
        self.fifo = fifo
        self._reader = PipeEnd(fifo.pipe, abi.O_RDONLY) if self.readable else None
        self._writer = PipeEnd(fifo.pipe, abi.O_WRONLY) if self.writable else None
        fifo.opened[0] += self.readable
        fifo.opened[1] += self.writable
        self._seen = tuple(fifo.opened)

    def met(self) -> bool:
        """Whether the other end is open, or has been since this one was opened."""
        fifo = self.fifo
        if self._reader is None:
            return fifo.pipe.readers > 0 or fifo.opened[0] != self._seen[0]
        return fifo.pipe.writers > 0 or fifo.opened[1] != self._seen[1]

    def read(self, size: int) -> bytes:
        """Take bytes out, as from a pipe."""
        assert self._reader is not None
        return self._reader.read(size)

    def write(self, data: bytes) -> int:
        """Put bytes in, as into a pipe."""
        assert self._writer is not None
        return self._writer.write(data)

    def poll(self) -> int:
        """Return what holds for the ends; a reader that never met a writer has not been hung up on."""
        held = 0
        if self._reader is not None:
            held |= self._reader.poll()
            if not self.met():
                held &= ~abi.POLLHUP
        return held | (self._writer.poll() if self._writer is not None else 0)

    def ioctl(self, arena: Arena, request: int, argument: int) -> int:
        """Tell how many bytes wait (FIONREAD)."""
        end = self._reader or self._writer
        assert end is not None
        return end.ioctl(arena, request, argument)

    def closed(self) -> None:
        """These ends are gone; with the last one go the bytes."""
        for end in (self._reader, self._writer):
            if end is not None:
                end.closed()
        pipe = self.fifo.pipe
        if not pipe.readers and not pipe.writers:
            pipe.pages.clear()


def make_node(fs: FileSystem, path: bytes, node: Inode, base: Directory | None = None) -> None:
    """Enter an inode under a new name.

    Raises OSError: EEXIST, EPERM in a directory of the host, those of a path.
    """
    place = fs.new_name(os.fsdecode(path), base)
    place.parent.enter(place.name, node)
    fs.tell_made(place)
