"""System V semaphores. Source: semget(2), semop(2), semctl(2); Linux ipc/sem.c."""

from __future__ import annotations

import errno
import struct
from enum import IntEnum
from typing import TYPE_CHECKING

from emu.core.record import NamedTuple
from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.ipc.objects import IPC_NOWAIT, READ, WRITE, Semaphores
from emu.kernel.run.block import Block
from emu.kernel.syscalls.ipc import who
from emu.kernel.syscalls.waiting import resumable, wait
from emu.kernel.table import syscall

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel
    from emu.kernel.run.block import Waiting
    from emu.kernel.run.task import Task

_UNDO = 0x1000
_MOST_SEMAPHORES, _MOST_OPERATIONS, _HIGHEST = 32000, 500, 32767
_KEY_SIGN = 1 << 31


class Command(IntEnum):
    """What semctl is asked for."""

    RMID = 0
    SET = 1
    STAT = 2
    INFO = 3
    GETPID = 11
    GETVAL = 12
    GETALL = 13
    GETNCNT = 14
    GETZCNT = 15
    SETVAL = 16
    SETALL = 17
    SEM_STAT = 18
    SEM_INFO = 19
    STAT_ANY = 20


class SemOperation(NamedTuple):
    """One struct sembuf."""

    number: int
    change: int
    flags: int


@syscall(64, "semget", "hex", "int", "int")
def _sys_semget(k: Kernel, t: Task, key: int, count: int, flags: int) -> int:
    if not 0 <= count <= _MOST_SEMAPHORES:
        raise fail(errno.EINVAL)
    key = (key & abi.U32 ^ _KEY_SIGN) - _KEY_SIGN
    table = k.system.ipc.semaphores
    found = table.by_key(who(k), key, flags)
    if found is not None:
        if count > len(found.values):
            raise fail(errno.EINVAL)
        return found.id
    if not count:
        raise fail(errno.EINVAL)
    one = Semaphores(who(k), key, flags, count)
    ident = table.add(one)
    try:
        k.fs.charge(one.bytes)
    except OSError:
        table.remove(one)
        raise
    return ident


@syscall(65, "semop", "int", "ptr", "uint")
def _sys_semop(k: Kernel, t: Task, ident: int, operations: int, count: int) -> Waiting:
    return _operate(k, t, *_read(k, ident, operations, count), None)


@syscall(220, "semtimedop", "int", "ptr", "uint", "ptr")
def _sys_semtimedop(k: Kernel, t: Task, ident: int, operations: int, count: int, timeout: int) -> Waiting:
    deadline = None
    if timeout:
        seconds, nanoseconds = struct.unpack("<qq", k.arena.copy_in(timeout, 16))
        if seconds < 0 or not 0 <= nanoseconds < abi.NSEC_PER_SEC:
            raise fail(errno.EINVAL)
        deadline = k.clock.now + seconds * abi.NSEC_PER_SEC + nanoseconds
    return _operate(k, t, *_read(k, ident, operations, count), deadline)


def _read(k: Kernel, ident: int, address: int, count: int) -> tuple[Semaphores, tuple[SemOperation, ...]]:
    """Return the set and the operations on it. Raises OSError."""
    if not count or ident < 0:
        raise fail(errno.EINVAL)
    if count > _MOST_OPERATIONS:
        raise fail(errno.E2BIG)
    operations = tuple(
        SemOperation(*one) for one in struct.iter_unpack("<Hhh", k.arena.copy_in(address, 6 * count))
    )
    one = k.system.ipc.semaphores.find(ident)
    if any(operation.number >= len(one.values) for operation in operations):
        raise fail(errno.EFBIG)
    one.allow(who(k), WRITE if any(operation.change for operation in operations) else READ)
    return one, operations


@resumable
def _operate(
    k: Kernel, t: Task, one: Semaphores, operations: tuple[SemOperation, ...], deadline: int | None
) -> Waiting:
    while True:
        if one.gone:
            raise fail(errno.EIDRM)
        stuck = _apply(k, one, operations)
        if stuck is None:
            return 0
        if stuck.flags & IPC_NOWAIT:
            raise fail(errno.EAGAIN)
        waiter = stuck.number, not stuck.change
        ready = lambda: one.gone or _stuck(one, operations) is None  # noqa: E731
        one.waiting.append(waiter)
        try:
            came = yield from wait(
                k, t, Block(f"for semaphore {stuck.number} of set {one.id}", deadline, ready), restart=False
            )
        finally:
            one.waiting.remove(waiter)
        if not came:
            raise fail(errno.EAGAIN)


