"""Scheduling on one CPU, and children that there are none of. Source: sched(7), getpriority(2), wait(2)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.inodes import fail
from emu.kernel.syscalls.time import pack_timespec
from emu.kernel.table import syscall

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel
    from emu.kernel.task import Task

_SCHED_NORMAL, _SCHED_FIFO, _SCHED_RR, _SCHED_BATCH, _SCHED_IDLE = 0, 1, 2, 3, 5


def _this(k: Kernel, pid: int) -> None:
    if pid < 0:
        raise fail(errno.EINVAL)
    if pid not in (0, abi.PID) and pid not in k.tasks:
        raise fail(errno.ESRCH)


@syscall(24, "sched_yield")
def _sys_sched_yield(k: Kernel, t: Task) -> int:
    k.scheduler.yield_cpu()
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
