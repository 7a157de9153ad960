"""What is known of a signal: what siginfo_t says, dispositions, bits of a mask, and a wait that one ended.

Source: sigaction(2).
"""

from __future__ import annotations

import errno
import os

from emu.core.record import NamedTuple
from emu.kernel import abi

_UNBLOCKABLE = 1 << (abi.SIGKILL - 1) | 1 << (abi.SIGSTOP - 1)


class SignalInfo(NamedTuple):
    """What siginfo_t says: number, SI_* or fault code, sender or faulting address, value; timer id and
    overrun for SI_TIMER; si_errno, which seccomp sets.
    """

    signo: int
    code: int
    pid: int = 0
    uid: int = 0
    address: int = 0
    value: int = 0
    timer: int = 0
    overrun: int = 0
    trapno: int = 0
    error_code: int = 0
    error: int = 0


class Action(NamedTuple):
    """A disposition: handler address, SIG_DFL or SIG_IGN; SA_* flags; restorer; mask while the handler
    runs.
    """

    handler: int = abi.SIG_DFL
    flags: int = 0
    restorer: int = 0
    mask: int = 0

    @property
    def ignored(self) -> bool:
        """Whether the signal is to be ignored."""
        return self.handler == abi.SIG_IGN


class Interrupted(OSError):
    """A wait that a signal ended.

    `restart`: the call begins again if the handler has SA_RESTART, `always`: in any case.
    """

    def __init__(self, restart: bool, *, always: bool = False) -> None:
        super().__init__(errno.EINTR, os.strerror(errno.EINTR))
        self.restart = restart or always
        self.always = always


def bit(signo: int) -> int:
    """Return the bit of a signal in a mask."""
    return 1 << (signo - 1)


def clean_mask(mask: int) -> int:
    """Return the mask without SIGKILL and SIGSTOP, which cannot be blocked."""
    return mask & abi.U64 & ~_UNBLOCKABLE
