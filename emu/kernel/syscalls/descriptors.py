"""Descriptors: open, close, dup, fcntl, ioctl, pipe.

Source: open(2), close_range(2), dup(2), fcntl(2), pipe(2).
"""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING

from emu.core.errors import MemoryFault
from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.fs.anonymous import EventFile, TimerFile
from emu.kernel.fs.hostfile import FIOASYNC, FIOCLEX, FIONBIO, FIONCLEX, FIONREAD
from emu.kernel.fs.inodes import RegularFile
from emu.kernel.fs.pipe import PipeEnd, make_pipe
from emu.kernel.fs.pty import TIOCGPTPEER, TIOCSPTLCK, MasterFile, SlaveFile
from emu.kernel.fs.special import FifoFile
from emu.kernel.run.block import Block
from emu.kernel.syscalls.record_locks import record_lock
from emu.kernel.syscalls.stat import base_of
from emu.kernel.syscalls.waiting import resumable, wait
from emu.kernel.table import syscall

if TYPE_CHECKING:
    from emu.kernel.fs.file import OpenFile
    from emu.kernel.kernel import Kernel
    from emu.kernel.run.block import Waiting
    from emu.kernel.run.task import Task

_STATUS_FLAGS = abi.O_APPEND | abi.O_ASYNC | abi.O_DIRECT | abi.O_NOATIME | abi.O_NONBLOCK
_CLOSE_RANGE_UNSHARE, _CLOSE_RANGE_CLOEXEC = 2, 4
_LONGEST_NAME = 249
_MFD_CLOEXEC, _MFD_ALLOW_SEALING, _MFD_HUGETLB = 1, 2, 4
_F_SEAL_SEAL = 1
_EFD_SEMAPHORE = 1
_PIPE_MAX = 1 << 20
_OWNER_COMMANDS = frozenset(
    (abi.F_SETOWN, abi.F_GETOWN, abi.F_SETSIG, abi.F_GETSIG, abi.F_SETOWN_EX, abi.F_GETOWN_EX, abi.F_NOTIFY)
)
"""What `owner` serves."""
_LOCK_SH, _LOCK_EX, _LOCK_NB, _LOCK_UN = 1, 2, 4, 8


def _install(k: Kernel, file: OpenFile, flags: int) -> int:
    fd = k.fds.install(file, bool(flags & abi.O_CLOEXEC))
    file.flags &= ~(abi.O_CREAT | abi.O_EXCL | abi.O_TRUNC | abi.O_NOCTTY | abi.O_CLOEXEC)
    return fd


def _open(k: Kernel, t: Task, dirfd: int, path: int, flags: int, mode: int) -> int | Waiting:
    k.fds.lowest()  # EMFILE before anything is made
    name = k.path(path)
    return opened(k, t, k.fs.open(name, flags | abi.O_LARGEFILE, mode, base_of(k, dirfd, name)), flags)


def opened(k: Kernel, t: Task, file: OpenFile, flags: int) -> int | Waiting:
    """Give a file its number; who opens one end of a FIFO waits for the other first."""
    if (
        isinstance(file, FifoFile)
        and not file.met()
        and not (file.readable and (file.writable or flags & abi.O_NONBLOCK))
    ):
        return _meet(k, t, file, flags)
    return _install(k, file, flags)


@resumable
def _meet(k: Kernel, t: Task, file: FifoFile, flags: int) -> Waiting:
    """Wait until somebody opens the other end of a FIFO. Source: fifo(7)."""
    block = Block(f"for the other end of {file.path} to be opened", None, file.met)
    try:
        while not file.met():
            yield from wait(k, t, block)
        return _install(k, file, flags)
    except OSError:
        file.closed()
        raise


@syscall(2, "open", "path", "flags:open", "mode")
def _sys_open(k: Kernel, t: Task, path: int, flags: int, mode: int) -> int | Waiting:
    return _open(k, t, abi.AT_FDCWD, path, flags, mode)


@syscall(257, "openat", "dirfd", "path", "flags:open", "mode")
def _sys_openat(k: Kernel, t: Task, dirfd: int, path: int, flags: int, mode: int) -> int | Waiting:
    return _open(k, t, dirfd, path, flags, mode)


