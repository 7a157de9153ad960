"""Copying from one file to another inside the kernel.

Source: sendfile(2), copy_file_range(2), splice(2), tee(2), vmsplice(2).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.fs.inodes import RegularFile
from emu.kernel.fs.pipe import Pipe, PipeEnd
from emu.kernel.fs.special import FifoFile
from emu.kernel.run.signal_info import SignalInfo
from emu.kernel.syscalls.io import (
    checked_size,
    read_bytes,
    read_vectors,
    readable_file,
    writable_file,
    write_bytes,
    write_vectors,
)
from emu.kernel.syscalls.waiting import wait_for_file
from emu.kernel.table import syscall

if TYPE_CHECKING:
    from emu.kernel.fs.file import OpenFile
    from emu.kernel.kernel import Kernel
    from emu.kernel.run.block import Waiting
    from emu.kernel.run.task import Task

_PIECE = 1 << 20
_SPLICE_F_NONBLOCK, _SPLICE_FLAGS = 2, 0xF


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
            data = yield from read_bytes(
                k, t, source, min(size - done, _PIECE), None if read_at is None else read_at + done
            )
            if not data:
                break
            count = yield from write_bytes(k, t, target, data, None if write_at is None else write_at + done)
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
    if address:
        k.arena.copy_in(address, 8)
    if not k.file(source).readable:
        raise fail(errno.EBADF)
    if address and not k.file(source).seekable:
        raise fail(errno.ESPIPE)
    reader = readable_file(k, source)
    start, writer = _offset_at(k, address), writable_file(k, out)
    if not reader.seekable:
        raise fail(errno.EINVAL)
    if writer.flags & abi.O_APPEND:
        raise fail(errno.EINVAL)
    count = yield from _copy(k, t, reader, writer, checked_size(size), start, None)
    _store_offset(k, address, start, count)
    return count


@syscall(326, "copy_file_range", "fd", "ptr", "fd", "ptr", "size", "uint")
def _sys_copy_file_range(
    k: Kernel, t: Task, source: int, read_at: int, out: int, write_at: int, size: int, flags: int
) -> Waiting:
    k.file(source), k.file(out)
    read_start, write_start = _offset_at(k, read_at), _offset_at(k, write_at)
    if flags:
        raise fail(errno.EINVAL)
    kinds = [k.file(fd).stat().mode & abi.S_IFMT for fd in (source, out)]
    if abi.S_IFDIR in kinds:
        raise fail(errno.EISDIR)
    if kinds != [abi.S_IFREG, abi.S_IFREG]:
        raise fail(errno.EINVAL)
    reader, writer = readable_file(k, source), writable_file(k, out)
    if not isinstance(reader, RegularFile) or not isinstance(writer, RegularFile):
        raise fail(errno.EINVAL)
    if writer.flags & abi.O_APPEND:
        raise fail(errno.EBADF)
    first = reader.offset if read_start is None else read_start
    second = writer.offset if write_start is None else write_start
    size = min(
        checked_size(size), max(reader.size() - first, 0)
    )  # what there is to copy decides what overlaps
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
    if not size:
        return 0
    if flags & ~0xF:
        raise fail(errno.EINVAL)
    fifos = [k.file(fd).stat().mode & abi.S_IFMT == abi.S_IFIFO for fd in (source, out)]
    if read_at and fifos[0] or write_at and fifos[1]:
        raise fail(errno.ESPIPE)
    for place in (write_at, read_at):
        if place:
            k.arena.copy_in(place, 8)
    reader, writer = readable_file(k, source), writable_file(k, out)
    if not any(fifos):
        raise fail(errno.EINVAL)
    write_start, read_start = _offset_at(k, write_at), _offset_at(k, read_at)
    count = yield from _copy(k, t, reader, writer, min(checked_size(size), 1 << 16), read_start, write_start)
    _store_offset(k, read_at, read_start, count)
    _store_offset(k, write_at, write_start, count)
    return count


def _pipe(file: OpenFile) -> Pipe | None:
    if isinstance(file, PipeEnd):
        return file.pipe
    return file.fifo.pipe if isinstance(file, FifoFile) else None


@syscall(276, "tee", "fd", "fd", "size", "uint")
def _sys_tee(k: Kernel, t: Task, source: int, target: int, size: int, flags: int) -> Waiting:
    if flags & ~_SPLICE_FLAGS:
        raise fail(errno.EINVAL)
    if not size:
        return 0
    reader, writer = k.file(source), k.file(target)
    if not reader.readable or not writer.writable:
        raise fail(errno.EBADF)
    first, second = _pipe(reader), _pipe(writer)
    if first is None or second is None or first is second:
        raise fail(errno.EINVAL)
    stays = bool(flags & _SPLICE_F_NONBLOCK or (reader.flags | writer.flags) & abi.O_NONBLOCK)
    while not first.pages:
        if not first.writers:
            return 0
        if stays:
            raise fail(errno.EAGAIN)
        yield from wait_for_file(k, t, reader, abi.POLLIN, "to copy from")
    while second.readers and not writer.poll() & abi.POLLOUT:
        if stays:
            raise fail(errno.EAGAIN)
        yield from wait_for_file(k, t, writer, abi.POLLOUT, "to copy to")
    if not second.readers:
        k.signals.send(SignalInfo(abi.SIGPIPE, abi.SI_USER, k.pid, k.credentials.users.real), t)
        raise fail(errno.EPIPE)
    return writer.write(first.peek(min(size, second.room())))


@syscall(278, "vmsplice", "fd", "ptr", "size", "uint")
def _sys_vmsplice(k: Kernel, t: Task, fd: int, address: int, count: int, flags: int) -> Waiting:
    file = k.file(fd)
    if flags & ~_SPLICE_FLAGS:
        raise fail(errno.EINVAL)
    if _pipe(file) is None:
        raise fail(errno.EBADF)
    if flags & _SPLICE_F_NONBLOCK and not file.poll() & (
        abi.POLLOUT if file.writable else abi.POLLIN | abi.POLLHUP
    ):
        raise fail(errno.EAGAIN)
    return (write_vectors if file.writable else read_vectors)(k, t, file, address, count, None)
