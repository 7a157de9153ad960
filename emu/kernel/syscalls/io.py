"""Reading and writing.

Source: read(2), write(2), pread(2), readv(2), lseek(2).
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Generator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from emu.core.errors import MemoryFault
from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.fs.file import OpenFile, SeekableFile
from emu.kernel.fs.notices import IN_ACCESS, IN_MODIFY
from emu.kernel.run.block import Block
from emu.kernel.run.signal_info import Interrupted, SignalInfo
from emu.kernel.syscalls.waiting import resumable, wait, wait_for_file
from emu.kernel.table import syscall
from emu.machine.arena import HIGH_END

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel
    from emu.kernel.run.block import Waiting
    from emu.kernel.run.task import Task

    Reading = Generator[Block, None, bytes]

_PIECE = 1 << 20
_SEEK_HOLE = 4
_NOT_MOVED = frozenset(f"anon_inode:[{name}]" for name in ("eventfd", "signalfd", "timerfd", "eventpoll")) | {
    "anon_inode:inotify"
}
"""Files that lseek leaves where they are, without a word."""
_RWF_APPEND, _RWF_NOWAIT, _RWF_SUPPORTED = 0x10, 0x8, 0x1F


def _receive(k: Kernel, t: Task, file: OpenFile, vectors: Sequence[tuple[int, int]]) -> Waiting:
    from emu.kernel.syscalls.messages import receive  # it is there: the file is a socket

    return receive(k, t, file, vectors)


def _send(k: Kernel, t: Task, file: OpenFile, vectors: Sequence[tuple[int, int]]) -> Waiting:
    from emu.kernel.syscalls.messages import send

    return send(k, t, file, vectors)


def readable_file(k: Kernel, fd: int) -> OpenFile:
    """Return the file to be read at a descriptor. Raises OSError: EBADF, EINVAL for what nobody can read."""
    file = k.file(fd)
    if not file.readable:
        raise fail(errno.EBADF)
    if type(file).read is OpenFile.read and not file.is_socket:
        raise fail(errno.EINVAL)
    return file


def writable_file(k: Kernel, fd: int) -> OpenFile:
    """Return the file to be written at a descriptor. Raises OSError: EBADF, EINVAL as `readable_file`."""
    file = k.file(fd)
    if not file.writable:
        raise fail(errno.EBADF)
    if type(file).write is OpenFile.write and not file.is_socket:
        raise fail(errno.EINVAL)
    return file


def read_bytes(k: Kernel, t: Task, file: OpenFile, size: int, offset: int | None) -> Reading:
    """Read once, waiting for the first byte unless the file is non-blocking."""
    while True:
        try:
            data = file.read(size) if offset is None else file.pread(size, offset)
            if data and k.fs.notices is not None:
                k.fs.notices.of_file(file, IN_ACCESS)
            return data
        except BlockingIOError:
            if file.flags & abi.O_NONBLOCK:
                raise
            yield from wait_for_file(k, t, file, abi.POLLIN, "to read from")


def write_bytes(k: Kernel, t: Task, file: OpenFile, data: bytes, offset: int | None) -> Waiting:
    """Write all that the file takes, waiting for room unless it is non-blocking."""
    done = 0
    try:
        while True:
            rest = data[done:] if done else data
            try:
                done += file.write(rest) if offset is None else file.pwrite(rest, offset + done)
                if done and k.fs.notices is not None:
                    k.fs.notices.of_file(file, IN_MODIFY)
                if done >= len(data) or file.flags & abi.O_NONBLOCK:
                    return done
            except BlockingIOError:
                if file.flags & abi.O_NONBLOCK:
                    if done:
                        return done
                    raise
            try:
                ready = partial(file.takes, rest)
                block = Block(f"to write to {file.path}", None, ready, ((file, abi.POLLOUT),), begun=done > 0)
                yield from wait(k, t, block)
            except Interrupted:
                if done:
                    return done
                raise
    except BrokenPipeError:
        k.signals.send(SignalInfo(abi.SIGPIPE, abi.SI_USER, k.pid, k.credentials.users.real), t)
        if done:
            return done
        raise


def _read_to(k: Kernel, t: Task, file: OpenFile, address: int, size: int, offset: int | None) -> Waiting:
    """Read `size` bytes to guest memory, in pieces, so that a huge size costs no memory."""
    done = 0
    while done < size or size == 0:
        wanted = min(size - done, _PIECE)
        before = file.offset
        try:
            data = yield from read_bytes(k, t, file, wanted, None if offset is None else offset + done)
            stored = _store(k, file, address + done, data)
        except (OSError, MemoryFault):
            file.offset = before  # what could not be stored has not been read
            if done:
                break
            raise
        if stored < len(data):
            if offset is None:
                file.offset = before + stored
            return done + stored
        done += len(data)
        if len(data) < wanted or size == 0 or not k.arena.budget.room():  # no memory: the trap ends in that
            break
    return done


def _store(k: Kernel, file: OpenFile, address: int, data: bytes) -> int:
    """Store what was read, and return how much: of a file up to the first byte that cannot be written,
    where Linux stops. Raises MemoryFault.
    """
    try:
        k.arena.copy_out(address, data)
    except MemoryFault as fault:
        if not file.seekable or fault.address <= address:
            raise
        k.arena.copy_out(address, data[: fault.address - address])
        return fault.address - address
    return len(data)


def _load(k: Kernel, file: OpenFile, address: int, size: int) -> bytes:
    """Return what is to be written: to a file that which can be read, as `_store`. Raises MemoryFault."""
    try:
        return k.arena.copy_in(address, size)
    except MemoryFault as fault:
        if not file.seekable or fault.address <= address:
            raise
        return k.arena.copy_in(address, fault.address - address)


def _write_from(k: Kernel, t: Task, file: OpenFile, address: int, size: int, offset: int | None) -> Waiting:
    if size <= _PIECE:
        return (yield from write_bytes(k, t, file, _load(k, file, address, size), offset))
    done = 0
    while done < size:
        wanted = min(size - done, _PIECE)
        try:
            data = _load(k, file, address + done, wanted)
            count = yield from write_bytes(k, t, file, data, None if offset is None else offset + done)
        except (OSError, MemoryFault):
            if done:
                break
            raise
        done += count
        if count < wanted:
            break
    return done


@syscall(0, "read", "fd", "out", "size")
def _sys_read(k: Kernel, t: Task, fd: int, address: int, size: int) -> Waiting:
    file, size = readable_file(k, fd), checked_size(size, address)
    if file.is_socket:
        return _receive(k, t, file, ((address, size),))
    return (_read_once if size <= _PIECE else _read_to)(k, t, file, address, size, None)


_read_once, _write_once = resumable(_read_to), resumable(_write_from)
"""Of at most a piece, so that nothing is done before the first wait."""


@syscall(1, "write", "fd", "in", "size")
def _sys_write(k: Kernel, t: Task, fd: int, address: int, size: int) -> Waiting:
    file, size = writable_file(k, fd), checked_size(size, address)
    if file.is_socket:
        return _send(k, t, file, ((address, size),))
    return (_write_once if size <= _PIECE else _write_from)(k, t, file, address, size, None)


def checked_size(size: int, address: int | None = None) -> int:
    """Return how many bytes of those asked for can be moved.

    Raises OSError: EINVAL, EFAULT for a buffer that reaches beyond a user's addresses.
    """
    if address is not None and address + size > HIGH_END:
        raise fail(errno.EFAULT)
    if size > abi.S64_MAX:
        raise fail(errno.EINVAL)
    return min(size, abi.MAX_RW_COUNT)


def _positioned(k: Kernel, fd: int, offset: int) -> OpenFile:
    """Return a file to be read or written at `offset`. Raises OSError: EINVAL, EBADF, ESPIPE."""
    if offset < 0:
        raise fail(errno.EINVAL)
    file = k.file(fd)
    if not file.seekable:
        raise fail(errno.ESPIPE)
    return file


def _within(offset: int, size: int) -> None:
    if offset + size > abi.S64_MAX:
        raise fail(errno.EINVAL)


@syscall(17, "pread64", "fd", "out", "size", "offset")
def _sys_pread64(k: Kernel, t: Task, fd: int, address: int, size: int, offset: int) -> Waiting:
    _positioned(k, fd, offset)
    file, size = readable_file(k, fd), checked_size(size, address)
    _within(offset, size)
    return _read_to(k, t, file, address, size, offset)


@syscall(18, "pwrite64", "fd", "in", "size", "offset")
def _sys_pwrite64(k: Kernel, t: Task, fd: int, address: int, size: int, offset: int) -> Waiting:
    _positioned(k, fd, offset)
    file, size = writable_file(k, fd), checked_size(size, address)
    _within(offset, size)
    return _write_from(k, t, file, address, size, _append(file, offset))


def _append(file: OpenFile, offset: int) -> int:
    """Where a positioned write goes: with O_APPEND always to the end of a file. Source: pwrite(2), "Bugs"."""
    return file.size() if file.flags & abi.O_APPEND and isinstance(file, SeekableFile) else offset


def read_iovec(k: Kernel, address: int, count: int) -> list[tuple[int, int]]:
    """Return (address, size) of each element of an iovec array, the sum limited as Linux does.

    Raises OSError (EINVAL; EFAULT for an element outside the user's addresses).
    """
    if not 0 <= count <= abi.IOV_MAX:
        raise fail(errno.EINVAL)
    room = abi.MAX_RW_COUNT
    vectors = []
    beyond: MemoryFault | None = None
    try:
        raw = k.arena.copy_in(address, 16 * count)
    except MemoryFault as fault:  # what comes before that is looked at first
        beyond = fault
        raw = k.arena.copy_in(address, max(fault.address - address, 0) & -16)
    asked = list(struct.iter_unpack("<QQ", raw))
    if any(size > abi.S64_MAX for _, size in asked):
        raise fail(errno.EINVAL)
    if beyond is not None:
        raise beyond
    for base, size in asked:
        if base + size > HIGH_END:
            raise fail(errno.EFAULT)
        size = min(size, room)
        room -= size
        vectors.append((base, size))
    return vectors


def read_vectors(k: Kernel, t: Task, file: OpenFile, address: int, count: int, offset: int | None) -> Waiting:
    """Read to an iovec array; None is the file's own offset."""
    vectors = read_iovec(k, address, count)
    if not any(size for _, size in vectors):
        return 0
    if file.is_socket:
        return (yield from _receive(k, t, file, vectors))
    done = 0
    for base, size in vectors:
        if not size:
            continue
        if done and not file.seekable and not file.poll() & (abi.POLLIN | abi.POLLHUP):
            break
        try:
            got = yield from _read_to(k, t, file, base, size, None if offset is None else offset + done)
        except (OSError, MemoryFault):
            if done:
                break
            raise
        done += got
        if got < size:
            break
    return done


def write_vectors(
    k: Kernel, t: Task, file: OpenFile, address: int, count: int, offset: int | None
) -> Waiting:
    """Write what an iovec array names; None is the file's own offset."""
    vectors = read_iovec(k, address, count)
    if file.is_socket:
        return (yield from _send(k, t, file, vectors))
    if not any(size for _, size in vectors):
        return 0
    if sum(size for _, size in vectors) <= _PIECE:
        try:
            data = b"".join(k.arena.copy_in(base, size) for base, size in vectors)
        except MemoryFault:
            pass  # what comes before that is written
        else:
            return (yield from write_bytes(k, t, file, data, offset))
    done = 0
    for base, size in vectors:
        try:
            count = yield from _write_from(k, t, file, base, size, None if offset is None else offset + done)
        except (OSError, MemoryFault):
            if done:
                break
            raise
        done += count
        if count < size:
            break
    return done


@syscall(19, "readv", "fd", "ptr", "uint")
def _sys_readv(k: Kernel, t: Task, fd: int, address: int, count: int) -> Waiting:
    return read_vectors(k, t, readable_file(k, fd), address, count, None)


@syscall(20, "writev", "fd", "ptr", "uint")
def _sys_writev(k: Kernel, t: Task, fd: int, address: int, count: int) -> Waiting:
    return write_vectors(k, t, writable_file(k, fd), address, count, None)


@syscall(295, "preadv", "fd", "ptr", "uint", "offset")
def _sys_preadv(k: Kernel, t: Task, fd: int, address: int, count: int, offset: int) -> Waiting:
    _positioned(k, fd, offset)
    file = readable_file(k, fd)
    return read_vectors(k, t, file, address, count, offset)


@syscall(296, "pwritev", "fd", "ptr", "uint", "offset")
def _sys_pwritev(k: Kernel, t: Task, fd: int, address: int, count: int, offset: int) -> Waiting:
    _positioned(k, fd, offset)
    file = writable_file(k, fd)
    return write_vectors(k, t, file, address, count, _append(file, offset))


@syscall(327, "preadv2", "fd", "ptr", "uint", "offset", "long", "int")
def _sys_preadv2(
    k: Kernel, t: Task, fd: int, address: int, count: int, offset: int, high: int, flags: int
) -> Waiting:
    if flags & ~_RWF_SUPPORTED:
        raise fail(errno.EOPNOTSUPP)
    if offset == -1:
        return read_vectors(k, t, readable_file(k, fd), address, count, None)
    return _sys_preadv(k, t, fd, address, count, offset)


@syscall(328, "pwritev2", "fd", "ptr", "uint", "offset", "long", "int")
def _sys_pwritev2(
    k: Kernel, t: Task, fd: int, address: int, count: int, offset: int, high: int, flags: int
) -> Waiting:
    if flags & ~_RWF_SUPPORTED:
        raise fail(errno.EOPNOTSUPP)
    if flags & _RWF_APPEND:
        file = writable_file(k, fd)
        return write_vectors(k, t, file, address, count, file.stat().size)
    if offset == -1:
        return write_vectors(k, t, writable_file(k, fd), address, count, None)
    return _sys_pwritev(k, t, fd, address, count, offset)


@syscall(8, "lseek", "fd", "offset", "int")
def _sys_lseek(k: Kernel, t: Task, fd: int, offset: int, whence: int) -> int:
    file = k.file(fd)
    if not 0 <= whence <= _SEEK_HOLE:
        raise fail(errno.EINVAL)
    return file.offset if file.path in _NOT_MOVED else file.seek(offset, whence)
