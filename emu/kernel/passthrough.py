"""`--writable` directories: changes go to the host, but never out of the directory.

Every host call works on one name relative to a descriptor of its directory and refuses to follow a link, so
that no rename or symbolic link that the guest makes can redirect it. Links are resolved in the guest's own
tree (see `emu.kernel.vfs`).
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from emu.core.errors import EmuError
from emu.kernel import abi
from emu.kernel.directory import Directory
from emu.kernel.inodes import Handle, Inode, Meta, Regular, Special, Stat, Symlink, Volume, fail, from_host

if TYPE_CHECKING:
    from emu.kernel.openfile import OpenFile
    from emu.kernel.vfs import FileSystem

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class _Entry:
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


class HostSymlink(Symlink):
    """A symbolic link in a writable directory."""

    __slots__ = ("_entry",)
    passthrough = True

    def __init__(self, volume: Volume, entry: _Entry) -> None:
        super().__init__(volume, None, None)
        self._entry = entry

    def stat(self) -> Stat:
        """Return the host's attributes."""
        return from_host(self._entry.lstat())

    def target(self) -> str:
        """Return the path that the link holds: a guest path."""
        return os.readlink(self._entry.name, dir_fd=self._entry.handle.fd)

    def set_owner(self, uid: int, gid: int) -> None:
        """Change the owner on the host."""
        self._entry.chown(uid, gid)

    def set_times(self, atime: int | None, mtime: int | None) -> None:
        """Change the times on the host."""
        self._entry.utime(_merge_times(self.stat(), atime, mtime))


class HostRegular(Regular):
    """A regular file in a writable directory.

    Descriptors are opened on first need and kept as long as the inode is in use.
    """

    __slots__ = ("_entry", "_writer")
    passthrough = True

    def __init__(self, volume: Volume, entry: _Entry, handle: Handle | None = None) -> None:
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

    def _open(self, mode: int) -> Handle:
        handle = Handle(os.open(self._entry.name, mode | _FILE, dir_fd=self._entry.handle.fd))
        held = self._handle or self._writer
        if held is not None and not os.path.sameopenfile(held.fd, handle.fd):
            raise fail(errno.ESTALE)  # another file took the name
        return handle

    def size(self) -> int:
        """Return the length in bytes."""
        return self.stat().size

    def write_at(self, data: bytes, offset: int) -> int:
        """Store `data` on the host."""
        return os.pwrite(self.writer(), data, offset)

    def truncate(self, size: int) -> None:
        """Set the length on the host."""
        os.ftruncate(self.writer(), size)
        st = self.stat()
        self.volume.resized(st.dev, st.ino)

    def sync(self) -> None:
        """Store the host's file."""
        os.fsync((self._writer or self._handle or self._open(os.O_RDONLY)).fd)

    def host_fd(self) -> int | None:
        """None: the file may change under a mapping, so its bytes are copied."""
        return None

    def set_mode(self, mode: int) -> None:
        """Change the permission bits on the host."""
        os.fchmod(self.handle() if self._writer is None else self._writer.fd, mode & 0o7777)

    def set_owner(self, uid: int, gid: int) -> None:
        """Change the owner on the host."""
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
        from emu.kernel.openfile import RegularFile

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
        """Change the permission bits on the host."""
        os.fchmod(self.handle.fd, mode & 0o7777)

    def set_owner(self, uid: int, gid: int) -> None:
        """Change the owner on the host."""
        os.fchown(self.handle.fd, uid, gid)

    def set_times(self, atime: int | None, mtime: int | None) -> None:
        """Change the times on the host."""
        os.utime(self.handle.fd, ns=_merge_times(self.stat(), atime, mtime))

    def lookup(self, name: str) -> Inode | None:
        """Return the inode of an entry."""
        entry = _Entry(self.handle, name)
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
        return Special(self.volume, None, Meta(from_host(entry.lstat())), fmt)

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
        return HostRegular(self.volume, _Entry(self.handle, name), Handle(fd))

    def mkdir(self, name: str, mode: int) -> None:
        """Make a directory on the host."""
        os.mkdir(name, mode, dir_fd=self.handle.fd)

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
