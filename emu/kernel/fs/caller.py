"""Who walks the tree: what a process brings along to each look at a path.

Source: Linux include/linux/fs_struct.h; credentials(7).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emu.kernel.fs.directory import Directory


class Caller:
    """One process's root, working directory and umask, and the ids that its accesses are checked with."""

    __slots__ = ("cwd", "gid", "groups", "root", "uid", "umask")

    def __init__(
        self, cwd: Directory, uid: int, gid: int, groups: tuple[int, ...] = (), umask: int = 0o22
    ) -> None:
        self.cwd = self.root = cwd
        self.umask = umask
        self.uid, self.gid, self.groups = uid, gid, groups

    def copy(self) -> Caller:
        """Return what a child begins with."""
        twin = Caller(self.cwd, self.uid, self.gid, self.groups, self.umask)
        twin.root = self.root
        return twin
