"""System V message queues. Source: msgget(2), msgop(2), msgctl(2); Linux ipc/msg.c."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.ipc.objects import (
    IPC_INFO,
    IPC_NOWAIT,
    IPC_RMID,
    IPC_SET,
    IPC_STAT,
    READ,
    WRITE,
    Queue,
    QueuedMessage,
)
from emu.kernel.run.block import Block
from emu.kernel.syscalls.ipc import who
from emu.kernel.syscalls.waiting import resumable, wait
from emu.kernel.table import syscall

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel
    from emu.kernel.run.block import Waiting
    from emu.kernel.run.task import Task

_NOERROR, _EXCEPT, _COPY = 0o10000, 0o20000, 0o40000
_LARGEST, _ROOM = 8192, 16384
_STAT, _INFO, _STAT_ANY = 11, 12, 13
_KEY_SIGN = 1 << 31


@syscall(68, "msgget", "hex", "int")
def _sys_msgget(k: Kernel, t: Task, key: int, flags: int) -> int:
    key = (key & abi.U32 ^ _KEY_SIGN) - _KEY_SIGN
    table = k.system.ipc.queues
    found = table.by_key(who(k), key, flags)
    return found.id if found is not None else table.add(Queue(who(k), key, flags, _ROOM))


@syscall(69, "msgsnd", "int", "ptr", "size", "int")
def _sys_msgsnd(k: Kernel, t: Task, ident: int, address: int, size: int, flags: int) -> Waiting:
    kind = struct.unpack("<q", k.arena.copy_in(address, 8))[0]
    if size > _LARGEST or ident < 0 or kind < 1:
        raise fail(errno.EINVAL)
    message = QueuedMessage(kind, k.arena.copy_in(address + 8, size))
    queue = k.system.ipc.queues.find(ident)
    queue.allow(who(k), WRITE)
    return _send(k, t, queue, message, flags)


@resumable
def _send(k: Kernel, t: Task, queue: Queue, message: QueuedMessage, flags: int) -> Waiting:
    def room() -> bool:
        return queue.gone or (
            len(message.data) + queue.used <= queue.room and len(queue.messages) < queue.room
        )

    while t.resumed or not room():
        if flags & IPC_NOWAIT:
            raise fail(errno.EAGAIN)
        yield from wait(k, t, Block(f"for room in message queue {queue.id}", None, room), restart=False)
    if queue.gone:
        raise fail(errno.EIDRM)
    k.fs.charge(len(message.data))
    queue.messages.append(message)
    queue.last_sender, queue.sent = k.pid, who(k).time
    return 0


@syscall(70, "msgrcv", "int", "ptr", "size", "long", "int")
def _sys_msgrcv(k: Kernel, t: Task, ident: int, address: int, size: int, kind: int, flags: int) -> Waiting:
    if size >> 63 or ident < 0:
        raise fail(errno.EINVAL)
    if flags & _COPY:
        raise fail(errno.EINVAL if flags & _EXCEPT or not flags & IPC_NOWAIT else errno.ENOSYS)
    queue = k.system.ipc.queues.find(ident)
    queue.allow(who(k), READ)
    return _receive(k, t, queue, address, size, kind, flags)


def _pick(queue: Queue, kind: int, flags: int) -> QueuedMessage | None:
    if not kind:
        return queue.messages[0] if queue.messages else None
    if kind < 0:
        limit = min(-kind, (1 << 63) - 1)
        low = [message for message in queue.messages if message.kind <= limit]
        return min(low, key=lambda message: message.kind, default=None)
    other = bool(flags & _EXCEPT)
    return next((message for message in queue.messages if (message.kind == kind) != other), None)


@resumable
def _receive(k: Kernel, t: Task, queue: Queue, address: int, size: int, kind: int, flags: int) -> Waiting:
    def ready() -> bool:
        return queue.gone or _pick(queue, kind, flags) is not None

    while t.resumed or not ready():
        if flags & IPC_NOWAIT:
            raise fail(errno.ENOMSG)
        yield from wait(k, t, Block(f"for a message in queue {queue.id}", None, ready), restart=False)
    if queue.gone:
        raise fail(errno.EIDRM)
    message = _pick(queue, kind, flags)
    assert message is not None
    if len(message.data) > size and not flags & _NOERROR:
        raise fail(errno.E2BIG)
    queue.messages.remove(message)
    k.fs.charge(-len(message.data))
    queue.last_receiver, queue.received = k.pid, who(k).time
    k.arena.copy_out(address, struct.pack("<q", message.kind) + message.data[:size])
    return min(len(message.data), size)


@syscall(71, "msgctl", "int", "int", "ptr")
def _sys_msgctl(k: Kernel, t: Task, ident: int, command: int, buffer: int) -> int:
    table = k.system.ipc.queues
    if ident < 0 and command not in (IPC_INFO, _INFO) or command < 0:
        raise fail(errno.EINVAL)
    if command in (IPC_INFO, _INFO):
        queues = list(table)
        used = [len(queues), sum(len(q.messages) for q in queues), sum(q.used for q in queues)]
        pool, mapped, count = used if command == _INFO else [512000, 32000, 0]
        k.arena.copy_out(
            buffer, struct.pack("<7iH2x", pool, mapped, _LARGEST, _ROOM, 32000, 16, count, 0xFFFF)
        )
        return max((queue.id % (1 << 15) for queue in queues), default=0)
    queue = table.find(ident)
    if command in (IPC_STAT, _STAT, _STAT_ANY):
        if command != _STAT_ANY:
            queue.allow(who(k), READ)
        k.arena.copy_out(buffer, _packed(queue))
        return queue.id if command != IPC_STAT else 0
    if command == IPC_SET:
        raw = k.arena.copy_in(buffer, 120)
        (room,) = struct.unpack_from("<Q", raw, 88)
        if room > _ROOM and k.credentials.users.effective:
            raise fail(errno.EPERM)
        queue.set_perm(who(k), raw)
        queue.room = room
        return 0
    if command != IPC_RMID:
        raise fail(errno.EINVAL)
    queue.own(who(k))
    table.remove(queue)
    k.fs.charge(-queue.used)
    return 0


def _packed(queue: Queue) -> bytes:
    times = (queue.sent, queue.received, queue.changed)
    counts = (queue.used, len(queue.messages), queue.room)
    return queue.perm() + struct.pack(
        "<qqqQQQiiQQ", *times, *counts, queue.last_sender, queue.last_receiver, 0, 0
    )
