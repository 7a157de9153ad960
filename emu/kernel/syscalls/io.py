"""Reading and writing.

Source: read(2), write(2), pread(2), readv(2), lseek(2), sendfile(2), copy_file_range(2), splice(2).
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

from emu.core.errors import MemoryFault
from emu.kernel import abi
from emu.kernel.inodes import fail
from emu.kernel.openfile import RegularFile, SeekableFile
from emu.kernel.signals import Interrupted, SignalInfo
from emu.kernel.table import syscall
from emu.kernel.waiting import resumable, wait_for_file

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel
    from emu.kernel.openfile import OpenFile
    from emu.kernel.task import Task
    from emu.kernel.waiting import Block, Waiting

    Reading = Generator[Block, None, bytes]

_PIECE = 1 << 20
_TASK_SIZE = (1 << 47) - abi.PAGE_SIZE
_RWF_APPEND, _RWF_NOWAIT, _RWF_SUPPORTED = 0x10, 0x8, 0x1F


def _receive(k: Kernel, t: Task, file: OpenFile, vectors: Sequence[tuple[int, int]]) -> Waiting:
    from emu.kernel.syscalls.messages import receive  # it is there: the file is a socket

    return receive(k, t, file, vectors)


def _send(k: Kernel, t: Task, file: OpenFile, data: bytes) -> Waiting:
    from emu.kernel.syscalls.messages import send

    return send(k, t, file, data)


def _readable(k: Kernel, fd: int) -> OpenFile:
    file = k.file(fd)
    if not file.readable:
        raise fail(errno.EBADF)
    return file


def _writable(k: Kernel, fd: int) -> OpenFile:
    file = k.file(fd)
    if not file.writable:
        raise fail(errno.EBADF)
    return file


def _read(k: Kernel, t: Task, file: OpenFile, size: int, offset: int | None) -> Reading:
    """Read once, waiting for the first byte unless the file is non-blocking."""
    while True:
        try:
            return file.read(size) if offset is None else file.pread(size, offset)
        except BlockingIOError:
            if file.flags & abi.O_NONBLOCK:
                raise
            yield from wait_for_file(k, t, file, abi.POLLIN, "to read from")


def _write(k: Kernel, t: Task, file: OpenFile, data: bytes, offset: int | None) -> Waiting:
    """Write all that the file takes, waiting for room unless it is non-blocking."""
    done = 0
    try:
        while True:
            try:
                rest = data[done:] if done else data
                done += file.write(rest) if offset is None else file.pwrite(rest, offset + done)
                if done >= len(data) or file.flags & abi.O_NONBLOCK:
                    return done
            except BlockingIOError:
                if file.flags & abi.O_NONBLOCK:
                    if done:
                        return done
                    raise
            try:
                yield from wait_for_file(k, t, file, abi.POLLOUT, "to write to", begun=done > 0)
            except Interrupted:
                if done:
                    return done
                raise
    except BrokenPipeError:
        k.signals.send(SignalInfo(abi.SIGPIPE, abi.SI_USER, abi.PID, k.credentials.users.real), t)
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
            data = yield from _read(k, t, file, wanted, None if offset is None else offset + done)
            k.arena.copy_out(address + done, data)
        except (OSError, MemoryFault):
            file.offset = before  # what could not be stored has not been read
            if done:
                break
            raise
        done += len(data)
        if len(data) < wanted or size == 0:
            break
    return done


def _write_from(k: Kernel, t: Task, file: OpenFile, address: int, size: int, offset: int | None) -> Waiting:
    if size <= _PIECE:
        return (yield from _write(k, t, file, k.arena.copy_in(address, size), offset))
    done = 0
    while done < size:
        wanted = min(size - done, _PIECE)
        try:
            data = k.arena.copy_in(address + done, wanted)
            count = yield from _write(k, t, file, data, None if offset is None else offset + done)
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
    file, size = _readable(k, fd), _checked(size)
    if file.is_socket:
        return _receive(k, t, file, ((address, size),))
    return (_read_once if size <= _PIECE else _read_to)(k, t, file, address, size, None)


_read_once, _write_once = resumable(_read_to), resumable(_write_from)
"""Of at most a piece, so that nothing is done before the first wait."""


@syscall(1, "write", "fd", "in", "size")
def _sys_write(k: Kernel, t: Task, fd: int, address: int, size: int) -> Waiting:
    file, size = _writable(k, fd), _checked(size)
    if file.is_socket:
        return _send(k, t, file, k.arena.copy_in(address, size))
    return (_write_once if size <= _PIECE else _write_from)(k, t, file, address, size, None)


def _checked(size: int) -> int:
    if size > abi.S64_MAX:
        raise fail(errno.EINVAL)
    return min(size, abi.MAX_RW_COUNT)


def _positioned(file: OpenFile, offset: int) -> None:
    if offset < 0:
        raise fail(errno.EINVAL)
    if not file.seekable:
        raise fail(errno.ESPIPE)


@syscall(17, "pread64", "fd", "out", "size", "offset")
def _sys_pread64(k: Kernel, t: Task, fd: int, address: int, size: int, offset: int) -> Waiting:
    file = _readable(k, fd)
    _positioned(file, offset)
    return _read_to(k, t, file, address, _checked(size), offset)


@syscall(18, "pwrite64", "fd", "in", "size", "offset")
def _sys_pwrite64(k: Kernel, t: Task, fd: int, address: int, size: int, offset: int) -> Waiting:
    file = _writable(k, fd)
    _positioned(file, offset)
    return _write_from(k, t, file, address, _checked(size), _append(file, offset))


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
    for base, size in struct.iter_unpack("<QQ", k.arena.copy_in(address, 16 * count)):
        if size > abi.S64_MAX:
            raise fail(errno.EINVAL)
        if base + size > _TASK_SIZE:
            raise fail(errno.EFAULT)
        size = min(size, room)
        room -= size
        vectors.append((base, size))
    return vectors


def _readv(k: Kernel, t: Task, file: OpenFile, address: int, count: int, offset: int | None) -> Waiting:
    vectors = read_iovec(k, address, count)
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


def _writev(k: Kernel, t: Task, file: OpenFile, address: int, count: int, offset: int | None) -> Waiting:
    vectors = read_iovec(k, address, count)
    if file.is_socket:
        return (yield from _send(k, t, file, b"".join(k.arena.copy_in(base, size) for base, size in vectors)))
    if sum(size for _, size in vectors) <= _PIECE:
        data = b"".join(k.arena.copy_in(base, size) for base, size in vectors)
        return (yield from _write(k, t, file, data, offset))
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


@syscall(19, "readv", "fd", "ptr", "long")
def _sys_readv(k: Kernel, t: Task, fd: int, address: int, count: int) -> Waiting:
    return _readv(k, t, _readable(k, fd), address, count, None)


@syscall(20, "writev", "fd", "ptr", "long")
def _sys_writev(k: Kernel, t: Task, fd: int, address: int, count: int) -> Waiting:
    return _writev(k, t, _writable(k, fd), address, count, None)


@syscall(295, "preadv", "fd", "ptr", "long", "offset")
def _sys_preadv(k: Kernel, t: Task, fd: int, address: int, count: int, offset: int) -> Waiting:
    file = _readable(k, fd)
    _positioned(file, offset)
    return _readv(k, t, file, address, count, offset)


@syscall(296, "pwritev", "fd", "ptr", "long", "offset")
def _sys_pwritev(k: Kernel, t: Task, fd: int, address: int, count: int, offset: int) -> Waiting:
    file = _writable(k, fd)
    _positioned(file, offset)
    return _writev(k, t, file, address, count, _append(file, offset))


@syscall(327, "preadv2", "fd", "ptr", "long", "offset", "long", "int")
def _sys_preadv2(
    k: Kernel, t: Task, fd: int, address: int, count: int, offset: int, high: int, flags: int
) -> Waiting:
    if flags & ~_RWF_SUPPORTED:
        raise fail(errno.EOPNOTSUPP)
    if offset == -1:
        return _readv(k, t, _readable(k, fd), address, count, None)
    return _sys_preadv(k, t, fd, address, count, offset)


@syscall(328, "pwritev2", "fd", "ptr", "long", "offset", "long", "int")
def _sys_pwritev2(
    k: Kernel, t: Task, fd: int, address: int, count: int, offset: int, high: int, flags: int
) -> Waiting:
    if flags & ~_RWF_SUPPORTED:
        raise fail(errno.EOPNOTSUPP)
    if flags & _RWF_APPEND:
        file = _writable(k, fd)
        return _writev(k, t, file, address, count, file.stat().size)
    if offset == -1:
        return _writev(k, t, _writable(k, fd), address, count, None)
    return _sys_pwritev(k, t, fd, address, count, offset)


@syscall(8, "lseek", "fd", "offset", "int")
def _sys_lseek(k: Kernel, t: Task, fd: int, offset: int, whence: int) -> int:
    return k.file(fd).seek(offset, whence)


def _copy(
    k: Kernel,
    t: Task,
    source: OpenFile,
    target: OpenFile,
    size: int,
    read_at: int | None,
    write_at: int | None,
) -> Waiting:
    """Copy up to `size` bytes between two files, from and to offsets where given; return how many."""
    done = 0
    while done < size:
        try:
            data = yield from _read(
                k, t, source, min(size - done, _PIECE), None if read_at is None else read_at + done
            )
            if not data:
                break
            count = yield from _write(k, t, target, data, None if write_at is None else write_at + done)
        except OSError:
            if done:
                break
            raise
        done += count
        if not source.seekable or count < len(data):
            break
    return done


def _offset_at(k: Kernel, address: int) -> int | None:
    if not address:
        return None
    offset = int.from_bytes(k.arena.copy_in(address, 8), "little", signed=True)
    if offset < 0:
        raise fail(errno.EINVAL)
    return offset


def _store_offset(k: Kernel, address: int, start: int | None, count: int) -> None:
    if start is not None:
        k.arena.copy_out(address, (start + count).to_bytes(8, "little"))


@syscall(40, "sendfile", "fd", "fd", "ptr", "size")
def _sys_sendfile(k: Kernel, t: Task, out: int, source: int, address: int, size: int) -> Waiting:
    reader, writer = _readable(k, source), _writable(k, out)
    start = _offset_at(k, address)
    if not reader.seekable:
        raise fail(errno.EINVAL if start is None else errno.ESPIPE)
    if writer.flags & abi.O_APPEND:
        raise fail(errno.EINVAL)
    count = yield from _copy(k, t, reader, writer, _checked(size), start, None)
    _store_offset(k, address, start, count)
    return count


@syscall(326, "copy_file_range", "fd", "ptr", "fd", "ptr", "size", "uint")
def _sys_copy_file_range(
    k: Kernel, t: Task, source: int, read_at: int, out: int, write_at: int, size: int, flags: int
) -> Waiting:
    reader, writer = _readable(k, source), _writable(k, out)
    if flags or not isinstance(reader, RegularFile) or not isinstance(writer, RegularFile):
        raise fail(errno.EINVAL)
    if writer.flags & abi.O_APPEND:
        raise fail(errno.EBADF)
    read_start, write_start = _offset_at(k, read_at), _offset_at(k, write_at)
    first = reader.offset if read_start is None else read_start
    second = writer.offset if write_start is None else write_start
    size = min(_checked(size), max(reader.size() - first, 0))  # what there is to copy decides what overlaps
    if reader.inode is writer.inode and first < second + size and second < first + size:
        raise fail(errno.EINVAL)
    count = yield from _copy(k, t, reader, writer, size, read_start, write_start)
    _store_offset(k, read_at, read_start, count)
    _store_offset(k, write_at, write_start, count)
    return count


@syscall(275, "splice", "fd", "ptr", "fd", "ptr", "size", "uint")
def _sys_splice(
    k: Kernel, t: Task, source: int, read_at: int, out: int, write_at: int, size: int, flags: int
) -> Waiting:
    reader, writer = _readable(k, source), _writable(k, out)
    fifos = [file.stat().mode & abi.S_IFMT == abi.S_IFIFO for file in (reader, writer)]
    if flags & ~0xF or not any(fifos):
        raise fail(errno.EINVAL)
    if read_at and fifos[0] or write_at and fifos[1]:
        raise fail(errno.ESPIPE)
    read_start, write_start = _offset_at(k, read_at), _offset_at(k, write_at)
    count = yield from _copy(k, t, reader, writer, min(_checked(size), 1 << 16), read_start, write_start)
    _store_offset(k, read_at, read_start, count)
    _store_offset(k, write_at, write_start, count)
    return count
