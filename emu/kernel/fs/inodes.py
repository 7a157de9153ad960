"""Regular files and symbolic links of the sysroot, and the same living in memory; names of what is no file.

An inode of the sysroot begins as a name of a host file, which is only ever read. The first change copies what
changes into memory (copy-up), where it stays until exit; the host never sees it.
"""

from __future__ import annotations

import errno
import os

from emu.core.descriptors import REOPENABLE, for_guest
from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.fs.file import Inode, Meta, OpenFile, SeekableFile, Volume
from emu.kernel.fs.stat import Stat
from emu.machine.host import punch_hole
from emu.machine.shared_files import MemoryFile

_PIECE = 1 << 20
_HOLE = 1 << 20
"""A hole of that many bytes is not filled with zeroes."""
_F_SEAL_SHRINK, _F_SEAL_GROW, _F_SEAL_WRITE = 2, 4, 8


class Handle:
    """A host descriptor that is closed when the last user lets go of it.

    Raises OSError(EMFILE) when no more are to be had.
    """

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = -1
        self.fd = for_guest(fd)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class Symlink(Inode):
    """A symbolic link; the target of one in memory is `text`."""

    __slots__ = ("text",)
    takes_attributes = True
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


class SpecialInode(Inode):
    """A device, socket or FIFO: of the host, in the sysroot,
    where it can be looked at, but the guest does not reach what is behind it; or one of the guest's.
    """

    __slots__ = ("kind",)
    takes_attributes = True

    def __init__(self, volume: Volume, host: str | None, meta: Meta | None, kind: int) -> None:
        super().__init__(volume, host, meta)
        self.kind = kind


