"""The frame that a signal handler starts on, and the way back (rt_sigreturn).

From low to high: the return address (sa_restorer), ucontext, siginfo; above them, aligned to 64, the x87 and
vector state: an FXSAVE image, or XSAVE with its marks where the CPU has that. The handler starts with the
stack as after a call. Unwinders know this frame through libc's `__restore_rt`.

Source: Linux arch/x86/include/asm/sigframe.h, arch/x86/kernel/signal_64.c;
include/uapi/asm-generic/siginfo.h; psABI 3.2.2 (red zone).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.run.task import AltStack
from emu.machine import regs

if TYPE_CHECKING:
    from emu.kernel.run.signal_info import Action, SignalInfo
    from emu.kernel.run.task import Task
    from emu.machine.arena import Arena
    from emu.machine.engine import Cpu

_RED_ZONE = 128
_FXSAVE_SIZE = 512
_UC_FP_XSTATE, _UC_FLAGS = 1, 6
"""UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS; UC_FP_XSTATE tells that the state is more than plain FXSAVE."""
_UCONTEXT = struct.Struct("<QQ QiiQ 18Q 4H 4Q Q 64x Q")
"""uc_flags, uc_link; ss_sp, ss_flags, padding, ss_size; r8..rip, eflags; cs gs fs ss; err, trapno,
oldmask, cr2; fpstate; sigmask.
"""
_SIGINFO_SIZE = 128
_FRAME_SIZE = 8 + _UCONTEXT.size + _SIGINFO_SIZE
_CONTEXT_ORDER = (
    regs.R8, regs.R9, regs.R10, regs.R11, regs.R12, regs.R13, regs.R14, regs.R15, regs.RDI, regs.RSI,
    regs.RBP, regs.RBX, regs.RDX, regs.RAX, regs.RCX, regs.RSP, regs.RIP, regs.RFLAGS,
)  # fmt: skip
_INDEXES = tuple(regs.GPRS.index(register) for register in _CONTEXT_ORDER)
_RAX, _RDX, _RSI, _RDI, _RSP, _RIP, _RFLAGS = (
    regs.GPRS.index(r) for r in (regs.RAX, regs.RDX, regs.RSI, regs.RDI, regs.RSP, regs.RIP, regs.RFLAGS)
)
_USER_CS, _USER_SS = 0x33, 0x2B
_DIRECTION_TRAP_RESUME = 0x400 | 0x100 | 0x10000
_USER_FLAGS = 0x50DD5
"""What rt_sigreturn takes over of RFLAGS: AC OF DF TF SF ZF AF PF CF RF."""
_ADDRESS_SIGNALS = frozenset((abi.SIGSEGV, abi.SIGBUS, abi.SIGILL, abi.SIGFPE, abi.SIGTRAP))


def pack_siginfo(info: SignalInfo) -> bytes:
    """Return the 128 bytes of siginfo_t."""
    head = struct.pack("<iiii", info.signo, info.error, info.code, 0)
    if info.code == abi.SI_TIMER:
        body = struct.pack("<iiQ", info.timer, info.overrun, info.value)
    elif info.code > 0 and info.code != abi.SI_KERNEL and info.signo in _ADDRESS_SIGNALS:
        body = struct.pack("<Q", info.address)
    elif info.code > 0 and info.signo == abi.SIGSYS:
        body = struct.pack("<QQ", info.address, info.value)
    else:
        body = struct.pack("<IIQ", info.pid, info.uid, info.value)
    return (head + body).ljust(_SIGINFO_SIZE, b"\0")


def on_altstack(stack: AltStack, pointer: int) -> bool:
    """Whether a stack pointer lies in the alternate stack."""
    return (
        bool(stack.size)
        and not stack.flags & abi.SS_AUTODISARM
        and stack.sp < pointer <= stack.sp + stack.size
    )


def push(arena: Arena, cpu: Cpu, task: Task, info: SignalInfo, action: Action, mask: int) -> None:
    """Write the frame and load the registers for the handler. `mask` is what rt_sigreturn will restore.

    Raises MemoryFault when the stack cannot hold it; nothing has changed then.
    """
    values = cpu.gprs()
    pointer = values[_RSP]
    stack = task.altstack
    nested = on_altstack(stack, pointer)
    if action.flags & abi.SA_ONSTACK and stack.size and not nested:
        top = stack.sp + stack.size
    else:
        top = pointer - _RED_ZONE
    image = cpu.signal_state()
    fpstate = (top - len(image)) & -64
    frame = ((fpstate - _FRAME_SIZE) & -16) - 8
    if nested and frame < stack.sp:
        arena.copy_out(0, b"\0")  # an overflow of the alternate stack faults
    flags = _UC_FLAGS | (_UC_FP_XSTATE if len(image) > _FXSAVE_SIZE else 0)
    context = _UCONTEXT.pack(
        flags, 0, stack.sp, _signed32(stack.flags), 0, stack.size, *(values[i] for i in _INDEXES), _USER_CS,
        0, 0, _USER_SS, info.error_code, info.trapno, mask, info.address if info.trapno == 14 else 0, fpstate,
        mask,
    )  # fmt: skip
    arena.copy_out(fpstate, image)
    arena.copy_out(frame, action.restorer.to_bytes(8, "little") + context + pack_siginfo(info))
    if stack.flags & abi.SS_AUTODISARM and stack.size:
        task.altstack = AltStack(0, abi.SS_DISABLE)
    values[_RAX], values[_RDI] = 0, info.signo
    values[_RSI], values[_RDX] = frame + 8 + _UCONTEXT.size, frame + 8
    values[_RSP], values[_RIP] = frame, action.handler
    values[_RFLAGS] &= ~_DIRECTION_TRAP_RESUME
    cpu.set_gprs(values)
    cpu.reset_fpu()


def pop(arena: Arena, cpu: Cpu, task: Task) -> int:
    """Undo `push` from the frame under rsp; return the signal mask to restore. Raises MemoryFault."""
    values = cpu.gprs()
    frame = values[_RSP] - 8
    fields = _UCONTEXT.unpack(arena.copy_in(frame + 8, _UCONTEXT.size))
    sp, ss_flags, _, size = fields[2:6]
    for index, value in zip(_INDEXES, fields[6:24], strict=True):
        if index == _RFLAGS:
            value = values[_RFLAGS] & ~_USER_FLAGS | value & _USER_FLAGS
        values[index] = value
    fpstate, mask = fields[-2:]
    if fpstate:
        cpu.load_signal_state(lambda offset, size: arena.copy_in(fpstate + offset, size))
    else:
        cpu.reset_fpu()
    cpu.set_gprs(values)
    flags = ss_flags & abi.U32
    if flags & abi.SS_DISABLE:
        task.altstack = AltStack(0, flags)
    elif size >= abi.MINSIGSTKSZ:
        task.altstack = AltStack(sp, flags, size)
    restored: int = mask
    return restored


def _signed32(value: int) -> int:
    return value - (1 << 32) if value & 0x80000000 else value
