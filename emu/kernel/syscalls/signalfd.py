"""Signals to be read from a descriptor. Source: signalfd(2); Linux fs/signalfd.c."""

from __future__ import annotations

import errno
from functools import partial
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.fs.anonymous import SignalFile
from emu.kernel.run.signal_info import clean_mask
from emu.kernel.table import syscall

if TYPE_CHECKING:
    from emu.kernel.fs.file import OpenFile
    from emu.kernel.kernel import Kernel, System
    from emu.kernel.run.signal_info import SignalInfo
    from emu.kernel.run.task import Task

_MASK_SIZE = 8


@syscall(282, "signalfd", "fd", "ptr", "size")
def _sys_signalfd(k: Kernel, t: Task, fd: int, mask: int, size: int) -> int:
    return _sys_signalfd4(k, t, fd, mask, size, 0)


@syscall(289, "signalfd4", "fd", "ptr", "size", "int")
def _sys_signalfd4(k: Kernel, t: Task, fd: int, mask: int, size: int, flags: int) -> int:
    if size != _MASK_SIZE or flags & ~(abi.O_CLOEXEC | abi.O_NONBLOCK):
        raise fail(errno.EINVAL)
    wanted = clean_mask(int.from_bytes(k.arena.copy_in(mask, _MASK_SIZE), "little"))
    if fd == -1:
        system = k.system
        file = SignalFile(
            k.fs, wanted, partial(_take, system), partial(_pending, system), flags & abi.O_NONBLOCK
        )
        return k.fds.install(file, bool(flags & abi.O_CLOEXEC))
    known = k.file(fd)
    if not isinstance(known, SignalFile):
        raise fail(errno.EINVAL)
    known.mask = wanted
    return fd


def _take(system: System, mask: int) -> SignalInfo | None:
    """Remove a pending signal of `mask` from the running thread or its process, and return it."""
    process, task = system.running, system.scheduler.current
    info = process.signals.take(task, mask)
    task.signalled = process.signals.deliverable(task)
    return info


def _pending(system: System, file: OpenFile) -> int:
    """Return the signals that somebody who has the file open could read."""
    found = 0
    for process in system.processes.values():
        if any(file is other for other in process.fds.files.values()):
            for task in process.tasks.values():
                found |= process.signals.pending_set(task)
    return found
