"""Threads: their making and their end, and what each registers with the kernel.

Source: clone(2), exit(2), set_tid_address(2), get_robust_list(2), membarrier(2); Linux kernel/fork.c, kernel/rseq.c.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from emu.core.effects import Exit
from emu.core.events import ThreadCreated
from emu.kernel import abi
from emu.kernel.inodes import fail
from emu.kernel.table import syscall
from emu.kernel.task import Task

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel

_VM, _SIGHAND, _PIDFD, _THREAD, _SETTLS = 0x100, 0x800, 0x1000, 0x10000, 0x80000
_PARENT_SETTID, _CHILD_CLEARTID, _CHILD_SETTID = 0x100000, 0x200000, 0x1000000
_UNTRACED, _DETACHED, _FS, _FILES, _SYSVSEM, _IO = 0x800000, 0x400000, 0x200, 0x400, 0x40000, 0x80000000
_CLONE_SIGNAL = 0xFF
_KNOWN = (
    _VM | _FS | _FILES | _SIGHAND | _THREAD | _SYSVSEM | _SETTLS | _PARENT_SETTID | _CHILD_CLEARTID | _CHILD_SETTID
    | _UNTRACED | _DETACHED | _IO
)  # fmt: skip
_ARGS_SIZE_VER0, _ARGS_SIZE_VER2 = 64, 88
_USER_END = 0x7FFF_FFFF_F000
_ROBUST_HEAD_SIZE = 24
_RSEQ_SIZE, _RSEQ_UNREGISTER = 32, 1
_MEMBARRIER_COMMANDS = 0x1FF


def _clone(k: Kernel, t: Task, flags: int, stack: int, parent_tid: int, child_tid: int, tls: int) -> int:
    if flags & _THREAD and not flags & _SIGHAND or flags & _SIGHAND and not flags & _VM:
        raise fail(errno.EINVAL)
    if not flags & _THREAD:
        return k.refuse("fork or vfork (clone without CLONE_THREAD)")
    if flags & _PIDFD:
        raise fail(errno.EINVAL)
    if flags & ~_KNOWN or flags & (_FS | _FILES) != _FS | _FILES:
        return k.refuse(f"clone with the flags {flags:#x}")
    if flags & _SETTLS and tls >= _USER_END:
        raise fail(errno.EPERM)
    child = Task(k.next_tid, t.name)
    child.mask, child.memory_policy = t.mask, t.memory_policy
    if not t.policy & abi.SCHED_RESET_ON_FORK:
        child.policy, child.priority, child.nice = t.policy, t.priority, t.nice
    elif not t.priority:
        child.nice = max(t.nice, 0)
    if flags & _PARENT_SETTID:
        k.arena.copy_out(parent_tid, child.tid.to_bytes(4, "little"))
    if flags & _CHILD_SETTID:
        k.arena.copy_out(child_tid, child.tid.to_bytes(4, "little"))
    if flags & _CHILD_CLEARTID:
        child.clear_child_tid = child_tid
    child.context = k.cpu.fork(stack or None, tls if flags & _SETTLS else None)
    k.next_tid += 1
    k.add_task(child)
    k.scheduler.add(child)
    if k.bus.threads:
        k.bus.emit(ThreadCreated(child.tid, child.name, stack))
    return child.tid


@syscall(56, "clone", "hex", "ptr", "ptr", "ptr", "ptr")
def _sys_clone(k: Kernel, t: Task, flags: int, stack: int, parent_tid: int, child_tid: int, tls: int) -> int:
    return _clone(k, t, flags & abi.U32 & ~_CLONE_SIGNAL, stack, parent_tid, child_tid, tls)


@syscall(435, "clone3", "ptr", "size")
def _sys_clone3(k: Kernel, t: Task, address: int, size: int) -> int:
    if size < _ARGS_SIZE_VER0:
        raise fail(errno.EINVAL)
    if size > abi.PAGE_SIZE:
        raise fail(errno.E2BIG)
    data = k.arena.copy_in(address, size)
    if any(data[_ARGS_SIZE_VER2:]):
        raise fail(errno.E2BIG)
    words = struct.unpack("<11Q", data[:_ARGS_SIZE_VER2].ljust(_ARGS_SIZE_VER2, b"\0"))
    flags, _, child_tid, parent_tid, signal, stack, stack_size, tls, set_tid, set_tid_size, _ = words
    if flags & (_CLONE_SIGNAL | _DETACHED) or signal > abi.NSIG or set_tid or set_tid_size:
        raise fail(errno.EINVAL)
    if bool(stack) != bool(stack_size) or signal and flags & _THREAD:
        raise fail(errno.EINVAL)
    return _clone(k, t, flags, stack + stack_size, parent_tid, child_tid, tls)


@syscall(57, "fork")
def _sys_fork(k: Kernel, t: Task) -> int:
    return k.refuse("fork")


@syscall(58, "vfork")
def _sys_vfork(k: Kernel, t: Task) -> int:
    return k.refuse("vfork")


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
    task = t if pid == 0 else k.tasks.get(pid)
    if task is None:
        raise fail(errno.ESRCH)
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