@syscall(85, "creat", "path", "mode")
def _sys_creat(k: Kernel, t: Task, path: int, mode: int) -> int | Waiting:
    return _open(k, t, abi.AT_FDCWD, path, abi.O_CREAT | abi.O_WRONLY | abi.O_TRUNC, mode)


@syscall(3, "close", "fd")
def _sys_close(k: Kernel, t: Task, fd: int) -> int:
    k.fds.close(fd)
    return 0


@syscall(436, "close_range", "uint", "uint", "uint")
def _sys_close_range(k: Kernel, t: Task, first: int, last: int, flags: int) -> int:
    if first > last or flags & ~(_CLOSE_RANGE_UNSHARE | _CLOSE_RANGE_CLOEXEC):
        raise fail(errno.EINVAL)
    for fd in [fd for fd in k.fds.files if first <= fd <= last]:
        if flags & _CLOSE_RANGE_CLOEXEC:
            k.fds.cloexec.add(fd)
        else:
            k.fds.close(fd)
    return 0


@syscall(32, "dup", "fd")
def _sys_dup(k: Kernel, t: Task, fd: int) -> int:
    return k.fds.install(k.fds.get(fd))


@syscall(33, "dup2", "fd", "fd")
def _sys_dup2(k: Kernel, t: Task, old: int, new: int) -> int:
    file = k.fds.get(old)
    return new if old == new else k.fds.replace(new, file, False)


@syscall(292, "dup3", "fd", "fd", "flags:open")
def _sys_dup3(k: Kernel, t: Task, old: int, new: int, flags: int) -> int:
    if flags & ~abi.O_CLOEXEC or old == new:
        raise fail(errno.EINVAL)
    return k.fds.replace(new, k.fds.get(old), bool(flags & abi.O_CLOEXEC))


@syscall(72, "fcntl", "fd", "int", "hex")
def _sys_fcntl(k: Kernel, t: Task, fd: int, command: int, argument: int) -> int | Waiting:
    file = k.fds.get(fd)
    value = argument & abi.U32
    match command:
        case abi.F_DUPFD | abi.F_DUPFD_CLOEXEC:
            if value >= k.fds.limit:
                raise fail(errno.EINVAL)
            return k.fds.install(file, command == abi.F_DUPFD_CLOEXEC, k.fds.lowest(value))
        case abi.F_GETFD:
            return int(fd in k.fds.cloexec)
        case abi.F_SETFD:
            k.fds.cloexec.discard(fd)
            if value & abi.FD_CLOEXEC:
                k.fds.cloexec.add(fd)
            return 0
        case abi.F_GETFL:
            return file.flags
    if file.flags & abi.O_PATH:
        raise fail(errno.EBADF)
    match command:
        case abi.F_SETFL:
            if (value ^ file.flags) & abi.O_ASYNC and not _set_async(
                k, file, fd, on=bool(value & abi.O_ASYNC)
            ):
                value = value & ~abi.O_ASYNC | file.flags & abi.O_ASYNC
            file.flags = file.flags & ~_STATUS_FLAGS | value & _STATUS_FLAGS
        case abi.F_GETLK | abi.F_SETLK | abi.F_SETLKW | abi.F_OFD_GETLK | abi.F_OFD_SETLK | abi.F_OFD_SETLKW:
            return record_lock(k, t, file, command, argument)
        case _ if command in _OWNER_COMMANDS:
            from emu.kernel.syscalls.owner import owner_call  # few ask

            return owner_call(k, file, fd, command, argument)
        case abi.F_GETPIPE_SZ | abi.F_SETPIPE_SZ:
            return _pipe_size(file, value if command == abi.F_SETPIPE_SZ else None)
        case abi.F_ADD_SEALS | abi.F_GET_SEALS:
            return _seals(file, value if command == abi.F_ADD_SEALS else None)
        case _:
            raise fail(errno.EINVAL)
    return 0


def _set_async(k: Kernel, file: OpenFile, fd: int, *, on: bool) -> bool:
    from emu.kernel.syscalls.owner import set_async

    return set_async(k, file, fd, on=on)


