"""Timers on virtual time: alarm, setitimer and POSIX timers.

The interval timers that count CPU time run on the same clock: here the process is the only one, so its time
is the system's.
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


class Timers:
    """All timers of the process: three interval timers and those of timer_create.

    `next_expiry` is the earliest.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.next_expiry = NEVER
        self.interval = (Timer(abi.SIGALRM), Timer(abi.SIGVTALRM), Timer(abi.SIGPROF))
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
