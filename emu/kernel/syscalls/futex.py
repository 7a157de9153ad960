"""The futex system call: plain and PI futexes. What a thread's end means for them is in `robust`.

Source: futex(2); Linux kernel/futex/: syscalls.c, waitwake.c, requeue.c, pi.c.
"""

from __future__ import annotations

import errno
from enum import IntEnum
from typing import TYPE_CHECKING

from emu.core.errors import MemoryFault
from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.run.block import Block
from emu.kernel.run.futex import (
    BITSET_MATCH_ANY,
    FUTEX_OWNER_DIED,
    FUTEX_TID_MASK,
    FUTEX_WAITERS,
    Key,
    Waiter,
    wake_operation,
)
from emu.kernel.run.signal_info import Interrupted
from emu.kernel.syscalls.time import clock_base, read_timespec
from emu.kernel.syscalls.waiting import resumable, wait
from emu.kernel.table import syscall

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel
    from emu.kernel.run.block import Waiting
    from emu.kernel.run.task import Task

_PRIVATE, _CLOCK_REALTIME = 128, 256


class Op(IntEnum):
    """FUTEX_*: what a call does. Source: futex(2)."""

    WAIT = 0
    WAKE = 1
    FD = 2
    REQUEUE = 3
    CMP_REQUEUE = 4
    WAKE_OP = 5
    LOCK_PI = 6
    UNLOCK_PI = 7
    TRYLOCK_PI = 8
    WAIT_BITSET = 9
    WAKE_BITSET = 10
    WAIT_REQUEUE_PI = 11
    CMP_REQUEUE_PI = 12
    LOCK_PI2 = 13


_WITH_CLOCK = frozenset((Op.WAIT_BITSET, Op.WAIT_REQUEUE_PI, Op.LOCK_PI2))
_TIMED = frozenset((Op.WAIT, Op.LOCK_PI, Op.LOCK_PI2, Op.WAIT_BITSET, Op.WAIT_REQUEUE_PI))
_TWO_WORDS = (Op.REQUEUE, Op.CMP_REQUEUE, Op.WAKE_OP, Op.WAIT_REQUEUE_PI, Op.CMP_REQUEUE_PI)
_USER_END = 0x7FFF_FFFF_F000


@syscall(202, "futex", "ptr", "flags:futex", "uint", "ptr", "ptr", "uint")
def _sys_futex(
    k: Kernel, t: Task, address: int, operation: int, value: int, timeout: int, second: int, third: int
) -> int | Waiting:
    command = operation & ~(_PRIVATE | _CLOCK_REALTIME)
    if operation & _CLOCK_REALTIME and command not in _WITH_CLOCK:
        raise fail(errno.ENOSYS)
    deadline = _deadline(k, command, operation, timeout) if timeout and command in _TIMED else None
    key = key_of(k, address, private=bool(operation & _PRIVATE)) if command != Op.FD else ()
    match command:
        case Op.WAIT:
            return _wait(k, t, key, address, value, deadline, BITSET_MATCH_ANY)
        case Op.WAIT_BITSET:
            return _wait(k, t, key, address, value, deadline, third)
        case Op.WAKE:
            return wake(k, key, value, BITSET_MATCH_ANY)
        case Op.WAKE_BITSET:
            return wake(k, key, value, third)
        case Op.LOCK_PI | Op.LOCK_PI2:
            return _lock_pi(k, t, key, address, deadline)
        case Op.UNLOCK_PI:
            return _unlock_pi(k, t, key, address)
        case Op.TRYLOCK_PI:
            return _try_lock_pi(k, t, key, address)
    if command not in _TWO_WORDS:
        raise fail(errno.ENOSYS)
    other = key_of(k, second, private=bool(operation & _PRIVATE))
    if command == Op.WAKE_OP:
        return _wake_op(k, key, other, second, value, timeout & abi.U32, third)
    if command == Op.WAIT_REQUEUE_PI:
        return _wait_requeue_pi(k, t, key, address, value, deadline, other, second)
    if command != Op.REQUEUE and load(k, address) != third:
        raise fail(errno.EAGAIN)
    if command == Op.CMP_REQUEUE_PI:
        return _requeue_pi(k, key, other, second, value, timeout & abi.U32)
    return _requeue(k, key, other, second, value, timeout & abi.U32)


def load(k: Kernel, address: int) -> int:
    """Return a word of the guest's memory. Raises MemoryFault."""
    return int.from_bytes(k.arena.copy_in(address, 4), "little")


