"""Processes by their ids, process groups and sessions.

Source: setpgid(2), setsid(2), credentials(7); Linux kernel/sys.c.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.table import syscall

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel
    from emu.kernel.run.task import Task


def find_process(k: Kernel, pid: int) -> Kernel:
    """Return a process by its id, or by that of one of its threads. Raises OSError(ESRCH)."""
    process = k.system.processes.get(pid)
    if process is None:
        process = next((p for p in k.system.processes.values() if pid in p.tasks), None)
    if process is None:
        raise fail(errno.ESRCH)
    return process


def find_thread(k: Kernel, tid: int) -> Task:
    """Return a thread of any process. Raises OSError(ESRCH)."""
    task = k.tasks.get(tid) or next(
        (p.tasks[tid] for p in k.system.processes.values() if tid in p.tasks), None
    )
    if task is None:
        raise fail(errno.ESRCH)
    return task


def members(k: Kernel, group: int) -> list[Kernel]:
    """Return the processes of a group, zombies included."""
    return [process for process in k.system.processes.values() if process.family.group == group]


@syscall(121, "getpgid", "pid")
def _sys_getpgid(k: Kernel, t: Task, pid: int) -> int:
    if pid == abi.PPID:
        return abi.SID  # it leads the session
    return (find_process(k, pid) if pid else k).family.group


@syscall(109, "setpgid", "pid", "pid")
def _sys_setpgid(k: Kernel, t: Task, pid: int, group: int) -> int:
    if group < 0:
        raise fail(errno.EINVAL)
    process = k.system.processes.get(pid) if pid else k
    if process is None or process is not k and process.family.parent != k.pid:
        raise fail(errno.ESRCH)
    family = process.family
    if process is not k:
        if family.session != k.family.session:
            raise fail(errno.EPERM)
        if family.executed:
            raise fail(errno.EACCES)
    if family.session == family.pid:
        raise fail(errno.EPERM)
    group = group or family.pid
    if group != family.pid and not any(m.family.session == k.family.session for m in members(k, group)):
        raise fail(errno.EPERM)
    family.group = group
    return 0


@syscall(124, "getsid", "pid")
def _sys_getsid(k: Kernel, t: Task, pid: int) -> int:
    if pid == abi.PPID:
        return abi.SID
    return (find_process(k, pid) if pid else k).family.session


@syscall(112, "setsid")
def _sys_setsid(k: Kernel, t: Task) -> int:
    if members(k, k.pid):
        raise fail(errno.EPERM)  # there is a group of that id: most often the process leads it
    k.family.group = k.family.session = k.pid
    return k.pid
