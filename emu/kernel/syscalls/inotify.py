"""inotify: what happens to files, to be read from a descriptor. Source: inotify(7), inotify_add_watch(2)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.fs.directory import Directory
from emu.kernel.fs.inotify import InotifyFile
from emu.kernel.fs.notices import MAX_INSTANCES
from emu.kernel.table import syscall

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel
    from emu.kernel.run.task import Task

_ALL = 0xFFF
_IN_ONLYDIR, _IN_DONT_FOLLOW, _IN_EXCL_UNLINK = 1 << 24, 1 << 25, 1 << 26
_IN_MASK_CREATE, _IN_MASK_ADD, _IN_ISDIR, _IN_ONESHOT = 1 << 28, 1 << 29, 1 << 30, 1 << 31
_KERNELS_OWN = 0xE000
_VALID = (
    _ALL | _KERNELS_OWN | _IN_ONLYDIR | _IN_DONT_FOLLOW | _IN_EXCL_UNLINK | _IN_MASK_CREATE | _IN_MASK_ADD | _IN_ISDIR | _IN_ONESHOT
)  # fmt: skip


@syscall(253, "inotify_init")
def _sys_inotify_init(k: Kernel, t: Task) -> int:
    return _sys_inotify_init1(k, t, 0)


@syscall(294, "inotify_init1", "int")
def _sys_inotify_init1(k: Kernel, t: Task, flags: int) -> int:
    if flags & ~(abi.O_CLOEXEC | abi.O_NONBLOCK):
        raise fail(errno.EINVAL)
    if len(_instances(k)) >= MAX_INSTANCES:
        raise fail(errno.EMFILE)
    file = InotifyFile(k.fs, k.system.watch_files(), flags & abi.O_NONBLOCK)
    return k.fds.install(file, bool(flags & abi.O_CLOEXEC))


def _instances(k: Kernel) -> set[InotifyFile]:
    """Return the instances that processes of the caller's user have open."""
    user = k.credentials.users.real
    tables = (p.fds for p in k.system.processes.values() if p.credentials.users.real == user)
    return {file for table in tables for file in table.files.values() if isinstance(file, InotifyFile)}


def _instance(k: Kernel, fd: int) -> InotifyFile:
    file = k.file(fd)
    if not isinstance(file, InotifyFile):
        raise fail(errno.EINVAL)
    return file


@syscall(254, "inotify_add_watch", "fd", "path", "hex")
def _sys_inotify_add_watch(k: Kernel, t: Task, fd: int, path: int, mask: int) -> int:
    mask &= abi.U32
    if not mask & _VALID:
        raise fail(errno.EINVAL)
    file = k.file(fd)
    if mask & _IN_MASK_ADD and mask & _IN_MASK_CREATE or not isinstance(file, InotifyFile):
        raise fail(errno.EINVAL)
    inode = k.fs.find(k.path(path), follow=not mask & _IN_DONT_FOLLOW)
    if mask & _IN_ONLYDIR and not isinstance(inode, Directory):
        raise fail(errno.ENOTDIR)
    k.fs.allow(inode, abi.R_OK)
    if not mask & (_ALL | _KERNELS_OWN | _IN_ONESHOT):
        raise fail(errno.EINVAL)
    return file.watch(inode, mask)


@syscall(255, "inotify_rm_watch", "fd", "int")
def _sys_inotify_rm_watch(k: Kernel, t: Task, fd: int, number: int) -> int:
    _instance(k, fd).unwatch(number)
    return 0
