"""Virtual time: the guest's clocks do not know the host's.

Time stands still while the guest computes, except where the runner accounts for executed work; each system
call moves it by a microsecond, so that a loop that waits for the clock ends, and a sleep moves it by exactly
its length. A change of threads takes some microseconds, as it does natively: threads that wake each other for
as long as a clock says would else do ten times the work, and the emulator is slow enough.
"""

from __future__ import annotations

EPOCH_NS = 1_704_067_200 * 1_000_000_000
"""CLOCK_REALTIME at start: 2024-01-01T00:00:00Z."""
BOOT_NS = 1000 * 1_000_000_000
"""CLOCK_MONOTONIC at start."""
TICK_NS = 1000
"""What a system call costs."""
SWITCH_NS = 5000
"""What it costs that another thread runs: about what waking a thread and changing to it takes on Linux."""

NEVER = 1 << 63
"""A time that does not come."""


class Clock:
    """Nanoseconds since the program started, in `now`. `realtime_offset` is added for CLOCK_REALTIME.

    `alarm` is when something is due, at the earliest: a timer, or a task's deadline. `idle` is the part of
    `now` in which no task could run.
    """

    __slots__ = ("now", "idle", "alarm", "realtime_offset")

    def __init__(self) -> None:
        self.now = self.idle = 0
        self.alarm = NEVER
        self.realtime_offset = EPOCH_NS

    @property
    def realtime(self) -> int:
        """Nanoseconds since 1970-01-01T00:00:00Z."""
        return self.now + self.realtime_offset

    @property
    def monotonic(self) -> int:
        """Nanoseconds since the machine is said to have booted."""
        return self.now + BOOT_NS

    @property
    def cpu(self) -> int:
        """Nanoseconds that the process has run."""
        return self.now - self.idle

    def advance(self, nanoseconds: int) -> None:
        """Let `nanoseconds` pass."""
        self.now += nanoseconds