def _pipe_size(file: OpenFile, wanted: int | None) -> int:
    if not isinstance(file, PipeEnd):
        raise fail(errno.EBADF)
    if wanted is not None:
        if wanted > _PIPE_MAX:
            raise fail(errno.EPERM)
        size = max(abi.PAGE_SIZE, 1 << max(wanted - 1, 0).bit_length())
        if size < len(file.pipe.pages) * abi.PAGE_SIZE:
            raise fail(errno.EBUSY)
        file.pipe.capacity = size
    return file.pipe.capacity


def _seals(file: OpenFile, added: int | None) -> int:
    if not isinstance(file, RegularFile) or not file.path.startswith("/memfd:"):
        raise fail(errno.EINVAL)
    if added is None:
        return file.file.seals
    if added & ~0x1F:
        raise fail(errno.EINVAL)
    if not file.writable or file.file.seals & _F_SEAL_SEAL:
        raise fail(errno.EPERM)
    file.file.seals |= added
    return 0


@syscall(16, "ioctl", "fd", "hex", "hex")
def _sys_ioctl(k: Kernel, t: Task, fd: int, request: int, argument: int) -> int:
    file = k.file(fd)
    request &= abi.U32
    match request:
        case _ if request == FIOCLEX:
            k.fds.cloexec.add(fd)
        case _ if request == FIONCLEX:
            k.fds.cloexec.discard(fd)
        case _ if request == FIONBIO:
            on = k.arena.copy_in(argument, 4) != bytes(4)
            file.flags = file.flags & ~abi.O_NONBLOCK | (abi.O_NONBLOCK if on else 0)
        case _ if request == FIONREAD and isinstance(file, RegularFile):
            left = max(file.size() - file.offset, 0)
            k.arena.copy_out(argument, min(left, 0x7FFFFFFF).to_bytes(4, "little"))
        case _ if request == TIOCGPTPEER and isinstance(file, MasterFile):
            slave = k.fs.open(file.slave_path(), argument & abi.U32 & ~abi.O_CREAT)
            fd = _install(k, slave, argument)
            slave.flags |= argument & abi.O_CLOEXEC
            return fd
        case _ if request in (TIOCGPTPEER, TIOCSPTLCK) and isinstance(file, SlaveFile):
            raise fail(errno.EIO)
        case _ if request == FIOASYNC:
            on = k.arena.copy_in(argument, 4) != bytes(4)
            if on != bool(file.flags & abi.O_ASYNC):
                if not _set_async(k, file, fd, on=on):
                    raise fail(errno.ENOTTY)
                file.flags ^= abi.O_ASYNC
        case _:
            return file.ioctl(k.arena, request, argument)
    return 0


def _pipe(k: Kernel, address: int, flags: int) -> int:
    if flags & ~(abi.O_CLOEXEC | abi.O_NONBLOCK | abi.O_DIRECT):
        raise fail(errno.EINVAL)
    reader, writer = make_pipe(k.fs, flags & ~abi.O_CLOEXEC)
    first = k.fds.install(reader, bool(flags & abi.O_CLOEXEC))
    try:
        second = k.fds.install(writer, bool(flags & abi.O_CLOEXEC))
    except OSError:
        k.fds.close(first)
        raise
    try:
        k.arena.copy_out(address, struct.pack("<ii", first, second))
    except MemoryFault:
        k.fds.close(first)
        k.fds.close(second)
        raise
    return 0


@syscall(22, "pipe", "ptr")
def _sys_pipe(k: Kernel, t: Task, address: int) -> int:
    return _pipe(k, address, 0)


@syscall(293, "pipe2", "ptr", "flags:open")
def _sys_pipe2(k: Kernel, t: Task, address: int, flags: int) -> int:
    return _pipe(k, address, flags)


@syscall(284, "eventfd", "uint")
def _sys_eventfd(k: Kernel, t: Task, count: int) -> int:
    return k.fds.install(EventFile(k.fs, count, False, 0))


@syscall(290, "eventfd2", "uint", "int")
def _sys_eventfd2(k: Kernel, t: Task, count: int, flags: int) -> int:
    if flags & ~(abi.O_CLOEXEC | abi.O_NONBLOCK | _EFD_SEMAPHORE):
        raise fail(errno.EINVAL)
    file = EventFile(k.fs, count, bool(flags & _EFD_SEMAPHORE), flags & abi.O_NONBLOCK)
    return k.fds.install(file, bool(flags & abi.O_CLOEXEC))


