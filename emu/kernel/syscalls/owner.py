"""fcntl about signals of a descriptor: its owner, O_ASYNC, notices of a directory. Source: fcntl(2)."""

from __future__ import annotations

import errno
import struct
from functools import partial
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.fs.directory import DirectoryFile
from emu.kernel.fs.owned import OWNER_PGRP, OWNER_PID, OWNER_TID, Owner
from emu.kernel.fs.owner import AsyncFile, DirectoryNotice
from emu.kernel.run.signal_info import SignalInfo
from emu.kernel.syscalls.groups import find_process, find_thread, members

if TYPE_CHECKING:
    from emu.kernel.fs.file import OpenFile
    from emu.kernel.kernel import Kernel, System
    from emu.kernel.run.task import Task


_OWNER = struct.Struct("<ii")


def owner_call(k: Kernel, file: OpenFile, fd: int, command: int, argument: int) -> int:
    """Serve a command of this part. Raises OSError, MemoryFault."""
    number = (argument & abi.U32 ^ 1 << 31) - (1 << 31)
    owner = file.owner
    match command:
        case abi.F_SETOWN:
            kind = OWNER_PGRP if number < 0 else OWNER_PID
            file.set_owner(_checked(k, Owner(kind, abs(number), owner.signo)))
        case abi.F_GETOWN:
            return -owner.id if owner.kind == OWNER_PGRP else owner.id
        case abi.F_SETSIG:
            if not 0 <= number <= abi.NSIG:
                raise fail(errno.EINVAL)
            file.set_owner(owner._replace(signo=number))
        case abi.F_GETSIG:
            return owner.signo
        case abi.F_SETOWN_EX:
            kind, number = _OWNER.unpack(k.arena.copy_in(argument, _OWNER.size))
            if not OWNER_TID <= kind <= OWNER_PGRP:
                raise fail(errno.EINVAL)
            file.set_owner(_checked(k, Owner(kind, number, owner.signo)))
        case abi.F_GETOWN_EX:
            k.arena.copy_out(argument, _OWNER.pack(owner.kind, owner.id))
        case _:
            _notify(k, file, fd, argument & abi.U32)
    return 0


def _checked(k: Kernel, owner: Owner) -> Owner:
    """Return an owner that is there. Raises OSError(ESRCH)."""
    if owner.id and not _owners(k.system, owner):
        raise fail(errno.ESRCH)
    return owner


def _owners(system: System, owner: Owner) -> list[tuple[Kernel, Task | None]]:
    """Return the processes, or the thread, that an owner is now."""
    leader = system.leader
    try:
        if owner.kind == OWNER_PGRP:
            return [(process, None) for process in members(leader, owner.id)]
        if owner.kind == OWNER_PID:
            return [(find_process(leader, owner.id), None)]
        task = find_thread(leader, owner.id)
    except ProcessLookupError:
        return []
    return [(system.processes[task.pid], task)]


def _send(system: System, owner: Owner, fd: int, event: tuple[int, int]) -> None:
    """Send a descriptor's signal; one that is not real-time tells nothing unless it was asked for."""
    code, band = event
    info = (
        SignalInfo(owner.signo, code, band, value=fd) if owner.signo else SignalInfo(abi.SIGIO, abi.SI_KERNEL)
    )
    for process, task in _owners(system, owner) if owner.id else ():
        if process.family.status is None:
            process.signals.send(info, task)


def set_async(k: Kernel, file: OpenFile, fd: int, *, on: bool) -> bool:
    """Switch O_ASYNC; false for a kind of file that tells nobody of what happens."""
    return AsyncFile.switch(file, fd, partial(_send, k.system), on=on)


def _notify(k: Kernel, file: OpenFile, fd: int, mask: int) -> None:
    """Tell a directory's owner of what happens in it. Source: Linux fs/notify/dnotify/dnotify.c."""
    if not mask & 0x7FFF_FFFF:
        if isinstance(file, DirectoryFile) and file.notice is not None:
            file.notice.cancel()
        return
    if not isinstance(file, DirectoryFile):
        raise fail(errno.ENOTDIR)
    if file.notice is None:
        file.notify(DirectoryNotice(file, fd, k.system.watch_files(), partial(_send, k.system)))
    if not file.owner.id:
        file.set_owner(file.owner._replace(kind=OWNER_PID, id=k.pid))
    assert file.notice is not None
    file.notice.ask(mask)
