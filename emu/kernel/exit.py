"""The end of a task and of a process. Source: Linux kernel/exit.c:do_exit, exit_notify."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.effects import Exit
from emu.core.task_events import ProcessEnded, ThreadExited
from emu.kernel import abi
from emu.kernel.run.family import INIT
from emu.kernel.run.signal_info import SignalInfo
from emu.kernel.syscalls.robust import release

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel
    from emu.kernel.run.signals import Killed
    from emu.kernel.run.task import Task


def end_task(k: Kernel, task: Task, status: int) -> bool:
    """A task is over; return whether it was the last."""
    if task is k.tasks.leader:
        k.leader_status = status
    del k.tasks[task.tid]
    if k.bus.threads:
        k.bus.emit(ThreadExited(task.tid, task.name, status))
    if k.tasks:
        k.signals.pass_on(abi.U64)
        release(k, task)
    return not k.tasks


def end_other_tasks(k: Kernel, kept: Task | None) -> None:
    """End all threads but `kept`, whatever they are doing: at the process's end, or at execve."""
    for task in list(k.tasks.values()):
        if task is kept:
            continue
        call, task.call = task.call, None
        if call is not None:
            call.handler.close()
        for file in task.held:
            file.release()
        task.held = ()
        k.scheduler.drop(task)
        del k.tasks[task.tid]
        release(k, task)


def end_process(k: Kernel, outcome: Exit | Killed) -> None:
    """A process that is not the first is over:
    what it had goes, its children get another parent, and its own is told.
    """
    system, family = k.system, k.family
    k.stop_running()
    end_other_tasks(k, None)
    k.fds.leave()
    k.timers.drop()
    _let_go_of_traced(k)
    if "ipc" in system.__dict__:
        system.ipc.process_ends(k.pid)
    if not any(other.space is k.space for other in system.processes.values() if other is not k):
        k.space.release()
    release_parent(k)
    family.status = (outcome.status & 0xFF) << 8 if isinstance(outcome, Exit) else outcome.signo
    if k.bus.threads:
        k.bus.emit(ProcessEnded(k.pid, k.tasks.leader.name, family.status))
    if family.session == k.pid and (terminal := system.terminals.get(k.pid)) is not None:
        terminal.leave()
    _orphan(k)
    _tell_parent(k)


def _let_go_of_traced(k: Kernel) -> None:
    """Threads that the process had attached to run on."""
    for process in k.system.processes.values():
        for task in process.tasks.values():
            if task.tracer == k.pid:
                task.tracer = task.trace_status = 0
                if not process.signals.stopped:
                    k.scheduler.let_go(task)


def release_parent(k: Kernel) -> None:
    """The parent's memory is needed no more by the child of a vfork."""
    waiting, k.family.vfork = k.family.vfork, None
    if waiting is not None:
        k.scheduler.wake(waiting)


def _orphan(k: Kernel) -> None:
    """Give the children of a process that is over to the nearest ancestor that takes them, or to init."""
    from emu.kernel.syscalls.wait import reap

    system = k.system
    new = system.processes.get(k.family.parent)
    while new is not None and not (new.family.subreaper and new.family.status is None):
        new = system.processes.get(new.family.parent)
    orphans = [system.processes[pid] for pid in k.family.children]
    for child in orphans:
        pid = child.pid
        child.family.parent = new.pid if new is not None else INIT
        if new is not None:
            new.family.children.append(pid)
        if child.family.status is None:
            if child.death_signal:
                child.signals.send(
                    SignalInfo(child.death_signal, abi.SI_USER, k.pid, k.credentials.users.real)
                )
        elif new is None:
            reap(system, child)
        else:
            _tell_parent(child)
    k.family.children = []
    for process in (*(child for child in orphans if child.family.status is None), k):
        _hang_up_stopped(process, k)


def _hang_up_stopped(process: Kernel, gone: Kernel) -> None:
    """Where the end of `gone` has made the group of `process` an orphan, and somebody in it is stopped,
    nobody would let that one go on: it is told.

    Source: Linux kernel/exit.c:kill_orphaned_pgrp; POSIX, _exit, "consequences of process termination".
    """
    system, group = gone.system, process.family.group
    if process is gone:
        parent = system.processes.get(gone.family.parent)
        tie = (parent.family.group, parent.family.session) if parent is not None else (abi.SID, abi.SID)
    else:
        tie = gone.family.group, gone.family.session
    if tie[0] == group or tie[1] != process.family.session or not process.orphaned():
        return
    living = [p for p in system.processes.values() if p.family.group == group and p.family.status is None]
    if any(member.signals.stopped for member in living):
        for signo in (abi.SIGHUP, abi.SIGCONT):
            for member in living:
                member.signals.send(SignalInfo(signo, abi.SI_KERNEL))


def _tell_parent(k: Kernel) -> None:
    """Send the parent its signal, and end its waits; a child that nobody will wait for is gone at once."""
    from emu.kernel.syscalls.wait import reap

    system, family = k.system, k.family
    parent = system.processes.get(family.parent)
    if parent is None or parent.family.status is not None:
        reap(system, k)
        return
    assert family.status is not None
    action = parent.signals.actions[abi.SIGCHLD]
    forgotten = family.exit_signal == abi.SIGCHLD and (
        action.handler == abi.SIG_IGN or bool(action.flags & abi.SA_NOCLDWAIT)
    )
    if forgotten:
        parent.family.children.remove(k.pid)
        reap(system, k)
    status = family.status
    code, value = (abi.CLD_KILLED, status) if status & 0x7F else (abi.CLD_EXITED, status >> 8)
    k.tell_parent(family.exit_signal, code, value)
