"""The dispatch of system calls: from a trap to its handler, and on when its wait is over."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.core.effects import Exit, RegistersSet
from emu.core.errors import STRICT, UNFORESEEN, EmuError, MemoryFault, place_of
from emu.kernel import abi, formats
from emu.kernel.run.block import BLOCKED, Blocked
from emu.kernel.run.bpf import UNBOUND
from emu.kernel.run.call import PendingCall
from emu.kernel.run.clock import TICK_NS
from emu.kernel.run.seccomp import judge
from emu.kernel.run.signal_info import Interrupted
from emu.kernel.syscall_names import syscall_name
from emu.kernel.syscalls import find
from emu.kernel.table import TABLE
from emu.machine import regs

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel
    from emu.kernel.run.call import Result, SyscallEntry
    from emu.kernel.run.task import Task
    from emu.machine.engine import Cpu


_RIP, _SYSCALL_SIZE = regs.GPRS.index(regs.RIP), 2
_NUMBERS = 1024
"""System calls have numbers below this."""


def syscall(k: Kernel, task: Task, cpu: Cpu, number: int, args: tuple[int, ...]) -> Result | Blocked:
    """Serve system call `number` with six argument registers;
    return the value for rax or an effect, or BLOCKED: then `resume` is to be called when the task runs again.
    """
    clock = k.clock
    clock.now += TICK_NS
    if clock.now >= clock.alarm:
        k.system.pass_time()
    entry = TABLE.get(number & abi.U32) or find(number & abi.U32)
    if entry is None and task.seccomp is UNBOUND:
        return _unknown(k, number)
    k.cpu = cpu
    if task.seccomp is not UNBOUND:
        rip = cpu.trap[_RIP] + _SYSCALL_SIZE
        verdict = judge(k.signals, task, number, rip, args, alone=len(k.tasks) == 1)
        if verdict is not None:
            return verdict
        if entry is None:
            return _unknown(k, number)
    assert entry is not None
    call = args[: entry.arity]
    if entry.narrow:
        narrowed = list(call)
        for index, mask, sign in entry.narrow:
            narrowed[index] = ((narrowed[index] & mask) ^ sign) - sign
        call = tuple(narrowed)
    texts = formats.before(k.arena, entry, call) if k.bus.syscalls else None
    try:
        result = entry.handler(k, task, *call)
    except (MemoryFault, *UNFORESEEN) as error:
        result = _failed(k, task, entry, error)
    if not isinstance(result, (int, Exit, RegistersSet)):
        return _advance(k, task, PendingCall(entry, result, call, texts))
    if texts is not None:
        k.bus.emit(formats.event(k.arena, entry, call, texts, result))
    return result


def resume(k: Kernel, task: Task) -> Result | Blocked:
    """Go on with a task's system call whose wait is over."""
    call = task.call
    assert call is not None
    for file in task.held:
        file.release()
    result = _advance(k, task, call)
    task.resumed = False
    return result


def _advance(k: Kernel, task: Task, call: PendingCall) -> Result | Blocked:
    result: Result
    try:
        block = call.handler.send(None)
    except StopIteration as stop:
        result = stop.value
    except (MemoryFault, *UNFORESEEN) as error:
        result = _failed(k, task, call.entry, error)
    else:
        task.call, task.again = call, block.again
        task.held = tuple(file for file, _ in block.files)
        for file in task.held:
            file.hold()
        k.scheduler.block(task, block)
        return BLOCKED
    task.call = task.again = None
    task.held = ()
    if call.texts is not None:
        k.bus.emit(formats.event(k.arena, call.entry, call.arguments, call.texts, result))
    return result


def _failed(k: Kernel, task: Task, entry: SyscallEntry, error: Exception) -> int:
    """Return what the guest is told of a failure; one that nobody has thought of is told to the user as well.

    Raises it if it is no failure of the guest's, and under EMU_STRICT=1.
    """
    if isinstance(error, MemoryFault):
        return -errno.EFAULT
    if isinstance(error, MemoryError):
        return -errno.ENOMEM
    if not isinstance(error, OSError):
        if STRICT or isinstance(error, EmuError):
            raise error
        k.report_once(
            f"unforeseen {entry.name}",
            f"emu: syscall {entry.name} ({entry.number}) failed in emu itself ({place_of(error)}); "
            "the program was told EINVAL; EMU_STRICT=1 shows more",
        )
        return -errno.EINVAL
    if isinstance(error, Interrupted):
        if error.restart:
            task.interrupted = entry.number
            task.restart_always = error.always
        return -errno.EINTR
    return -(error.errno or errno.EIO)


def _unknown(k: Kernel, number: int) -> int:
    name = syscall_name(number & abi.U32)
    if k.bus.syscalls:
        k.bus.emit(formats.unknown(number & abi.U32, name))
    if number & abi.U32 >= _NUMBERS:
        name = "with a number that no system call has, such as"  # told of once, whatever the number
        k.report_once(name, f"emu: syscall {name} {number & abi.U32}; the program was told ENOSYS")
        return -errno.ENOSYS
    return k.refuse(f"{name} ({number & abi.U32})")
