"""Open file descriptions: what a descriptor number refers to, shared by its duplicates.

No method waits: an operation that would have to raises BlockingIOError, and the system call decides
(O_NONBLOCK) whether the task waits with `poll` for the file to be ready.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.inodes import Inode, Regular, Stat, fail

if TYPE_CHECKING:
    from emu.kernel.directory import Directory
    from emu.kernel.epoll import Interest
    from emu.kernel.kernel import Kernel


class OpenFile:
    """Base of all descriptions. `flags` are the O_* status flags, `references` counts descriptor numbers.

    `path` is what /proc/self/fd shows. What a kind of file cannot do raises OSError with Linux's errno.
    """

    __slots__ = ("path", "flags", "offset", "references", "inode")
    seekable = False
    is_socket = False

    def __init__(self, path: str, flags: int, inode: Inode | None = None) -> None:
        self.path = path
        self.flags = flags
        self.offset = 0
        self.references = 0
        self.inode = inode

    @property
    def readable(self) -> bool:
        """Whether the access mode allows reading."""
        return self.flags & (abi.O_ACCMODE | abi.O_PATH) in (abi.O_RDONLY, abi.O_RDWR)

    @property
    def writable(self) -> bool:
        """Whether the access mode allows writing."""
        return self.flags & (abi.O_ACCMODE | abi.O_PATH) in (abi.O_WRONLY, abi.O_RDWR)

    @property
    def pollable(self) -> bool:
        """Whether there is anything to wait for: epoll refuses files that are always ready."""
        return not self.seekable

    def stat(self) -> Stat:
        """Return the attributes (fstat)."""
        if self.inode is None:
            raise fail(errno.EBADF)
        return self.inode.stat()

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes; empty at the end of the file."""
        raise fail(errno.EINVAL)

    def write(self, data: bytes) -> int:
        """Store bytes; return how many were taken."""
        raise fail(errno.EINVAL)

    def pread(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes at `offset`."""
        raise fail(errno.ESPIPE)

    def pwrite(self, data: bytes, offset: int) -> int:
        """Store bytes at `offset`."""
        raise fail(errno.ESPIPE)

    def seek(self, offset: int, whence: int) -> int:
        """Move the offset (SEEK_*) and return it."""
        raise fail(errno.ESPIPE)

    def truncate(self, size: int) -> None:
        """Set the length."""
        raise fail(errno.EINVAL)

    def sync(self) -> None:
        """Store what is not yet stored."""
        raise fail(errno.EINVAL)

    def poll(self) -> int:
        """Return the POLL* conditions that hold now."""
        return abi.POLLIN | abi.POLLOUT | abi.POLLRDNORM | abi.POLLWRNORM

    def watchers(self) -> list[Interest] | None:
        """Return the list of epoll interests that this file wakes when something happens, None where it does not know."""
        return None

    def host_wait(self) -> int | None:
        """Return the host descriptor that becomes ready when this file does, None if the host plays no
        part.
        """
        return None

    def hosts(self, events: int) -> list[tuple[int, int]]:
        """Return the host descriptors (fd, POLL* events) that decide whether the conditions `events` hold."""
        host = self.host_wait()
        return [] if host is None else [(host, events & (abi.POLLIN | abi.POLLOUT | abi.POLLPRI))]

    def deadline(self) -> int | None:
        """Return the virtual time at which something next happens to the file by itself, None if it never does."""
        return None

    def occasions(self) -> int:
        """Return how often something has happened to the file by itself: for EPOLLET each time counts."""
        return 0

    def ioctl(self, kernel: Kernel, request: int, argument: int) -> int:
        """Serve a device request."""
        raise fail(errno.ENOTTY)

    def entries(self) -> list[tuple[str, int, int]]:
        """Return all (name, inode number, S_IF* type), . and .. included."""
        raise fail(errno.ENOTDIR)

    def closed(self) -> None:
        """The last descriptor number is gone."""


class SeekableFile(OpenFile):
    """A description with an offset over bytes that `pread` and `pwrite` reach."""

    __slots__ = ()
    seekable = True

    def size(self) -> int:
        """Return the length in bytes."""
        return 0

    def read(self, size: int) -> bytes:
        """Return the bytes at the offset and move it."""
        data = self.pread(size, self.offset)
        self.offset += len(data)
        return data

    def write(self, data: bytes) -> int:
        """Store bytes at the offset (at the end with O_APPEND) and move it."""
        if self.flags & abi.O_APPEND:
            self.offset = self.size()
        count = self.pwrite(data, self.offset)
        self.offset += count
        return count

    def seek(self, offset: int, whence: int) -> int:
        """Move the offset; data and holes are not told apart: all is data up to the end."""
        match whence:
            case abi.SEEK_SET:
                target = offset
            case abi.SEEK_CUR:
                target = self.offset + offset
            case abi.SEEK_END:
                target = self.size() + offset
            case abi.SEEK_DATA | abi.SEEK_HOLE:
                if not 0 <= offset < self.size():
                    raise fail(errno.ENXIO)
                target = offset if whence == abi.SEEK_DATA else self.size()
            case _:
                raise fail(errno.EINVAL)
        if not 0 <= target <= abi.S64_MAX:
            raise fail(errno.EINVAL)
        self.offset = target
        return target


class RegularFile(SeekableFile):
    """An open regular file; it is also a `Backing` of mappings."""

    __slots__ = ("file", "dev", "ino")

    def __init__(self, inode: Regular, path: str, flags: int) -> None:
        super().__init__(path, flags, inode)
        self.file = inode
        st = inode.stat()
        self.dev, self.ino = st.dev, st.ino

    def size(self) -> int:
        """Return the length in bytes."""
        return self.file.size()

    def pread(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes at `offset`."""
        return self.file.read_at(size, offset)

    def pwrite(self, data: bytes, offset: int) -> int:
        """Store bytes at `offset`, unless a seal forbids it."""
        if (
            self.file.seals & _F_SEAL_WRITE
            or self.file.seals & _F_SEAL_GROW
            and offset + len(data) > self.size()
        ):
            raise fail(errno.EPERM)
        if not data:
            return 0
        grows = offset + len(data) > self.size()
        self.file.volume.stored(self.dev, self.ino, data, offset)
        done = self.file.write_at(data, offset)
        if grows:
            self.file.volume.resized(self.dev, self.ino)
        return done

    def truncate(self, size: int) -> None:
        """Set the length, unless a seal forbids it."""
        seals, now = self.file.seals, self.size()
        if seals & _F_SEAL_SHRINK and size < now or seals & _F_SEAL_GROW and size > now:
            raise fail(errno.EPERM)
        self.file.truncate(size)

    def sync(self) -> None:
        """Store what is not yet stored."""
        self.file.sync()

    def host_fd(self) -> int | None:
        """Return a host descriptor to map private (Backing)."""
        return self.file.host_fd()


_F_SEAL_SHRINK, _F_SEAL_GROW, _F_SEAL_WRITE = 2, 4, 8


class TextFile(SeekableFile):
    """A file whose bytes were made when it was opened (/proc)."""

    __slots__ = ("content",)

    def __init__(self, inode: Inode, path: str, flags: int, content: bytes) -> None:
        super().__init__(path, flags, inode)
        self.content = content

    def size(self) -> int:
        """Return the length of the text."""
        return len(self.content)

    def pread(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes at `offset`."""
        return self.content[offset : offset + size]

    def pwrite(self, data: bytes, offset: int) -> int:
        """Refuse: nothing here can be set, not even by root."""
        raise fail(errno.EINVAL)


class PathFile(OpenFile):
    """A description opened with O_PATH: a place in the file system, nothing to read."""

    __slots__ = ()

    def poll(self) -> int:
        """There is nothing to wait for."""
        return abi.POLLNVAL


class DirectoryFile(OpenFile):
    """An open directory.

    The entries are taken when reading starts, as a snapshot; the offset counts entries.
    """

    __slots__ = ("directory", "_snapshot")
    seekable = True

    def __init__(self, directory: Directory, path: str, flags: int) -> None:
        super().__init__(path, flags, directory)
        self.directory = directory
        self._snapshot: list[tuple[str, int, int]] | None = None

    def read(self, size: int) -> bytes:
        """A directory has no bytes."""
        raise fail(errno.EISDIR)

    def pread(self, size: int, offset: int) -> bytes:
        """A directory has no bytes."""
        raise fail(errno.EISDIR)

    def sync(self) -> None:
        """Entries are stored at once."""

    def seek(self, offset: int, whence: int) -> int:
        """Go to an entry that getdents64 gave as d_off; 0 takes a new snapshot."""
        if whence == abi.SEEK_CUR:
            offset += self.offset
        elif whence != abi.SEEK_SET:
            raise fail(errno.EINVAL)
        if offset < 0:
            raise fail(errno.EINVAL)
        if offset == 0:
            self._snapshot = None
        self.offset = offset
        return offset

    def entries(self) -> list[tuple[str, int, int]]:
        """Return the snapshot."""
        if self._snapshot is None:
            here, above = self.directory.stat().ino, self.directory.parent.stat().ino
            dots = [(".", here, abi.S_IFDIR), ("..", above, abi.S_IFDIR)]
            self._snapshot = dots + self.directory.listing()
        return self._snapshot
