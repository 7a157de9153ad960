"""Threads: their making and their end, and what each registers with the kernel.

Source: clone(2), exit(2), set_tid_address(2), get_robust_list(2), membarrier(2); Linux kernel/fork.c,
kernel/rseq.c.
"""

from __future__ import annotations

import errno
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

from emu.core.effects import Exit
from emu.core.errors import MemoryFault
from emu.core.record import NamedTuple
from emu.core.task_events import ProcessCreated, ThreadCreated
from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.fork import fork_task, remember_threads
from emu.kernel.fs.pidfd import PidFile
from emu.kernel.run.block import Block
from emu.kernel.run.credentials import CAP_SYS_ADMIN, CAP_SYS_RESOURCE
from emu.kernel.run.family import Family, Shares
from emu.kernel.run.task import AltStack, Task
from emu.kernel.syscalls.groups import find_thread
from emu.kernel.table import syscall

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel
    from emu.kernel.run.block import Waiting

_VM, _SIGHAND, _PIDFD, _THREAD, _SETTLS = 0x100, 0x800, 0x1000, 0x10000, 0x80000
_VFORK, _PARENT, _CLEAR_SIGHAND = 0x4000, 0x8000, 0x100000000
_PARENT_SETTID, _CHILD_CLEARTID, _CHILD_SETTID = 0x100000, 0x200000, 0x1000000
_UNTRACED, _DETACHED, _FS, _FILES, _SYSVSEM, _IO = 0x800000, 0x400000, 0x200, 0x400, 0x40000, 0x80000000
_CLONE_SIGNAL = 0xFF
_KNOWN = (
    _VM | _FS | _FILES | _SIGHAND | _THREAD | _SYSVSEM | _SETTLS | _PARENT_SETTID | _CHILD_CLEARTID | _CHILD_SETTID
    | _UNTRACED | _DETACHED | _IO | _PIDFD | _VFORK | _PARENT | _CLEAR_SIGHAND
)  # fmt: skip
_ARGS_SIZE_VER0, _ARGS_SIZE_VER2 = 64, 88
_USER_END = 0x7FFF_FFFF_F000
_ROBUST_HEAD_SIZE = 24
_RSEQ_SIZE, _RSEQ_UNREGISTER = 32, 1
_KERNEL_STACK, _PART = 16 << 10, 8
"""What a thread costs the kernel; all threads together may cost one part of so many of the memory."""
_MEMBARRIER_COMMANDS = 0x1FF


def _admit(k: Kernel) -> None:
    """Ask whether one more thread may be.

    Raises OSError(EAGAIN). Source: Linux kernel/fork.c:set_max_threads; setrlimit(2), RLIMIT_NPROC.
    """
    there = sum(len(process.tasks) for process in k.system.processes.values())
    most = k.system.budget.limit // (_PART * _KERNEL_STACK)
    if not k.credentials.effective & (CAP_SYS_ADMIN | CAP_SYS_RESOURCE):
        most = min(most, k.rlimits[abi.RLIMIT_NPROC][0])
    if there >= most:
        raise fail(errno.EAGAIN)


class _Request(NamedTuple):
    """What clone is asked for: CLONE_* flags, the signal at the end, the top of the
    stack (0: the same), and the addresses.
    """

    flags: int
    signal: int
    stack: int
    parent_tid: int
    child_tid: int
    tls: int
    pidfd: int = 0


def _clone(k: Kernel, t: Task, asked: _Request) -> int | Waiting:
    flags = asked.flags
    if flags & _THREAD and not flags & _SIGHAND or flags & _SIGHAND and not flags & _VM:
        raise fail(errno.EINVAL)
    if flags & _CLEAR_SIGHAND and flags & _SIGHAND or flags & _PIDFD and flags & (_DETACHED | _THREAD):
        raise fail(errno.EINVAL)
    if flags & ~_KNOWN:
        return k.refuse(f"clone with the flags {flags:#x}")
    if flags & _SETTLS and asked.tls >= _USER_END:
        raise fail(errno.EPERM)
    _admit(k)
    if not flags & _THREAD:
        if flags & _SIGHAND:
            return k.refuse("clone with CLONE_SIGHAND and without CLONE_THREAD")
        return _new_process(k, t, asked)
    if flags & (_FS | _FILES) != _FS | _FILES:
        return k.refuse(f"clone with the flags {flags:#x}")
    child = Task(k.system.new_id(), t.name, k.pid)
    child.mask, child.memory_policy, child.seccomp = t.mask, t.memory_policy, t.seccomp
    _inherit_policy(t, child)
    _tell_id(k, k, child, asked)
    child.context = k.cpu.fork(asked.stack or None, asked.tls if flags & _SETTLS else None)
    k.add_task(child)
    k.scheduler.add(child)
    if k.bus.threads:
        k.bus.emit(ThreadCreated(child.tid, child.name, asked.stack))
    return child.tid


