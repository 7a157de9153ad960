"""What the host says to a run: signals for the guest, and that the run is to stop;
and the wait for the host's files.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.run.alarm import Alarm

if TYPE_CHECKING:
    from emu.kernel.run.journal import Journal

_LONGEST_POLL = 1 << 30
"""The longest time that poll(2) is asked for, in milliseconds: it takes an int."""


class FromHost:
    """Signals that have come and nobody has taken; `stops` is set when the host ends the run.

    With a `journal` the host is waited for once, however often the run is repeated.
    """

    HOST_SIDE = frozenset(("stops", "_waiting", "_signals", "_alarm", "journal"))

    def __init__(self) -> None:
        self.stops = False
        self._waiting = False
        self._signals: list[int] = []
        self._alarm: Alarm | None = None
        self.journal: Journal | None = None

    def post(self, signo: int) -> None:
        """A signal from the host's terminal or user; ends a wait on the host.

        Called between any two bytecodes.
        """
        self._signals.append(signo)
        self._end_wait()

    def stop(self) -> None:
        """The host's time limit has come; ends a wait on the host. Called between any two bytecodes."""
        self.stops = True
        self._end_wait()

    def breaks_off(self) -> None:
        """The host wants the run to stop where it is; ends a wait on the host.

        May be called from any thread.
        """
        self.stops = True
        if self._alarm is not None:
            self._alarm.ring()

    def goes_on(self) -> None:
        """What `breaks_off` said is done."""
        self.stops = False
        if self._alarm is not None:
            self._alarm.silence()

    @property
    def speaks(self) -> bool:
        """Whether the host has something to say: a signal for the guest, or that the run is to stop."""
        return self.stops or bool(self._signals)

    @property
    def signals(self) -> bool:
        """Whether a signal has come."""
        return bool(self._signals)

    def take(self) -> list[int]:
        """Return the signals that have come, which are then taken."""
        taken = self._signals[:]
        del self._signals[: len(taken)]
        return taken

    def wait(self, hosts: list[tuple[int, int]], nanoseconds: int | None) -> bool:
        """Wait for one of the host descriptors (fd, POLL* events) or a host's signal;
        false when the time is up.
        """
        if self.journal is None:
            return self._wait(hosts, nanoseconds)
        if self.journal.repeats:
            return self.journal.ask("a wait", lambda: False)
        came = self._wait(hosts, nanoseconds)
        if not self.stops:  # else the wait goes on later
            self.journal.note("a wait", came)
        return came

    def _wait(self, hosts: list[tuple[int, int]], nanoseconds: int | None) -> bool:
        import select

        poller = select.poll()
        for fd, events in hosts:
            poller.register(fd, events)
        if self._alarm is None:
            self._alarm = Alarm()
        poller.register(self._alarm.fd, abi.POLLIN)
        left = None if nanoseconds is None else nanoseconds / 1e6
        try:
            self._waiting = True
            while not self.speaks:
                if left is None or left <= _LONGEST_POLL:
                    return bool(poller.poll(left))
                if poller.poll(_LONGEST_POLL):
                    return True
                left -= _LONGEST_POLL
        except InterruptedError:
            pass
        finally:
            self._waiting = False
        return True

    def _end_wait(self) -> None:
        if self._waiting:
            raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))
