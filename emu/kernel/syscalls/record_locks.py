"""fcntl's locks of parts of files. Source: fcntl_locking(2)."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.fs.record_locks import END, RecordLock
from emu.kernel.run.block import Block
from emu.kernel.syscalls.waiting import wait

if TYPE_CHECKING:
    from emu.kernel.fs.file import OpenFile
    from emu.kernel.kernel import Kernel
    from emu.kernel.run.block import Waiting
    from emu.kernel.run.task import Task

FLOCK = struct.Struct("<hh4xqqi4x")
"""struct flock: type, whence, start, length, pid."""
_READ, _WRITE = 0, 1
_OF_DESCRIPTION = frozenset((abi.F_OFD_GETLK, abi.F_OFD_SETLK, abi.F_OFD_SETLKW))


def _range(file: OpenFile, whence: int, start: int, length: int) -> tuple[int, int]:
    """Return the bytes [start, end) that a struct flock means. Raises OSError(EINVAL)."""
    if whence not in (abi.SEEK_SET, abi.SEEK_CUR, abi.SEEK_END):
        raise fail(errno.EINVAL)
    first = start + (0, file.offset, file.stat().size)[whence]
    last = first + length if length else END
    if length < 0:
        first, last = first + length, first
    if first < 0:
        raise fail(errno.EINVAL)
    return first, last


def record_lock(k: Kernel, t: Task, file: OpenFile, command: int, address: int) -> int | Waiting:
    """Serve F_GETLK, F_SETLK, F_SETLKW and their OFD kin. Raises OSError EINVAL, EBADF, EAGAIN, EDEADLK."""
    kind, whence, start, length, pid = FLOCK.unpack(k.arena.copy_in(address, FLOCK.size))
    description = command in _OF_DESCRIPTION
    if kind not in (_READ, _WRITE, abi.F_UNLCK) or description and pid:
        raise fail(errno.EINVAL)
    first, last = _range(file, whence, start, length)
    locks, status = k.locks.records, file.stat()
    key = status.dev, status.ino
    wanted = RecordLock(first, last, kind == _WRITE, file if description else k.pid)
    if command in (abi.F_GETLK, abi.F_OFD_GETLK):
        if kind == abi.F_UNLCK:
            raise fail(errno.EINVAL)
        other = locks.conflict(key, wanted)
        if other is None:
            k.arena.copy_out(address, FLOCK.pack(abi.F_UNLCK, whence, start, length, pid))
            return 0
        size = 0 if other.end == END else other.end - other.start
        owner = other.owner if isinstance(other.owner, int) else -1
        k.arena.copy_out(address, FLOCK.pack(int(other.exclusive), abi.SEEK_SET, other.start, size, owner))
        return 0
    if kind == abi.F_UNLCK:
        locks.clear(key, first, last, wanted.owner)
        return 0
    if kind == _READ and not file.readable or kind == _WRITE and not file.writable:
        raise fail(errno.EBADF)
    if description:
        file.locks = k.locks
    else:
        k.fds.watch_closes(k.locks, k.pid)
    if locks.conflict(key, wanted) is None:
        locks.put(key, wanted)
        return 0
    if command in (abi.F_SETLK, abi.F_OFD_SETLK):
        raise fail(errno.EAGAIN)
    return _lock_later(k, t, file, key, wanted)


def _lock_later(k: Kernel, t: Task, file: OpenFile, key: tuple[int, int], wanted: RecordLock) -> Waiting:
    locks = k.locks.records
    while locks.conflict(key, wanted) is not None:
        if isinstance(wanted.owner, int) and not locks.wait(key, wanted):
            raise fail(errno.EDEADLK)
        try:
            ready = lambda: locks.conflict(key, wanted) is None  # noqa: E731
            yield from wait(k, t, Block(f"for a lock of {file.path}", ready=ready))
        finally:
            locks.waited(wanted.owner)
    locks.put(key, wanted)
    return 0