def _inherit_policy(t: Task, child: Task) -> None:
    if not t.policy & abi.SCHED_RESET_ON_FORK:
        child.policy, child.priority, child.nice = t.policy, t.priority, t.nice
    elif not t.priority:
        child.nice = max(t.nice, 0)


def _tell_id(k: Kernel, owner: Kernel, child: Task, asked: _Request) -> None:
    """Store the new id where that is wanted: for the parent in its memory, for the child in that of `owner`,
    its own. A bad address is no error: the child is there already. Source: Linux kernel/fork.c:kernel_clone,
    schedule_tail.
    """
    ident = child.tid.to_bytes(4, "little")
    if asked.flags & _PARENT_SETTID:
        with suppress(MemoryFault):
            k.arena.copy_out(asked.parent_tid, ident)
    if asked.flags & _CHILD_SETTID:
        with suppress(MemoryFault):
            owner.arena.copy_out(asked.child_tid, ident)
    if asked.flags & _CHILD_CLEARTID:
        child.clear_child_tid = asked.child_tid


def _new_process(k: Kernel, t: Task, asked: _Request) -> int | Waiting:
    """Make a process. Source: Linux kernel/fork.c:kernel_clone."""
    system, flags = k.system, asked.flags
    if len(system.processes) >= system.config.max_processes:
        raise fail(errno.EAGAIN)
    pid = system.new_id()
    parent = k.family.parent if flags & _PARENT else k.pid
    family = Family(pid, parent, k.family.group, k.family.session, asked.signal)
    family.maker = t.tid
    if not flags & _VM:
        remember_threads(k, t, family)
    shares = Shares(bool(flags & _VM), bool(flags & _FS), bool(flags & _FILES), bool(flags & _CLEAR_SIGHAND))
    if flags & _PIDFD:
        k.arena.copy_out(asked.pidfd or asked.parent_tid, k.fds.lowest().to_bytes(4, "little"))
    child = system.forge.fork(k, t, family, shares)
    if flags & _PIDFD:
        k.fds.install(PidFile(k.fs, family, 0), True)
    task = fork_task(t, pid)
    if flags & _VM:
        task.rseq = (0, 0, 0)
    _inherit_policy(t, task)
    if asked.stack:
        task.altstack = AltStack()
    _tell_id(k, child, task, asked)
    task.context = k.cpu.fork(asked.stack or None, asked.tls if flags & _SETTLS else None)
    if parent in system.processes:
        system.processes[parent].family.children.append(pid)
    child.add_task(task)
    system.forge.enter(child, task)
    k.scheduler.add(task)
    if k.bus.threads:
        k.bus.emit(ProcessCreated(pid, task.name))
    return _until_released(k, t, child) if flags & _VFORK else pid


def _until_released(k: Kernel, t: Task, child: Kernel) -> Waiting:
    """Wait until a child needs this process's memory no more: nothing but a deadly signal ends that."""
    child.family.vfork = t
    while child.family.vfork is not None:
        yield Block(f"for child process {child.pid} to call execve or to end (vfork)")
        if k.signals.killed is not None:
            child.family.vfork = None
    return child.pid


@syscall(56, "clone", "hex", "ptr", "ptr", "ptr", "ptr")
def _sys_clone(
    k: Kernel, t: Task, flags: int, stack: int, parent_tid: int, child_tid: int, tls: int
) -> int | Waiting:
    flags &= abi.U32
    return _clone(
        k, t, _Request(flags & ~_CLONE_SIGNAL, flags & _CLONE_SIGNAL, stack, parent_tid, child_tid, tls)
    )


