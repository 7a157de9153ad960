"""Names: directories and their entries.

Source: mkdir(2), mknod(2), rename(2), link(2), symlink(2), unlink(2), getdents64(2), chdir(2).
"""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.fs.directory import Directory
from emu.kernel.fs.file import Meta, fresh
from emu.kernel.fs.inodes import SpecialInode
from emu.kernel.fs.notices import IN_ACCESS
from emu.kernel.fs.special import Fifo, make_node
from emu.kernel.run.credentials import CAP_SYS_CHROOT
from emu.kernel.syscalls.stat import base_of
from emu.kernel.table import syscall

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.kernel.fs.file import OpenFile
    from emu.kernel.kernel import Kernel
    from emu.kernel.run.task import Task

_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2


@syscall(83, "mkdir", "path", "mode")
def _sys_mkdir(k: Kernel, t: Task, path: int, mode: int) -> int:
    k.fs.mkdir(k.path(path), mode)
    return 0


@syscall(258, "mkdirat", "dirfd", "path", "mode")
def _sys_mkdirat(k: Kernel, t: Task, dirfd: int, path: int, mode: int) -> int:
    name = k.path(path)
    k.fs.mkdir(name, mode, base_of(k, dirfd, name))
    return 0


def _mknod(k: Kernel, dirfd: int, path: int, mode: int) -> int:
    """Make a regular file, a FIFO or a socket's name; a device is nothing that the guest is given."""
    name = k.path(path)
    base = base_of(k, dirfd, name)
    kind = mode & abi.S_IFMT
    if kind in (0, abi.S_IFREG):
        k.fs.new_name(name, base)
        k.fs.open(name, abi.O_CREAT | abi.O_EXCL | abi.O_WRONLY, mode & 0o7777, base)
        return 0
    if kind in (abi.S_IFCHR, abi.S_IFBLK, abi.S_IFDIR):
        raise fail(errno.EPERM)
    if kind not in (abi.S_IFIFO, abi.S_IFSOCK):
        raise fail(errno.EINVAL)
    meta = Meta(fresh(k.fs, kind | mode & 0o7777 & ~k.caller.umask))
    node = Fifo(k.fs, meta) if kind == abi.S_IFIFO else SpecialInode(k.fs, None, meta, kind)
    make_node(k.fs, os.fsencode(name), node, base)
    return 0


@syscall(133, "mknod", "path", "mode", "hex")
def _sys_mknod(k: Kernel, t: Task, path: int, mode: int, device: int) -> int:
    return _mknod(k, abi.AT_FDCWD, path, mode)


@syscall(259, "mknodat", "dirfd", "path", "mode", "hex")
def _sys_mknodat(k: Kernel, t: Task, dirfd: int, path: int, mode: int, device: int) -> int:
    return _mknod(k, dirfd, path, mode)


@syscall(84, "rmdir", "path")
def _sys_rmdir(k: Kernel, t: Task, path: int) -> int:
    k.fs.rmdir(k.path(path))
    return 0


@syscall(87, "unlink", "path")
def _sys_unlink(k: Kernel, t: Task, path: int) -> int:
    k.fs.unlink(k.path(path))
    return 0


@syscall(263, "unlinkat", "dirfd", "path", "flags:at")
def _sys_unlinkat(k: Kernel, t: Task, dirfd: int, path: int, flags: int) -> int:
    if flags & ~abi.AT_REMOVEDIR:
        raise fail(errno.EINVAL)
    name = k.path(path)
    base = base_of(k, dirfd, name)
    if flags & abi.AT_REMOVEDIR:
        k.fs.rmdir(name, base)
    else:
        k.fs.unlink(name, base)
    return 0


def _rename(k: Kernel, olddir: int, old: int, newdir: int, new: int, flags: int) -> int:
    if flags & ~(_RENAME_NOREPLACE | _RENAME_EXCHANGE) or flags == _RENAME_NOREPLACE | _RENAME_EXCHANGE:
        raise fail(errno.EINVAL)
    source = k.path(old)
    place = k.fs.walk(source, base_of(k, olddir, source), follow=False)
    target = k.path(new)
    k.fs.rename(
        place,
        k.fs.walk(target, base_of(k, newdir, target), follow=False),
        noreplace=bool(flags & _RENAME_NOREPLACE),
        exchange=bool(flags & _RENAME_EXCHANGE),
    )
    return 0


@syscall(82, "rename", "path", "path")
def _sys_rename(k: Kernel, t: Task, old: int, new: int) -> int:
    return _rename(k, abi.AT_FDCWD, old, abi.AT_FDCWD, new, 0)


@syscall(264, "renameat", "dirfd", "path", "dirfd", "path")
def _sys_renameat(k: Kernel, t: Task, olddir: int, old: int, newdir: int, new: int) -> int:
    return _rename(k, olddir, old, newdir, new, 0)


@syscall(316, "renameat2", "dirfd", "path", "dirfd", "path", "uint")
def _sys_renameat2(k: Kernel, t: Task, olddir: int, old: int, newdir: int, new: int, flags: int) -> int:
    return _rename(k, olddir, old, newdir, new, flags)


