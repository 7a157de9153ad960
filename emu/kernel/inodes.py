"""Inodes: what a path leads to. Regular files and symbolic links of the sysroot, and the same living in
memory.

An inode of the sysroot begins as a name of a host file, which is only ever read. The first change copies what
changes into memory (copy-up), where it stays until exit; the host never sees it.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NamedTuple, Protocol

from emu.kernel import abi

if TYPE_CHECKING:
    from emu.kernel.openfile import OpenFile

_PIECE = 1 << 20


def fail(number: int) -> OSError:
    """Return the OSError of an errno."""
    return OSError(number, os.strerror(number))


class Stat(NamedTuple):
    """A file's attributes, as stat(2) has them; times in nanoseconds since the epoch."""

    dev: int
    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    blksize: int
    blocks: int
    atime: int
    mtime: int
    ctime: int


def from_host(st: os.stat_result) -> Stat:
    """Return the attributes that the host gave."""
    return Stat(
        st.st_dev, st.st_ino, st.st_mode, st.st_nlink, st.st_uid, st.st_gid, st.st_rdev, st.st_size,
        st.st_blksize, st.st_blocks, st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns,
    )  # fmt: skip


class Volume(Protocol):
    """What inodes ask of the file system that they belong to."""

    uid: int
    gid: int

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

    def holds(self, inode: Regular) -> None:
        """The bytes of a file are in memory from now on."""

    def charge(self, size: int) -> None:
        """Account for `size` more bytes of overlay (negative: fewer).

        Raises OSError(ENOSPC) at the memory limit.
        """


MEMORY_DEV = 0x35
"""st_dev of inodes that exist in memory only."""


class Meta:
    """Attributes held in memory, those of an inode that is new or has been changed."""

    __slots__ = ("dev", "ino", "mode", "nlink", "uid", "gid", "rdev", "atime", "mtime", "ctime")

    def __init__(self, st: Stat) -> None:
        self.dev, self.ino, self.mode, self.nlink = st.dev, st.ino, st.mode, st.nlink
        self.uid, self.gid, self.rdev = st.uid, st.gid, st.rdev
        self.atime, self.mtime, self.ctime = st.atime, st.mtime, st.ctime


def fresh(volume: Volume, mode: int, rdev: int = 0) -> Stat:
    """Return the attributes of a new inode of type and permissions `mode`."""
    now = volume.now()
    ino = volume.new_ino()
    return Stat(MEMORY_DEV, ino, mode, 1, volume.uid, volume.gid, rdev, 0, abi.PAGE_SIZE, 0, now, now, now)


