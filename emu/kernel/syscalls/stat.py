"""Attributes read: stat and its kin, access, readlink, statfs.

Source: stat(2), statx(2), access(2), readlink(2), statfs(2).
"""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.fs.birth import STATX_BTIME, birth_of
from emu.kernel.fs.directory import Directory
from emu.kernel.fs.inodes import Symlink
from emu.kernel.fs.stat import Stat
from emu.kernel.table import syscall

if TYPE_CHECKING:
    from emu.kernel.fs.file import Inode
    from emu.kernel.kernel import Kernel
    from emu.kernel.run.task import Task

_STAT = struct.Struct("<QQQIIIIQqqqQQQQQQ24x")
_STATX = struct.Struct("<IIQIIIHHQQQQ qIi qIi qIi qIi IIII QII 96x")
_STATX_BASIC, _STATX_RESERVED = 0x7FF, 0x80000000
_STATFS = struct.Struct("<qqQQQQQiiqqq32x")
_OVERLAYFS_MAGIC, _PROC_MAGIC, _TMPFS_MAGIC = 0x794C7630, 0x9FA0, 0x01021994
_TOTAL_BLOCKS = 1 << 24
_STAT_AT_FLAGS = abi.AT_SYMLINK_NOFOLLOW | abi.AT_EMPTY_PATH | abi.AT_NO_AUTOMOUNT | abi.AT_STATX_SYNC_TYPE


def base_of(k: Kernel, dirfd: int, path: str) -> Directory | None:
    """Return the directory that a relative path starts from. Raises OSError EBADF, ENOTDIR, ENOENT."""
    if dirfd == abi.AT_FDCWD or path.startswith("/"):
        return None
    if not path:
        raise fail(errno.ENOENT)
    file = k.fds.get(dirfd)
    inode = file.inode
    if not isinstance(inode, Directory):
        raise fail(errno.ENOTDIR)
    return inode


def inode_at(k: Kernel, dirfd: int, address: int, flags: int) -> Inode | Stat:
    """Return what an *at call names: the inode of the path, or with AT_EMPTY_PATH what the descriptor refers
    to.

    A descriptor without an inode (a pipe, the host's file) gives its attributes.
    """
    path = k.path(address)
    if not path and flags & abi.AT_EMPTY_PATH:
        if dirfd == abi.AT_FDCWD:
            return k.caller.cwd
        file = k.fds.get(dirfd)
        return file.inode if file.inode is not None else file.stat()
    return k.fs.find(path, base_of(k, dirfd, path), follow=not flags & abi.AT_SYMLINK_NOFOLLOW)


def pack_stat(st: Stat) -> bytes:
    """Return the 144 bytes of x86-64's struct stat."""
    return _STAT.pack(
        st.dev, st.ino, st.nlink, st.mode, st.uid, st.gid, 0, st.rdev, st.size, st.blksize, st.blocks,
        *divmod(st.atime, abi.NSEC_PER_SEC), *divmod(st.mtime, abi.NSEC_PER_SEC), *divmod(st.ctime,
        abi.NSEC_PER_SEC),
    )  # fmt: skip


def _attributes(found: Inode | Stat) -> Stat:
    return found if isinstance(found, Stat) else found.stat()


@syscall(4, "stat", "path", "ptr")
def _sys_stat(k: Kernel, t: Task, path: int, buffer: int) -> int:
    k.arena.copy_out(buffer, pack_stat(k.fs.find(k.path(path)).stat()))
    return 0


@syscall(6, "lstat", "path", "ptr")
def _sys_lstat(k: Kernel, t: Task, path: int, buffer: int) -> int:
    k.arena.copy_out(buffer, pack_stat(k.fs.find(k.path(path), follow=False).stat()))
    return 0


@syscall(5, "fstat", "fd", "ptr")
def _sys_fstat(k: Kernel, t: Task, fd: int, buffer: int) -> int:
    k.arena.copy_out(buffer, pack_stat(k.fds.get(fd).stat()))
    return 0


@syscall(262, "newfstatat", "dirfd", "path", "ptr", "flags:at")
def _sys_newfstatat(k: Kernel, t: Task, dirfd: int, path: int, buffer: int, flags: int) -> int:
    if flags & ~(abi.AT_SYMLINK_NOFOLLOW | abi.AT_EMPTY_PATH | abi.AT_NO_AUTOMOUNT):
        raise fail(errno.EINVAL)
    k.arena.copy_out(buffer, pack_stat(_attributes(inode_at(k, dirfd, path, flags))))
    return 0


