"""What stands for the count of basic blocks where nobody counts them:
traps, and a beat for code that makes none.

Each trap counts for a fixed number of blocks, so virtual time and the switches at traps are the same every
time. A thread that makes no exit for two beats of its host thread's processor time is stopped: it would never
let another run. Only then is a run not the same every time.

Source: timer_create(2), SIGEV_THREAD_ID.
"""

from __future__ import annotations

import _thread
import ctypes
import signal
import struct
from collections.abc import Callable

from emu.machine.engine import HostPart

TRAP_COST = 20
"""Blocks that a trap counts for."""
_BEAT_NS = 50_000_000
KICK = signal.SIGRTMAX - 3
"""The host's signal that makes the virtual CPU leave the guest."""
_TIMER_CREATE, _TIMER_SETTIME, _TIMER_DELETE = 222, 223, 226
_THREAD_CPUTIME, _SIGEV_THREAD_ID = 3, 4
_libc = ctypes.CDLL(None, use_errno=True)
_libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
_libc.signal.restype = ctypes.c_void_p


def catch_kicks() -> None:
    """Let the host's signal interrupt calls and do nothing else.

    Unlike Python's own, this handler can be set in any thread.
    """
    harmless = ctypes.cast(_libc.getpid, ctypes.c_void_p).value
    _libc.signal(KICK, harmless)


class Beat:
    """Sends the signal to this host thread at each beat of its processor time, while it is on."""

    def __init__(self) -> None:
        self._timer = ctypes.c_int(-1)
        event = struct.pack("<QiiI", 0, KICK, _SIGEV_THREAD_ID, _thread.get_native_id()).ljust(64, b"\0")
        if _libc.syscall(_TIMER_CREATE, _THREAD_CPUTIME, ctypes.c_char_p(event), ctypes.byref(self._timer)):
            raise OSError(ctypes.get_errno(), "timer_create")
        every = struct.pack("<qqqq", 0, _BEAT_NS, 0, _BEAT_NS)
        _libc.syscall(_TIMER_SETTIME, self._timer, 0, ctypes.c_char_p(every), None)

    def stop(self) -> None:
        """Stop the beats."""
        _libc.syscall(_TIMER_DELETE, self._timer)


class TrapCounter(HostPart):
    """Counts `left` down by `TRAP_COST` at each trap;
    at 0, or after two beats without an exit, it calls `at_zero`, which must not raise.
    """

    def __init__(self, at_zero: Callable[[], None]) -> None:
        self._at_zero = at_zero
        self.left = 0
        self.block = (0, 0)
        self.forced = 0
        """How often a thread was stopped by the beat: from then on the run is not the same every time."""
        self.forced_ns = 2 * _BEAT_NS
        self._beat: Beat | None = None
        self._exits = self._still = 0
        self.exits = 0
        """Exits of the CPU so far, of any kind but for the host's signals."""

    @property
    def installed(self) -> bool:
        """Whether it counts."""
        return self._beat is not None

    def install(self) -> None:
        """Begin to count time."""
        self._beat = Beat()
        self._exits, self._still = self.exits, 0

    def remove(self) -> None:
        """Count no more."""
        if self._beat is not None:
            self._beat.stop()
            self._beat = None

    def rest(self) -> None:
        """Count no more."""
        self.remove()

    def trapped(self) -> None:
        """Count a trap that was served."""
        if self._beat is not None:
            self.left -= TRAP_COST
            if self.left <= 0:
                self.left = 0
                self._at_zero()

    def interrupted(self) -> None:
        """A signal of the host's has come while the guest ran."""
        if self._beat is None:
            return
        if self.exits != self._exits:
            self._exits, self._still = self.exits, 0
            return
        self._still += 1
        if self._still >= 2:
            self._still = self.left = 0
            self.forced += 1
            self._at_zero()


class NoLateStop(HostPart):
    """There are no blocks inside of which to stop."""

    planted = False

    def plant(self, address: int, size: int, number: int) -> bool:
        """Return false: nothing can be planted."""
        return False

    def remove(self) -> None:
        """Do nothing: this engine plants no stop."""