class Handle:
    """A host descriptor that is closed when the last user lets go of it."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class Inode:
    """Base of all inodes.

    `host` is the path of the host file that it began as, `meta` its attributes once they differ.
    """

    __slots__ = ("volume", "host", "meta", "__weakref__")
    fmt = 0
    passthrough = False
    """Whether changes go to the host (inside `--writable` directories)."""

    def __init__(self, volume: Volume, host: str | None, meta: Meta | None) -> None:
        self.volume = volume
        self.host = host
        self.meta = meta

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
            self.meta = Meta(self.stat())
            self.volume.keep(self)
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

    def add_links(self, count: int) -> None:
        """Account for names that were added (or, negative, removed)."""
        meta = self.own()
        meta.nlink += count
        meta.ctime = self.volume.now()

    def open(self, path: str, flags: int) -> OpenFile:
        """Return an open file description. Raises OSError where the type cannot be opened."""
        raise fail(errno.ENXIO)


class Symlink(Inode):
    """A symbolic link; the target of one in memory is `text`."""

    __slots__ = ("text",)
    fmt = abi.S_IFLNK

    def __init__(self, volume: Volume, host: str | None, meta: Meta | None, text: str = "") -> None:
        super().__init__(volume, host, meta)
        self.text = text

    def target(self) -> str:
        """Return the path that the link holds."""
        return self.text if self.host is None else os.readlink(self.host)

    def size(self) -> int:
        """Return the length of the target."""
        return len(os.fsencode(self.target()))

    def open(self, path: str, flags: int) -> OpenFile:
        """Refuse: only O_PATH opens a link itself."""
        raise fail(errno.ELOOP)


class Special(Inode):
    """A device, socket or FIFO: of the host, in the sysroot, where it can be looked at, but the guest does not reach what is behind it; or
    one of the guest's.
    """

    __slots__ = ("kind",)

    def __init__(self, volume: Volume, host: str | None, meta: Meta | None, kind: int) -> None:
        super().__init__(volume, host, meta)
        self.kind = kind


class Regular(Inode):
    """A regular file: the host's (`data` None), or a copy in memory."""

    __slots__ = ("data", "seals", "gone", "_handle")
    fmt = abi.S_IFREG

    def __init__(
        self, volume: Volume, host: str | None, meta: Meta | None, data: bytearray | None = None
    ) -> None:
        super().__init__(volume, host, meta)
        self.data = data
        if data is not None:
            volume.holds(self)
        self.seals = 0
        self.gone = False
        self._handle: Handle | None = None

    def __del__(self) -> None:
        if self.data:
            self.volume.charge(-len(self.data))

    def stat(self) -> Stat:
        """Return the attributes; of an open file whose last name is gone, with st_nlink 0."""
        return super().stat()._replace(nlink=0) if self.gone else super().stat()

    def handle(self) -> int:
        """Return the host descriptor, read-only, of a file that has not been copied up. Raises OSError."""
        if self._handle is None:
            assert self.host is not None
            self._handle = Handle(
                os.open(self.host, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
            )
        return self._handle.fd

    def size(self) -> int:
        """Return the length in bytes."""
        return len(self.data) if self.data is not None else os.fstat(self.handle()).st_size

    def read_at(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes at `offset`."""
        if self.data is not None:
            return bytes(self.data[offset : offset + size])
        return os.pread(self.handle(), size, offset)

    def own(self) -> Meta:
        """Return the attributes in memory; the bytes come along, so that the file is wholly in memory or
        not at all.
        """
        if self.meta is None:
            meta = Meta(self.stat())
            self._copy_up()
            self.meta = meta
            self.volume.keep(self)
        return self.meta

    def _copy_up(self) -> None:
        size = os.fstat(self.handle()).st_size
        self.volume.charge(size)
        data = bytearray()
        try:
            while len(data) < size:
                piece = os.pread(self.handle(), min(_PIECE, size - len(data)), len(data))
                if not piece:
                    break
                data += piece
        finally:
            self.volume.charge(len(data) - size)
        self.data = data
        self.volume.holds(self)
        self._handle = None

    def _resize(self, size: int) -> bytearray:
        self.own()
        data = self.data
        assert data is not None
        grown = size - len(data)
        if grown > 0:
            self.volume.charge(grown)
            data.extend(bytes(grown))
        elif grown < 0:
            del data[size:]
            self.volume.charge(grown)
        return data

    def write_at(self, data: bytes, offset: int) -> int:
        """Store `data` at `offset`; a hole before it reads as zeroes.

        Raises OSError(ENOSPC) at the memory limit.
        """
        meta = self.own()
        content = self.data
        assert content is not None
        if offset + len(data) > len(content):
            content = self._resize(offset + len(data))
        content[offset : offset + len(data)] = data
        meta.mtime = meta.ctime = self.volume.now()
        return len(data)

    def truncate(self, size: int) -> None:
        """Make the file `size` bytes long."""
        if size == 0 and self.data is None:  # O_TRUNC needs no copy of what it drops
            self.meta = Meta(self.stat())
            self.data = bytearray()
            self.volume.holds(self)
            self._handle = None
            self.volume.keep(self)
        else:
            self._resize(size)
        meta = self.own()
        meta.mtime = meta.ctime = self.volume.now()
        st = self.stat()
        self.volume.resized(st.dev, st.ino)

    def sync(self) -> None:
        """Make sure that the bytes are stored (memory has nowhere to go)."""

    def host_fd(self) -> int | None:
        """Return a host descriptor that may be mapped private, None for a copy in memory."""
        return self.handle() if self.data is None else None

    def open(self, path: str, flags: int) -> OpenFile:
        """Return an open file description on the bytes; a host file is opened now, so that the errors come
        now.
        """
        from emu.kernel.openfile import RegularFile

        if self.data is None:
            self.handle()
        return RegularFile(self, path, flags)
