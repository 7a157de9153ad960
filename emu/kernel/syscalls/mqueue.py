"""POSIX message queues. Source: mq_open(3), mq_send(3), mq_receive(3), mq_notify(3), mq_getsetattr(2)."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.ipc.mqueue import ATTRIBUTES, MessageQueue, Notify, QueueFile
from emu.kernel.run.block import Block
from emu.kernel.run.signal_info import SignalInfo
from emu.kernel.syscalls.waiting import resumable, wait
from emu.kernel.table import syscall

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel
    from emu.kernel.run.block import Waiting
    from emu.kernel.run.task import Task

_MOST, _SIZE = 10, 8192
_MOST_OF_ROOT, _SIZE_OF_ROOT = 65536, 1 << 24
_PRIORITIES = 32768
_NAME_MAX = 255
_SIGEV_SIGNAL, _SIGEV_NONE = 0, 1
_SI_MESGQ = -3


def _name(k: Kernel, address: int) -> str:
    name = k.path(address)
    if not name:
        raise fail(errno.ENOENT)
    if "/" in name or name in (".", ".."):
        raise fail(errno.EACCES)
    if len(name) > _NAME_MAX:
        raise fail(errno.ENAMETOOLONG)
    return name


@syscall(240, "mq_open", "path", "flags:open", "mode", "ptr")
def _sys_mq_open(k: Kernel, t: Task, name: int, flags: int, mode: int, attributes: int) -> int:
    text = _name(k, name)
    queues = k.system.ipc.named
    queue = queues.get(text)
    if flags & abi.O_ACCMODE == abi.O_ACCMODE:
        raise fail(errno.EINVAL)
    if queue is None:
        if not flags & abi.O_CREAT:
            raise fail(errno.ENOENT)
        most, size = _MOST, _SIZE
        if attributes:
            _, most, size, _ = ATTRIBUTES.unpack(k.arena.copy_in(attributes, ATTRIBUTES.size))
            root = not k.credentials.users.effective
            if not 0 < most <= (_MOST_OF_ROOT if root else _MOST):
                raise fail(errno.EINVAL)
            if not 0 < size <= (_SIZE_OF_ROOT if root else _SIZE):
                raise fail(errno.EINVAL)
        queue = queues[text] = MessageQueue(k.fs, text, mode & 0o777 & ~k.caller.umask, most, size)
    elif flags & abi.O_CREAT and flags & abi.O_EXCL:
        raise fail(errno.EEXIST)
    else:
        _allow(k, queue, flags & abi.O_ACCMODE)
    file = QueueFile(queue, flags & (abi.O_ACCMODE | abi.O_NONBLOCK))
    return k.fds.install(file, bool(flags & abi.O_CLOEXEC))


def _allow(k: Kernel, queue: MessageQueue, access: int) -> None:
    uid, gid = k.credentials.users.effective, k.credentials.groups.effective
    wanted = (4, 2, 6)[access]
    shift = 6 if uid == queue.stat.uid else 3 if gid == queue.stat.gid else 0
    if uid and wanted & ~(queue.stat.mode >> shift):
        raise fail(errno.EACCES)


@syscall(241, "mq_unlink", "path")
def _sys_mq_unlink(k: Kernel, t: Task, name: int) -> int:
    text = _name(k, name)
    queue = k.system.ipc.named.get(text)
    if queue is None:
        raise fail(errno.ENOENT)
    if k.credentials.users.effective not in (0, queue.stat.uid):
        raise fail(errno.EACCES)
    del k.system.ipc.named[text]
    return 0


def _queue(k: Kernel, fd: int) -> QueueFile:
    file = k.file(fd)
    if not isinstance(file, QueueFile):
        raise fail(errno.EBADF)
    return file


def _deadline(k: Kernel, address: int) -> int | None:
    """Return the virtual time of an absolute timeout by the real-time clock, None for ever.

    Raises OSError(EINVAL).
    """
    if not address:
        return None
    seconds, nanoseconds = struct.unpack("<qq", k.arena.copy_in(address, 16))
    if seconds < 0 or not 0 <= nanoseconds < abi.NSEC_PER_SEC:
        raise fail(errno.EINVAL)
    return int(k.clock.now + seconds * abi.NSEC_PER_SEC + nanoseconds - k.clock.realtime)


@syscall(242, "mq_timedsend", "fd", "in", "size", "uint", "ptr")
def _sys_mq_timedsend(
    k: Kernel, t: Task, fd: int, address: int, size: int, priority: int, timeout: int
) -> Waiting:
    if priority >= _PRIORITIES:
        raise fail(errno.EINVAL)
    deadline = _deadline(k, timeout)
    file = _queue(k, fd)
    if not file.writable:
        raise fail(errno.EBADF)
    if size > file.queue.size:
        raise fail(errno.EMSGSIZE)
    return _send(k, t, file, k.arena.copy_in(address, size), priority, deadline)


@resumable
def _send(k: Kernel, t: Task, file: QueueFile, data: bytes, priority: int, deadline: int | None) -> Waiting:
    queue = file.queue
    while t.resumed or queue.full:
        if file.flags & abi.O_NONBLOCK:
            raise fail(errno.EAGAIN)
        block = Block(f"for room in {file.path}", deadline, lambda: not queue.full, ((file, abi.POLLOUT),))
        if not (yield from wait(k, t, block, restart=True)):
            raise fail(errno.ETIMEDOUT)
    first = not queue.messages
    queue.put(data, priority)
    if first and queue.notify is not None and not queue.readers:
        _tell(k, queue)
    return 0


def _tell(k: Kernel, queue: MessageQueue) -> None:
    notify, queue.notify = queue.notify, None
    process = k.system.processes.get(notify.pid) if notify is not None else None
    if notify is not None and process is not None and notify.signo:
        info = SignalInfo(notify.signo, _SI_MESGQ, k.pid, k.credentials.users.real, value=notify.value)
        process.signals.send(info)


@syscall(243, "mq_timedreceive", "fd", "out", "size", "ptr", "ptr")
def _sys_mq_timedreceive(
    k: Kernel, t: Task, fd: int, address: int, size: int, priority: int, timeout: int
) -> Waiting:
    deadline = _deadline(k, timeout)
    file = _queue(k, fd)
    if not file.readable:
        raise fail(errno.EBADF)
    if size < file.queue.size:
        raise fail(errno.EMSGSIZE)
    return _receive(k, t, file, address, priority, deadline)


@resumable
def _receive(
    k: Kernel, t: Task, file: QueueFile, address: int, priority: int, deadline: int | None
) -> Waiting:
    queue = file.queue
    while t.resumed or not queue.messages:
        if file.flags & abi.O_NONBLOCK:
            raise fail(errno.EAGAIN)
        block = Block(
            f"for a message in {file.path}", deadline, lambda: queue.messages, ((file, abi.POLLIN),)
        )
        queue.readers += 1
        try:
            came = yield from wait(k, t, block, restart=True)
        finally:
            queue.readers -= 1
        if not came:
            raise fail(errno.ETIMEDOUT)
    message = queue.take()
    k.arena.copy_out(address, message.data)
    if priority:
        k.arena.copy_out(priority, (-message.rank).to_bytes(4, "little"))
    return len(message.data)


@syscall(244, "mq_notify", "fd", "ptr")
def _sys_mq_notify(k: Kernel, t: Task, fd: int, event: int) -> int:
    wanted = None
    if event:
        value, signo, how = struct.unpack("<Qii", k.arena.copy_in(event, 16))
        if how not in (_SIGEV_SIGNAL, _SIGEV_NONE):
            if how == 2:  # SIGEV_THREAD: by a netlink socket of libc's
                return k.refuse("mq_notify (244) with SIGEV_THREAD")
            raise fail(errno.EINVAL)
        if how == _SIGEV_SIGNAL and not 0 <= signo <= abi.NSIG:
            raise fail(errno.EINVAL)
        wanted = Notify(k.pid, signo if how == _SIGEV_SIGNAL else 0, value)
    queue = _queue(k, fd).queue
    if wanted is None:
        if queue.notify is not None and queue.notify.pid == k.pid:
            queue.notify = None
        return 0
    if queue.notify is not None and queue.notify.pid in k.system.processes:
        raise fail(errno.EBUSY)
    queue.notify = wanted
    return 0


@syscall(245, "mq_getsetattr", "fd", "ptr", "ptr")
def _sys_mq_getsetattr(k: Kernel, t: Task, fd: int, new: int, old: int) -> int:
    flags = None
    if new:
        flags, *_ = ATTRIBUTES.unpack(k.arena.copy_in(new, ATTRIBUTES.size))
        if flags & ~abi.O_NONBLOCK:
            raise fail(errno.EINVAL)
    file = _queue(k, fd)
    queue = file.queue
    before = ATTRIBUTES.pack(file.flags & abi.O_NONBLOCK, queue.most, queue.size, len(queue.messages))
    if flags is not None:
        file.flags = file.flags & ~abi.O_NONBLOCK | flags
    if old:
        k.arena.copy_out(old, before)
    return 0
