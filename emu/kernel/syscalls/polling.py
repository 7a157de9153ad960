"""Waiting for several files: poll, select, epoll. Source: poll(2), select(2), epoll(7)."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.fs.epoll import EpollFile, Interest
from emu.kernel.fs.file import OpenFile
from emu.kernel.run.block import Block
from emu.kernel.run.signal_info import Interrupted
from emu.kernel.syscalls.signal import read_mask
from emu.kernel.syscalls.time import pack_timespec, read_timespec
from emu.kernel.syscalls.waiting import resumable, wait
from emu.kernel.table import syscall
from emu.machine.arena import HIGH_END

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel
    from emu.kernel.run.block import Waiting
    from emu.kernel.run.task import Task

_ALWAYS = abi.POLLERR | abi.POLLHUP | abi.POLLNVAL
_IN_SET = abi.POLLRDNORM | abi.POLLRDBAND | abi.POLLIN | abi.POLLHUP | abi.POLLERR
_OUT_SET = abi.POLLWRBAND | abi.POLLWRNORM | abi.POLLOUT | abi.POLLERR
_EXCEPT_SET = abi.POLLPRI
_EPOLL_CTL_ADD, _EPOLL_CTL_DEL, _EPOLL_CTL_MOD = 1, 2, 3
_EPOLL_NESTING = 5
_FD_SETSIZE_LIMIT = 1 << 20
_MS = 1_000_000

Watched = list[tuple[OpenFile, int]]
"""Files and the POLL* events of interest."""


class _PollSearch:
    """A search for what is ready: `check` counts it, `found` is that count.

    What was found is kept: with EPOLLET it is told only once.
    """

    __slots__ = ("check", "found", "watched")

    def __init__(self, check: Callable[[], int], watched: Watched) -> None:
        self.check, self.watched = check, watched
        self.found = 0

    def ready(self) -> bool:
        """Check, for the scheduler."""
        try:
            self.found = self.check()
        except OSError:
            return True  # the task meets the error itself
        return bool(self.found)


def _wait_until(
    k: Kernel, t: Task, search: _PollSearch, deadline: int | None, what: str, restart: bool
) -> Waiting:
    """Return what the search gives as soon as it is not 0, 0 after `deadline` (virtual time; None: never)."""
    watched = search.watched
    while True:
        search.found = search.found or search.check()
        if search.found or deadline is not None and deadline <= k.clock.now:
            return search.found
        ready = search.ready if watched else None
        yield from wait(
            k, t, Block(what, deadline, ready, tuple(watched), for_signal=not watched), restart=restart
        )


def _with_mask(k: Kernel, t: Task, mask: int, size: int, call: Callable[[], Waiting]) -> Waiting:
    """Run `call` under the signal mask at `mask` (0: as it is); a handler that ends it runs under that
    mask too.
    """
    if not mask:
        return call()
    if size != 8:
        raise fail(errno.EINVAL)
    new, old = read_mask(k, mask), t.mask
    k.signals.set_mask(t, new)
    return _masked(k, t, old, call)


@resumable
def _masked(k: Kernel, t: Task, old: int, call: Callable[[], Waiting]) -> Waiting:
    restore = True
    try:
        return (yield from call())
    except Interrupted:
        restore = False  # the handler runs under the new mask; its return restores the old one
        t.saved_mask = old
        k.signals.wake = True
        raise
    finally:
        if restore:
            k.signals.set_mask(t, old)


def _deadline(k: Kernel, nanoseconds: int | None) -> int | None:
    return None if nanoseconds is None else k.clock.now + nanoseconds


def _poll(
    k: Kernel, t: Task, address: int, count: int, deadline: int | None, restart: bool
) -> Callable[[], Waiting]:
    if count > k.fds.limit:
        raise fail(errno.EINVAL)
    entries = list(struct.iter_unpack("<ihH", k.arena.copy_in(address, 8 * count)))
    watched = [(k.fds.files[fd], events) for fd, events, _ in entries if fd in k.fds.files]
    results = [0] * count

    def check() -> int:
        for index, (fd, events, _) in enumerate(entries):
            if fd < 0:
                continue
            file = k.fds.files.get(fd)
            results[index] = abi.POLLNVAL if file is None else file.poll() & (events & 0xFFFF | _ALWAYS)
        return sum(1 for value in results if value)

    search = _PollSearch(check, watched)
    return partial(_answer_poll, k, t, search, entries, results, address, deadline, restart)


@resumable
def _answer_poll(
    k: Kernel,
    t: Task,
    search: _PollSearch,
    entries: list[tuple[int, ...]],
    results: list[int],
    address: int,
    deadline: int | None,
    restart: bool,
) -> Waiting:
    found = yield from _wait_until(k, t, search, deadline, "in poll", restart)
    packed = b"".join(
        struct.pack("<ihH", fd, events, value)
        for (fd, events, _), value in zip(entries, results, strict=True)
    )
    k.arena.copy_out(address, packed)
    return found


@syscall(7, "poll", "ptr", "uint", "int")
def _sys_poll(k: Kernel, t: Task, address: int, count: int, timeout: int) -> Waiting:
    return _poll(k, t, address, count, _deadline(k, None if timeout < 0 else timeout * _MS), restart=True)()


@syscall(271, "ppoll", "ptr", "uint", "ptr", "ptr", "size")
def _sys_ppoll(k: Kernel, t: Task, address: int, count: int, timeout: int, mask: int, size: int) -> Waiting:
    deadline = _deadline(k, read_timespec(k, timeout) if timeout else None)
    call = _poll(k, t, address, count, deadline, restart=False)
    return _with_mask(k, t, mask, size, partial(_then_store_left, k, call, timeout, deadline))


@resumable
def _then_store_left(k: Kernel, call: Callable[[], Waiting], address: int, deadline: int | None) -> Waiting:
    result = yield from call()
    if address and deadline is not None:
        k.arena.copy_out(address, pack_timespec(max(deadline - k.clock.now, 0)))
    return result


def _read_set(k: Kernel, address: int, count: int) -> set[int]:
    if not address:
        return set()
    words = k.arena.copy_in(address, (count + 63) // 64 * 8)
    bits = int.from_bytes(words, "little")
    return {fd for fd in range(count) if bits >> fd & 1}


def _select(
    k: Kernel, t: Task, count: int, addresses: tuple[int, int, int], deadline: int | None
) -> Callable[[], Waiting]:
    if count < 0:
        raise fail(errno.EINVAL)
    count = min(count, k.fds.limit)
    wanted = [_read_set(k, address, count) for address in addresses]
    masks = (_IN_SET, _OUT_SET, _EXCEPT_SET)
    watched: Watched = []
    for fds, mask in zip(wanted, masks, strict=True):
        watched += [(k.file(fd), mask) for fd in fds]
    found: list[set[int]] = []

    def check() -> int:
        found[:] = [
            {fd for fd in fds if k.file(fd).poll() & mask} for fds, mask in zip(wanted, masks, strict=True)
        ]
        return sum(map(len, found))

    return partial(_answer_select, k, t, _PollSearch(check, watched), found, addresses, count, deadline)


@resumable
def _answer_select(
    k: Kernel,
    t: Task,
    search: _PollSearch,
    found: list[set[int]],
    addresses: tuple[int, int, int],
    count: int,
    deadline: int | None,
) -> Waiting:
    total = yield from _wait_until(k, t, search, deadline, "in select", restart=False)
    for address, ready in zip(addresses, found, strict=True):
        if address:
            bits = sum(1 << fd for fd in ready)
            k.arena.copy_out(address, bits.to_bytes((count + 63) // 64 * 8, "little"))
    return total


@syscall(23, "select", "int", "ptr", "ptr", "ptr", "ptr")
def _sys_select(
    k: Kernel, t: Task, count: int, readers: int, writers: int, exceptions: int, timeout: int
) -> Waiting:
    deadline = None
    if timeout:
        seconds, microseconds = struct.unpack("<qq", k.arena.copy_in(timeout, 16))
        if seconds < 0 or microseconds < 0:
            raise fail(errno.EINVAL)
        deadline = k.clock.now + min(seconds * abi.NSEC_PER_SEC + microseconds * 1000, 1 << 62)
    return _then_store_timeval(
        k, _select(k, t, count, (readers, writers, exceptions), deadline), timeout, deadline
    )


@resumable
def _then_store_timeval(
    k: Kernel, call: Callable[[], Waiting], timeout: int, deadline: int | None
) -> Waiting:
    result = yield from call()
    if deadline is not None:
        seconds, rest = divmod(max(deadline - k.clock.now, 0), abi.NSEC_PER_SEC)
        k.arena.copy_out(timeout, struct.pack("<qq", seconds, rest // 1000))
    return result


@syscall(270, "pselect6", "int", "ptr", "ptr", "ptr", "ptr", "ptr")
def _sys_pselect6(
    k: Kernel, t: Task, count: int, readers: int, writers: int, exceptions: int, timeout: int, mask: int
) -> Waiting:
    deadline = _deadline(k, read_timespec(k, timeout) if timeout else None)
    address, size = struct.unpack("<QQ", k.arena.copy_in(mask, 16)) if mask else (0, 0)
    sets = (readers, writers, exceptions)
    call = _select(k, t, count, sets, deadline)
    return _with_mask(k, t, address, size, partial(_then_store_left, k, call, timeout, deadline))


# -- epoll ---------------------------------------------------------------------------------------------------


def _epoll(k: Kernel, fd: int) -> EpollFile:
    file = k.file(fd)
    if not isinstance(file, EpollFile):
        raise fail(errno.EINVAL)
    return file


@syscall(213, "epoll_create", "int")
def _sys_epoll_create(k: Kernel, t: Task, size: int) -> int:
    if size <= 0:
        raise fail(errno.EINVAL)
    return k.fds.install(EpollFile(k.fs))


@syscall(291, "epoll_create1", "flags:open")
def _sys_epoll_create1(k: Kernel, t: Task, flags: int) -> int:
    if flags & ~abi.O_CLOEXEC:
        raise fail(errno.EINVAL)
    return k.fds.install(EpollFile(k.fs), bool(flags & abi.O_CLOEXEC))


@syscall(233, "epoll_ctl", "fd", "int", "fd", "ptr")
def _sys_epoll_ctl(k: Kernel, t: Task, epfd: int, operation: int, fd: int, event: int) -> int:
    asked = k.arena.copy_in(event, 12) if operation != _EPOLL_CTL_DEL else b""
    epoll, file = k.file(epfd), k.file(fd)
    if not file.pollable:
        raise fail(errno.EPERM)
    if not isinstance(epoll, EpollFile) or file is epoll:
        raise fail(errno.EINVAL)
    key = (fd, file)
    epoll.watched()
    if operation == _EPOLL_CTL_DEL:
        if not epoll.drop(key):
            raise fail(errno.ENOENT)
        return 0
    events, data = struct.unpack("<IQ", asked)
    if operation == _EPOLL_CTL_ADD:
        if key in epoll.interests:
            raise fail(errno.EEXIST)
        if isinstance(file, EpollFile) and (epoll in file.instances() or file.depth() >= _EPOLL_NESTING):
            raise fail(errno.ELOOP)
    elif operation != _EPOLL_CTL_MOD:
        raise fail(errno.EINVAL)
    elif key not in epoll.interests:
        raise fail(errno.ENOENT)
    interest = epoll.interests.get(key)
    if interest is None:
        interest = epoll.add(key)
        if not epoll.ways_fit(file):
            epoll.drop(key)
            raise fail(errno.EINVAL)
    interest.set(events, data)
    return 0


def _epoll_wait(
    k: Kernel, t: Task, epfd: int, address: int, count: int, deadline: int | None
) -> Callable[[], Waiting]:
    if not 0 < count <= _FD_SETSIZE_LIMIT:
        raise fail(errno.EINVAL)
    if address + 12 * count > HIGH_END:
        raise fail(errno.EFAULT)
    epoll = _epoll(k, epfd)
    found: list[tuple[int, Interest]] = []

    def check() -> int:
        found.extend(epoll.collect(count - len(found)))
        return len(found)

    watched: Watched = [(epoll, abi.POLLIN)]  # what it watches may change during the wait
    return partial(_answer_epoll, k, t, _PollSearch(check, watched), found, address, deadline)


@resumable
def _answer_epoll(
    k: Kernel,
    t: Task,
    search: _PollSearch,
    found: list[tuple[int, Interest]],
    address: int,
    deadline: int | None,
) -> Waiting:
    yield from _wait_until(k, t, search, deadline, "in epoll_wait", restart=False)
    k.arena.copy_out(address, b"".join(struct.pack("<IQ", ready, interest.data) for ready, interest in found))
    return len(found)


@syscall(232, "epoll_wait", "fd", "ptr", "int", "int")
def _sys_epoll_wait(k: Kernel, t: Task, epfd: int, address: int, count: int, timeout: int) -> Waiting:
    return _epoll_wait(k, t, epfd, address, count, _deadline(k, None if timeout < 0 else timeout * _MS))()


@syscall(281, "epoll_pwait", "fd", "ptr", "int", "int", "ptr", "size")
def _sys_epoll_pwait(
    k: Kernel, t: Task, epfd: int, address: int, count: int, timeout: int, mask: int, size: int
) -> Waiting:
    deadline = _deadline(k, None if timeout < 0 else timeout * _MS)
    return _with_mask(k, t, mask, size, _epoll_wait(k, t, epfd, address, count, deadline))


@syscall(441, "epoll_pwait2", "fd", "ptr", "int", "ptr", "ptr", "size")
def _sys_epoll_pwait2(
    k: Kernel, t: Task, epfd: int, address: int, count: int, timeout: int, mask: int, size: int
) -> Waiting:
    deadline = _deadline(k, read_timespec(k, timeout) if timeout else None)
    return _with_mask(k, t, mask, size, _epoll_wait(k, t, epfd, address, count, deadline))
