"""Process descriptors. Source: pidfd_open(2), pidfd_send_signal(2), pidfd_getfd(2)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.fs.pidfd import PidFile
from emu.kernel.proc.procfs import ProcDirectory
from emu.kernel.run.family import Family
from emu.kernel.run.signal_info import SignalInfo
from emu.kernel.syscalls.signal import INFO, send_to, to_parent_of_all
from emu.kernel.table import syscall

if TYPE_CHECKING:
    from emu.kernel.fs.file import OpenFile
    from emu.kernel.kernel import Kernel
    from emu.kernel.run.task import Task


def process_of(k: Kernel, fd: int) -> Kernel:
    """Return the process of a descriptor. Raises OSError: EBADF, ESRCH once it has been waited for."""
    file = k.fds.get(fd)
    if not isinstance(file, PidFile):
        raise fail(errno.EBADF)
    process = k.system.processes.get(file.family.pid)
    if process is None:
        raise fail(errno.ESRCH)
    return process


def _shown_in_proc(k: Kernel, file: OpenFile) -> Kernel | None:
    """Return the process whose directory of /proc is open, which names it as a descriptor of its own does."""
    folder = file.inode
    if not isinstance(folder, ProcDirectory) or file.flags & abi.O_PATH or not folder.name.isdecimal():
        return None
    return k.system.processes.get(int(folder.name)) if folder.parent.path() == "/proc" else None


@syscall(434, "pidfd_open", "pid", "uint")
def _sys_pidfd_open(k: Kernel, t: Task, pid: int, flags: int) -> int:
    if flags & ~abi.O_NONBLOCK or pid <= 0:
        raise fail(errno.EINVAL)
    if pid == abi.PPID:
        return k.fds.install(PidFile(k.fs, Family(pid, 0, pid, abi.SID), flags), True)
    process = k.system.processes.get(pid)
    if process is None:
        threads = any(pid in other.tasks for other in k.system.processes.values())
        raise fail(errno.EINVAL if threads else errno.ESRCH)
    return k.fds.install(PidFile(k.fs, process.family, flags), True)


@syscall(424, "pidfd_send_signal", "fd", "signal", "ptr", "uint")
def _sys_pidfd_send_signal(k: Kernel, t: Task, fd: int, signo: int, address: int, flags: int) -> int:
    if flags or not 0 <= signo <= abi.NSIG:
        raise fail(errno.EINVAL)
    file = k.fds.get(fd)
    if isinstance(file, PidFile) and file.family.pid == abi.PPID and not address:
        return to_parent_of_all(k, signo)
    process = _shown_in_proc(k, file) or process_of(k, fd)
    info = SignalInfo(signo, abi.SI_USER, k.pid, k.credentials.users.real)
    if address:
        number, _, code, _, pid, uid, value = INFO.unpack(k.arena.copy_in(address, INFO.size))
        if number != signo:
            raise fail(errno.EINVAL)
        if process is not k and (code >= 0 or code == abi.SI_TKILL):
            raise fail(errno.EPERM)
        info = SignalInfo(signo, code, pid, uid, value=value)
    send_to(k, process, None, info)
    return 0


@syscall(438, "pidfd_getfd", "fd", "fd", "uint")
def _sys_pidfd_getfd(k: Kernel, t: Task, fd: int, wanted: int, flags: int) -> int:
    if flags:
        raise fail(errno.EINVAL)
    return k.fds.install(process_of(k, fd).fds.get(wanted), True)
