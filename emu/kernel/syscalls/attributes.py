"""Attributes changed: mode, owner, times, length.

Source: chmod(2), chown(2), utimensat(2), truncate(2).
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.fs.directory import Directory
from emu.kernel.fs.file import Inode, OpenFile
from emu.kernel.fs.inodes import Regular, RegularFile
from emu.kernel.fs.notices import IN_ACCESS, IN_ATTRIB, IN_MODIFY
from emu.kernel.fs.place import Place
from emu.kernel.run.credentials import UNCHANGED
from emu.kernel.syscalls.stat import base_of
from emu.kernel.table import syscall

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel
    from emu.kernel.run.task import Task

_UTIME_NOW, _UTIME_OMIT = 0x3FFF_FFFF, 0x3FFF_FFFE
_FALLOC_KEEP_SIZE, _FALLOC_PUNCH_HOLE, _FALLOC_ZERO_RANGE = 1, 2, 0x10
_FALLOC_MODES = 0x7B


Target = Place | OpenFile
"""What an attribute call names: the end of a path, or an open file."""


def _inode(target: Target) -> Inode:
    if isinstance(target, Place):
        return target.found()
    if target.inode is None:
        raise fail(errno.EPERM)  # the host's descriptors keep their attributes
    return target.inode


def _target(k: Kernel, dirfd: int, address: int, flags: int) -> Target:
    """Return what an *at call names. Raises OSError."""
    path = k.path(address)
    if not path and flags & abi.AT_EMPTY_PATH:
        return k.fds.get(dirfd) if dirfd != abi.AT_FDCWD else k.fs.walk(".")
    return place_of(k, path, dirfd, follow=not flags & abi.AT_SYMLINK_NOFOLLOW)


def place_of(k: Kernel, path: str, dirfd: int = abi.AT_FDCWD, *, follow: bool = True) -> Place:
    """Return where a path that is there ends. Raises OSError."""
    place = k.fs.walk(path, base_of(k, dirfd, path), follow=follow)
    place.found()
    return place


def tell(k: Kernel, target: Target, mask: int) -> None:
    """Tell who watches that IN_* `mask` has happened."""
    if k.fs.notices is not None:
        if isinstance(target, Place):
            k.fs.notices.at(target, mask)
        else:
            k.fs.notices.of_file(target, mask)


def _owner_only(k: Kernel, inode: Inode) -> None:
    if k.caller.uid and inode.stat().uid != k.caller.uid:
        raise fail(errno.EPERM)


def _chmod(k: Kernel, target: Target, mode: int) -> int:
    inode = _inode(target)
    if inode.fmt == abi.S_IFLNK:
        raise fail(errno.EOPNOTSUPP)
    _owner_only(k, inode)
    inode.set_mode(mode & 0o7777)
    tell(k, target, IN_ATTRIB)
    return 0


@syscall(90, "chmod", "path", "mode")
def _sys_chmod(k: Kernel, t: Task, path: int, mode: int) -> int:
    return _chmod(k, place_of(k, k.path(path)), mode)


@syscall(91, "fchmod", "fd", "mode")
def _sys_fchmod(k: Kernel, t: Task, fd: int, mode: int) -> int:
    return _chmod(k, k.file(fd), mode)


@syscall(268, "fchmodat", "dirfd", "path", "mode")
def _sys_fchmodat(k: Kernel, t: Task, dirfd: int, path: int, mode: int) -> int:
    return _chmod(k, _target(k, dirfd, path, 0), mode)


def _chown(k: Kernel, target: Target, uid: int, gid: int) -> int:
    inode = _inode(target)
    if k.caller.uid:
        _owner_only(k, inode)
        if uid not in (UNCHANGED, k.caller.uid) or gid not in (UNCHANGED, k.caller.gid, *k.caller.groups):
            raise fail(errno.EPERM)
    inode.set_owner(*(-1 if number == UNCHANGED else number for number in (uid, gid)))
    if (uid, gid) != (UNCHANGED, UNCHANGED):
        tell(k, target, IN_ATTRIB)
    return 0


@syscall(92, "chown", "path", "id", "id")
def _sys_chown(k: Kernel, t: Task, path: int, uid: int, gid: int) -> int:
    return _chown(k, place_of(k, k.path(path)), uid, gid)


@syscall(94, "lchown", "path", "id", "id")
def _sys_lchown(k: Kernel, t: Task, path: int, uid: int, gid: int) -> int:
    return _chown(k, place_of(k, k.path(path), follow=False), uid, gid)


@syscall(93, "fchown", "fd", "id", "id")
def _sys_fchown(k: Kernel, t: Task, fd: int, uid: int, gid: int) -> int:
    return _chown(k, k.file(fd), uid, gid)


@syscall(260, "fchownat", "dirfd", "path", "id", "id", "flags:at")
def _sys_fchownat(k: Kernel, t: Task, dirfd: int, path: int, uid: int, gid: int, flags: int) -> int:
    if flags & ~(abi.AT_SYMLINK_NOFOLLOW | abi.AT_EMPTY_PATH):
        raise fail(errno.EINVAL)
    return _chown(k, _target(k, dirfd, path, flags), uid, gid)


def _set_times(k: Kernel, target: Target, times: list[tuple[int, int]] | None) -> int:
    """Set access and modification time from two (seconds, nanoseconds), None: both to now."""
    inode = _inode(target)
    now = k.clock.realtime
    values: list[int | None] = [now, now]
    explicit = False
    if times is not None:
        for index, (seconds, nanoseconds) in enumerate(times):
            if nanoseconds == _UTIME_OMIT:
                values[index] = None
            elif nanoseconds != _UTIME_NOW:
                if not 0 <= nanoseconds < abi.NSEC_PER_SEC:
                    raise fail(errno.EINVAL)
                values[index] = seconds * abi.NSEC_PER_SEC + nanoseconds
                explicit = True
    if values == [None, None]:
        return 0
    if explicit:
        _owner_only(k, inode)
    elif k.caller.uid and inode.stat().uid != k.caller.uid:
        k.fs.allow(inode, abi.W_OK)
    inode.set_times(values[0], values[1])
    tell(k, target, IN_MODIFY if values[0] is None else IN_ACCESS if values[1] is None else IN_ATTRIB)
    return 0


@syscall(280, "utimensat", "dirfd", "path", "ptr", "flags:at")
def _sys_utimensat(k: Kernel, t: Task, dirfd: int, path: int, times: int, flags: int) -> int:
    pairs = None
    if times:
        words = struct.unpack("<4q", k.arena.copy_in(times, 32))
        pairs = [(words[0], words[1]), (words[2], words[3])]
    if flags & ~(abi.AT_SYMLINK_NOFOLLOW | abi.AT_EMPTY_PATH):
        raise fail(errno.EINVAL)
    if not path and flags:
        raise fail(errno.EINVAL)
    return _set_times(k, _target(k, dirfd, path, flags) if path else k.file(dirfd), pairs)


def _microseconds(k: Kernel, times: int) -> list[tuple[int, int]] | None:
    if not times:
        return None
    words = struct.unpack("<4q", k.arena.copy_in(times, 32))
    if not (0 <= words[1] < 1_000_000 and 0 <= words[3] < 1_000_000):
        raise fail(errno.EINVAL)
    return [(words[0], words[1] * 1000), (words[2], words[3] * 1000)]


@syscall(235, "utimes", "path", "ptr")
def _sys_utimes(k: Kernel, t: Task, path: int, times: int) -> int:
    return _set_times(k, place_of(k, k.path(path)), _microseconds(k, times))


@syscall(261, "futimesat", "dirfd", "path", "ptr")
def _sys_futimesat(k: Kernel, t: Task, dirfd: int, path: int, times: int) -> int:
    return _set_times(k, _target(k, dirfd, path, 0) if path else k.file(dirfd), _microseconds(k, times))


@syscall(132, "utime", "path", "ptr")
def _sys_utime(k: Kernel, t: Task, path: int, times: int) -> int:
    pairs = None
    if times:
        access, modification = struct.unpack("<2q", k.arena.copy_in(times, 16))
        pairs = [(access, 0), (modification, 0)]
    return _set_times(k, place_of(k, k.path(path)), pairs)


@syscall(76, "truncate", "path", "long")
def _sys_truncate(k: Kernel, t: Task, path: int, size: int) -> int:
    if size < 0:
        raise fail(errno.EINVAL)
    place = place_of(k, k.path(path))
    inode = place.found()
    if isinstance(inode, Directory):
        raise fail(errno.EISDIR)
    if not isinstance(inode, Regular):
        raise fail(errno.EINVAL)
    k.fs.allow(inode, abi.W_OK)
    inode.truncate(size)
    tell(k, place, IN_MODIFY)
    return 0


@syscall(77, "ftruncate", "fd", "long")
def _sys_ftruncate(k: Kernel, t: Task, fd: int, size: int) -> int:
    if size < 0:
        raise fail(errno.EINVAL)
    file = k.file(fd)
    if not file.writable:
        raise fail(errno.EINVAL)
    file.truncate(size)
    tell(k, file, IN_MODIFY)
    return 0


@syscall(285, "fallocate", "fd", "int", "offset", "offset")
def _sys_fallocate(k: Kernel, t: Task, fd: int, mode: int, offset: int, length: int) -> int:
    file = k.file(fd)
    if offset < 0 or length <= 0:
        raise fail(errno.EINVAL)
    if mode & ~_FALLOC_MODES or mode & _FALLOC_PUNCH_HOLE and not mode & _FALLOC_KEEP_SIZE:
        raise fail(errno.EOPNOTSUPP)
    if not file.writable:
        raise fail(errno.EBADF)
    if file.seekable and offset + length > abi.S64_MAX:
        raise fail(errno.EFBIG)
    if not isinstance(file, RegularFile):
        raise fail(errno.ESPIPE if file.stat().mode & abi.S_IFMT == abi.S_IFIFO else errno.ENODEV)
    end, size = offset + length, file.size()
    if mode & (_FALLOC_PUNCH_HOLE | _FALLOC_ZERO_RANGE):
        file.punch(offset, length)
    elif mode & ~_FALLOC_KEEP_SIZE:
        raise fail(errno.EOPNOTSUPP)
    if end > size and not mode & _FALLOC_KEEP_SIZE:
        file.truncate(end)
    tell(k, file, IN_MODIFY)
    return 0


@syscall(95, "umask", "mode")
def _sys_umask(k: Kernel, t: Task, mask: int) -> int:
    old, k.caller.umask = k.caller.umask, mask & 0o777
    return old