@syscall(283, "timerfd_create", "clock", "int")
def _sys_timerfd_create(k: Kernel, t: Task, clock: int, flags: int) -> int:
    if flags & ~(abi.O_CLOEXEC | abi.O_NONBLOCK):
        raise fail(errno.EINVAL)
    if clock not in (abi.CLOCK_REALTIME, abi.CLOCK_MONOTONIC, abi.CLOCK_BOOTTIME):
        raise fail(errno.EINVAL)
    return k.fds.install(TimerFile(k.fs, k.clock, clock, flags & abi.O_NONBLOCK), bool(flags & abi.O_CLOEXEC))


@syscall(319, "memfd_create", "path", "uint")
def _sys_memfd_create(k: Kernel, t: Task, name: int, flags: int) -> int:
    if flags & ~(_MFD_CLOEXEC | _MFD_ALLOW_SEALING):
        raise fail(errno.EINVAL)
    text = os.fsdecode(k.arena.read_cstr(name, _LONGEST_NAME + 1))
    if len(text) > _LONGEST_NAME:
        raise fail(errno.EINVAL)
    file = k.fs.nameless(f"/memfd:{text} (deleted)", abi.O_RDWR | abi.O_LARGEFILE, 0o777)
    file.file.seals = 0 if flags & _MFD_ALLOW_SEALING else _F_SEAL_SEAL
    return k.fds.install(file, bool(flags & _MFD_CLOEXEC))


@syscall(73, "flock", "fd", "int")
@resumable
def _sys_flock(k: Kernel, t: Task, fd: int, operation: int) -> Waiting:
    kind = operation & ~_LOCK_NB
    if kind not in (_LOCK_SH, _LOCK_EX, _LOCK_UN):
        raise fail(errno.EINVAL)
    file = k.file(fd)
    if kind == _LOCK_UN:
        k.locks.release(file)
        return 0
    exclusive = kind == _LOCK_EX
    while not k.locks.acquire(file, exclusive=exclusive):
        if operation & _LOCK_NB:
            raise fail(errno.EAGAIN)
        what = f"for the flock of {file.path}"
        yield from wait(k, t, Block(what, ready=lambda: k.locks.free(file, exclusive=exclusive)))
    return 0


@syscall(221, "fadvise64", "fd", "offset", "offset", "int")
def _sys_fadvise64(k: Kernel, t: Task, fd: int, offset: int, length: int, advice: int) -> int:
    if isinstance(k.file(fd), PipeEnd):
        raise fail(errno.ESPIPE)
    if not 0 <= advice <= 5 or length < 0:
        raise fail(errno.EINVAL)
    return 0


@syscall(187, "readahead", "fd", "offset", "size")
def _sys_readahead(k: Kernel, t: Task, fd: int, offset: int, count: int) -> int:
    file = k.file(fd)
    if not file.readable:
        raise fail(errno.EBADF)
    if not isinstance(file, RegularFile):
        raise fail(errno.EINVAL)
    return 0


@syscall(74, "fsync", "fd")
def _sys_fsync(k: Kernel, t: Task, fd: int) -> int:
    k.file(fd).sync()
    return 0


@syscall(75, "fdatasync", "fd")
def _sys_fdatasync(k: Kernel, t: Task, fd: int) -> int:
    k.file(fd).sync()
    return 0


@syscall(162, "sync")
def _sys_sync(k: Kernel, t: Task) -> int:
    return 0


@syscall(306, "syncfs", "fd")
def _sys_syncfs(k: Kernel, t: Task, fd: int) -> int:
    k.file(fd)
    return 0


@syscall(277, "sync_file_range", "fd", "offset", "offset", "uint")
def _sys_sync_file_range(k: Kernel, t: Task, fd: int, offset: int, length: int, flags: int) -> int:
    file = k.file(fd)
    if flags & ~7 or offset < 0 or length < 0 or offset + length > abi.S64_MAX:
        raise fail(errno.EINVAL)
    if file.stat().mode & abi.S_IFMT not in (abi.S_IFREG, abi.S_IFDIR, abi.S_IFBLK):
        raise fail(errno.ESPIPE)
    return 0
