"""Scheduling on one CPU. Source: sched(7)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.run.credentials import CAP_SYS_NICE
from emu.kernel.run.task import Task
from emu.kernel.syscalls.groups import find_thread
from emu.kernel.syscalls.time import pack_timespec
from emu.kernel.table import syscall

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel

SCHED_NORMAL, _SCHED_FIFO, _SCHED_RR, SCHED_BATCH, _SCHED_IDLE = 0, 1, 2, 3, 5


def find_task(k: Kernel, t: Task, pid: int) -> Task:
    """Return the thread that a call is about; of the parent of all only what is so for everybody.

    Raises OSError(EINVAL, ESRCH).
    """
    if pid < 0:
        raise fail(errno.EINVAL)
    if pid == abi.PPID:
        return Task(abi.PPID)
    return t if pid == 0 else find_thread(k, pid)


@syscall(24, "sched_yield")
def _sys_sched_yield(k: Kernel, t: Task) -> int:
    k.scheduler.yield_cpu()
    return 0


def _affine(k: Kernel, t: Task, pid: int) -> Task:
    if pid < 0:
        raise fail(errno.ESRCH)  # where other calls say EINVAL
    return find_task(k, t, pid)


def _cpus(k: Kernel, task: Task) -> int:
    """Return the processors that a thread may run on, a mask."""
    return task.affinity & (1 << k.config.cpus) - 1


@syscall(204, "sched_getaffinity", "pid", "uint", "ptr")
def _sys_sched_getaffinity(k: Kernel, t: Task, pid: int, size: int, mask: int) -> int:
    width = (k.config.cpus + 63) // 64 * 8
    if size < width or size % 8:
        raise fail(errno.EINVAL)
    k.arena.copy_out(mask, _cpus(k, _affine(k, t, pid)).to_bytes(width, "little"))
    return width


@syscall(203, "sched_setaffinity", "pid", "uint", "ptr")
def _sys_sched_setaffinity(k: Kernel, t: Task, pid: int, size: int, mask: int) -> int:
    wanted = int.from_bytes(k.arena.copy_in(mask, min(size, 1024)), "little") & (1 << k.config.cpus) - 1
    task = _affine(k, t, pid)
    if not wanted:
        raise fail(errno.EINVAL)
    task.affinity = wanted
    return 0


@syscall(145, "sched_getscheduler", "pid")
def _sys_sched_getscheduler(k: Kernel, t: Task, pid: int) -> int:
    return find_task(k, t, pid).policy


@syscall(144, "sched_setscheduler", "pid", "int", "ptr")
def _sys_sched_setscheduler(k: Kernel, t: Task, pid: int, policy: int, parameters: int) -> int:
    _check_parameters(pid, parameters)
    if policy < 0:
        raise fail(errno.EINVAL)
    task = find_task(k, t, pid)
    return set_policy(k, task, policy, _priority_at(k, parameters))


@syscall(143, "sched_getparam", "pid", "ptr")
def _sys_sched_getparam(k: Kernel, t: Task, pid: int, parameters: int) -> int:
    _check_parameters(pid, parameters)
    priority = find_task(k, t, pid).priority
    k.arena.copy_out(parameters, priority.to_bytes(4, "little"))
    return 0


@syscall(142, "sched_setparam", "pid", "ptr")
def _sys_sched_setparam(k: Kernel, t: Task, pid: int, parameters: int) -> int:
    _check_parameters(pid, parameters)
    task = find_task(k, t, pid)
    return set_policy(k, task, task.policy, _priority_at(k, parameters))


def _check_parameters(pid: int, address: int) -> None:
    if pid < 0 or not address:
        raise fail(errno.EINVAL)


def _priority_at(k: Kernel, address: int) -> int:
    return int.from_bytes(k.arena.copy_in(address, 4), "little", signed=True)


def set_policy(k: Kernel, task: Task, policy: int, priority: int) -> int:
    """Note a policy.

    It is told to whoever asks; who runs next is decided by the schedule,
    as for threads of equal rank on many CPUs.
    """
    kind = policy & ~abi.SCHED_RESET_ON_FORK
    realtime = kind in (_SCHED_FIFO, _SCHED_RR)
    if (
        kind not in (SCHED_NORMAL, _SCHED_FIFO, _SCHED_RR, SCHED_BATCH, _SCHED_IDLE)
        or not 0 <= priority < 100
        or realtime != bool(priority)
    ):
        raise fail(errno.EINVAL)
    if not k.credentials.has(CAP_SYS_NICE):
        if realtime and (kind != task.policy & ~abi.SCHED_RESET_ON_FORK or priority > task.priority):
            raise fail(errno.EPERM)
        if task.policy & ~policy & abi.SCHED_RESET_ON_FORK:
            raise fail(errno.EPERM)
    task.policy, task.priority = policy, priority
    return 0


def _priority_limit(policy: int, highest: int) -> int:
    if policy in (_SCHED_FIFO, _SCHED_RR):
        return highest
    if policy in (SCHED_NORMAL, SCHED_BATCH, _SCHED_IDLE, 6):
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
    find_task(k, t, pid)
    k.arena.copy_out(address, pack_timespec(4_000_000))
    return 0


@syscall(309, "getcpu", "ptr", "ptr", "ptr")
def _sys_getcpu(k: Kernel, t: Task, cpu: int, node: int, cache: int) -> int:
    mask = _cpus(k, t)
    for address, value in ((cpu, (mask & -mask).bit_length() - 1), (node, 0)):
        if address:
            k.arena.copy_out(address, value.to_bytes(4, "little"))
    return 0


@syscall(251, "ioprio_set", "int", "int", "int")
def _sys_ioprio_set(k: Kernel, t: Task, which: int, who: int, value: int) -> int:
    return 0


@syscall(252, "ioprio_get", "int", "int")
def _sys_ioprio_get(k: Kernel, t: Task, which: int, who: int) -> int:
    return 0
