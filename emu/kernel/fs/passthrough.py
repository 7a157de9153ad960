"""`--writable` directories: changes go to the host, but never out of the directory.

Every host call works on one name relative to a descriptor of its directory and refuses to follow a link, so
that no rename or symbolic link that the guest makes can redirect it. Links are resolved in the guest's own
tree (see `emu.kernel.fs.vfs`).
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from emu.core.errors import EmuError
from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.fs.directory import Directory
from emu.kernel.fs.file import Inode, Meta, Volume
from emu.kernel.fs.inodes import Handle, Regular, SpecialInode, Symlink
from emu.kernel.fs.stat import Stat, from_host
from emu.machine.shared_files import MemoryFile

if TYPE_CHECKING:
    from emu.kernel.fs.file import OpenFile
    from emu.kernel.fs.vfs import FileSystem

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PIECE = 1 << 16
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class _HostEntry:
    """A name in a host directory that is held open; all attribute calls of the host work on it."""

    __slots__ = ("handle", "name")

    def __init__(self, handle: Handle, name: str) -> None:
        self.handle, self.name = handle, name

    def lstat(self) -> os.stat_result:
        return os.stat(self.name, dir_fd=self.handle.fd, follow_symlinks=False)

    def utime(self, times: tuple[int, int]) -> None:
        os.utime(self.name, ns=times, dir_fd=self.handle.fd, follow_symlinks=False)

    def chown(self, uid: int, gid: int) -> None:
        os.chown(self.name, uid, gid, dir_fd=self.handle.fd, follow_symlinks=False)


def _merge_times(st: Stat, atime: int | None, mtime: int | None) -> tuple[int, int]:
    return (st.atime if atime is None else atime, st.mtime if mtime is None else mtime)


_SET_ID = abi.S_ISUID | abi.S_ISGID


def _guard_mode(volume: Volume, old: int, mode: int) -> None:
    """Refuse set-id bits that are not there yet, unless they are wanted on the host.

    Raises OSError(EPERM).
    """
    if mode & ~old & _SET_ID:
        volume.grant(f"chmod {mode & 0o7777:04o}")


def _guard_owner(volume: Volume, st: Stat, uid: int, gid: int) -> None:
    """Refuse another owner or group, unless that is wanted on the host. Raises OSError(EPERM)."""
    if uid not in (-1, st.uid) or gid not in (-1, st.gid):
        volume.grant(f"chown {uid}:{gid}")


class HostSymlink(Symlink):
    """A symbolic link in a writable directory."""

    __slots__ = ("_entry",)
    takes_attributes = False
    passthrough = True

    def __init__(self, volume: Volume, entry: _HostEntry) -> None:
        super().__init__(volume, None, None)
        self._entry = entry

    def stat(self) -> Stat:
        """Return the host's attributes."""
        return from_host(self._entry.lstat())

    def target(self) -> str:
        """Return the path that the link holds: a guest path."""
        return os.readlink(self._entry.name, dir_fd=self._entry.handle.fd)

    def set_owner(self, uid: int, gid: int) -> None:
        """Change the owner on the host. Raises OSError(EPERM) for another's, unless that is wanted."""
        _guard_owner(self.volume, self.stat(), uid, gid)
        self._entry.chown(uid, gid)

    def set_times(self, atime: int | None, mtime: int | None) -> None:
        """Change the times on the host."""
        self._entry.utime(_merge_times(self.stat(), atime, mtime))


