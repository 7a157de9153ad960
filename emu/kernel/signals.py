"""Signals: dispositions, pending signals, masks, and their delivery to handlers.

Source: signal(7), sigaction(2), Linux kernel/signal.c; frames are in `emu.kernel.sigframe`.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NamedTuple

from emu.core.errors import MemoryFault, UnsupportedError
from emu.kernel import abi, sigframe
from emu.kernel.alarm import Alarm
from emu.kernel.task import SIGNALLED
from emu.machine import regs

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel
    from emu.kernel.task import Task
    from emu.kernel.timers import Timer
    from emu.machine.cpu import Cpu


class SignalInfo(NamedTuple):
    """What siginfo_t says: number, SI_* or fault code, sender or faulting address, value; timer id and
    overrun for SI_TIMER.
    """

    signo: int
    code: int
    pid: int = 0
    uid: int = 0
    address: int = 0
    value: int = 0
    timer: int = 0
    overrun: int = 0
    trapno: int = 0
    error_code: int = 0


class Action(NamedTuple):
    """A disposition: handler address, SIG_DFL or SIG_IGN; SA_* flags; restorer; mask while the handler
    runs.
    """

    handler: int = abi.SIG_DFL
    flags: int = 0
    restorer: int = 0
    mask: int = 0


class Killed(NamedTuple):
    """The process ended by a signal, which `task` took."""

    signo: int
    info: SignalInfo
    task: Task


class Interrupted(OSError):
    """A wait that a signal ended. `restart`: the call begins again if the handler has SA_RESTART, `always`: in any case."""

    def __init__(self, restart: bool, *, always: bool = False) -> None:
        super().__init__(errno.EINTR, os.strerror(errno.EINTR))
        self.restart = restart or always
        self.always = always


_DEFAULT = Action()
_IGNORED = frozenset((abi.SIGCHLD, abi.SIGURG, abi.SIGWINCH, abi.SIGCONT))
_STOPS = frozenset((abi.SIGSTOP, abi.SIGTSTP, abi.SIGTTIN, abi.SIGTTOU))
_FAULTS = (abi.SIGSEGV, abi.SIGBUS, abi.SIGILL, abi.SIGTRAP, abi.SIGFPE, abi.SIGSYS)
_UNBLOCKABLE = 1 << (abi.SIGKILL - 1) | 1 << (abi.SIGSTOP - 1)
_QUEUE_LIMIT = 1024


def bit(signo: int) -> int:
    """Return the bit of a signal in a mask."""
    return 1 << (signo - 1)


def clean_mask(mask: int) -> int:
    """Return the mask without SIGKILL and SIGSTOP, which cannot be blocked."""
    return mask & abi.U64 & ~_UNBLOCKABLE


class Signals:
    """Dispositions and pending signals of the process.

    `wake` is set when the running task may have one to deal with. `host_stops` is set when the host ends the run.
    """

    HOST_SIDE = frozenset(("host_stops", "_host_wait", "_from_host", "_alarm"))
    __slots__ = (
        "_kernel",
        "actions",
        "pending",
        "wake",
        "killed",
        "host_stops",
        "_host_wait",
        "_from_host",
        "_alarm",
    )

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.actions = [_DEFAULT] * (abi.NSIG + 1)
        for number in kernel.config.ignored:
            self.actions[number] = Action(abi.SIG_IGN)
        self.pending: list[SignalInfo] = []
        self.wake = False
        self.killed: Killed | None = None
        self.host_stops = False
        self._host_wait = False
        self._from_host: list[int] = []
        self._alarm: Alarm | None = None

    # -- sending ---------------------------------------------------------------------------------------------

    def send(self, info: SignalInfo, task: Task | None = None) -> None:
        """Make a signal pending for `task`, or for the process.

        Standard signals do not queue; ignored ones vanish.
        """
        target = task or self._kernel.leader
        if self._is_ignored(info.signo) and not (target.mask | target.awaited) & bit(info.signo):
            return
        queue = self.pending if task is None else task.pending
        if info.signo < 32 and any(other.signo == info.signo for other in queue):
            return
        if len(queue) >= _QUEUE_LIMIT:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        queue.append(info)
        self._tell(info, task)

    def _tell(self, info: SignalInfo, task: Task | None) -> None:
        """Make a thread that does not block the signal look for it: the main thread rather than another, one that has no
        signal yet rather than one that has. Source: Linux kernel/signal.c:complete_signal.
        """
        kernel = self._kernel
        willing = [
            t for t in ([task] if task is not None else kernel.tasks.values()) if not t.mask & bit(info.signo)
        ]
        if not willing:
            return
        chosen = next((t for t in willing if not t.signalled), willing[0])
        if self.actions[info.signo].handler == abi.SIG_DFL and info.signo not in _IGNORED | _STOPS:
            if not chosen.awaited & bit(info.signo) and self.killed is None:
                self.killed = Killed(info.signo, info, chosen)
                self.wake = True
        chosen.signalled = True
        if chosen is kernel.scheduler.current:
            self.wake = True
        kernel.scheduler.wake(chosen, SIGNALLED)

    def send_timer(self, timer: Timer, posix: bool) -> None:
        """Send a timer's signal, to its thread if it has one; a thread that has gone gets none.

        One that is still pending from before counts the new expiry as an overrun.
        """
        task = self._kernel.tasks.get(timer.thread) if timer.thread else None
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

    # -- the host ------------------------------------------------------------------------------------------------

    def post_from_host(self, signo: int) -> None:
        """A signal from the host's terminal or user; ends a wait on the host. Called between any two bytecodes."""
        self._from_host.append(signo)
        self.wake = True
        self._end_host_wait()

    def stop_from_host(self) -> None:
        """The host's time limit has come; ends a wait on the host. Called between any two bytecodes."""
        self.host_stops = True
        self._end_host_wait()

    def host_breaks_off(self) -> None:
        """The host wants the run to stop where it is; ends a wait on the host. May be called from any thread."""
        self.host_stops = True
        if self._alarm is not None:
            self._alarm.ring()

    def host_goes_on(self) -> None:
        """What `host_breaks_off` said is done."""
        self.host_stops = False
        if self._alarm is not None:
            self._alarm.silence()

    def _end_host_wait(self) -> None:
        if self._host_wait:
            raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))

    def take_from_host(self) -> None:
        """Send the guest what the host has sent."""
        while self._from_host:
            signo = self._from_host.pop(0)
            self.send(SignalInfo(signo, abi.SI_KERNEL if signo == abi.SIGINT else abi.SI_USER))

    def wait_on_host(self, hosts: list[tuple[int, int]], nanoseconds: int | None) -> bool:
        """Wait for one of the host descriptors (fd, POLL* events) or a host's signal; false when the time is up."""
        import select

        poller = select.poll()
        for fd, events in hosts:
            poller.register(fd, events)
        if self._alarm is None:
            self._alarm = Alarm()
        poller.register(self._alarm.fd, abi.POLLIN)
        try:
            self._host_wait = True
            if not self._from_host and not self.host_stops:
                return bool(poller.poll(None if nanoseconds is None else nanoseconds / 1e6))
        except InterruptedError:
            pass
        finally:
            self._host_wait = False
        self.take_from_host()
        return True

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
            for task in self._kernel.tasks.values():
                task.pending = [info for info in task.pending if info.signo != signo]
        return old

    def set_mask(self, task: Task, mask: int) -> None:
        """Replace the signal mask of a task. What it now blocks may be another thread's to handle."""
        added = clean_mask(mask) & ~task.mask
        task.mask = clean_mask(mask)
        task.signalled = self.deliverable(task)
        if added and self.pending:
            self.pass_on(added)
        self.switched(self._kernel.scheduler.current)

    def pass_on(self, signals: int) -> None:
        """Look for a thread for the process's pending signals in the mask `signals`."""
        for info in self.pending:
            if bit(info.signo) & signals:
                self._tell(info, None)

    def switched(self, task: Task) -> None:
        """`task` is the one that runs: does it have signals to deal with?"""
        self.wake = task.signalled or bool(self._from_host) or self.killed is not None

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

    def deliver(self, task: Task, cpu: Cpu) -> Killed | None:
        """Deal with every deliverable signal: the CPU goes on in the handler of the last, or the process is
        killed.

        Raises UnsupportedError when the program stops itself: nothing could continue it.
        """
        self.take_from_host()
        if self.killed is not None:
            return self.killed
        handled = False
        while (info := self.take(task, ~task.mask)) is not None:
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
                raise UnsupportedError(
                    f"job control: the program stopped itself with {abi.signal_name(info.signo)}",
                    self._kernel.program.exe,
                )
            return Killed(info.signo, info, task)
        task.signalled = False
        if not handled:
            self._restart(task, cpu, True)
            if task.saved_mask is not None:
                saved, task.saved_mask = task.saved_mask, None
                self.set_mask(task, saved)
        self.switched(task)
        return None

    def force(
        self, task: Task, cpu: Cpu, signo: int, code: int, address: int, trapno: int, error_code: int
    ) -> Killed | None:
        """Raise a fault's signal; one that is blocked or ignored kills. The CPU goes on in the handler."""
        info = SignalInfo(signo, code, address=address, trapno=trapno, error_code=error_code)
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
            sigframe.push(self._kernel.arena, cpu, task, info, action, restored)
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
