"""A process that looks at the threads of another: attach, registers, memory, detach.

It is what LeakSanitizer does at the end of a program.

A traced thread stands still until it is let go; there are no stops at signals, system calls or steps (`emu
gdb` is for people).
Source: ptrace(2); Linux arch/x86/include/uapi/asm/ptrace-abi.h, sys/user.h: user_regs_struct.
"""

from __future__ import annotations

import errno
import struct
from enum import IntEnum
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.run.credentials import CAP_SYS_PTRACE
from emu.kernel.run.signal_info import SignalInfo
from emu.kernel.table import syscall
from emu.machine import regs

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel, System
    from emu.kernel.run.task import Task

_NT_PRSTATUS = 1
_STOPPED = abi.SIGSTOP << 8 | 0x7F
_ORDER = (
    regs.R15, regs.R14, regs.R13, regs.R12, regs.RBP, regs.RBX, regs.R11, regs.R10, regs.R9, regs.R8, regs.RAX, regs.RCX,
    regs.RDX, regs.RSI, regs.RDI,
)  # fmt: skip
_NO_CALL, _USER_CS, _USER_SS = abi.U64, 0x33, 0x2B


class PtraceRequest(IntEnum):
    """What is asked for."""

    PEEKTEXT = 1
    PEEKDATA = 2
    POKETEXT = 4
    POKEDATA = 5
    CONT = 7
    KILL = 8
    GETREGS = 12
    ATTACH = 16
    DETACH = 17
    GETREGSET = 0x4204


_KNOWN = frozenset(int(request) for request in PtraceRequest)


def _find(system: System, tid: int) -> tuple[Kernel, Task]:
    for process in system.processes.values():
        task = process.tasks.get(tid)
        if task is not None:
            return process, task
    raise fail(errno.ESRCH)


@syscall(101, "ptrace", "long", "pid", "ptr", "ptr")
def _sys_ptrace(k: Kernel, t: Task, request: int, tid: int, address: int, data: int) -> int:
    if request not in _KNOWN:
        return k.refuse(f"ptrace (101) with request {request}", errno.EPERM)
    process, task = _find(k.system, tid)
    if request == PtraceRequest.ATTACH:
        return _attach(k, process, task)
    if task.tracer != k.pid:
        raise fail(errno.ESRCH)
    match request:
        case PtraceRequest.DETACH | PtraceRequest.CONT:
            task.tracer, task.trace_status = task.tracer if request == PtraceRequest.CONT else 0, 0
            if not process.signals.stopped:
                k.scheduler.let_go(task)
            if data:
                process.signals.send(SignalInfo(data & 0x7F, abi.SI_USER, k.pid), task)
        case PtraceRequest.KILL:
            process.signals.send(SignalInfo(abi.SIGKILL, abi.SI_USER, k.pid))
        case PtraceRequest.GETREGS:
            k.arena.copy_out(data, _registers(process, task))
        case PtraceRequest.GETREGSET:
            if address != _NT_PRSTATUS:
                raise fail(errno.EINVAL)
            base, size = struct.unpack("<QQ", k.arena.copy_in(data, 16))
            raw = _registers(process, task)[:size]
            k.arena.copy_out(base, raw)
            k.arena.copy_out(data + 8, len(raw).to_bytes(8, "little"))
        case PtraceRequest.PEEKTEXT | PtraceRequest.PEEKDATA:
            if not process.arena.check(address, 8, 0):
                raise fail(errno.EIO)
            k.arena.copy_out(data, process.arena.read(address, 8))
        case _:
            if not process.arena.check(address, 8, 0):
                raise fail(errno.EIO)
            process.arena.write(address, data.to_bytes(8, "little"))
            process.cpu.flush_code(address, 8)
    return 0


def check_access(k: Kernel, process: Kernel) -> None:
    """Raise OSError(EPERM) where a process may not look into another: it is another user's, or not dumpable.

    Source: ptrace(2), "Ptrace access mode checking".
    """
    same = k.credentials.users.effective == process.credentials.users.real and process.dumpable == 1
    if process is not k and not same and not k.credentials.has(CAP_SYS_PTRACE):
        raise fail(errno.EPERM)


def _attach(k: Kernel, process: Kernel, task: Task) -> int:
    if process is k or task.tracer:
        raise fail(errno.EPERM)
    check_access(k, process)
    task.tracer, task.trace_status = k.pid, _STOPPED
    k.scheduler.hold(task)
    return 0


def _registers(process: Kernel, task: Task) -> bytes:
    """Return struct user_regs_struct of a thread that does not run."""
    assert task.context is not None
    values = dict(zip(regs.GPRS, process.cpu.gprs_of(task.context), strict=True))
    bases = process.cpu.batch((regs.FS_BASE, regs.GS_BASE))
    bases.read_saved(task.context)
    rip = values[regs.RIP] + (2 if task.context.in_trap else 0)
    return struct.pack(
        "<27Q", *(values[register] for register in _ORDER), _NO_CALL, rip, _USER_CS, values[regs.RFLAGS], values[regs.RSP],
        _USER_SS, bases.values[0], bases.values[1], 0, 0, 0, 0,
    )  # fmt: skip
