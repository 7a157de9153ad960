"""prctl: what a process or a thread asks of itself, an option each.

Source: prctl(2); Linux include/uapi/linux/prctl.h.
"""

from __future__ import annotations

import errno
from enum import IntEnum
from typing import TYPE_CHECKING

from emu.core.record import NamedTuple
from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.run.credentials import CAP_SETPCAP
from emu.kernel.table import syscall

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.kernel.kernel import Kernel
    from emu.kernel.run.task import Task

_LAST_CAPABILITY = 40
_SLACK = 50_000
"""Nanoseconds that a timer of Linux may be late, by default."""


class Prctl(IntEnum):
    """PR_*: what prctl is asked for."""

    SET_PDEATHSIG = 1
    GET_PDEATHSIG = 2
    GET_DUMPABLE = 3
    SET_DUMPABLE = 4
    GET_KEEPCAPS = 7
    SET_KEEPCAPS = 8
    GET_TIMING = 13
    SET_NAME = 15
    GET_NAME = 16
    GET_SECCOMP = 21
    SET_SECCOMP = 22
    CAPBSET_READ = 23
    CAPBSET_DROP = 24
    SET_TIMERSLACK = 29
    GET_TIMERSLACK = 30
    SET_CHILD_SUBREAPER = 36
    GET_CHILD_SUBREAPER = 37
    SET_NO_NEW_PRIVS = 38
    GET_NO_NEW_PRIVS = 39
    GET_TID_ADDRESS = 40
    SET_THP_DISABLE = 41
    GET_THP_DISABLE = 42


class _Asked(NamedTuple):
    """Who asks, and the arguments behind the option."""

    k: Kernel
    t: Task
    second: int
    third: int
    fourth: int
    fifth: int

    def up_to(self, most: int, *, bits: int = abi.U32) -> int:
        """Return the second argument. Raises OSError (EINVAL) if it is more than `most`."""
        if self.second & bits > most:
            raise fail(errno.EINVAL)
        return self.second & bits

    def give(self, content: bytes) -> int:
        """Write to where the second argument points. Raises MemoryFault."""
        self.k.arena.copy_out(self.second, content)
        return 0


def _set_name(asked: _Asked) -> int:
    asked.k.rename(asked.t, asked.k.arena.read_cstr(asked.second, 15))
    return 0


def _get_name(asked: _Asked) -> int:
    return asked.give(asked.t.name.encode("utf-8", "surrogateescape")[:15].ljust(16, b"\0"))


def _set_death_signal(asked: _Asked) -> int:
    asked.k.death_signal = asked.up_to(abi.NSIG)
    return 0


def _set_dumpable(asked: _Asked) -> int:
    asked.k.dumpable = asked.up_to(1)
    return 0


def _set_no_new_privs(asked: _Asked) -> int:
    if asked.second != 1 or asked.third or asked.fourth or asked.fifth:
        raise fail(errno.EINVAL)
    asked.k.no_new_privs = 1
    return 0


def _read_bounding(asked: _Asked) -> int:
    return asked.k.credentials.bounding >> asked.up_to(_LAST_CAPABILITY, bits=abi.U64) & 1


def _drop_bounding(asked: _Asked) -> int:
    if not asked.k.credentials.has(CAP_SETPCAP):
        raise fail(errno.EPERM)
    asked.k.credentials.bounding &= ~(1 << asked.up_to(_LAST_CAPABILITY, bits=abi.U64))
    return 0


def _set_keep_capabilities(asked: _Asked) -> int:
    asked.k.credentials.keep = bool(asked.up_to(1, bits=abi.U64))
    return 0


def _set_subreaper(asked: _Asked) -> int:
    asked.k.family.subreaper = bool(asked.second)
    return 0


def _set_seccomp(asked: _Asked) -> int:
    from emu.kernel.syscalls.seccomp import by_prctl  # few programs bind themselves

    return by_prctl(asked.k, asked.t, asked.second, asked.third)


_OPTIONS: dict[int, Callable[[_Asked], int]] = {
    Prctl.SET_NAME: _set_name,
    Prctl.GET_NAME: _get_name,
    Prctl.SET_PDEATHSIG: _set_death_signal,
    Prctl.GET_PDEATHSIG: lambda asked: asked.give(asked.k.death_signal.to_bytes(4, "little")),
    Prctl.SET_DUMPABLE: _set_dumpable,
    Prctl.GET_DUMPABLE: lambda asked: asked.k.dumpable,
    Prctl.SET_NO_NEW_PRIVS: _set_no_new_privs,
    Prctl.GET_NO_NEW_PRIVS: lambda asked: asked.k.no_new_privs,
    Prctl.CAPBSET_READ: _read_bounding,
    Prctl.CAPBSET_DROP: _drop_bounding,
    Prctl.SET_KEEPCAPS: _set_keep_capabilities,
    Prctl.GET_KEEPCAPS: lambda asked: int(asked.k.credentials.keep),
    Prctl.SET_CHILD_SUBREAPER: _set_subreaper,
    Prctl.GET_CHILD_SUBREAPER: lambda asked: asked.give(int(asked.k.family.subreaper).to_bytes(4, "little")),
    Prctl.SET_TIMERSLACK: lambda asked: 0,
    Prctl.GET_TIMERSLACK: lambda asked: _SLACK,
    Prctl.GET_TID_ADDRESS: lambda asked: asked.give(asked.t.clear_child_tid.to_bytes(8, "little")),
    Prctl.GET_SECCOMP: lambda asked: asked.t.seccomp.mode,
    Prctl.SET_SECCOMP: _set_seccomp,
    Prctl.GET_TIMING: lambda asked: 0,
    Prctl.SET_THP_DISABLE: lambda asked: 0,
    Prctl.GET_THP_DISABLE: lambda asked: 0,
}


@syscall(157, "prctl", "option", "hex", "hex", "hex", "hex")
def _sys_prctl(k: Kernel, t: Task, option: int, second: int, third: int, fourth: int, fifth: int) -> int:
    act = _OPTIONS.get(option)
    if act is None:
        raise fail(errno.EINVAL)
    return act(_Asked(k, t, second, third, fourth, fifth))
