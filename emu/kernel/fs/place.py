"""The steps of a walk, and where it ends. Source: path_resolution(7), openat2(2)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.core.record import NamedTuple
from emu.kernel.errors import fail
from emu.kernel.fs.file import Inode
from emu.kernel.fs.inodes import Symlink

if TYPE_CHECKING:
    from emu.kernel.fs.directory import Directory


RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS = 1, 2, 4
RESOLVE_BENEATH, RESOLVE_IN_ROOT, RESOLVE_CACHED = 8, 16, 32
"""What openat2 may ask of a walk."""


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


def split_path(path: str, node: Inode, root: Inode, resolve: int) -> tuple[list[str], bool, Inode]:
    """Return the names of `path`, last first, whether it must be a directory, and where it starts.

    Raises OSError: ENOENT, EXDEV for an absolute path where RESOLVE_* forbids it.
    """
    if not path:
        raise fail(errno.ENOENT)
    if path[0] == "/":
        if resolve & RESOLVE_BENEATH:
            raise fail(errno.EXDEV)
        node = root
    names = [name for name in path.split("/") if name]
    names.reverse()
    return names, path[-1] == "/", node


def up(node: Directory, top: Directory, root: Directory, resolve: int) -> Directory:
    """Return the directory above: of the root that is itself; `top` is where the walk began.

    Raises OSError(EXDEV).
    """
    if resolve & RESOLVE_BENEATH and _same(node, top):
        raise fail(errno.EXDEV)
    if _same(node, root):
        return node
    if resolve & RESOLVE_NO_XDEV:
        same_device(node, node.parent)
    return node.parent


def _same(node: Directory, other: Directory) -> bool:
    """Whether both are one directory: of a host's there are several inodes."""
    if node is other or not (node.passthrough and other.passthrough):
        return node is other
    st, known = node.stat(), other.stat()
    return (st.dev, st.ino) == (known.dev, known.ino)


def jump(link: MagicLink, node: Inode, resolve: int) -> Inode:
    """Follow a link of /proc from `node`. Raises OSError: ELOOP, EXDEV."""
    if resolve & RESOLVE_NO_MAGICLINKS:
        raise fail(errno.ELOOP)
    if resolve & (RESOLVE_BENEATH | RESOLVE_IN_ROOT):
        raise fail(errno.EXDEV)
    followed = link.follow()
    if resolve & RESOLVE_NO_XDEV:
        same_device(node, followed)
    return followed


def same_device(node: Inode, other: Inode) -> None:
    """Keep a walk to one file system. Raises OSError(EXDEV)."""
    if node.stat().dev != other.stat().dev:
        raise fail(errno.EXDEV)


def check_no_cycle(moved: Directory, target: Directory) -> None:
    """Raise OSError(EINVAL) if `target` lies in the directory that is to be moved there."""
    node = target
    while True:
        if node is moved:
            raise fail(errno.EINVAL)
        if node.parent is node:
            return
        node = node.parent
