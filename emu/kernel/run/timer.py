"""One timer. Source: setitimer(2), timer_create(2)."""

from __future__ import annotations

from emu.kernel import abi


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