class Regular(Inode):
    """A regular file: the host's, or a copy in memory, as `data` or in a memory file.

    A file that has shared mappings, or a large hole, has its bytes in a memory file, and nowhere else:
    `memory`, of which the first `length` bytes are the file. Descriptors and mappings use the same pages, so
    neither has to be told of what the other stores.
    """

    __slots__ = ("data", "memory", "length", "charged", "seals", "gone", "_handle", "_identity")
    takes_attributes = True
    fmt = abi.S_IFREG

    def __init__(
        self, volume: Volume, host: str | None, meta: Meta | None, data: bytearray | None = None
    ) -> None:
        super().__init__(volume, host, meta)
        self.data = data
        self.memory: MemoryFile | None = None
        self.length = 0
        self.charged = len(data) if data is not None else 0
        if data is not None:
            volume.holds(self)
        self.seals = 0
        self.gone = False
        self._handle: Handle | None = None
        self._identity = (0, 0)

    def __del__(self) -> None:
        if self.charged:
            self.volume.charge(-self.charged)

    def stat(self) -> Stat:
        """Return the attributes; of an open file whose last name is gone, with st_nlink 0."""
        st = super().stat()
        if self.memory is not None:
            st = st._replace(size=self.size(), blocks=os.fstat(self.memory.fd).st_blocks)
        return st._replace(nlink=0) if self.gone else st

    def handle(self) -> int:
        """Return the host descriptor, read-only, of a file that has not been copied up, good until the next
        one is opened. Raises OSError.
        """
        if self._handle is None:
            assert self.host is not None
            handle = Handle(os.open(self.host, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK))
            status = os.fstat(handle.fd)
            identity = status.st_dev, status.st_ino
            if self._identity not in ((0, 0), identity):
                raise fail(errno.ESTALE)  # the host has another file there now
            self._handle, self._identity = handle, identity
            REOPENABLE.add(self)
        return self._handle.fd

    def let_go(self) -> None:
        """Close the host's file; it is opened again when somebody needs it."""
        self._handle = None

    def size(self) -> int:
        """Return the length in bytes."""
        if self.data is not None:
            return len(self.data)
        return self.length if self.memory is not None else os.fstat(self.handle()).st_size

    def read_at(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes at `offset`."""
        if self.data is not None:
            return bytes(self.data[offset : offset + size])
        if self.memory is not None:
            return os.pread(self.memory.fd, max(min(size, self.length - offset), 0), offset)
        return os.pread(self.handle(), size, offset)

    def own(self) -> Meta:
        """Return the attributes in memory; the bytes come along, so that the file is wholly in memory or
        not at all.
        """
        if self.meta is None:
            meta = Meta(self.stat())
            if self.memory is None:
                self._copy_up()
            self.volume.keep(self)
            self.meta = meta
        return self.meta

    def _copy_up(self) -> None:
        size = os.fstat(self.handle()).st_size
        self._charge(size)
        data = bytearray()
        try:
            while len(data) < size:
                piece = os.pread(self.handle(), min(_PIECE, size - len(data)), len(data))
                if not piece:
                    break
                data += piece
        finally:
            self._charge(len(data))
        self.data = data
        self.volume.holds(self)
        self._handle = None

    def _charge(self, size: int) -> None:
        """Let `size` bytes in all be accounted for. Raises OSError(ENOSPC)."""
        self.volume.charge(size - self.charged)
        self.charged = size

    def memory_file(self) -> MemoryFile:
        """Return the memory file that holds the bytes from now on. Raises OSError."""
        memory = self.memory
        if memory is None:
            size = self.size()
            memory = MemoryFile()
            os.ftruncate(memory.fd, -(-size // abi.PAGE_SIZE) * abi.PAGE_SIZE)
            at = 0
            while at < size and (piece := self.read_at(min(_PIECE, size - at), at)):
                if piece.count(0) < len(piece):
                    os.pwrite(memory.fd, piece, at)
                at += len(piece)
            self.memory, self.length, self.data = memory, size, None
            self.volume.holds(self)
            self._recount(memory)
        return memory

    def _recount(self, memory: MemoryFile) -> None:
        self._charge(os.fstat(memory.fd).st_blocks * 512)

    def _resize(self, size: int) -> None:
        self.own()
        grown = size - self.size()
        if grown >= _HOLE and self.memory is None:
            self.memory_file()
        if self.memory is not None:
            self._resize_memory(self.memory, size)
            return
        data = self.data
        assert data is not None
        if grown > 0:
            self._charge(size)
            data.extend(bytes(grown))
        elif grown < 0:
            del data[size:]
            self._charge(size)

    def _resize_memory(self, memory: MemoryFile, size: int) -> None:
        """Set the length; the memory file itself never gets shorter, since it may be
        mapped, but what is cut off is zeroes.
        """
        room = memory.size
        if size > abi.S64_MAX - abi.PAGE_SIZE:
            raise fail(errno.EFBIG)
        if size > self.length:
            punch_hole(
                memory.fd, self.length, -self.length % abi.PAGE_SIZE
            )  # what a mapping has stored past the end
        if size > room:
            os.ftruncate(memory.fd, -(-size // abi.PAGE_SIZE) * abi.PAGE_SIZE)
        elif size < self.length:
            punch_hole(memory.fd, size, room - size)
        self.length = size
        self._recount(memory)

    def punch(self, offset: int, size: int) -> None:
        """Make zeroes of a part of the file; in a memory file they take no room."""
        size = max(min(size, self.size() - offset), 0)
        if self.memory is None:
            if size:
                self.write_at(bytes(size), offset)
            return
        punch_hole(self.memory.fd, offset, size)
        self._recount(self.memory)

    def write_at(self, data: bytes, offset: int) -> int:
        """Store `data` at `offset`; a hole before it reads as zeroes.

        Raises OSError(ENOSPC) at the memory limit.
        """
        meta = self.own()
        end = offset + len(data)
        if end > self.size():
            self._resize(end)
        if self.memory is not None:
            self._charge(self.charged + len(data))
            try:
                os.pwrite(self.memory.fd, data, offset)
            finally:
                self._recount(self.memory)
        else:
            content = self.data
            assert content is not None
            content[offset:end] = data
        meta.mtime = meta.ctime = self.volume.now()
        return len(data)

    def truncate(self, size: int) -> None:
        """Make the file `size` bytes long."""
        if size == 0 and self.data is None and self.memory is None:  # O_TRUNC needs no copy of what it drops
            meta = Meta(self.stat())
            self.volume.keep(self)
            self.meta, self.data = meta, bytearray()
            self.volume.holds(self)
            self._handle = None
        else:
            self._resize(size)
        meta = self.own()
        meta.mtime = meta.ctime = self.volume.now()
        st = self.stat()
        self.volume.resized(st.dev, st.ino)

    def seek_extent(self, offset: int, whence: int) -> int | None:
        """Return where the next data or hole (SEEK_*) begins; None where all is data."""
        if self.memory is None:
            return None
        try:
            found = os.lseek(self.memory.fd, offset, whence)
        except OSError:
            found = self.length  # no data from there on
        if whence == abi.SEEK_DATA and found >= self.length:
            raise fail(errno.ENXIO)
        return min(found, self.length)

    def write_back(self, offset: int, size: int) -> None:
        """Something may have been stored through a mapping of this range:
        the bytes are in place, the times tell of it.
        """
        if self.meta is not None:
            self.meta.mtime = self.meta.ctime = self.volume.now()

    def sync(self) -> None:
        """Make sure that the bytes are stored (memory has nowhere to go)."""

    def host_fd(self) -> int | None:
        """Return a host descriptor that may be mapped private, None for a copy in memory that has none."""
        if self.memory is not None:
            return self.memory.fd
        return self.handle() if self.data is None else None

    def open(self, path: str, flags: int) -> OpenFile:
        """Return an open file description on the bytes; a host file is opened now, so that the errors come
        now.
        """
        if self.data is None and self.memory is None:
            self.handle()
        return RegularFile(self, path, flags)


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

    def punch(self, offset: int, size: int) -> None:
        """Make zeroes of a part of the file, unless a seal forbids it."""
        if self.file.seals & _F_SEAL_WRITE:
            raise fail(errno.EPERM)
        self.file.punch(offset, size)

    def sync(self) -> None:
        """Store what is not yet stored."""
        self.file.sync()

    def seek(self, offset: int, whence: int) -> int:
        """Move the offset; a file with large holes tells them from data."""
        if whence in (abi.SEEK_DATA, abi.SEEK_HOLE) and 0 <= offset < self.size():
            found = self.file.seek_extent(offset, whence)
            if found is not None:
                self.offset = found
                return found
        return super().seek(offset, whence)

    def host_fd(self) -> int | None:
        """Return a host descriptor to map private (Backing)."""
        return self.file.host_fd()

    def memory_file(self) -> MemoryFile:
        """Return the memory file that shared mappings show (Backing)."""
        return self.file.memory_file()

    def write_back(self, offset: int, size: int) -> None:
        """A shared mapping of this range may have been written to (Backing)."""
        self.file.write_back(offset, size)