class HostRegular(Regular):
    """A regular file in a writable directory.

    Descriptors are opened on first need and kept as long as the inode is in use.
    """

    __slots__ = ("_entry", "_writer")
    takes_attributes = False
    passthrough = True

    def __init__(self, volume: Volume, entry: _HostEntry, handle: Handle | None = None) -> None:
        super().__init__(volume, None, None)
        self._entry = entry
        self._handle = handle
        self._writer = handle

    def stat(self) -> Stat:
        """Return the host's attributes, those of the open file when it is open."""
        held = self._handle or self._writer
        return from_host(os.fstat(held.fd) if held else self._entry.lstat())

    def handle(self) -> int:
        """Return a host descriptor for reading."""
        if self._handle is None:
            self._handle = self._open(os.O_RDONLY)
        return self._handle.fd

    def writer(self) -> int:
        """Return a host descriptor for writing."""
        if self._writer is None:
            self._writer = self._open(os.O_WRONLY)
        return self._writer.fd

    def _changed(self) -> None:
        """New content is not what the set-id bits were given to:
        as natively they go, here with root's changes, too.
        """
        mode = os.fstat(self.writer()).st_mode
        if mode & _SET_ID and not self.volume.privileged:
            os.fchmod(self.writer(), mode & 0o7777 & ~_SET_ID)

    def _open(self, mode: int) -> Handle:
        handle = Handle(os.open(self._entry.name, mode | _FILE, dir_fd=self._entry.handle.fd))
        held = self._handle or self._writer
        if held is not None and not os.path.sameopenfile(held.fd, handle.fd):
            raise fail(errno.ESTALE)  # another file took the name
        return handle

    def size(self) -> int:
        """Return the length in bytes."""
        return self.stat().size

    def memory_file(self) -> MemoryFile:
        """Return the memory file that the guest's mappings and descriptors use from now on;
        what the host's file has gained comes along.
        """
        memory = super().memory_file()
        known = self.length
        if known < self.size():
            self._resize_memory(memory, self.size())
            while known < self.length and (piece := os.pread(self.handle(), _PIECE, known)):
                os.pwrite(memory.fd, piece, known)
                known += len(piece)
        return memory

    def read_at(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes at `offset`."""
        if self.memory is not None and offset + size <= self.length:
            return os.pread(self.memory.fd, size, offset)
        return os.pread(self.handle(), size, offset)

    def write_at(self, data: bytes, offset: int) -> int:
        """Store `data` on the host, and where it is mapped."""
        self._changed()
        done = os.pwrite(self.writer(), data, offset)
        if self.memory is not None:
            self._resize_memory(self.memory, max(self.length, offset + done))
            os.pwrite(self.memory.fd, data[:done], offset)
        return done

    def truncate(self, size: int) -> None:
        """Set the length on the host."""
        self._changed()
        os.ftruncate(self.writer(), size)
        if self.memory is not None:
            self._resize_memory(self.memory, size)
        st = self.stat()
        self.volume.resized(st.dev, st.ino)

    def punch(self, offset: int, size: int) -> None:
        """Make zeroes of a part of the file."""
        size = max(min(size, self.size() - offset), 0)
        if size:
            self.write_at(bytes(size), offset)

    def seek_extent(self, offset: int, whence: int) -> int | None:
        """Return where the next data or hole begins on the host."""
        return os.lseek(self.handle(), offset, whence)

    def write_back(self, offset: int, size: int) -> None:
        """Store on the host what mappings have changed: pieces that are as they are there are left alone."""
        if self.memory is None:
            return
        end = min(offset + size, self.length)
        while offset < end:
            piece = min(_PIECE, end - offset)
            here = os.pread(self.memory.fd, piece, offset)
            if here != os.pread(self.handle(), piece, offset):
                self._changed()
                os.pwrite(self.writer(), here, offset)
            offset += piece

    def sync(self) -> None:
        """Store the host's file."""
        self.write_back(0, self.length)
        os.fsync((self._writer or self._handle or self._open(os.O_RDONLY)).fd)

    def host_fd(self) -> int | None:
        """None: the file may change under a mapping, so its bytes are copied."""
        return None

    def set_mode(self, mode: int) -> None:
        """Change the permission bits on the host.

        Raises OSError(EPERM) for set-id bits, unless they are wanted.
        """
        _guard_mode(self.volume, self.stat().mode, mode)
        os.fchmod(self.handle() if self._writer is None else self._writer.fd, mode & 0o7777)

    def set_owner(self, uid: int, gid: int) -> None:
        """Change the owner on the host. Raises OSError(EPERM) for another's, unless that is wanted."""
        _guard_owner(self.volume, self.stat(), uid, gid)
        os.fchown(self.handle() if self._writer is None else self._writer.fd, uid, gid)

    def set_times(self, atime: int | None, mtime: int | None) -> None:
        """Change the times on the host."""
        fd = self.handle() if self._writer is None else self._writer.fd
        os.utime(fd, ns=_merge_times(self.stat(), atime, mtime))

    def open(self, path: str, flags: int) -> OpenFile:
        """Return an open file description, with the host's permissions checked now."""
        if flags & abi.O_ACCMODE != abi.O_WRONLY:
            self.handle()
        if flags & abi.O_ACCMODE != abi.O_RDONLY:
            self.writer()
        from emu.kernel.fs.inodes import RegularFile

        return RegularFile(self, path, flags)


class HostDirectory(Directory):
    """A directory whose changes go to the host."""

    __slots__ = ("handle",)
    passthrough = True

    def __init__(self, volume: Volume, parent: Directory, name: str, handle: Handle) -> None:
        super().__init__(volume, None, None, parent, name)
        self.handle = handle

    def stat(self) -> Stat:
        """Return the host's attributes."""
        return from_host(os.fstat(self.handle.fd))

    def set_mode(self, mode: int) -> None:
        """Change the permission bits on the host.

        Raises OSError(EPERM) for set-id bits, unless they are wanted.
        """
        _guard_mode(self.volume, self.stat().mode, mode)
        os.fchmod(self.handle.fd, mode & 0o7777)

    def set_owner(self, uid: int, gid: int) -> None:
        """Change the owner on the host. Raises OSError(EPERM) for another's, unless that is wanted."""
        _guard_owner(self.volume, self.stat(), uid, gid)
        os.fchown(self.handle.fd, uid, gid)

    def set_times(self, atime: int | None, mtime: int | None) -> None:
        """Change the times on the host."""
        os.utime(self.handle.fd, ns=_merge_times(self.stat(), atime, mtime))

    def lookup(self, name: str) -> Inode | None:
        """Return the inode of an entry."""
        entry = _HostEntry(self.handle, name)
        try:
            fmt = entry.lstat().st_mode & abi.S_IFMT
        except FileNotFoundError:
            return None
        if fmt == abi.S_IFDIR:
            return HostDirectory(
                self.volume, self, name, Handle(os.open(name, _DIRECTORY, dir_fd=self.handle.fd))
            )
        if fmt == abi.S_IFLNK:
            return HostSymlink(self.volume, entry)
        if fmt == abi.S_IFREG:
            return HostRegular(self.volume, entry)
        return SpecialInode(self.volume, None, Meta(from_host(entry.lstat())), fmt)

    def listing(self) -> list[tuple[str, int, int]]:
        """Return the host's entries."""
        found = []
        with os.scandir(self.handle.fd) as entries:
            for entry in entries:
                fmt = entry.stat(follow_symlinks=False).st_mode & abi.S_IFMT
                found.append((entry.name, entry.inode(), fmt))
        return sorted(found)

    def create(self, name: str, mode: int) -> Inode:
        """Make an empty regular file on the host."""
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FILE, mode & 0o777, dir_fd=self.handle.fd)
        os.fchmod(fd, mode & 0o777)
        return HostRegular(self.volume, _HostEntry(self.handle, name), Handle(fd))

    def mkdir(self, name: str, mode: int) -> None:
        """Make a directory on the host."""
        os.mkdir(name, mode & ~_SET_ID, dir_fd=self.handle.fd)

    def symlink(self, name: str, text: str) -> None:
        """Make a symbolic link on the host.

        Its target is a guest path: the host's tools see it in their own tree.
        """
        os.symlink(text, name, dir_fd=self.handle.fd)

    def link(self, name: str, inode: Inode) -> None:
        """Add another name of a file of this writable directory."""
        if not isinstance(inode, HostRegular | HostSymlink):
            raise fail(errno.EXDEV)
        source = inode._entry
        os.link(
            source.name, name, src_dir_fd=source.handle.fd, dst_dir_fd=self.handle.fd, follow_symlinks=False
        )

    def unlink(self, name: str) -> None:
        """Remove a name on the host."""
        os.unlink(name, dir_fd=self.handle.fd)

    def rmdir(self, name: str) -> None:
        """Remove an empty directory on the host."""
        os.rmdir(name, dir_fd=self.handle.fd)

    def rename(self, name: str, target: Directory, new: str) -> None:
        """Move an entry on the host."""
        if not isinstance(target, HostDirectory):
            raise fail(errno.EXDEV)
        os.rename(name, new, src_dir_fd=self.handle.fd, dst_dir_fd=target.handle.fd)

    def exchange(self, name: str, target: Directory, new: str) -> None:
        """Refuse: Python offers no way to swap names on the host."""
        raise fail(errno.EINVAL)


def mount_writable(fs: FileSystem, directory: str) -> None:
    """Show the host directory at the same path of the guest, with changes passed through. Raises EmuError."""
    path = os.path.realpath(directory)
    try:
        handle = Handle(os.open(path, _DIRECTORY))
    except OSError as error:
        raise EmuError(f"--writable {directory}: {error.strerror}") from None
    if path == "/":
        raise EmuError("--writable /: only a directory below the root can be made writable")
    fs.mount(path, lambda parent, name: HostDirectory(fs, parent, name, handle))
