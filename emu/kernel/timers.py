"""Timers on virtual time: alarm, setitimer and POSIX timers.

A timer of CPU time runs on the same clock, put off by as long as no task can run.
Source: setitimer(2), alarm(2), timer_create(2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.clock import NEVER

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel


class Timer:
    """One timer: `expiry` in virtual nanoseconds (0: disarmed), `interval` to the next, the signal that it
    sends (0: none), the id of the thread that it sends it to (0: the process).
    """

    __slots__ = ("clock", "signo", "value", "ident", "thread", "expiry", "interval", "overrun")

    def __init__(
        self, signo: int, clock: int = abi.CLOCK_MONOTONIC, value: int = 0, ident: int = 0, thread: int = 0
    ) -> None:
        self.clock, self.signo, self.value, self.ident, self.thread = clock, signo, value, ident, thread
        self.expiry = self.interval = self.overrun = 0

    @property
    def counts_cpu(self) -> bool:
        """Whether only the time counts in which the process runs."""
        return self.clock < 0 or self.clock in (abi.CLOCK_PROCESS_CPUTIME_ID, abi.CLOCK_THREAD_CPUTIME_ID)


class Timers:
    """All timers of the process: three interval timers and those of timer_create.

    `next_expiry` is the earliest.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.next_expiry = NEVER
        cpu = abi.CLOCK_PROCESS_CPUTIME_ID
        self.interval = (Timer(abi.SIGALRM), Timer(abi.SIGVTALRM, cpu), Timer(abi.SIGPROF, cpu))
        self.posix: dict[int, Timer] = {}
        self._next_id = 0

    def create(self, clock: int, signo: int, value: int | None, thread: int = 0) -> int:
        """Make a POSIX timer and return its id; `value` None is the id itself."""
        ident = self._next_id
        self._next_id += 1
        self.posix[ident] = Timer(signo, clock, ident if value is None else value, ident, thread)
        return ident

    def arm(self, timer: Timer, expiry: int, interval: int) -> tuple[int, int]:
        """Set a timer to expire at virtual time `expiry` (0: disarm); return what remained and its
        interval.
        """
        old = self.remaining(timer)
        timer.expiry, timer.interval, timer.overrun = expiry, interval, 0
        self._plan()
        return old

    def remaining(self, timer: Timer) -> tuple[int, int]:
        """Return the nanoseconds to the next expiry (0: disarmed) and the interval."""
        left = max(timer.expiry - self._kernel.clock.now, 1) if timer.expiry else 0
        return left, timer.interval

    @property
    def next_while_idle(self) -> int:
        """The earliest expiry that comes while no task can run."""
        timers = (*self.interval, *self.posix.values())
        return min((t.expiry for t in timers if t.expiry and not t.counts_cpu), default=NEVER)

    def idle(self, nanoseconds: int) -> None:
        """No task could run for some time."""
        for timer in (*self.interval, *self.posix.values()):
            if timer.expiry and timer.counts_cpu:
                timer.expiry += nanoseconds
        self._plan()

    def plan_again(self) -> None:
        """Look for the earliest expiry after a timer was deleted."""
        self._plan()

    def _plan(self) -> None:
        armed = [t.expiry for t in (*self.interval, *self.posix.values()) if t.expiry]
        self.next_expiry = min(armed, default=NEVER)
        self._kernel.plan()

    def expire(self) -> None:
        """Send the signals of all timers that are due."""
        now = self._kernel.clock.now
        for timer in (*self.interval, *self.posix.values()):
            if not timer.expiry or timer.expiry > now:
                continue
            if timer.interval:
                periods = (now - timer.expiry) // timer.interval
                timer.overrun = periods
                timer.expiry += (periods + 1) * timer.interval
            else:
                timer.expiry = 0
            if timer.signo:
                posix = timer.ident in self.posix and self.posix[timer.ident] is timer
                self._kernel.signals.send_timer(timer, posix)
        self._plan()
