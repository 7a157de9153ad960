"""process_vm_readv and process_vm_writev: bytes from one process's memory to another's.

Source: process_vm_readv(2); Linux mm/process_vm_access.c.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.core.errors import MemoryFault
from emu.core.record import NamedTuple
from emu.kernel.errors import fail
from emu.kernel.syscalls.groups import find_process
from emu.kernel.syscalls.io import read_iovec
from emu.kernel.syscalls.ptrace import check_access
from emu.kernel.table import syscall

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.kernel.kernel import Kernel
    from emu.kernel.run.task import Task

_PAGE = 4096


def _pieces(local: list[tuple[int, int]], remote: list[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """Yield local address, remote address and size of what is copied at once: within one remote page, so that
    what comes before a page that is not there is copied.
    """
    here = [(base, size) for base, size in reversed(local) if size]
    there = [(base, size) for base, size in reversed(remote) if size]
    while here and there:
        (to, room), (at, left) = here.pop(), there.pop()
        size = min(room, left, _PAGE - at % _PAGE)
        yield to, at, size
        if room > size:
            here.append((to + size, room - size))
        if left > size:
            there.append((at + size, left - size))


class _Request(NamedTuple):
    """What is asked for: whose memory, the vector of the caller's own, that of the other's."""

    pid: int
    local: int
    locals: int
    remote: int
    remotes: int
    flags: int


def _copy(k: Kernel, asked: _Request, *, write: bool) -> int:
    if asked.flags:
        raise fail(errno.EINVAL)
    here = read_iovec(k, asked.local, asked.locals)
    there = read_iovec(k, asked.remote, asked.remotes)
    process = find_process(k, asked.pid)
    check_access(k, process)
    done = 0
    for to, at, size in _pieces(here, there):
        try:
            if write:
                process.arena.copy_out(at, k.arena.copy_in(to, size))
            else:
                k.arena.copy_out(to, process.arena.copy_in(at, size))
        except MemoryFault:
            if done:
                break
            raise
        done += size
    return done


@syscall(310, "process_vm_readv", "pid", "ptr", "long", "ptr", "long", "long")
def _sys_process_vm_readv(k: Kernel, t: Task, *asked: int) -> int:
    return _copy(k, _Request(*asked), write=False)


@syscall(311, "process_vm_writev", "pid", "ptr", "long", "ptr", "long", "long")
def _sys_process_vm_writev(k: Kernel, t: Task, *asked: int) -> int:
    return _copy(k, _Request(*asked), write=True)
