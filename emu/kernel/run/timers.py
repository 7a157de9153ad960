"""Timers on virtual time: alarm, setitimer and POSIX timers.

A timer of CPU time runs on the same clock, put off by as long as no task can run, or another process does.
Source: setitimer(2), alarm(2), timer_create(2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.run.clock import NEVER
from emu.kernel.run.timer import Timer

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.kernel.run.clock import Clock
    from emu.kernel.run.signals import Signals


class Timers:
    """All timers of the process: three interval timers and those of timer_create.

    `next_expiry` is the earliest; `changed` is called when it is another.
    """

    def __init__(self, clock: Clock, signals: Signals, changed: Callable[[], None]) -> None:
        self._clock, self._signals, self._changed = clock, signals, changed
        self.next_expiry = NEVER
        self._cpu_armed = False
        cpu = abi.CLOCK_PROCESS_CPUTIME_ID
        self.interval = (Timer(abi.SIGALRM), Timer(abi.SIGVTALRM, cpu), Timer(abi.SIGPROF, cpu))
        self.posix: dict[int, Timer] = {}
        self._next_id = 0
        self._rests_since: int | None = None

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
        left = max(timer.expiry - self._now(timer), 1) if timer.expiry else 0
        return left, timer.interval

    def _now(self, timer: Timer) -> int:
        """Return the time that counts for a timer: of CPU time, when the process ran last."""
        resting = self._rests_since if timer.counts_cpu else None
        return self._clock.now if resting is None else resting

    def rest(self) -> None:
        """Let timers of CPU time stand still: another process runs."""
        if self._cpu_armed:
            self._rests_since = self._clock.now
            self._plan()

    def go_on(self) -> None:
        """Let timers of CPU time go on: the process runs again."""
        since, self._rests_since = self._rests_since, None
        if since is not None:
            self.idle(self._clock.now - since)

    @property
    def next_while_idle(self) -> int:
        """The earliest expiry that comes while no task can run."""
        timers = (*self.interval, *self.posix.values())
        return min((t.expiry for t in timers if t.expiry and not t.counts_cpu), default=NEVER)

    def idle(self, nanoseconds: int) -> None:
        """No task could run for some time."""
        if self._rests_since is not None:
            return
        for timer in (*self.interval, *self.posix.values()):
            if timer.expiry and timer.counts_cpu:
                timer.expiry += nanoseconds
        self._plan()

    def plan_again(self) -> None:
        """Look for the earliest expiry after a timer was deleted."""
        self._plan()

    def _plan(self) -> None:
        armed = [t for t in (*self.interval, *self.posix.values()) if t.expiry]
        of_cpu = [t for t in armed if t.counts_cpu]
        self._cpu_armed = bool(of_cpu)
        if of_cpu and self._rests_since is not None:
            armed = [t for t in armed if not t.counts_cpu]
        self.next_expiry = min((t.expiry for t in armed), default=NEVER)
        self._changed()

    def drop(self) -> None:
        """The process is over: no timer is left."""
        self.posix.clear()
        for timer in self.interval:
            timer.expiry = 0
        self._plan()

    def expire(self) -> None:
        """Send the signals of all timers that are due."""
        now = self._clock.now
        for timer in (*self.interval, *self.posix.values()):
            if not timer.expiry or timer.expiry > self._now(timer):
                continue
            if timer.interval:
                periods = (now - timer.expiry) // timer.interval
                timer.overrun = periods
                timer.expiry += (periods + 1) * timer.interval
            else:
                timer.expiry = 0
            if timer.signo:
                posix = timer.ident in self.posix and self.posix[timer.ident] is timer
                self._signals.send_timer(timer, posix)
        self._plan()
