"""Tasks: exit, futex, rseq, robust lists, scheduling on one CPU.

Source: futex(2), exit(2), set_tid_address(2), sched(7).
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from emu.core.effects import Exit
from emu.kernel import abi
from emu.kernel.inodes import fail
from emu.kernel.syscalls.time import clock_base, pack_timespec, read_timespec
from emu.kernel.table import syscall
from emu.kernel.waiting import wait

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel
    from emu.kernel.task import Task

_FUTEX_PRIVATE, _FUTEX_CLOCK_REALTIME = 128, 256
_WAIT, _WAIT_BITSET, _WAKE_BITSET = 0, 9, 10
_ROBUST_HEAD_SIZE = 24
_RSEQ_SIZE, _RSEQ_UNREGISTER = 32, 1
_SCHED_NORMAL, _SCHED_FIFO, _SCHED_RR, _SCHED_BATCH, _SCHED_IDLE = 0, 1, 2, 3, 5


@syscall(60, "exit", "int")
def _sys_exit(k: Kernel, t: Task, status: int) -> Exit:
    return Exit(status & 0xFF, group=False)


@syscall(231, "exit_group", "int")
def _sys_exit_group(k: Kernel, t: Task, status: int) -> Exit:
    return Exit(status & 0xFF, group=True)


@syscall(218, "set_tid_address", "ptr")
def _sys_set_tid_address(k: Kernel, t: Task, address: int) -> int:
    t.clear_child_tid = address
    return t.tid


@syscall(273, "set_robust_list", "ptr", "size")
def _sys_set_robust_list(k: Kernel, t: Task, head: int, size: int) -> int:
    if size != _ROBUST_HEAD_SIZE:
        raise fail(errno.EINVAL)
    t.robust_list = (head, size)
    return 0


@syscall(274, "get_robust_list", "pid", "ptr", "ptr")
def _sys_get_robust_list(k: Kernel, t: Task, pid: int, head: int, size: int) -> int:
    task = t if pid == 0 else k.tasks.get(pid)
    if task is None:
        raise fail(errno.ESRCH)
    k.arena.copy_out(size, task.robust_list[1].to_bytes(8, "little"))
    k.arena.copy_out(head, task.robust_list[0].to_bytes(8, "little"))
    return 0


@syscall(334, "rseq", "ptr", "uint", "int", "hex")
def _sys_rseq(k: Kernel, t: Task, address: int, size: int, flags: int, signature: int) -> int:
    signature &= abi.U32
    if flags & _RSEQ_UNREGISTER:
        if flags & ~_RSEQ_UNREGISTER or t.rseq[0] != address or not address or t.rseq[1] != size:
            raise fail(errno.EINVAL)
        if t.rseq[2] != signature:
            raise fail(errno.EPERM)
        k.arena.copy_out(address, struct.pack("<Ii", 0, -1))
        t.rseq = (0, 0, 0)
        return 0
    if flags:
        raise fail(errno.EINVAL)
    if t.rseq[0]:
        if t.rseq[:2] != (address, size):
            raise fail(errno.EINVAL)
        raise fail(errno.EBUSY if t.rseq[2] == signature else errno.EPERM)
    if size != _RSEQ_SIZE or address % _RSEQ_SIZE:
        raise fail(errno.EINVAL)
    k.arena.copy_out(address, struct.pack("<II", 0, 0))  # cpu_id_start, cpu_id
    t.rseq = (address, size, signature)
    return 0


@syscall(202, "futex", "ptr", "flags:futex", "uint", "ptr", "ptr", "uint")
def _sys_futex(
    k: Kernel, t: Task, address: int, operation: int, value: int, timeout: int, second: int, third: int
) -> int:
    command = operation & ~(_FUTEX_PRIVATE | _FUTEX_CLOCK_REALTIME)
    if address % 4:
        raise fail(errno.EINVAL)
    match command:
        case 0 | 9:  # FUTEX_WAIT, FUTEX_WAIT_BITSET
            if command == _WAIT_BITSET and not third:
                raise fail(errno.EINVAL)
            return _futex_wait(k, t, address, operation, value, timeout)
        case 1 | 10:  # FUTEX_WAKE, FUTEX_WAKE_BITSET: nobody else is there to wait
            if command == _WAKE_BITSET and not third:
                raise fail(errno.EINVAL)
            k.arena.copy_in(address, 4)
            return 0
        case 3:
            return 0
        case 4:
            if int.from_bytes(k.arena.copy_in(address, 4), "little") != third:
                raise fail(errno.EAGAIN)
            return 0
        case 5:
            return _futex_wake_op(k, second, third)
        case 6 | 8 | 13:  # FUTEX_LOCK_PI, FUTEX_TRYLOCK_PI, FUTEX_LOCK_PI2
            return _futex_lock_pi(k, t, address)
        case 7:
            return _futex_unlock_pi(k, t, address)
    raise fail(errno.ENOSYS)


def _futex_wait(k: Kernel, t: Task, address: int, operation: int, value: int, timeout: int) -> int:
    deadline = None
    if timeout:
        length = read_timespec(k, timeout)
        if operation & 0x7F == _WAIT:
            deadline = k.clock.now + length
        else:
            clock = abi.CLOCK_REALTIME if operation & _FUTEX_CLOCK_REALTIME else abi.CLOCK_MONOTONIC
            deadline = length - clock_base(k, clock)
    if int.from_bytes(k.arena.copy_in(address, 4), "little") != value:
        raise fail(errno.EAGAIN)
    wait(k, t, f"on a futex at {address:#x}", deadline=deadline)
    raise fail(errno.ETIMEDOUT)


def _futex_wake_op(k: Kernel, address: int, encoded: int) -> int:
    """Do the arithmetic of FUTEX_WAKE_OP on the second word; it wakes nobody."""
    operation, operand = encoded >> 28, encoded >> 12 & 0xFFF
    operand = operand - 0x1000 if operand & 0x800 else operand
    if operation & 8:
        operand = 1 << (operand & 31)
    old = int.from_bytes(k.arena.copy_in(address, 4), "little")
    match operation & 7:
        case 0:
            new = operand
        case 1:
            new = old + operand
        case 2:
            new = old | operand
        case 3:
            new = old & ~operand
        case 4:
            new = old ^ operand
        case _:
            raise fail(errno.ENOSYS)
    k.arena.copy_out(address, (new & abi.U32).to_bytes(4, "little"))
    return 0


def _futex_lock_pi(k: Kernel, t: Task, address: int) -> int:
    word = int.from_bytes(k.arena.copy_in(address, 4), "little")
    owner = word & 0x3FFF_FFFF
    if owner == t.tid:
        raise fail(errno.EDEADLK)
    if owner:
        raise fail(errno.ESRCH)
    k.arena.copy_out(address, t.tid.to_bytes(4, "little"))
    return 0


def _futex_unlock_pi(k: Kernel, t: Task, address: int) -> int:
    if int.from_bytes(k.arena.copy_in(address, 4), "little") & 0x3FFF_FFFF != t.tid:
        raise fail(errno.EPERM)
    k.arena.copy_out(address, bytes(4))
    return 0


# -- one CPU -------------------------------------------------------------------------------------------------


def _this(k: Kernel, pid: int) -> None:
    if pid < 0:
        raise fail(errno.EINVAL)
    if pid not in (0, abi.PID) and pid not in k.tasks:
        raise fail(errno.ESRCH)


@syscall(24, "sched_yield")
def _sys_sched_yield(k: Kernel, t: Task) -> int:
    return 0


@syscall(204, "sched_getaffinity", "pid", "uint", "ptr")
def _sys_sched_getaffinity(k: Kernel, t: Task, pid: int, size: int, mask: int) -> int:
    if size < 8 or size % 8:
        raise fail(errno.EINVAL)
    _this(k, pid)
    k.arena.copy_out(mask, (1).to_bytes(8, "little"))
    return 8


@syscall(203, "sched_setaffinity", "pid", "uint", "ptr")
def _sys_sched_setaffinity(k: Kernel, t: Task, pid: int, size: int, mask: int) -> int:
    _this(k, pid)
    wanted = k.arena.copy_in(mask, min(size, 128))
    if not wanted or not wanted[0] & 1:
        raise fail(errno.EINVAL)
    return 0


@syscall(145, "sched_getscheduler", "pid")
def _sys_sched_getscheduler(k: Kernel, t: Task, pid: int) -> int:
    _this(k, pid)
    return _SCHED_NORMAL


@syscall(144, "sched_setscheduler", "pid", "int", "ptr")
def _sys_sched_setscheduler(k: Kernel, t: Task, pid: int, policy: int, parameters: int) -> int:
    _this(k, pid)
    return _set_policy(
        policy & 0x3FFF_FFFF, int.from_bytes(k.arena.copy_in(parameters, 4), "little", signed=True)
    )


def _set_policy(policy: int, priority: int) -> int:
    if policy in (_SCHED_NORMAL, _SCHED_BATCH, _SCHED_IDLE):
        if priority:
            raise fail(errno.EINVAL)
        return 0
    raise fail(errno.EPERM if policy in (_SCHED_FIFO, _SCHED_RR) and 1 <= priority <= 99 else errno.EINVAL)


@syscall(143, "sched_getparam", "pid", "ptr")
def _sys_sched_getparam(k: Kernel, t: Task, pid: int, parameters: int) -> int:
    _this(k, pid)
    k.arena.copy_out(parameters, bytes(4))
    return 0


@syscall(142, "sched_setparam", "pid", "ptr")
def _sys_sched_setparam(k: Kernel, t: Task, pid: int, parameters: int) -> int:
    _this(k, pid)
    if k.arena.copy_in(parameters, 4) != bytes(4):
        raise fail(errno.EINVAL)
    return 0


def _priority_limit(policy: int, highest: int) -> int:
    if policy in (_SCHED_FIFO, _SCHED_RR):
        return highest
    if policy in (_SCHED_NORMAL, _SCHED_BATCH, _SCHED_IDLE, 6):
        return 0
    raise fail(errno.EINVAL)


@syscall(146, "sched_get_priority_max", "int")
def _sys_sched_get_priority_max(k: Kernel, t: Task, policy: int) -> int:
    return _priority_limit(policy, 99)


@syscall(147, "sched_get_priority_min", "int")
def _sys_sched_get_priority_min(k: Kernel, t: Task, policy: int) -> int:
    return _priority_limit(policy, 1)


@syscall(148, "sched_rr_get_interval", "pid", "ptr")
def _sys_sched_rr_get_interval(k: Kernel, t: Task, pid: int, address: int) -> int:
    _this(k, pid)
    k.arena.copy_out(address, pack_timespec(4_000_000))
    return 0


@syscall(309, "getcpu", "ptr", "ptr", "ptr")
def _sys_getcpu(k: Kernel, t: Task, cpu: int, node: int, cache: int) -> int:
    for address in (cpu, node):
        if address:
            k.arena.copy_out(address, bytes(4))
    return 0


@syscall(140, "getpriority", "int", "pid")
def _sys_getpriority(k: Kernel, t: Task, which: int, who: int) -> int:
    if not 0 <= which <= 2:
        raise fail(errno.EINVAL)
    return 20


@syscall(141, "setpriority", "int", "pid", "int")
def _sys_setpriority(k: Kernel, t: Task, which: int, who: int, value: int) -> int:
    if not 0 <= which <= 2:
        raise fail(errno.EINVAL)
    if value < 0 and k.fs.uid:
        raise fail(errno.EACCES)
    return 0


@syscall(251, "ioprio_set", "int", "int", "int")
def _sys_ioprio_set(k: Kernel, t: Task, which: int, who: int, value: int) -> int:
    return 0


@syscall(252, "ioprio_get", "int", "int")
def _sys_ioprio_get(k: Kernel, t: Task, which: int, who: int) -> int:
    return 0


@syscall(61, "wait4", "pid", "ptr", "int", "ptr")
def _sys_wait4(k: Kernel, t: Task, pid: int, status: int, options: int, usage: int) -> int:
    raise fail(errno.ECHILD)


@syscall(247, "waitid", "int", "pid", "ptr", "int", "ptr")
def _sys_waitid(k: Kernel, t: Task, which: int, pid: int, info: int, options: int, usage: int) -> int:
    raise fail(errno.ECHILD)
