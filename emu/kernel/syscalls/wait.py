"""Waiting for children. Source: wait(2), wait4(2), waitid(2); Linux kernel/exit.c:do_wait."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

from emu.core.record import NamedTuple
from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.fs.pidfd import PidFile
from emu.kernel.run.block import Block
from emu.kernel.syscalls.time import pack_timeval
from emu.kernel.syscalls.waiting import wait
from emu.kernel.table import syscall

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel, System
    from emu.kernel.run.block import Waiting
    from emu.kernel.run.task import Task

_WNOHANG, _WUNTRACED, _WEXITED, _WCONTINUED, _WNOWAIT = 1, 2, 4, 8, 0x01000000
_WNOTHREAD, _WALL, _WCLONE = 0x20000000, 0x40000000, 0x80000000
_WAIT4 = _WNOHANG | _WUNTRACED | _WCONTINUED | _WNOTHREAD | _WALL | _WCLONE
_P_ALL, _P_PID, _P_PGID, _P_PIDFD = range(4)
_CONTINUED = 0xFFFF


class News(NamedTuple):
    """What there is to tell of a child: si_code, the number that goes with it, the
    wait status, the CPU time that it has used (ns).
    """

    child: Kernel
    code: int
    value: int
    status: int
    cpu: int


def reap(system: System, child: Kernel) -> None:
    """Forget a process that is over."""
    del system.processes[child.pid]


def _news(child: Kernel, options: int) -> News | None:
    family = child.family
    cpu = child.cpu_used + family.children_cpu
    status = family.status
    if status is not None:
        if not options & _WEXITED:
            return None
        code, value = (abi.CLD_KILLED, status & 0x7F) if status & 0x7F else (abi.CLD_EXITED, status >> 8)
        return News(child, code, value, status, cpu)
    stopped = child.signals.stopped
    if family.news == "stopped" and options & _WUNTRACED:
        return News(child, abi.CLD_STOPPED, stopped, stopped << 8 | 0x7F, cpu)
    if family.news == "continued" and options & _WCONTINUED:
        return News(child, abi.CLD_CONTINUED, abi.SIGCONT, _CONTINUED, cpu)
    return None


def _take(k: Kernel, news: News, options: int) -> None:
    """Note that the parent has been told."""
    if options & _WNOWAIT:
        return
    news.child.family.news = ""
    if news.child.family.status is not None:
        k.family.children.remove(news.child.pid)
        k.family.children_cpu += news.cpu
        reap(k.system, news.child)


def _eligible(child: Kernel, options: int) -> bool:
    """Whether a child is of the kind that is asked for: clone children are those that do not send SIGCHLD."""
    clone = child.family.exit_signal != abi.SIGCHLD
    return bool(options & _WALL) or clone == bool(options & _WCLONE)


def _maker(k: Kernel, child: Kernel) -> Task | None:
    """Return the thread whose child one is: the one that has made it, or another if that has gone."""
    return k.tasks.get(child.family.maker) or next(iter(k.tasks.values()), None)


def _wait(
    k: Kernel, t: Task, chosen: Callable[[Kernel], bool], options: int
) -> Generator[Block, None, News | None]:
    """Wait until there is something to tell of one of the chosen children;
    None if that is not to be waited for. Raises OSError(ECHILD).
    """
    while True:
        children = [k.system.processes[pid] for pid in k.family.children]
        children = [child for child in children if _eligible(child, options) and chosen(child)]
        if not options & _WEXITED:  # a zombie will neither stop nor go on
            children = [child for child in children if child.family.status is None]
        if options & _WNOTHREAD:
            children = [child for child in children if _maker(k, child) is t]
        if not children:
            raise fail(errno.ECHILD)
        for child in children:
            if (news := _news(child, options)) is not None:
                _take(k, news, options)
                return news
        if options & _WNOHANG:
            return None
        k.family.waiters.append(t)
        try:
            yield from wait(k, t, Block(f"for {_names(children)}"))
        finally:
            k.family.waiters.remove(t)


def _names(children: list[Kernel]) -> str:
    named = ", ".join(f"{child.pid} ({child.tasks.leader.name})" for child in children)
    return f"child process {named}" if len(children) == 1 else f"one of the child processes {named}"


def _traced(k: Kernel, tid: int) -> Task | None:
    """Return a thread that the process has attached to and not heard of since (-1: any)."""
    for process in k.system.processes.values():
        for task in process.tasks.values():
            if task.trace_status and task.tracer == k.pid and tid in (-1, task.tid):
                return task
    return None


def _usage(cpu: int) -> bytes:
    return pack_timeval(cpu) + bytes(128)


@syscall(61, "wait4", "pid", "ptr", "int", "ptr")
def _sys_wait4(k: Kernel, t: Task, pid: int, status: int, options: int, usage: int) -> Waiting:
    options &= abi.U32
    if options & ~_WAIT4:
        raise fail(errno.EINVAL)
    if pid == -(1 << 31):
        raise fail(errno.ESRCH)
    own = k.family.group

    def chosen(child: Kernel) -> bool:
        if pid > 0:
            return child.pid == pid
        return pid == -1 or child.family.group == (-pid or own)

    traced = _traced(k, pid)
    if traced is not None:
        if status:
            k.arena.copy_out(status, traced.trace_status.to_bytes(4, "little"))
        traced.trace_status = 0
        return traced.tid
    news = yield from _wait(k, t, chosen, options | _WEXITED)
    if news is None:
        return 0
    if status:
        k.arena.copy_out(status, news.status.to_bytes(4, "little"))
    if usage:
        k.arena.copy_out(usage, _usage(news.cpu))
    return news.child.pid


@syscall(247, "waitid", "int", "pid", "ptr", "int", "ptr")
def _sys_waitid(k: Kernel, t: Task, which: int, pid: int, info: int, options: int, usage: int) -> Waiting:
    options &= abi.U32
    known = _WNOHANG | _WNOWAIT | _WEXITED | _WUNTRACED | _WCONTINUED | _WNOTHREAD | _WALL | _WCLONE
    if options & ~known or not options & (_WEXITED | _WUNTRACED | _WCONTINUED):
        raise fail(errno.EINVAL)
    group = (pid or k.family.group) if which == _P_PGID else 0
    unready = 0
    if which == _P_PID and pid <= 0 or which == _P_PGID and pid < 0 or not 0 <= which <= _P_PIDFD:
        raise fail(errno.EINVAL)
    if which == _P_PIDFD:
        file = k.fds.get(pid)
        if not isinstance(file, PidFile):
            raise fail(errno.EINVAL)
        which, pid = _P_PID, file.family.pid
        if file.flags & abi.O_NONBLOCK:
            options |= _WNOHANG
            unready = errno.EAGAIN

    def chosen(child: Kernel) -> bool:
        return which == _P_ALL or (child.pid == pid if which == _P_PID else child.family.group == group)

    news = yield from _wait(k, t, chosen, options)
    if news is None and unready:
        raise fail(unready)
    if info:
        fields = (0, 0, 0, 0, 0, 0)
        if news is not None:
            uid = news.child.credentials.users.real
            fields = (abi.SIGCHLD, 0, news.code, news.child.pid, uid, news.value)
        signo, error, code, child, uid, value = fields
        k.arena.copy_out(info, struct.pack("<iii4xiii", signo, error, code, child, uid, value))
    if usage and news is not None:
        k.arena.copy_out(usage, _usage(news.cpu))
    return 0
