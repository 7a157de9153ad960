"""System V shared memory. Source: shmget(2), shmop(2), shmctl(2)."""

from __future__ import annotations

import errno
import struct
from enum import IntEnum
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.ipc.objects import READ, WRITE, SharedSegment
from emu.kernel.syscalls.ipc import who
from emu.kernel.table import syscall

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel
    from emu.kernel.run.task import Task

_RDONLY, _RND, _REMAP, _EXEC = 0o10000, 0o20000, 0o40000, 0o100000
_DEST, _LOCKED = 0o1000, 0o2000
_HUGETLB = 0o4000
_MOST = 1 << 46


class ShmCommand(IntEnum):
    """What shmctl is asked for: IPC_* and SHM_*."""

    RMID = 0
    SET = 1
    STAT = 2
    INFO = 3
    LOCK = 11
    UNLOCK = 12
    SHM_STAT = 13
    SHM_INFO = 14
    STAT_ANY = 15


@syscall(29, "shmget", "hex", "size", "int")
def _sys_shmget(k: Kernel, t: Task, key: int, size: int, flags: int) -> int:
    key &= abi.U32
    table = k.system.ipc.segments
    found = table.by_key(who(k), _signed(key), flags)
    if found is not None:
        if size > found.size:
            raise fail(errno.EINVAL)
        return found.id
    if not 0 < size <= _MOST:
        raise fail(errno.EINVAL)
    if flags & _HUGETLB:
        raise fail(errno.ENOMEM)  # no huge pages are set aside
    memory = k.space.shared_files.memory(-(-size // abi.PAGE_SIZE) * abi.PAGE_SIZE)
    memory.path = f"/SYSV{key:08x} (deleted)"
    return table.add(SharedSegment(who(k), _signed(key), flags, size, memory))


def _signed(key: int) -> int:
    return (key ^ 1 << 31) - (1 << 31)


def _attachments(k: Kernel, segment: SharedSegment) -> int:
    spaces = {id(process.space): process.space for process in k.system.processes.values()}
    return sum(
        1 for space in spaces.values() for area in space if area.backing is segment.memory and not area.offset
    )


def _collect(k: Kernel) -> None:
    """Let segments go that were removed and that nobody has attached any more."""
    for segment in k.system.ipc.segments:
        if segment.removed and not _attachments(k, segment):
            k.system.ipc.segments.remove(segment)


@syscall(30, "shmat", "int", "ptr", "int")
def _sys_shmat(k: Kernel, t: Task, ident: int, address: int, flags: int) -> int:
    _collect(k)
    if ident < 0:
        raise fail(errno.EINVAL)
    if address % abi.PAGE_SIZE:
        if not flags & _RND:
            raise fail(errno.EINVAL)
        address &= -abi.PAGE_SIZE
    if flags & _REMAP and not address:
        raise fail(errno.EINVAL)
    segment = k.system.ipc.segments.find(ident)
    segment.allow(who(k), READ if flags & _RDONLY else READ | WRITE)
    prot = (
        abi.PROT_READ | (0 if flags & _RDONLY else abi.PROT_WRITE) | (abi.PROT_EXEC if flags & _EXEC else 0)
    )
    if address and not flags & _REMAP and any(k.space.overlapping(address, address + segment.size)):
        raise fail(errno.EINVAL)
    at = k.space.mmap(address, segment.size, prot, fixed=bool(address), shared=True, backing=segment.memory)
    segment.attached, segment.last = who(k).time, k.pid
    return at


@syscall(67, "shmdt", "ptr")
def _sys_shmdt(k: Kernel, t: Task, address: int) -> int:
    area = k.space.find(address)
    segments = {id(segment.memory): segment for segment in k.system.ipc.segments}
    segment = segments.get(id(area.backing)) if area is not None else None
    if area is None or segment is None or area.start != address or area.offset:
        raise fail(errno.EINVAL)
    for part in k.space.overlapping(address, address + segment.size):
        if part.backing is segment.memory and part.offset == part.start - address:
            k.space.munmap(part.start, part.end - part.start)
    segment.detached, segment.last = who(k).time, k.pid
    _collect(k)
    return 0


@syscall(31, "shmctl", "int", "int", "ptr")
def _sys_shmctl(k: Kernel, t: Task, ident: int, command: int, buffer: int) -> int:
    _collect(k)
    table = k.system.ipc.segments
    about_all = command in (ShmCommand.INFO, ShmCommand.SHM_INFO)
    if ident < 0 and not about_all or command < 0:
        raise fail(errno.EINVAL)
    if about_all:
        return _info(k, command, buffer)
    segment = table.find(ident)
    match command:
        case ShmCommand.STAT | ShmCommand.SHM_STAT | ShmCommand.STAT_ANY:
            if command != ShmCommand.STAT_ANY:
                segment.allow(who(k), READ)
            k.arena.copy_out(buffer, _packed(k, segment))
            return segment.id if command != ShmCommand.STAT else 0
        case ShmCommand.SET:
            segment.set_perm(who(k), k.arena.copy_in(buffer, 48))
        case ShmCommand.RMID:
            segment.own(who(k))
            segment.removed, segment.key = True, 0
            segment.mode |= _DEST
            _collect(k)
        case ShmCommand.LOCK | ShmCommand.UNLOCK:
            segment.own(who(k))
            segment.mode = segment.mode | _LOCKED if command == ShmCommand.LOCK else segment.mode & ~_LOCKED
        case _:
            raise fail(errno.EINVAL)
    return 0


def _packed(k: Kernel, segment: SharedSegment) -> bytes:
    times = (segment.size, segment.attached, segment.detached, segment.changed)
    count = _attachments(k, segment)
    return segment.perm() + struct.pack("<QqqqiiQQQ", *times, segment.maker, segment.last, count, 0, 0)


def _info(k: Kernel, command: int, buffer: int) -> int:
    segments = list(k.system.ipc.segments)
    pages = sum(-(-segment.size // abi.PAGE_SIZE) for segment in segments)
    if command == ShmCommand.INFO:
        limits = (abi.U64 - (1 << 24), 1, 4096, 4096, abi.U64 - (1 << 24), 0, 0, 0, 0)
        k.arena.copy_out(buffer, struct.pack("<9Q", *limits))
    else:
        k.arena.copy_out(buffer, struct.pack("<i4x5Q", len(segments), pages, pages, 0, 0, 0))
    return max((segment.id % (1 << 15) for segment in segments), default=0)
