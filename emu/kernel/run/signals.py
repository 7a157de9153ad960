"""Signals: dispositions, pending signals, masks, and their delivery to handlers.

Source: signal(7), sigaction(2), Linux kernel/signal.c; frames are in `emu.kernel.run.sigframe`.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Protocol

from emu.core.errors import MemoryFault, UnsupportedError
from emu.core.record import NamedTuple
from emu.kernel import abi
from emu.kernel.run import sigframe
from emu.kernel.run.signal_info import Action, SignalInfo, bit, clean_mask
from emu.kernel.run.task import SIGNALLED
from emu.machine import regs

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.kernel.run.from_host import FromHost
    from emu.kernel.run.scheduler import Scheduler
    from emu.kernel.run.task import Task
    from emu.kernel.run.tasks import Tasks
    from emu.kernel.run.timer import Timer
    from emu.machine.arena import Arena
    from emu.machine.engine import Cpu


class Killed(NamedTuple):
    """The process ended by a signal, which `task` took."""

    signo: int
    info: SignalInfo
    task: Task


_DEFAULT = Action()
_IGNORED = frozenset((abi.SIGCHLD, abi.SIGURG, abi.SIGWINCH, abi.SIGCONT))
_STOPS = frozenset((abi.SIGSTOP, abi.SIGTSTP, abi.SIGTTIN, abi.SIGTTOU))
_FAULTS = (abi.SIGSEGV, abi.SIGBUS, abi.SIGILL, abi.SIGTRAP, abi.SIGFPE, abi.SIGSYS)
_QUEUE_LIMIT = 1024


class SignalSurroundings(Protocol):
    """What there is around a process, where it is to stop."""

    def alone(self) -> bool:
        """Whether there is nobody who could continue it."""

    def orphaned(self) -> bool:
        """Whether its group is orphaned: then only SIGSTOP stops it."""


class Signals:
    """Dispositions and pending signals of one process, whose threads are `tasks`.

    `wake` is set when the running task may have one to deal with. `stopped` is the signal that has stopped
    the process, 0 while it runs; `on_job` is told when that changes. A `tracer` sees each signal before it
    acts, and may keep it: then nothing has happened.
    """

    HOST_SIDE = frozenset(("tracer",))
    __slots__ = (
        "_arena",
        "_host",
        "_scheduler",
        "_tasks",
        "actions",
        "killed",
        "on_job",
        "pending",
        "stopped",
        "tracer",
        "wake",
    )

    def __init__(self, arena: Arena, tasks: Tasks, scheduler: Scheduler, host: FromHost) -> None:
        self._arena, self._tasks, self._scheduler, self._host = arena, tasks, scheduler, host
        self.actions = [_DEFAULT] * (abi.NSIG + 1)
        self.pending: list[SignalInfo] = []
        self.wake = False
        self.killed: Killed | None = None
        self.stopped = 0
        self.on_job: Callable[[], None] = lambda: None
        self.tracer: Callable[[Task, SignalInfo], bool] | None = None

    def use(self, arena: Arena) -> None:
        """Build frames in another memory from now on: that of a new program."""
        self._arena = arena

    def show_first(self, tracer: Callable[[Task, SignalInfo], bool]) -> None:
        """Show each signal to `tracer` before it acts: True keeps it, and nothing has happened."""
        self.tracer = tracer

    # -- sending ---------------------------------------------------------------------------------------------

    def send(self, info: SignalInfo, task: Task | None = None) -> None:
        """Make a signal pending for `task`, or for the process.

        Standard signals do not queue; ignored ones vanish.
        """
        if info.signo == abi.SIGCONT:
            self._forget(_STOPS)
            self._continue()
        elif info.signo in _STOPS:
            self._forget(frozenset((abi.SIGCONT,)))
        target = task or self._tasks.leader
        if self._is_ignored(info.signo) and not (target.mask | target.awaited) & bit(info.signo):
            return
        queue = self.pending if task is None else task.pending
        if info.signo < 32 and any(other.signo == info.signo for other in queue):
            return
        if len(queue) >= _QUEUE_LIMIT:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        queue.append(info)
        self._tell(info, task)

    def _forget(self, signals: frozenset[int]) -> None:
        """Drop pending signals: SIGCONT takes the stops back that came before, and the other way round."""
        self.pending = [info for info in self.pending if info.signo not in signals]
        for task in self._tasks.values():
            task.pending = [info for info in task.pending if info.signo not in signals]

    def stop(self, signo: int) -> None:
        """Stop all threads."""
        self.stopped = signo
        for task in self._tasks.values():
            self._scheduler.hold(task)
        self.on_job()

    def _continue(self) -> None:
        if self.stopped:
            self._run_again()
            self.on_job()

    def _run_again(self) -> None:
        self.stopped = 0
        for task in self._tasks.values():
            self._scheduler.let_go(task)

    def _tell(self, info: SignalInfo, task: Task | None) -> None:
        """Make a thread that does not block the signal look for it: the main thread rather than another, one
        that has no signal yet rather than one that has. Source: Linux kernel/signal.c:complete_signal.
        """
        willing = [
            t for t in ([task] if task is not None else self._tasks.values()) if not t.mask & bit(info.signo)
        ]
        if not willing:
            return
        chosen = next((t for t in willing if not t.signalled), willing[0])
        if self.actions[info.signo].handler == abi.SIG_DFL and info.signo not in _IGNORED | _STOPS:
            if not chosen.awaited & bit(info.signo) and self.killed is None:
                self.killed = Killed(info.signo, info, chosen)
                self.wake = True
                if info.signo == abi.SIGKILL:
                    self._run_again()
        chosen.signalled = True
        if chosen is self._scheduler.current:
            self.wake = True
        self._scheduler.wake(chosen, SIGNALLED)

    def send_timer(self, timer: Timer, posix: bool) -> None:
        """Send a timer's signal, to its thread if it has one; a thread that has gone gets none.

        One that is still pending from before counts the new expiry as an overrun.
        """
        task = self._tasks.get(timer.thread) if timer.thread else None
        if timer.thread and task is None:
            return
        queue = self.pending if task is None else task.pending
        if posix:
            for index, old in enumerate(queue):
                if old.code == abi.SI_TIMER and old.timer == timer.ident:
                    timer.overrun += old.overrun + 1
                    queue[index] = old._replace(overrun=timer.overrun)
                    return
            info = SignalInfo(
                timer.signo, abi.SI_TIMER, value=timer.value, timer=timer.ident, overrun=timer.overrun
            )
        else:
            info = SignalInfo(timer.signo, abi.SI_KERNEL)
        self.send(info, task)

    def _is_ignored(self, signo: int) -> bool:
        handler = self.actions[signo].handler
        return handler == abi.SIG_IGN or handler == abi.SIG_DFL and signo in _IGNORED

    # -- looking ---------------------------------------------------------------------------------------------

    def set_action(self, signo: int, action: Action) -> Action:
        """Change a disposition, drop what is now ignored, return the old one."""
        old = self.actions[signo]
        self.actions[signo] = action
        if self._is_ignored(signo):
            self.pending = [info for info in self.pending if info.signo != signo]
            for task in self._tasks.values():
                task.pending = [info for info in task.pending if info.signo != signo]
        return old

    def set_mask(self, task: Task, mask: int) -> None:
        """Replace the signal mask of a task. What it now blocks may be another thread's to handle."""
        mask = clean_mask(mask)
        added = mask & ~task.mask
        task.mask = mask
        task.signalled = bool(task.pending or self.pending) and self.deliverable(task)
        if added and self.pending:
            self.pass_on(added)
        self.switched(self._scheduler.current)

    def pass_on(self, signals: int) -> None:
        """Look for a thread for the process's pending signals in the mask `signals`."""
        for info in self.pending:
            if bit(info.signo) & signals:
                self._tell(info, None)

    def switched(self, task: Task) -> None:
        """`task` is the one that runs: does it have signals to deal with?"""
        self.wake = task.signalled or self._host.signals or self.killed is not None

    def pending_set(self, task: Task) -> int:
        """Return the mask of all signals that are pending for the task."""
        mask = 0
        for info in (*task.pending, *self.pending):
            mask |= bit(info.signo)
        return mask

    def deliverable(self, task: Task) -> bool:
        """Whether a pending signal is not blocked."""
        return bool(self.pending_set(task) & ~task.mask)

    def take(self, task: Task, wanted: int) -> SignalInfo | None:
        """Remove and return the next pending signal in `wanted`: faults first, then the lowest number."""
        for queue in (task.pending, self.pending):
            found = [info for info in queue if bit(info.signo) & wanted]
            if found:
                best = min(found, key=lambda info: (info.signo not in _FAULTS, info.signo))
                queue.remove(best)
                return best
        return None

    # -- acting ----------------------------------------------------------------------------------------------

    def deliver(self, task: Task, cpu: Cpu, exe: str, surroundings: SignalSurroundings) -> Killed | None:
        """Deal with every deliverable signal: the CPU goes on in the handler of the last, or the process is
        killed, or stopped.

        Raises UnsupportedError when the program `exe` stops itself and there is nobody who could continue it.
        """
        if self.killed is not None:
            killed = self.killed
            if not self._kept(killed.task, killed.info):
                return killed
            self.killed = None
            for queue in (killed.task.pending, self.pending):
                if killed.info in queue:
                    queue.remove(killed.info)
            return None
        handled = False
        while (info := self.take(task, ~task.mask)) is not None:
            if self._kept(task, info):
                return None
            action = self.actions[info.signo]
            if info.signo != abi.SIGKILL and action.handler not in (abi.SIG_DFL, abi.SIG_IGN):
                self._restart(task, cpu, bool(action.flags & abi.SA_RESTART))
                if not self._enter(task, cpu, info, action):
                    return Killed(abi.SIGSEGV, SignalInfo(abi.SIGSEGV, abi.SI_KERNEL), task)
                handled = True
                continue
            if self._is_ignored(info.signo) and info.signo != abi.SIGKILL:
                continue
            if info.signo in _STOPS:
                if info.signo != abi.SIGSTOP and surroundings.orphaned():
                    continue
                if surroundings.alone():
                    raise UnsupportedError(
                        f"job control: the program stopped itself with {abi.signal_name(info.signo)}", exe
                    )
                self.stop(info.signo)
                break
            return Killed(info.signo, info, task)
        task.signalled = self.deliverable(task)
        if not handled:
            self._restart(task, cpu, True)
            if task.saved_mask is not None:
                saved, task.saved_mask = task.saved_mask, None
                self.set_mask(task, saved)
        self.switched(task)
        return None

    def _kept(self, task: Task, info: SignalInfo) -> bool:
        return self.tracer is not None and info.signo != abi.SIGKILL and self.tracer(task, info)

    def force(
        self, task: Task, cpu: Cpu, signo: int, code: int, address: int, trapno: int, error_code: int
    ) -> Killed | None:
        """Raise a fault's signal; one that is blocked or ignored kills. The CPU goes on in the handler."""
        info = SignalInfo(signo, code, address=address, trapno=trapno, error_code=error_code)
        if self._kept(task, info):
            return None
        action = self.actions[signo]
        if task.mask & bit(signo) or action.handler in (abi.SIG_DFL, abi.SIG_IGN):
            return Killed(signo, info, task)
        if not self._enter(task, cpu, info, action):
            return Killed(abi.SIGSEGV, SignalInfo(abi.SIGSEGV, abi.SI_KERNEL), task)
        return None

    def _restart(self, task: Task, cpu: Cpu, restart: bool) -> None:
        """Set the registers back to the system call that a signal cut short."""
        number, task.interrupted = task.interrupted, None
        if number is not None and (restart or task.restart_always):
            cpu.set(regs.RAX, number)
            cpu.set(regs.RIP, cpu.get(regs.RIP) - 2)
        task.restart_always = False

    def _enter(self, task: Task, cpu: Cpu, info: SignalInfo, action: Action) -> bool:
        """Build the frame and go on in the handler; false if the stack has no room for it."""
        restored = task.mask if task.saved_mask is None else task.saved_mask
        try:
            sigframe.push(self._arena, cpu, task, info, action, restored)
        except MemoryFault:
            return False
        task.saved_mask = None
        mask = task.mask | action.mask
        if not action.flags & abi.SA_NODEFER:
            mask |= bit(info.signo)
        if action.flags & abi.SA_RESETHAND:
            self.actions[info.signo] = action._replace(handler=abi.SIG_DFL)
        self.set_mask(task, mask)
        return True
