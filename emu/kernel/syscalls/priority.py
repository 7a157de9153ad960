"""Nice values, and all attributes at once; nothing depends on them.

Source: getpriority(2), sched_setattr(2); Linux kernel/sched/syscalls.c.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.run.credentials import CAP_SYS_NICE
from emu.kernel.syscalls.scheduling import SCHED_BATCH, SCHED_NORMAL, find_task, set_policy
from emu.kernel.table import syscall

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel
    from emu.kernel.run.task import Task

_PROCESS, _GROUP = 0, 1
_LOWEST, _HIGHEST = -20, 19
_ATTR = struct.Struct("<IIQiIQQQII")
"""struct sched_attr: size, policy, flags, nice, priority, runtime, deadline,
period, the two utilisation hints.
"""
_FIRST_SIZE, _LARGEST_SIZE = 48, 4096
_RESET_ON_FORK, _KEEP_POLICY, _KEEP_PARAMETERS, _ATTR_FLAGS = 1, 8, 16, 0x7F


def _ranked(k: Kernel, t: Task, which: int, who: int) -> list[Task]:
    """Return the threads that a PRIO_* pair names. Raises OSError(EINVAL, ESRCH)."""
    if not 0 <= which <= 2:
        raise fail(errno.EINVAL)
    if which == _PROCESS:
        return [find_task(k, t, who)]
    own = (0, k.family.group) if which == _GROUP else (0, k.credentials.users.real)
    if who not in own:
        raise fail(errno.ESRCH)
    return list(k.tasks.values())


@syscall(140, "getpriority", "int", "pid")
def _sys_getpriority(k: Kernel, t: Task, which: int, who: int) -> int:
    return 20 - min(task.nice for task in _ranked(k, t, which, who))


@syscall(141, "setpriority", "int", "pid", "int")
def _sys_setpriority(k: Kernel, t: Task, which: int, who: int, value: int) -> int:
    value = min(max(value, _LOWEST), _HIGHEST)
    for task in _ranked(k, t, which, who):
        if value < task.nice and not k.credentials.has(CAP_SYS_NICE):
            raise fail(errno.EACCES)
        task.nice = value
    return 0


@syscall(315, "sched_getattr", "pid", "ptr", "uint", "hex")
def _sys_sched_getattr(k: Kernel, t: Task, pid: int, address: int, size: int, flags: int) -> int:
    if flags or not _FIRST_SIZE <= size <= _LARGEST_SIZE:
        raise fail(errno.EINVAL)
    task = find_task(k, t, pid)
    size = min(size, _ATTR.size)
    reset = int(bool(task.policy & abi.SCHED_RESET_ON_FORK))
    policy, nice = task.policy & ~abi.SCHED_RESET_ON_FORK, 0 if task.priority else task.nice
    k.arena.copy_out(address, _ATTR.pack(size, policy, reset, nice, task.priority, 0, 0, 0, 0, 0)[:size])
    return 0


@syscall(314, "sched_setattr", "pid", "ptr", "hex")
def _sys_sched_setattr(k: Kernel, t: Task, pid: int, address: int, flags: int) -> int:
    if flags or pid < 0:
        raise fail(errno.EINVAL)
    size = int.from_bytes(k.arena.copy_in(address, 4), "little") or _FIRST_SIZE
    known = min(size, _ATTR.size)
    if not _FIRST_SIZE <= size <= _LARGEST_SIZE or any(k.arena.copy_in(address + known, size - known)):
        k.arena.copy_out(address, _ATTR.size.to_bytes(4, "little"))
        raise fail(errno.E2BIG)
    _, policy, wanted, nice, priority, *_ = _ATTR.unpack(
        k.arena.copy_in(address, known).ljust(_ATTR.size, b"\0")
    )
    if policy >> 31 or wanted & ~_ATTR_FLAGS:
        raise fail(errno.EINVAL)
    task = find_task(k, t, pid)
    if wanted & _KEEP_POLICY:
        policy = task.policy & ~abi.SCHED_RESET_ON_FORK
    if wanted & _KEEP_PARAMETERS:
        priority, nice = task.priority, task.nice
    nice = min(max(nice, _LOWEST), _HIGHEST)
    normal = policy in (SCHED_NORMAL, SCHED_BATCH)
    if normal and nice < task.nice and not k.credentials.has(CAP_SYS_NICE):
        raise fail(errno.EPERM)
    set_policy(k, task, policy | (abi.SCHED_RESET_ON_FORK if wanted & _RESET_ON_FORK else 0), priority)
    if normal:
        task.nice = nice
    return 0