def _link(k: Kernel, olddir: int, old: int, newdir: int, new: int, flags: int) -> int:
    if flags & ~(abi.AT_SYMLINK_FOLLOW | abi.AT_EMPTY_PATH):
        raise fail(errno.EINVAL)
    source = k.path(old)
    if not source and flags & abi.AT_EMPTY_PATH:
        inode = k.fds.get(olddir).inode
        if inode is None:
            raise fail(errno.EXDEV)
    else:
        inode = k.fs.find(source, base_of(k, olddir, source), follow=bool(flags & abi.AT_SYMLINK_FOLLOW))
    target = k.path(new)
    k.fs.link(inode, target, base_of(k, newdir, target))
    return 0


@syscall(86, "link", "path", "path")
def _sys_link(k: Kernel, t: Task, old: int, new: int) -> int:
    return _link(k, abi.AT_FDCWD, old, abi.AT_FDCWD, new, 0)


@syscall(265, "linkat", "dirfd", "path", "dirfd", "path", "flags:at")
def _sys_linkat(k: Kernel, t: Task, olddir: int, old: int, newdir: int, new: int, flags: int) -> int:
    return _link(k, olddir, old, newdir, new, flags)


@syscall(88, "symlink", "path", "path")
def _sys_symlink(k: Kernel, t: Task, text: int, path: int) -> int:
    target = k.path(text)
    if not target:
        raise fail(errno.ENOENT)
    k.fs.symlink(target, k.path(path))
    return 0


@syscall(266, "symlinkat", "path", "dirfd", "path")
def _sys_symlinkat(k: Kernel, t: Task, text: int, dirfd: int, path: int) -> int:
    name = k.path(path)
    k.fs.symlink(k.path(text), name, base_of(k, dirfd, name))
    return 0


@syscall(80, "chdir", "path")
def _sys_chdir(k: Kernel, t: Task, path: int) -> int:
    k.fs.chdir(k.fs.find(k.path(path)))
    return 0


@syscall(161, "chroot", "path")
def _sys_chroot(k: Kernel, t: Task, path: int) -> int:
    directory = k.fs.find(k.path(path))
    if isinstance(directory, Directory) and not k.credentials.has(CAP_SYS_CHROOT):
        k.fs.allow(directory, abi.X_OK)
        raise fail(errno.EPERM)
    k.fs.chroot(directory)
    return 0


@syscall(81, "fchdir", "fd")
def _sys_fchdir(k: Kernel, t: Task, fd: int) -> int:
    inode = k.fds.get(fd).inode
    if inode is None:
        raise fail(errno.ENOTDIR)
    k.fs.chdir(inode)
    return 0


@syscall(79, "getcwd", "ptr", "size")
def _sys_getcwd(k: Kernel, t: Task, buffer: int, size: int) -> int:
    if k.caller.cwd.stat().nlink == 0:
        raise fail(errno.ENOENT)
    here = k.caller.cwd.path()
    inside = k.fs.within(here)
    path = os.fsencode(f"(unreachable){here}" if inside is None else inside) + b"\0"
    if len(path) > size:
        raise fail(errno.ERANGE)
    k.arena.copy_out(buffer, path)
    return len(path)


def _entry64(name: bytes, ino: int, position: int, kind: int) -> bytes:
    length = (19 + len(name) + 1 + 7) & ~7
    return struct.pack("<QqHB", ino, position, length, kind) + name.ljust(length - 19, b"\0")


def _entry(name: bytes, ino: int, position: int, kind: int) -> bytes:
    length = (18 + len(name) + 2 + 7) & ~7
    return struct.pack("<QqH", ino, position, length) + name.ljust(length - 19, b"\0") + bytes((kind,))


@syscall(217, "getdents64", "fd", "ptr", "uint")
def _sys_getdents64(k: Kernel, t: Task, fd: int, buffer: int, size: int) -> int:
    return _list(k, k.file(fd), buffer, size, _entry64)


@syscall(78, "getdents", "fd", "ptr", "uint")
def _sys_getdents(k: Kernel, t: Task, fd: int, buffer: int, size: int) -> int:
    return _list(k, k.file(fd), buffer, size, _entry)


def _list(
    k: Kernel, file: OpenFile, buffer: int, size: int, record: Callable[[bytes, int, int, int], bytes]
) -> int:
    """Give as many entries of an open directory as there is room for, each as
    `record` makes it of name, inode, offset and type.
    """
    entries = file.entries()
    if k.fs.notices is not None:
        k.fs.notices.of_file(file, IN_ACCESS)
    records = []
    room = size
    position = file.offset
    while position < len(entries):
        name, ino, fmt = entries[position]
        one = record(os.fsencode(name), ino, position + 1, fmt >> 12)
        if len(one) > room:
            break
        position += 1
        records.append(one)
        room -= len(one)
    if not records and position < len(entries):
        raise fail(errno.EINVAL)
    data = b"".join(records)
    k.arena.copy_out(buffer, data)
    file.offset = position
    return len(data)
