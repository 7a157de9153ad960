"""Directories: what every one can do, and the overlay over a directory of the sysroot.

An overlay directory shows the host directory `host` (the lower layer) under its own entries (the upper
layer). An upper entry None is a whiteout: the name is gone although the host has it.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Protocol

from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.fs.file import Inode, Meta, OpenFile, Volume, fresh
from emu.kernel.fs.inodes import Regular, SpecialInode, Symlink

if TYPE_CHECKING:
    from emu.kernel.fs.owner import DirectoryNotice

_ENTRY_COST = 1024
"""What an entry in memory is charged with, its inode included, beside its name and the bytes of a file."""
_LISTED_COST = 256
"""What an entry of a listing that an open directory keeps is charged with."""


class Directory(Inode):
    """A directory: `parent` (itself for the root) and its `name` there. This base refuses every change."""

    __slots__ = ("parent", "name")
    fmt = abi.S_IFDIR

    def __init__(
        self, volume: Volume, host: str | None, meta: Meta | None, parent: Directory | None, name: str
    ) -> None:
        super().__init__(volume, host, meta)
        self.parent = parent if parent is not None else self
        self.name = name

    def path(self) -> str:
        """Return the guest's absolute path."""
        parts = []
        node = self
        while node.parent is not node:
            parts.append(node.name)
            node = node.parent
        return "/" + "/".join(reversed(parts))

    def child_path(self, name: str) -> str:
        """Return the guest's path of the entry `name`."""
        path = self.path()
        return path + name if path == "/" else f"{path}/{name}"

    def size(self) -> int:
        """Return the size that stat shows for a directory in memory."""
        return abi.PAGE_SIZE

    def open(self, path: str, flags: int) -> OpenFile:
        """Return an open file description for getdents64 and as a base of relative paths."""
        return DirectoryFile(self, path, flags)

    def lookup(self, name: str) -> Inode | None:
        """Return the inode of an entry, None if there is none. Raises OSError."""
        return None

    def listing(self) -> list[tuple[str, int, int]]:
        """Return (name, inode number, S_IF* type) of every entry but . and .., sorted by name."""
        return []

    def create(self, name: str, mode: int) -> Inode:
        """Make an empty regular file."""
        raise fail(errno.ENOENT)

    def mkdir(self, name: str, mode: int) -> None:
        """Make a directory."""
        raise fail(errno.ENOENT)

    def symlink(self, name: str, text: str) -> None:
        """Make a symbolic link."""
        raise fail(errno.ENOENT)

    def link(self, name: str, inode: Inode) -> None:
        """Add another name of an inode."""
        raise fail(errno.EXDEV)

    def enter(self, name: str, inode: Inode) -> None:
        """Give a new inode, of a socket or a FIFO, its name."""
        raise fail(errno.EPERM)

    def unlink(self, name: str) -> None:
        """Remove a name that is no directory."""
        raise fail(errno.EPERM)

    def rmdir(self, name: str) -> None:
        """Remove an empty directory."""
        raise fail(errno.EPERM)

    def rename(self, name: str, target: Directory, new: str) -> None:
        """Move an entry to `target`, replacing `new` there; both exist as rename(2) demands."""
        raise fail(errno.EXDEV)

    def exchange(self, name: str, target: Directory, new: str) -> None:
        """Swap two entries (RENAME_EXCHANGE)."""
        raise fail(errno.EXDEV)


class OverlayVolume(Volume, Protocol):
    """What an overlay directory asks of its file system."""

    def release(self, inode: Inode) -> None:
        """Let go of an inode that has no name any more."""

    def asks(self, host: str) -> None:
        """A path of the host is about to be looked at."""

    def from_host(self, host: str, parent: OverlayDirectory, name: str) -> Inode | None:
        """Return the inode of a host file, the same object while one is in use; None if there is no such
        file.
        """


