"""Inodes and open files: the two base classes, each of which knows the other.

An inode is what a path leads to. An open file is what a descriptor number refers to, shared by its
duplicates. No method of an open file waits: an operation that would have to raises BlockingIOError, and the
system call decides (O_NONBLOCK) whether the task waits with `poll` for the file to be ready.

Source: Linux include/linux/fs.h: struct inode, struct file.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Protocol

from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.fs.owned import NOBODY, Owner
from emu.kernel.fs.stat import MEMORY_DEV, Stat, from_host
from emu.kernel.fs.xattrs import read_xattrs

if TYPE_CHECKING:
    from emu.kernel.fs.locks import FileLocks
    from emu.kernel.fs.notices import Notices
    from emu.kernel.fs.watch import Watcher
    from emu.machine.arena import Arena


class Content(Protocol):
    """A file whose bytes can be in memory; `charged` is what it is accounted for."""

    charged: int


class Volume(Protocol):
    """What inodes ask of the file system that they belong to."""

    privileged: bool
    notices: Notices | None
    """Who is told of what happens to files, once somebody is."""

    @property
    def uid(self) -> int:
        """The user who gets what is made."""

    @property
    def gid(self) -> int:
        """The group of what is made."""

    def now(self) -> int:
        """Return the time in nanoseconds since the epoch."""

    def new_ino(self) -> int:
        """Return a fresh inode number."""

    def keep(self, inode: Inode) -> None:
        """Hold an inode that differs from the host until exit."""

    def stored(self, dev: int, ino: int, data: bytes, offset: int) -> None:
        """Bytes were written to a file: mappings that share it must show them."""

    def resized(self, dev: int, ino: int) -> None:
        """A file has another length: its mappings end elsewhere."""

    def grant(self, what: str) -> None:
        """`what` is to be done on the host, where only root may.

        Raises OSError(EPERM) unless the user wants that.
        """

    def holds(self, inode: Content) -> None:
        """The bytes of a file are in memory from now on."""

    def charge(self, size: int) -> None:
        """Account for `size` more bytes of overlay (negative: fewer).

        Raises OSError(ENOSPC) at the memory limit.
        """


class Meta:
    """Attributes held in memory, those of an inode that is new or has been changed."""

    __slots__ = ("dev", "ino", "mode", "nlink", "uid", "gid", "rdev", "atime", "mtime", "ctime")

    def __init__(self, st: Stat) -> None:
        self.dev, self.ino, self.mode, self.nlink = st.dev, st.ino, st.mode, st.nlink
        self.uid, self.gid, self.rdev = st.uid, st.gid, st.rdev
        self.atime, self.mtime, self.ctime = st.atime, st.mtime, st.ctime


def fresh(volume: Volume, mode: int, rdev: int = 0, *, dev: int = MEMORY_DEV) -> Stat:
    """Return the attributes of a new inode of type and permissions `mode` on the device `dev`:
    that of its directory, where it has one.
    """
    now = volume.now()
    ino = volume.new_ino()
    return Stat(dev, ino, mode, 1, volume.uid, volume.gid, rdev, 0, abi.PAGE_SIZE, 0, now, now, now)


class Inode:
    """Base of all inodes.

    `host` is the path of the host file that it began as, `meta` its attributes once they differ.
    """

    __slots__ = ("volume", "host", "meta", "_xattrs", "__weakref__")
    fmt = 0
    takes_attributes = False
    """Whether it has extended attributes."""
    passthrough = False
    """Whether changes go to the host (inside `--writable` directories)."""

    def __init__(self, volume: Volume, host: str | None, meta: Meta | None) -> None:
        self.volume = volume
        self.host = host
        self.meta = meta
        self._xattrs: dict[bytes, bytes] | None = None

    def stat(self) -> Stat:
        """Return the attributes. Raises OSError when the host file is gone."""
        meta = self.meta
        if meta is None:
            assert self.host is not None
            return from_host(os.lstat(self.host))
        size = self.size()
        return Stat(
            meta.dev, meta.ino, meta.mode, meta.nlink, meta.uid, meta.gid, meta.rdev, size, abi.PAGE_SIZE,
            (size + 511) // 512, meta.atime, meta.mtime, meta.ctime,
        )  # fmt: skip

    def size(self) -> int:
        """Return the length in bytes that stat shows."""
        return 0

    def own(self) -> Meta:
        """Return the attributes in memory, copied from the host at the first call."""
        if self.meta is None:
            meta = Meta(self.stat())
            self.volume.keep(self)
            self.meta = meta
        return self.meta

    def set_mode(self, mode: int) -> None:
        """Change the permission bits."""
        meta = self.own()
        meta.mode = meta.mode & abi.S_IFMT | mode & 0o7777
        meta.ctime = self.volume.now()

    def set_owner(self, uid: int, gid: int) -> None:
        """Change owner and group; -1 leaves one as it is."""
        meta = self.own()
        if uid != -1:
            meta.uid = uid
        if gid != -1:
            meta.gid = gid
        if self.fmt == abi.S_IFREG:
            meta.mode &= ~(abi.S_ISUID | abi.S_ISGID)
        meta.ctime = self.volume.now()

    def set_times(self, atime: int | None, mtime: int | None) -> None:
        """Change the times, in nanoseconds since the epoch; None leaves one as it is."""
        meta = self.own()
        if atime is not None:
            meta.atime = atime
        if mtime is not None:
            meta.mtime = mtime
        meta.ctime = self.volume.now()

    def attributes(self) -> dict[bytes, bytes]:
        """Return the extended attributes by name, those of the host's file until one is changed."""
        if self._xattrs is not None or self.host is None:
            return self._xattrs or {}
        return read_xattrs(self.host)

    def set_attribute(self, name: bytes, value: bytes | None) -> None:
        """Set an extended attribute, or (None) take it away. Raises OSError(ENOSPC) at the memory limit."""
        known = self.attributes()
        self.volume.charge(len(value or b"") - len(known.get(name, b"")))
        if value is None:
            known.pop(name, None)
        else:
            known[name] = value
        self._xattrs = known
        self.own().ctime = self.volume.now()

    def add_links(self, count: int) -> None:
        """Account for names that were added (or, negative, removed)."""
        meta = self.own()
        meta.nlink += count
        meta.ctime = self.volume.now()

    def open(self, path: str, flags: int) -> OpenFile:
        """Return an open file description. Raises OSError where the type cannot be opened."""
        raise fail(errno.ENXIO)


