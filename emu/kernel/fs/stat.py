"""A file's attributes. Source: stat(2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.record import NamedTuple

if TYPE_CHECKING:
    import os

MEMORY_DEV = 0x35
"""st_dev of inodes that exist in memory only."""


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
