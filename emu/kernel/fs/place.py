"""Where the walk of a path ends. Source: path_resolution(7)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.core.record import NamedTuple
from emu.kernel.errors import fail
from emu.kernel.fs.file import Inode
from emu.kernel.fs.inodes import Symlink

if TYPE_CHECKING:
    from emu.kernel.fs.directory import Directory


class MagicLink(Symlink):
    """A link of /proc that leads to a file directly, whatever its text says."""

    __slots__ = ()

    def follow(self) -> Inode:
        """Return the inode that the link leads to. Raises OSError."""
        raise fail(errno.ENOENT)


class Place(NamedTuple):
    """The end of a walk: the directory, the last name in it, the inode (None if there is none), a trailing
    slash.

    `name` is "" where the path ended in `.`, `..` or was the root: `inode` is then the directory itself.
    """

    parent: Directory
    name: str
    inode: Inode | None
    slash: bool

    def path(self) -> str:
        """Return the guest's absolute path."""
        return self.parent.child_path(self.name) if self.name else self.parent.path()

    def found(self) -> Inode:
        """Return the inode. Raises OSError(ENOENT)."""
        if self.inode is None:
            raise fail(errno.ENOENT)
        return self.inode


def check_no_cycle(moved: Directory, target: Directory) -> None:
    """Raise OSError(EINVAL) if `target` lies in the directory that is to be moved there."""
    node = target
    while True:
        if node is moved:
            raise fail(errno.EINVAL)
        if node.parent is node:
            return
        node = node.parent