class OpenFile:
    """Base of all descriptions.

    `flags` are the O_* status flags, `references` counts descriptor numbers and whoever else holds it.
    `locks` is where it has a lock (flock), None where it never had one.

    `path` is what /proc/self/fd shows. What a kind of file cannot do raises OSError with Linux's errno.
    """

    __slots__ = ("path", "flags", "offset", "references", "inode", "locks", "owner")
    seekable = False
    tells_owner = False
    """Whether it can tell by signals that it is ready (O_ASYNC)."""
    is_socket = False

    def __init__(self, path: str, flags: int, inode: Inode | None = None) -> None:
        self.path = path
        self.flags = flags
        self.offset = 0
        self.references = 0
        self.inode = inode
        self.locks: FileLocks | None = None
        self.owner = NOBODY

    def set_owner(self, owner: Owner) -> None:
        """Change who is sent signals when something happens."""
        self.owner = owner

    def hold(self) -> None:
        """Count one more reference to the description."""
        self.references += 1

    def release(self) -> None:
        """One reference less; with the last it is closed."""
        self.references -= 1
        if not self.references:
            if self.locks is not None:
                self.locks.closed(self)
            if self.inode is not None and not self.flags & abi.O_PATH:
                notices = self.inode.volume.notices
                if notices is not None:
                    notices.closed(self)
            self.closed()

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

    def takes(self, data: bytes) -> bool:
        """Whether a write of `data` that found no room would go on now."""
        return bool(self.poll() & (abi.POLLOUT | abi.POLLERR | abi.POLLHUP))

    def watchers(self) -> list[Watcher] | None:
        """Return the list of those whom this file wakes when something happens,
        None where it does not know.
        """
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
        """Return the virtual time at which something next happens to the file by
        itself, None if it never does.
        """
        return None

    def occasions(self) -> int:
        """Return how often something has happened to the file by itself: for EPOLLET each time counts."""
        return 0

    def ioctl(self, arena: Arena, request: int, argument: int) -> int:
        """Serve a device request; `argument` may be an address in `arena`."""
        raise fail(errno.ENOTTY)

    def entries(self) -> list[tuple[str, int, int]]:
        """Return all (name, inode number, S_IF* type), . and .. included."""
        raise fail(errno.ENOTDIR)

    def closed(self) -> None:
        """The last reference is gone."""


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


class PathFile(OpenFile):
    """A description opened with O_PATH: a place in the file system, nothing to read."""

    __slots__ = ()

    def poll(self) -> int:
        """There is nothing to wait for."""
        return abi.POLLNVAL