@syscall(435, "clone3", "ptr", "size")
def _sys_clone3(k: Kernel, t: Task, address: int, size: int) -> int | Waiting:
    if size < _ARGS_SIZE_VER0:
        raise fail(errno.EINVAL)
    if size > abi.PAGE_SIZE:
        raise fail(errno.E2BIG)
    data = k.arena.copy_in(address, size)
    if any(data[_ARGS_SIZE_VER2:]):
        raise fail(errno.E2BIG)
    words = struct.unpack("<11Q", data[:_ARGS_SIZE_VER2].ljust(_ARGS_SIZE_VER2, b"\0"))
    flags, pidfd, child_tid, parent_tid, signal, stack, stack_size, tls, set_tid, set_tid_size, _ = words
    if flags & (_CLONE_SIGNAL | _DETACHED) or signal > abi.NSIG or set_tid or set_tid_size:
        raise fail(errno.EINVAL)
    if bool(stack) != bool(stack_size) or signal and flags & (_THREAD | _PARENT):
        raise fail(errno.EINVAL)
    return _clone(k, t, _Request(flags, signal, stack + stack_size, parent_tid, child_tid, tls, pidfd))


@syscall(57, "fork")
def _sys_fork(k: Kernel, t: Task) -> int | Waiting:
    return _clone(k, t, _Request(0, abi.SIGCHLD, 0, 0, 0, 0))


@syscall(58, "vfork")
def _sys_vfork(k: Kernel, t: Task) -> int | Waiting:
    return _clone(k, t, _Request(_VM | _VFORK, abi.SIGCHLD, 0, 0, 0, 0))


@syscall(60, "exit", "int")
def _sys_exit(k: Kernel, t: Task, status: int) -> Exit:
    return Exit(status & 0xFF, group=False)


@syscall(231, "exit_group", "int")
def _sys_exit_group(k: Kernel, t: Task, status: int) -> Exit:
    return Exit(status & 0xFF, group=True)


@syscall(218, "set_tid_address", "ptr")
def _sys_set_tid_address(k: Kernel, t: Task, address: int) -> int:
    t.clear_child_tid = address
    return t.tid


@syscall(273, "set_robust_list", "ptr", "size")
def _sys_set_robust_list(k: Kernel, t: Task, head: int, size: int) -> int:
    if size != _ROBUST_HEAD_SIZE:
        raise fail(errno.EINVAL)
    t.robust_list = (head, size)
    return 0


@syscall(274, "get_robust_list", "pid", "ptr", "ptr")
def _sys_get_robust_list(k: Kernel, t: Task, pid: int, head: int, size: int) -> int:
    task = t if pid == 0 else find_thread(k, pid)
    k.arena.copy_out(size, task.robust_list[1].to_bytes(8, "little"))
    k.arena.copy_out(head, task.robust_list[0].to_bytes(8, "little"))
    return 0


@syscall(334, "rseq", "ptr", "uint", "int", "hex")
def _sys_rseq(k: Kernel, t: Task, address: int, size: int, flags: int, signature: int) -> int:
    signature &= abi.U32
    if flags & _RSEQ_UNREGISTER:
        if flags & ~_RSEQ_UNREGISTER or t.rseq[0] != address or not address or t.rseq[1] != size:
            raise fail(errno.EINVAL)
        if t.rseq[2] != signature:
            raise fail(errno.EPERM)
        k.arena.copy_out(address, struct.pack("<Ii", 0, -1))
        t.rseq = (0, 0, 0)
        return 0
    if flags:
        raise fail(errno.EINVAL)
    if t.rseq[0]:
        if t.rseq[:2] != (address, size):
            raise fail(errno.EINVAL)
        raise fail(errno.EBUSY if t.rseq[2] == signature else errno.EPERM)
    if size != _RSEQ_SIZE or address % _RSEQ_SIZE:
        raise fail(errno.EINVAL)
    k.arena.copy_out(address, struct.pack("<II", 0, 0))  # cpu_id_start, cpu_id
    t.rseq = (address, size, signature)
    return 0


@syscall(324, "membarrier", "int", "uint", "int")
def _sys_membarrier(k: Kernel, t: Task, command: int, flags: int, cpu: int) -> int:
    """Order memory: one task runs at a time, so it always is."""
    if flags or command < 0 or command & (command - 1) or command & ~_MEMBARRIER_COMMANDS:
        raise fail(errno.EINVAL)
    return _MEMBARRIER_COMMANDS if command == 0 else 0
