"""Waiting: what a task does when a system call cannot go on.

Virtual time jumps to the next thing that can happen: the deadline or a timer. Only a wait for the host's
terminal or pipe takes real time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.errors import EmuError
from emu.kernel import abi
from emu.kernel.signals import Interrupted
from emu.kernel.timers import NEVER

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel
    from emu.kernel.openfile import OpenFile
    from emu.kernel.task import Task


class DeadlockError(EmuError):
    """The only thread waits for something that nothing can bring about."""


def wait(
    k: Kernel,
    t: Task,
    what: str,
    *,
    hosts: tuple[tuple[int, int], ...] = (),
    deadline: int | None = None,
    restart: bool = True,
    for_signal: bool = False,
) -> bool:
    """Wait until a host descriptor of `hosts` (fd, POLL* events) is ready (true) or `deadline` has come
    (false).

    `deadline` is virtual time. `what` completes "the only thread waits ...". `for_signal`: a signal from the
    host is an end that can be hoped for. Raises Interrupted when a signal is deliverable, DeadlockError when
    there is no hope.
    """
    signals, clock = k.signals, k.clock
    while True:
        if signals.deliverable(t):
            raise Interrupted(restart)
        until = min(k.timers.next_expiry, NEVER if deadline is None else deadline)
        if hosts or for_signal and until == NEVER:
            if _wait_on_host(k, hosts, None if until == NEVER else max(until - clock.now, 0)):
                return True
        elif until == NEVER:
            raise DeadlockError(f"deadlock: the only thread waits {what}, and nothing can end that wait")
        if until != NEVER:
            clock.now = max(clock.now, until)
            k.timers.expire()
            if deadline is not None and clock.now >= deadline:
                if signals.deliverable(t) and restart:
                    raise Interrupted(restart)
                return False


def _wait_on_host(k: Kernel, hosts: tuple[tuple[int, int], ...], nanoseconds: int | None) -> bool:
    """Wait for a host descriptor; false when the time is up or a host signal came."""
    import select

    poller = select.poll()
    for fd, events in hosts:
        poller.register(fd, events)
    k.signals.host_wait(True)
    try:
        if k.signals.wake and not hosts:
            return False
        return bool(poller.poll(None if nanoseconds is None else nanoseconds / 1e6))
    except InterruptedError:
        return False
    finally:
        k.signals.host_wait(False)


def wait_for_file(k: Kernel, t: Task, file: OpenFile, events: int, what: str) -> None:
    """Wait until `file` is ready for `events`. Raises Interrupted, DeadlockError."""
    host = file.host_wait()
    hosts = () if host is None else ((host, events & (abi.POLLIN | abi.POLLOUT)),)
    wait(k, t, f"{what} {file.path}", hosts=hosts, deadline=file.deadline())
