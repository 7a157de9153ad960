"""What a child process has of its parent's. Source: fork(2), clone(2); Linux kernel/fork.c:copy_process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.kernel.kernel import Kernel
from emu.kernel.run.signal_info import Action
from emu.kernel.run.task import Task

if TYPE_CHECKING:
    from emu.kernel.run.family import Family, Shares
    from emu.machine.address_space import AddressSpace


def fork_kernel(parent: Kernel, space: AddressSpace, family: Family, shares: Shares) -> Kernel:
    """Return the kernel of a child with the address space `space`,
    which has no task yet, and enter it in the process table.
    """
    child = Kernel(parent.system, space, family, parent.caller if shares.directory else parent.caller.copy())
    child.credentials = parent.credentials.copy()
    child.fds = parent.fds.share() if shares.files else parent.fds.copy()
    child.program = parent.program
    child.brk_start, child.brk = parent.brk_start, parent.brk
    child.dumpable, child.personality = parent.dumpable, parent.personality
    child.no_new_privs = parent.no_new_privs
    child.rlimits = list(parent.rlimits)
    child.signals.actions = list(parent.signals.actions)
    if shares.clear_handlers:
        child.signals.actions = [action if action.ignored else Action() for action in parent.signals.actions]
    return child


_REMEMBERED = 1024
"""Threads whose ids a child knows again."""


def remember_threads(parent: Kernel, task: Task, family: Family) -> None:
    """Note whose ids the child's copy of the memory may have, where the thread `task` of `parent` forks: of
    all threads that share the memory it alone goes on in the child.
    """
    for kernel in parent.system.processes.values():
        if kernel.space is not parent.space:
            continue
        earlier = kernel.family.copied
        family.left |= kernel.family.left | dict.fromkeys(kernel.tasks, kernel.pid)
        if task.tid == kernel.pid:
            family.copied |= earlier
        elif kernel.pid in kernel.tasks:
            family.left |= earlier
    family.left.pop(task.tid, None)
    family.copied[task.tid] = parent.pid
    for known in (family.copied, family.left):
        for tid in list(known)[:-_REMEMBERED]:  # the oldest: a chain of forks has no end
            del known[tid]


def fork_task(parent: Task, pid: int) -> Task:
    """Return the only thread of a child: the copy of the one that forks."""
    task = Task(pid, parent.name)
    task.mask, task.altstack, task.memory_policy = parent.mask, parent.altstack, parent.memory_policy
    task.rseq, task.seccomp = parent.rseq, parent.seccomp
    return task