@syscall(332, "statx", "dirfd", "path", "flags:at", "uint", "ptr")
def _sys_statx(k: Kernel, t: Task, dirfd: int, path: int, flags: int, mask: int, buffer: int) -> int:
    sync = flags & abi.AT_STATX_SYNC_TYPE
    if flags & ~_STAT_AT_FLAGS or mask & _STATX_RESERVED or sync == abi.AT_STATX_SYNC_TYPE:
        raise fail(errno.EINVAL)
    found = inode_at(k, dirfd, path, flags)
    st = _attributes(found)
    host = found.host if mask & STATX_BTIME and not isinstance(found, Stat) else None
    birth = birth_of(host) if host is not None else None
    known = _STATX_BASIC | (0 if birth is None else STATX_BTIME)
    atime, mtime, ctime = (divmod(time, abi.NSEC_PER_SEC) for time in (st.atime, st.mtime, st.ctime))
    packed = _STATX.pack(
        known, st.blksize, 0, st.nlink, st.uid, st.gid, st.mode, 0, st.ino, st.size, st.blocks, 0,
        *atime, 0, *(birth or (0, 0)), 0, *ctime, 0, *mtime, 0,
        os.major(st.rdev), os.minor(st.rdev), os.major(st.dev), os.minor(st.dev), 0, 0, 0,
    )  # fmt: skip
    k.arena.copy_out(buffer, packed)
    return 0


def _access(k: Kernel, dirfd: int, path: int, mode: int, flags: int) -> int:
    if mode & ~7 or flags & ~(abi.AT_EACCESS | abi.AT_SYMLINK_NOFOLLOW | abi.AT_EMPTY_PATH):
        raise fail(errno.EINVAL)
    inode = inode_at(k, dirfd, path, flags)
    if mode and not isinstance(inode, Stat | Symlink):
        k.fs.allow(inode, mode)
    return 0


@syscall(21, "access", "path", "flags:access")
def _sys_access(k: Kernel, t: Task, path: int, mode: int) -> int:
    return _access(k, abi.AT_FDCWD, path, mode, 0)


@syscall(269, "faccessat", "dirfd", "path", "flags:access")
def _sys_faccessat(k: Kernel, t: Task, dirfd: int, path: int, mode: int) -> int:
    return _access(k, dirfd, path, mode, 0)


@syscall(439, "faccessat2", "dirfd", "path", "flags:access", "flags:at")
def _sys_faccessat2(k: Kernel, t: Task, dirfd: int, path: int, mode: int, flags: int) -> int:
    return _access(k, dirfd, path, mode, flags)


def _readlink(k: Kernel, dirfd: int, path: int, buffer: int, size: int) -> int:
    if size <= 0:
        raise fail(errno.EINVAL)
    text = k.path(path)
    inode: Inode | None
    if text:
        inode = k.fs.find(text, base_of(k, dirfd, text), follow=False)
    elif dirfd == abi.AT_FDCWD:
        raise fail(errno.ENOENT)
    else:  # AT_EMPTY_PATH is implied
        inode = k.fds.get(dirfd).inode
    if not isinstance(inode, Symlink):
        raise fail(errno.ENOENT if not text else errno.EINVAL)
    target = os.fsencode(inode.target())[:size]
    k.arena.copy_out(buffer, target)
    return len(target)


@syscall(89, "readlink", "path", "out", "int")
def _sys_readlink(k: Kernel, t: Task, path: int, buffer: int, size: int) -> int:
    return _readlink(k, abi.AT_FDCWD, path, buffer, size)


@syscall(267, "readlinkat", "dirfd", "path", "out", "int")
def _sys_readlinkat(k: Kernel, t: Task, dirfd: int, path: int, buffer: int, size: int) -> int:
    return _readlink(k, dirfd, path, buffer, size)


def _pack_statfs(path: str) -> bytes:
    magic = _OVERLAYFS_MAGIC
    if path == "/proc" or path.startswith("/proc/"):
        magic = _PROC_MAGIC
    elif path.startswith("/dev/shm"):
        magic = _TMPFS_MAGIC
    half = _TOTAL_BLOCKS // 2
    return _STATFS.pack(
        magic,
        abi.PAGE_SIZE,
        _TOTAL_BLOCKS,
        half,
        half,
        _TOTAL_BLOCKS,
        half,
        1,
        0,
        abi.NAME_MAX,
        abi.PAGE_SIZE,
        0x20,
    )


@syscall(137, "statfs", "path", "ptr")
def _sys_statfs(k: Kernel, t: Task, path: int, buffer: int) -> int:
    k.arena.copy_out(buffer, _pack_statfs(k.fs.realpath(k.path(path))))
    return 0


@syscall(138, "fstatfs", "fd", "ptr")
def _sys_fstatfs(k: Kernel, t: Task, fd: int, buffer: int) -> int:
    k.arena.copy_out(buffer, _pack_statfs(k.fds.get(fd).path))
    return 0