def store(k: Kernel, address: int, value: int) -> None:
    """Set a word of the guest's memory. Raises MemoryFault."""
    k.arena.copy_out(address, value.to_bytes(4, "little"))


def key_of(k: Kernel, address: int, *, private: bool) -> Key:
    """Return the key of the word at `address`.

    Raises OSError(EINVAL) unless it is aligned, MemoryFault outside user space.
    """
    if address % 4:
        raise fail(errno.EINVAL)
    if address >= _USER_END:
        raise MemoryFault(address, "read")
    if private:
        return private_key(k, address)
    k.arena.copy_in(address, 4)
    area = k.space.find(address)
    if area is not None and area.shared and area.backing is not None:
        return area.backing.dev, area.backing.ino, area.offset + address - area.start
    return 1, address, k.space.number


def private_key(k: Kernel, address: int) -> Key:
    """Return the key of a word that is the process's own."""
    return 0, address, k.space.number


def _deadline(k: Kernel, command: int, operation: int, timeout: int) -> int:
    """Return the virtual time that a timeout argument means:
    FUTEX_WAIT's is relative, FUTEX_LOCK_PI's always real time.
    """
    value = read_timespec(k, timeout)
    if command == Op.WAIT:
        return k.clock.now + value
    real = operation & _CLOCK_REALTIME or command == Op.LOCK_PI
    return value - clock_base(k, abi.CLOCK_REALTIME if real else abi.CLOCK_MONOTONIC)


# -- waiting and waking --------------------------------------------------------------------------------------


def _wait(
    k: Kernel, t: Task, key: Key, address: int, value: int, deadline: int | None, bitset: int
) -> Waiting:
    if not bitset:
        raise fail(errno.EINVAL)
    if load(k, address) != value:
        raise fail(errno.EAGAIN)
    waiter = Waiter(t, key, address, bitset)
    k.futexes.add(waiter)
    return _asleep(k, t, waiter, Block(f"on a futex at {address:#x}", deadline, futex=address))


@resumable
def _asleep(k: Kernel, t: Task, waiter: Waiter, block: Block) -> Waiting:
    try:
        # With a timeout Linux goes on with what is left of it, which no handler may come between.
        if not (yield from wait(k, t, block, restart=block.deadline is None)):
            raise fail(errno.ETIMEDOUT)
    finally:
        k.futexes.remove(waiter)
    return 0


def _signed(count: int) -> int:
    return count - (1 << 32) if count & 0x8000_0000 else count


def wake(k: Kernel, key: Key, count: int, bitset: int = BITSET_MATCH_ANY) -> int:
    """Wake waiters of a word; return how many. Raises OSError(EINVAL)."""
    if not bitset:
        raise fail(errno.EINVAL)
    try:
        woken = k.futexes.wake(key, _signed(count), bitset)
    except ValueError:
        raise fail(errno.EINVAL) from None
    for task in woken:
        k.scheduler.wake(task)
    return len(woken)


def _wake_op(k: Kernel, key: Key, other: Key, second: int, count: int, more: int, encoded: int) -> int:
    try:
        new, holds = wake_operation(encoded, load(k, second))
    except ValueError:
        raise fail(errno.ENOSYS) from None
    store(k, second, new)
    return wake(k, key, count) + (wake(k, other, more) if holds else 0)


def _requeue(k: Kernel, key: Key, other: Key, second: int, count: int, more: int) -> int:
    """Wake `count` waiters, let up to `more` others wait on the second word; return how many of both."""
    if _signed(count) < 0 or _signed(more) < 0:
        raise fail(errno.EINVAL)
    done = 0
    for waiter in k.futexes.waiters(key):
        if waiter.pi or waiter.target is not None:
            raise fail(errno.EINVAL)
        if done < count:
            k.futexes.remove(waiter)
            k.scheduler.wake(waiter.task)
        elif done < count + more:
            k.futexes.requeue(waiter, other, second)
        else:
            break
        done += 1
    return done


# -- PI futexes ----------------------------------------------------------------------------------------------


def _acquire(k: Kernel, t: Task, key: Key, address: int) -> bool:
    """Take a PI futex that is free; false when somebody has it. Raises OSError(EDEADLK, ESRCH)."""
    word = load(k, address)
    owner = word & FUTEX_TID_MASK
    if owner == t.tid:
        raise fail(errno.EDEADLK)
    if owner:
        if owner not in k.tasks:
            raise fail(errno.ESRCH)
        return False
    waiters = FUTEX_WAITERS if k.futexes.waiters(key) else 0
    store(k, address, t.tid | word & FUTEX_OWNER_DIED | waiters)
    return True