class DirectoryFile(OpenFile):
    """An open directory.

    The entries are taken when reading starts, as a snapshot; the offset counts entries.
    """

    __slots__ = ("directory", "notice", "_snapshot")
    seekable = True

    def __init__(self, directory: Directory, path: str, flags: int) -> None:
        super().__init__(path, flags, directory)
        self.directory = directory
        self._snapshot: list[tuple[str, int, int]] | None = None
        self.notice: DirectoryNotice | None = None

    def notify(self, notice: DirectoryNotice) -> None:
        """Whoever owns it is told of what happens in it (F_NOTIFY)."""
        self.notice = notice

    def closed(self) -> None:
        """Nobody refers to it any more: nobody is told, and what was listed is let go of."""
        if self.notice is not None:
            self.notice.close()
        self._forget()

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
            self._forget()
        self.offset = offset
        return offset

    def _forget(self) -> None:
        if self._snapshot is not None:
            self.directory.volume.charge(-_LISTED_COST * len(self._snapshot))
            self._snapshot = None

    def entries(self) -> list[tuple[str, int, int]]:
        """Return the snapshot. Raises OSError(ENOSPC) where it is more than may be held."""
        if self._snapshot is None:
            here, above = self.directory.stat().ino, self.directory.parent.stat().ino
            dots = [(".", here, abi.S_IFDIR), ("..", above, abi.S_IFDIR)]
            found = dots + self.directory.listing()
            self.directory.volume.charge(_LISTED_COST * len(found))
            self._snapshot = found
        return self._snapshot


