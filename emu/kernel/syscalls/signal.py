"""Signals.

Source: sigaction(2), sigprocmask(2), sigsuspend(2), sigwaitinfo(2), sigaltstack(2), sigreturn(2), kill(2).
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from emu.core.effects import REGISTERS_SET, RegistersSet
from emu.core.errors import MemoryFault
from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.run import sigframe
from emu.kernel.run.block import Block
from emu.kernel.run.credentials import CAP_KILL
from emu.kernel.run.signal_info import Action, Interrupted, SignalInfo, bit, clean_mask
from emu.kernel.run.task import AltStack
from emu.kernel.syscalls.groups import find_process, find_thread, members
from emu.kernel.syscalls.time import read_timespec
from emu.kernel.syscalls.waiting import resumable, wait
from emu.kernel.table import syscall
from emu.machine import regs

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel
    from emu.kernel.run.block import Waiting
    from emu.kernel.run.task import Task

_ACTION = struct.Struct("<QQQQ")
_STACK = struct.Struct("<QiiQ")
INFO = struct.Struct("<iiiiIIQ")
_SET_SIZE = 8
_PASSED_OVER = (abi.SIGCHLD, abi.SIGCONT, abi.SIGURG, abi.SIGWINCH)
"""What a process ignores unless it has asked for it."""
_FROM_HOST = bit(abi.SIGINT) | bit(abi.SIGTERM)
"""What the host may send: a wait for one of these is not hopeless."""


def _check_set_size(size: int) -> None:
    if size != _SET_SIZE:
        raise fail(errno.EINVAL)


def read_mask(k: Kernel, address: int) -> int:
    """Return a signal set."""
    return int.from_bytes(k.arena.copy_in(address, _SET_SIZE), "little")


@syscall(13, "rt_sigaction", "signal", "ptr", "ptr", "size")
def _sys_rt_sigaction(k: Kernel, t: Task, signo: int, new: int, old: int, size: int) -> int:
    _check_set_size(size)
    if not 0 < signo <= abi.NSIG or new and signo in (abi.SIGKILL, abi.SIGSTOP):
        raise fail(errno.EINVAL)
    fields = _ACTION.unpack(k.arena.copy_in(new, 32)) if new else None
    before = k.signals.actions[signo]
    if old:
        k.arena.copy_out(old, _ACTION.pack(before.handler, before.flags, before.restorer, before.mask))
    if fields is not None:
        handler, flags, restorer, mask = fields
        k.signals.set_action(signo, Action(handler, flags, restorer, clean_mask(mask)))
    return 0


@syscall(14, "rt_sigprocmask", "int", "ptr", "ptr", "size")
def _sys_rt_sigprocmask(k: Kernel, t: Task, how: int, new: int, old: int, size: int) -> int:
    _check_set_size(size)
    before = t.mask
    if new:
        mask = read_mask(k, new)
        match how:
            case abi.SIG_BLOCK:
                mask |= before
            case abi.SIG_UNBLOCK:
                mask = before & ~mask
            case abi.SIG_SETMASK:
                pass
            case _:
                raise fail(errno.EINVAL)
        k.signals.set_mask(t, mask)
    if old:
        k.arena.copy_out(old, before.to_bytes(8, "little"))
    return 0


@syscall(127, "rt_sigpending", "ptr", "size")
def _sys_rt_sigpending(k: Kernel, t: Task, address: int, size: int) -> int:
    if size > _SET_SIZE:
        raise fail(errno.EINVAL)
    k.arena.copy_out(address, (k.signals.pending_set(t) & t.mask).to_bytes(8, "little")[:size])
    return 0


@syscall(34, "pause")
@resumable
def _sys_pause(k: Kernel, t: Task) -> Waiting:
    hope = bool(_FROM_HOST & ~t.mask)
    yield from wait(k, t, Block("for a signal (pause)", for_signal=hope), restart=False)
    raise Interrupted(False)


@syscall(130, "rt_sigsuspend", "ptr", "size")
def _sys_rt_sigsuspend(k: Kernel, t: Task, address: int, size: int) -> Waiting:
    _check_set_size(size)
    mask = read_mask(k, address)
    t.saved_mask = t.mask
    k.signals.set_mask(t, mask)
    return _suspend(k, t)


@resumable
def _suspend(k: Kernel, t: Task) -> Waiting:
    # The mask comes back when the signals are dealt with.
    hope = bool(_FROM_HOST & ~t.mask)
    yield from wait(k, t, Block("for a signal (sigsuspend)", for_signal=hope), restart=False)
    raise Interrupted(False)


@syscall(128, "rt_sigtimedwait", "ptr", "ptr", "ptr", "size")
def _sys_rt_sigtimedwait(
    k: Kernel, t: Task, wanted: int, info: int, timeout: int, size: int
) -> int | Waiting:
    _check_set_size(size)
    mask = clean_mask(read_mask(k, wanted))
    deadline = k.clock.now + read_timespec(k, timeout) if timeout else None
    found = k.signals.take(t, mask)
    if found is not None:
        return _tell_signal(k, found, info)
    old = t.mask
    t.mask &= ~mask  # so that their arrival ends the wait
    t.awaited = mask & old
    return _await_signal(k, t, mask, old, deadline, info)


@resumable
def _await_signal(k: Kernel, t: Task, mask: int, old: int, deadline: int | None, info: int) -> Waiting:
    try:
        hope = deadline is None and bool(mask & _FROM_HOST)
        yield from wait(k, t, Block("for a signal (sigwait)", deadline, for_signal=hope), restart=False)
    except Interrupted:
        found = k.signals.take(t, mask)
        if found is None:
            raise
        return _tell_signal(k, found, info)
    finally:
        t.awaited = 0
        k.signals.set_mask(t, old)
    raise fail(errno.EAGAIN)


def _tell_signal(k: Kernel, found: SignalInfo, info: int) -> int:
    if info:
        k.arena.copy_out(info, sigframe.pack_siginfo(found))
    return found.signo


@syscall(131, "sigaltstack", "ptr", "ptr")
def _sys_sigaltstack(k: Kernel, t: Task, new: int, old: int) -> int:
    before = t.altstack
    on_it = sigframe.on_altstack(before, k.cpu.get(regs.RSP))
    fields = _STACK.unpack(k.arena.copy_in(new, 24)) if new else None
    if fields is not None:
        sp, flags, _, size = fields
        flags &= abi.U32
        if on_it:
            raise fail(errno.EPERM)
        if flags & ~abi.SS_AUTODISARM not in (0, abi.SS_ONSTACK, abi.SS_DISABLE):
            raise fail(errno.EINVAL)
        if flags & abi.SS_DISABLE:
            t.altstack = AltStack(0, flags)
        elif size < abi.MINSIGSTKSZ:
            raise fail(errno.ENOMEM)
        else:
            t.altstack = AltStack(sp, flags, size)
    if old:
        state = abi.SS_DISABLE if not before.size else abi.SS_ONSTACK if on_it else 0
        flags = state | before.flags & abi.SS_AUTODISARM
        k.arena.copy_out(old, struct.pack("<QIIQ", before.sp, flags, 0, before.size))
    return 0


@syscall(15, "rt_sigreturn")
def _sys_rt_sigreturn(k: Kernel, t: Task) -> RegistersSet | int:
    try:
        mask = sigframe.pop(k.arena, k.cpu, t)
    except MemoryFault:
        k.signals.actions[abi.SIGSEGV] = Action()  # Linux forces SIGSEGV for a frame that is not there
        k.signals.set_mask(t, t.mask & ~bit(abi.SIGSEGV))
        k.signals.send(SignalInfo(abi.SIGSEGV, abi.SI_KERNEL), t)
        return 0
    k.signals.set_mask(t, mask)
    return REGISTERS_SET


def _check(signo: int) -> None:
    if not 0 <= signo <= abi.NSIG:
        raise fail(errno.EINVAL)


def _may_signal(k: Kernel, target: Kernel, signo: int) -> bool:
    """Whether a signal may be sent. Source: kill(2)."""
    own, other = k.credentials.users, target.credentials.users
    return (
        target is k
        or k.credentials.has(CAP_KILL)
        or bool({own.real, own.effective} & {other.real, other.saved})
        or signo == abi.SIGCONT
        and k.family.session == target.family.session
    )


def send_to(k: Kernel, target: Kernel, task: Task | None, info: SignalInfo) -> None:
    """Send a signal to a process, or to one of its threads. Raises OSError(EPERM, EAGAIN)."""
    if not _may_signal(k, target, info.signo):
        raise fail(errno.EPERM)
    if info.signo and target.family.status is None:
        target.signals.send(info, task)


@syscall(62, "kill", "pid", "signal")
def _sys_kill(k: Kernel, t: Task, pid: int, signo: int) -> int:
    _check(signo)
    if pid == abi.PPID:
        return to_parent_of_all(k, signo)
    info = SignalInfo(signo, abi.SI_USER, k.pid, k.credentials.users.real)
    if pid > 0:
        send_to(k, find_process(k, pid), None, info)
        return 0
    if pid == -1:
        targets = [process for process in k.system.processes.values() if process is not k]
    else:
        targets = members(k, -pid or k.family.group)
    if not targets:
        raise fail(errno.ESRCH)
    allowed = [process for process in targets if _may_signal(k, process, signo)]
    for process in allowed:
        send_to(k, process, None, info)
    if not allowed:
        raise fail(errno.EPERM)
    return 0


def to_parent_of_all(k: Kernel, signo: int) -> int:
    """A signal for who started `emu`, of whom the guest sees only an id: it is sent, and nothing comes of it,
    as under a shell.
    """
    if signo and signo not in _PASSED_OVER:
        line = f"emu: {abi.signal_name(signo)} to the parent process ({abi.PPID}), which is not there: the program was told that it is sent"
        k.report_once("kill of the parent", line)
    return 0


def _thread(k: Kernel, tid: int) -> tuple[Kernel, Task]:
    if tid <= 0:
        raise fail(errno.EINVAL)
    task = find_thread(k, tid)
    return k.system.processes[task.pid], task


@syscall(200, "tkill", "pid", "signal")
def _sys_tkill(k: Kernel, t: Task, tid: int, signo: int) -> int:
    if tid == abi.PPID:
        _check(signo)
        return to_parent_of_all(k, signo)
    process, task = _thread(k, tid)
    _check(signo)
    send_to(k, process, task, SignalInfo(signo, abi.SI_TKILL, k.pid, k.credentials.users.real))
    return 0


@syscall(234, "tgkill", "pid", "pid", "signal")
def _sys_tgkill(k: Kernel, t: Task, pid: int, tid: int, signo: int) -> int:
    if pid <= 0:
        raise fail(errno.EINVAL)
    if pid == tid == abi.PPID:
        _check(signo)
        return to_parent_of_all(k, signo)
    process, task = _thread(k, tid)
    if pid != process.pid:
        raise fail(errno.ESRCH)
    _check(signo)
    send_to(k, process, task, SignalInfo(signo, abi.SI_TKILL, k.pid, k.credentials.users.real))
    return 0


def _queue(k: Kernel, target: Kernel | None, task: Task | None, signo: int, address: int) -> int:
    """Send a signal with what the caller says of it; `target` None is the parent of all."""
    _, _, code, _, pid, uid, value = INFO.unpack(k.arena.copy_in(address, INFO.size))
    _check(signo)
    if (code >= 0 or code == abi.SI_TKILL) and target is not k:
        raise fail(errno.EPERM)
    if target is None:
        return to_parent_of_all(k, signo)
    send_to(k, target, task, SignalInfo(signo, code, pid, uid, value=value))
    return 0


@syscall(129, "rt_sigqueueinfo", "pid", "signal", "ptr")
def _sys_rt_sigqueueinfo(k: Kernel, t: Task, pid: int, signo: int, address: int) -> int:
    return _queue(k, None if pid == abi.PPID else find_process(k, pid), None, signo, address)


@syscall(297, "rt_tgsigqueueinfo", "pid", "pid", "signal", "ptr")
def _sys_rt_tgsigqueueinfo(k: Kernel, t: Task, pid: int, tid: int, signo: int, address: int) -> int:
    process, task = _thread(k, tid)
    if pid != process.pid:
        raise fail(errno.ESRCH)
    return _queue(k, process, task, signo, address)
