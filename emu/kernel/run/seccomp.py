"""What becomes of a system call of a task that has bound itself by seccomp.

Source: seccomp(2); Linux kernel/seccomp.c:__seccomp_filter, __secure_computing_strict.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from emu.core.effects import Exit
from emu.kernel import abi
from emu.kernel.run.bpf import DATA_SIZE, STRICT_MODE, run
from emu.kernel.run.signal_info import SignalInfo, bit
from emu.kernel.run.signals import Killed

if TYPE_CHECKING:
    from emu.kernel.run.signals import Signals
    from emu.kernel.run.task import Task

KILL_PROCESS, KILL_THREAD, TRAP, ERRNO = 0x80000000, 0, 0x30000, 0x50000
USER_NOTIF, TRACE, LOG, ALLOW = 0x7FC00000, 0x7FF00000, 0x7FFC0000, 0x7FFF0000
ACTIONS = (KILL_PROCESS, KILL_THREAD, TRAP, ERRNO, USER_NOTIF, TRACE, LOG, ALLOW)
_STRICT_CALLS = frozenset((0, 1, 15, 60))
"""read, write, rt_sigreturn, exit."""
AUDIT_ARCH_X86_64 = 0xC000003E
_DATA = struct.Struct("<iIQ6Q")
_SYS_SECCOMP, _MOST_ERRNO = 1, 4095


def judge(
    signals: Signals, task: Task, number: int, rip: int, args: tuple[int, ...], *, alone: bool
) -> int | Exit | None:
    """Return what a task bound by seccomp is told of a call in place of its result, None where the call may
    be made. `rip` is where the task goes on; `alone` tells that its process has no other.
    """
    bound = task.seccomp
    if bound.mode == STRICT_MODE:
        if number in _STRICT_CALLS:
            return None
        _kill(signals, task, SignalInfo(abi.SIGKILL, abi.SI_KERNEL))
        return number
    data = _DATA.pack((number & abi.U32 ^ 1 << 31) - (1 << 31), AUDIT_ARCH_X86_64, rip, *args[:6])
    words = struct.unpack(f"<{DATA_SIZE // 4}I", data)
    said = min((run(program, words) for program in bound.filters), key=_severity, default=ALLOW)
    action, value = said & 0xFFFF0000, said & 0xFFFF
    if action in (ALLOW, LOG):
        return None
    if action == ERRNO:
        return -min(value, _MOST_ERRNO)
    if action in (TRACE, USER_NOTIF):
        return -errno.ENOSYS  # nobody listens
    if action == KILL_THREAD and not alone:
        return Exit(abi.SIGSYS, group=False)
    information = SignalInfo(
        abi.SIGSYS, _SYS_SECCOMP, address=rip, value=number & abi.U32 | AUDIT_ARCH_X86_64 << 32, error=value
    )
    handler = signals.actions[abi.SIGSYS].handler
    caught = handler not in (abi.SIG_DFL, abi.SIG_IGN) and not task.mask & bit(abi.SIGSYS)
    if action == TRAP and caught:
        task.pending.insert(0, information)
        task.signalled = signals.wake = True
    else:
        _kill(signals, task, information)
    return number


def _severity(said: int) -> int:
    action = said & 0xFFFF0000
    return action - (1 << 32) if action & KILL_PROCESS else action


def _kill(signals: Signals, task: Task, information: SignalInfo) -> None:
    signals.killed = Killed(information.signo, information, task)
    task.signalled = signals.wake = True
