"""seccomp: a task binds itself, and what it makes, to system calls that its filters allow.

Source: seccomp(2), prctl(2); Linux kernel/seccomp.c.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from emu.kernel.errors import fail
from emu.kernel.run.bpf import FILTER_MODE, STRICT_MODE, Seccomp, check
from emu.kernel.run.credentials import CAP_SYS_ADMIN
from emu.kernel.run.seccomp import ACTIONS
from emu.kernel.table import syscall

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel
    from emu.kernel.run.task import Task

_SET_STRICT, _SET_FILTER, _GET_ACTION_AVAIL, _GET_NOTIF_SIZES = range(4)
_TSYNC, _LOG, _SPEC_ALLOW, _NEW_LISTENER, _TSYNC_ESRCH, _WAIT_KILLABLE = 1, 2, 4, 8, 16, 32
_INSTRUCTION, _PROGRAM = 8, struct.Struct("<H6xQ")
_NOTIFICATION_SIZES = struct.pack("<3H", 80, 24, 64)


def by_prctl(k: Kernel, t: Task, mode: int, place: int) -> int:
    """Serve prctl(PR_SET_SECCOMP)."""
    if mode == STRICT_MODE:
        return _set_strict(t)
    if mode == FILTER_MODE:
        return _set_filter(k, t, 0, place)
    raise fail(errno.EINVAL)


@syscall(317, "seccomp", "uint", "uint", "ptr")
def _sys_seccomp(k: Kernel, t: Task, operation: int, flags: int, place: int) -> int:
    if operation == _SET_FILTER:
        return _set_filter(k, t, flags, place)
    if flags or operation not in (_SET_STRICT, _GET_ACTION_AVAIL, _GET_NOTIF_SIZES):
        raise fail(errno.EINVAL)
    if operation == _SET_STRICT:
        if place:
            raise fail(errno.EINVAL)
        return _set_strict(t)
    if operation == _GET_NOTIF_SIZES:
        k.arena.copy_out(place, _NOTIFICATION_SIZES)
        return 0
    if int.from_bytes(k.arena.copy_in(place, 4), "little") not in ACTIONS:
        raise fail(errno.EOPNOTSUPP)
    return 0


def _set_strict(t: Task) -> int:
    if t.seccomp.mode not in (0, STRICT_MODE):
        raise fail(errno.EINVAL)
    t.seccomp = Seccomp(STRICT_MODE)
    return 0


def _set_filter(k: Kernel, t: Task, flags: int, place: int) -> int:
    known = _TSYNC | _LOG | _SPEC_ALLOW | _NEW_LISTENER | _TSYNC_ESRCH | _WAIT_KILLABLE
    if flags & ~known or flags & _TSYNC and flags & _NEW_LISTENER and not flags & _TSYNC_ESRCH:
        raise fail(errno.EINVAL)
    if flags & _WAIT_KILLABLE and not flags & _NEW_LISTENER:
        raise fail(errno.EINVAL)
    count, program = _PROGRAM.unpack(k.arena.copy_in(place, _PROGRAM.size))
    if not 0 < count <= 4096:
        raise fail(errno.EINVAL)
    if not k.no_new_privs and not k.credentials.has(CAP_SYS_ADMIN):
        raise fail(errno.EACCES)
    if not program:
        raise fail(errno.EINVAL)
    fresh = check(k.arena.copy_in(program, _INSTRUCTION * count))
    if flags & _NEW_LISTENER:
        return k.refuse("seccomp with SECCOMP_FILTER_FLAG_NEW_LISTENER")
    if t.seccomp.mode == STRICT_MODE:
        raise fail(errno.EINVAL)
    others = [other for other in k.tasks.values() if other is not t] if flags & _TSYNC else []
    for other in others:
        if not t.seccomp.comes_of(other.seccomp):
            if flags & _TSYNC_ESRCH:
                raise fail(errno.ESRCH)
            return other.tid
    t.seccomp = t.seccomp.adding(fresh)
    for other in others:
        other.seccomp = t.seccomp
    return 0