def _stuck(one: Semaphores, operations: tuple[SemOperation, ...]) -> SemOperation | None:
    """Return the first operation that cannot be done now, with those before it done.

    Raises OSError(ERANGE).
    """
    values = one.values[:]
    for operation in operations:
        value = values[operation.number]
        if not operation.change and value or value + operation.change < 0:
            return operation
        if value + operation.change > _HIGHEST:
            raise fail(errno.ERANGE)
        values[operation.number] += operation.change
    return None


def _apply(k: Kernel, one: Semaphores, operations: tuple[SemOperation, ...]) -> SemOperation | None:
    """Do all operations, or return the one that must wait."""
    stuck = _stuck(one, operations)
    if stuck is not None:
        return stuck
    for operation in operations:
        one.values[operation.number] += operation.change
        one.pids[operation.number] = k.pid
        if operation.flags & _UNDO:
            undo = one.undo.setdefault(k.pid, {})
            undo[operation.number] = undo.get(operation.number, 0) - operation.change
    one.used = who(k).time
    return None


@syscall(66, "semctl", "int", "int", "int", "ptr")
def _sys_semctl(k: Kernel, t: Task, ident: int, index: int, command: int, argument: int) -> int:
    table = k.system.ipc.semaphores
    command &= ~0x100  # IPC_64
    if command in (Command.INFO, Command.SEM_INFO):
        sets = list(table)
        used = (
            (len(sets), sum(len(one.values) for one in sets)) if command == Command.SEM_INFO else (20, 32767)
        )
        k.arena.copy_out(
            argument,
            struct.pack(
                "<10i", 1024000000, 32000, 1024000000, 1024000000, 32000, 500, 500, used[0], 32767, used[1]
            ),
        )
        return max((one.id % (1 << 15) for one in sets), default=0)
    if ident < 0:
        raise fail(errno.EINVAL)
    one = table.find(ident)
    match command:
        case Command.STAT | Command.SEM_STAT | Command.STAT_ANY:
            if command != Command.STAT_ANY:
                one.allow(who(k), READ)
            k.arena.copy_out(
                argument,
                one.perm() + struct.pack("<qQqQQQQ", one.used, 0, one.changed, 0, len(one.values), 0, 0),
            )
            return one.id if command != Command.STAT else 0
        case Command.SET:
            one.set_perm(who(k), k.arena.copy_in(argument, 48))
        case Command.RMID:
            one.own(who(k))
            table.remove(one)
            k.fs.charge(-one.bytes)
        case Command.GETALL:
            one.allow(who(k), READ)
            k.arena.copy_out(argument, struct.pack(f"<{len(one.values)}H", *one.values))
        case Command.SETALL:
            one.allow(who(k), WRITE)
            raw = k.arena.copy_in(argument, 2 * len(one.values))
            _set(k, one, list(struct.unpack(f"<{len(one.values)}H", raw)))
        case _:
            return _of_one(k, one, index, command, argument)
    return 0


def _of_one(k: Kernel, one: Semaphores, index: int, command: int, argument: int) -> int:
    if command not in (Command.GETPID, Command.GETVAL, Command.GETNCNT, Command.GETZCNT, Command.SETVAL):
        raise fail(errno.EINVAL)
    one.allow(who(k), WRITE if command == Command.SETVAL else READ)
    if not 0 <= index < len(one.values):
        raise fail(errno.EINVAL)
    match command:
        case Command.GETPID:
            return one.pids[index]
        case Command.GETVAL:
            return one.values[index]
        case Command.GETNCNT | Command.GETZCNT:
            return one.waiting.count((index, command == Command.GETZCNT))
        case _:
            value = argument & abi.U32
            if value > _HIGHEST:
                raise fail(errno.ERANGE)
            _set(k, one, [*one.values[:index], value, *one.values[index + 1 :]], index)
            return 0


def _set(k: Kernel, one: Semaphores, values: list[int], index: int | None = None) -> None:
    if max(values) > _HIGHEST:
        raise fail(errno.ERANGE)
    one.values = values
    for number in range(len(values)) if index is None else (index,):
        one.pids[number] = k.pid
        for undo in one.undo.values():
            undo.pop(number, None)
    one.changed = who(k).time