class OverlayDirectory(Directory):
    """A directory of the sysroot with the guest's changes, or one in memory (`host` None)."""

    __slots__ = ("volume", "upper")
    takes_attributes = True
    volume: OverlayVolume

    def __init__(
        self, volume: OverlayVolume, host: str | None, meta: Meta | None, parent: Directory | None, name: str
    ) -> None:
        super().__init__(volume, host, meta, parent, name)
        self.volume = volume
        self.upper: dict[str, Inode | None] = {}

    def own(self) -> Meta:
        """Return the attributes in memory, and keep this directory from now on."""
        self.volume.keep(self)
        return super().own()

    def lookup(self, name: str) -> Inode | None:
        """Return the inode of an entry: the upper one, or the host's."""
        if name in self.upper:
            return self.upper[name]
        if self.host is None:
            return None
        host = self.host + name if self.host == "/" else f"{self.host}/{name}"
        return self.volume.from_host(host, self, name)

    def listing(self) -> list[tuple[str, int, int]]:
        """Return the merged entries of both layers."""
        merged: dict[str, tuple[str, int, int]] = {}
        if self.host is not None:
            self.volume.asks(f"{self.host}/")  # all that is in it
            with os.scandir(self.host) as entries:
                for entry in entries:
                    if entry.name not in self.upper:
                        fmt = entry.stat(follow_symlinks=False).st_mode & abi.S_IFMT
                        merged[entry.name] = (entry.name, entry.inode(), fmt)
        for name, inode in self.upper.items():
            if inode is not None:
                merged[name] = (name, inode.stat().ino, inode.fmt or inode.stat().mode & abi.S_IFMT)
        return [merged[name] for name in sorted(merged)]

    def _newborn(self, mode: int) -> Meta:
        """Return the attributes of a new inode here."""
        return Meta(fresh(self.volume, mode, dev=self.stat().dev))

    def _touch(self) -> Meta:
        meta = self.own()
        meta.mtime = meta.ctime = self.volume.now()
        return meta

    def mount(self, name: str, inode: Inode) -> None:
        """Put an inode over a name, without a change of times (at construction)."""
        self.volume.keep(self)
        self.upper[name] = inode

    def add(self, name: str, inode: Inode) -> None:
        """Enter an inode, and account for it until its name goes. Raises OSError(ENOSPC)."""
        known = self.upper.get(name)
        if known is not None:
            self._account(name, known, -1)
        self._account(name, inode, 1)
        self._touch()
        self.upper[name] = inode

    def _account(self, name: str, inode: Inode, sign: int) -> None:
        text = _size(inode.text) if isinstance(inode, Symlink) else 0
        self.volume.charge(sign * (_ENTRY_COST + _size(name) + text))

    def enter(self, name: str, inode: Inode) -> None:
        """Give a new inode its name, and keep it: it is on the device of its directory from now on."""
        if inode.meta is not None:
            inode.meta.dev = self.stat().dev
        self.volume.keep(inode)
        self.add(name, inode)

    def _remove(self, name: str) -> None:
        """Take a name out; where the host has it, that it is gone is one entry more."""
        known = self.upper.get(name)
        if self.host is not None:
            if name not in self.upper:
                self.volume.charge(_ENTRY_COST)
            self._touch()
            self.upper[name] = None
        else:
            self._touch()
            self.upper.pop(name, None)
        if known is not None:
            self._account(name, known, -1)

    def create(self, name: str, mode: int) -> Inode:
        """Make an empty regular file in memory."""
        inode = Regular(self.volume, None, self._newborn(abi.S_IFREG | mode), bytearray())
        self.add(name, inode)
        return inode

    def mkdir(self, name: str, mode: int) -> None:
        """Make a directory in memory."""
        meta = self._newborn(abi.S_IFDIR | mode)
        meta.nlink = 2
        self.add(name, OverlayDirectory(self.volume, None, meta, self, name))
        self.own().nlink += 1

    def symlink(self, name: str, text: str) -> None:
        """Make a symbolic link in memory."""
        self.add(name, Symlink(self.volume, None, self._newborn(abi.S_IFLNK | 0o777), text))

    def link(self, name: str, inode: Inode) -> None:
        """Add another name of a file of this file system."""
        if inode.passthrough or not isinstance(inode, Regular | Symlink | SpecialInode):
            raise fail(errno.EXDEV)
        inode.add_links(1)
        self.volume.keep(inode)
        self.add(name, inode)

    def unlink(self, name: str) -> None:
        """Remove a name; the inode lives on while it has other names or is open."""
        inode = self.lookup(name)
        self._remove(name)
        if inode is not None and not inode.passthrough:
            if inode.stat().nlink > 1:
                inode.add_links(-1)
                self.volume.keep(inode)
            else:
                self.volume.release(inode)
                _mark_gone(inode)

    def rmdir(self, name: str) -> None:
        """Remove an empty directory."""
        child = self.lookup(name)
        if not isinstance(child, OverlayDirectory):
            raise fail(errno.EBUSY)
        if child.listing():
            raise fail(errno.ENOTEMPTY)
        self._remove(name)
        self.own().nlink -= 1
        child.own().nlink = 0
        self.volume.release(child)

    def rename(self, name: str, target: Directory, new: str) -> None:
        """Move an entry within the overlay."""
        inode = self.lookup(name)
        if not isinstance(target, OverlayDirectory) or inode is None or inode.passthrough:
            raise fail(errno.EXDEV)
        for sign in (1, -1):  # nothing is half done for want of room
            target._account(new, inode, 2 * sign)
        victim = target.lookup(new)
        if isinstance(victim, Directory):
            target.rmdir(new)
        elif victim is not None:
            target.unlink(new)
        self._remove(name)
        self._settle(inode, target, new)
        if isinstance(inode, Directory) and target is not self:
            self.own().nlink -= 1
            target.own().nlink += 1

    def exchange(self, name: str, target: Directory, new: str) -> None:
        """Swap two entries within the overlay."""
        mine, theirs = self.lookup(name), target.lookup(new)
        if not isinstance(target, OverlayDirectory) or mine is None or theirs is None:
            raise fail(errno.EXDEV)
        self._settle(theirs, self, name)
        self._settle(mine, target, new)

    def _settle(self, inode: Inode, target: OverlayDirectory, new: str) -> None:
        target.add(new, inode)
        if isinstance(inode, Directory):
            inode.parent, inode.name = target, new
            self.volume.keep(inode)


def _size(text: str) -> int:
    """Return what Python may need for the characters of a text."""
    return len(text) if text.isascii() else 4 * len(text)


def _mark_gone(inode: Inode) -> None:
    """Show st_nlink 0 to those who still have the file open; a host file needs no copy of its bytes for
    that.
    """
    if inode.meta is None:
        if isinstance(inode, Regular):
            inode.gone = True
        return
    inode.meta.nlink = 0