def _try_lock_pi(k: Kernel, t: Task, key: Key, address: int) -> int:
    if not _acquire(k, t, key, address):
        raise fail(errno.EAGAIN)
    return 0


def _lock_pi(k: Kernel, t: Task, key: Key, address: int, deadline: int | None) -> int | Waiting:
    if _acquire(k, t, key, address):
        return 0
    _check_chain(k, t, address)
    store(k, address, load(k, address) | FUTEX_WAITERS)
    waiter = Waiter(t, key, address, pi=True)
    k.futexes.add(waiter)
    return _await_handover(k, t, waiter, deadline)


def _check_chain(k: Kernel, t: Task, address: int) -> None:
    """Raise OSError(EDEADLK) if the owner of the PI futex waits, by other owners or at
    once, for one that `t` owns.
    """
    for _ in k.tasks:
        owner = k.tasks.get(load(k, address) & FUTEX_TID_MASK)
        if owner is t:
            raise fail(errno.EDEADLK)
        if owner is None or owner.block is None or not owner.block.lock:
            return
        address = owner.block.futex


@resumable
def _await_handover(k: Kernel, t: Task, waiter: Waiter, deadline: int | None) -> Waiting:
    try:
        block = Block(f"for a lock at {waiter.address:#x}", deadline, futex=waiter.address, lock=True)
        if not (yield from wait(k, t, block)):
            raise fail(errno.ETIMEDOUT)
    except Interrupted:
        raise Interrupted(True, always=True) from None
    finally:
        k.futexes.remove(waiter)
    return 0


def hand_over(k: Kernel, key: Key, address: int, died: int) -> None:
    """Give a PI futex to its first waiter, or to nobody."""
    queue = k.futexes.waiters(key)
    if not queue:
        store(k, address, died)
        return
    heir = queue[0]
    k.futexes.remove(heir)
    store(k, address, heir.task.tid | died | (FUTEX_WAITERS if len(queue) > 1 else 0))
    k.scheduler.wake(heir.task)


def _unlock_pi(k: Kernel, t: Task, key: Key, address: int) -> int:
    if load(k, address) & FUTEX_TID_MASK != t.tid:
        raise fail(errno.EPERM)
    hand_over(k, key, address, 0)
    return 0


def _wait_requeue_pi(
    k: Kernel, t: Task, key: Key, address: int, value: int, deadline: int | None, other: Key, second: int
) -> Waiting:
    """Wait on the first word, to be requeued to the PI futex at the second; return with that one locked."""
    if key == other:
        raise fail(errno.EINVAL)
    if load(k, address) != value:
        raise fail(errno.EAGAIN)
    waiter = Waiter(t, key, address)
    waiter.target = other
    k.futexes.add(waiter)
    what = f"on a futex at {address:#x}, then for the lock at {second:#x}"
    return _await_requeued(k, t, waiter, Block(what, deadline, futex=address))


@resumable
def _await_requeued(k: Kernel, t: Task, waiter: Waiter, block: Block) -> Waiting:
    try:
        if not (yield from wait(k, t, block)):
            raise fail(errno.ETIMEDOUT)
    except Interrupted:
        if waiter.pi:
            raise fail(errno.EAGAIN) from None  # requeued already: the caller takes it from there
        raise Interrupted(True, always=True) from None
    finally:
        k.futexes.remove(waiter)
    return 0


def _requeue_pi(k: Kernel, key: Key, other: Key, second: int, count: int, more: int) -> int:
    """Let the first waiter have the PI futex if it is free, the others wait for it;
    return how many of both.
    """
    if count != 1:
        raise fail(errno.EINVAL)
    done = 0
    for waiter in k.futexes.waiters(key):
        if waiter.target != other:
            raise fail(errno.EINVAL)
        if done >= count + more:
            break
        if done == 0 and _acquire(k, waiter.task, other, second):
            k.futexes.remove(waiter)
            k.scheduler.wake(waiter.task)
        else:
            store(k, second, load(k, second) | FUTEX_WAITERS)
            k.futexes.requeue(waiter, other, second)
            waiter.pi, waiter.target = True, None
        done += 1
    return done
