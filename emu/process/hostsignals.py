"""What the host may do to a run: SIGINT and SIGTERM go to the guest, and a time limit stops it.

While the guest computes, Python runs no bytecode, so its signal handlers would wait. A helper thread that
reads the wake-up descriptor stops the engine at once; the main thread then delivers the signal as the
guest's.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import time
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.kernel.kernel import Kernel

_TRIES = 20
"""How often in the second that the guest has to be told of a signal it is looked whether it was."""
_FORWARDED = (signal.SIGINT, signal.SIGTERM)


class Stoppable(Protocol):
    """What runs the guest."""

    def stop(self) -> None:
        """Let it stop as soon as possible; called from any thread."""


class HostSignals:
    """A context for the time that the guest runs.

    `timed_out` tells that `timeout` seconds of host time have passed.

    `die` is called, in another thread, with a signal that the guest cannot be told of: `emu` itself hangs.
    """

    def __init__(
        self, kernel: Kernel, cpu: Stoppable, timeout: float | None, die: Callable[[int], None]
    ) -> None:
        self.kernel, self.cpu, self.timeout, self.die = kernel, cpu, timeout, die
        self.timed_out = False
        self._old: dict[int, Any] = {}
        self._pipe: tuple[int, int] | None = None
        self._old_wakeup = -1
        self._main = True
        self._own_timer = False
        self._over = False
        self._taken = 0

    def __enter__(self) -> HostSignals:
        try:
            for number in _FORWARDED:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._old[number] = signal.signal(number, self._arrived)
        except ValueError:
            self._main = False  # not the main thread: the host's signals are somebody else's business
        if self._main:
            reader, writer = self._pipe = os.pipe()
            os.set_blocking(writer, False)
            if self.timeout is not None:
                self._old[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._expired)
                self._own_timer = not signal.getitimer(signal.ITIMER_REAL)[0]
                if self._own_timer:  # and not the whole command's
                    signal.setitimer(signal.ITIMER_REAL, self.timeout)
            self._old_wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
            _thread.start_new_thread(self._watch, (reader,))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True
        if not self._main or self._pipe is None:
            return
        if self._own_timer:
            signal.setitimer(signal.ITIMER_REAL, 0)
        signal.set_wakeup_fd(self._old_wakeup)
        for number, handler in self._old.items():
            signal.signal(number, handler)
        os.close(self._pipe[1])

    def _watch(self, reader: int) -> None:
        seen = 0
        with contextlib.suppress(OSError):
            while numbers := os.read(reader, 16):
                self.cpu.stop()
                forwarded = [number for number in numbers if number in _FORWARDED]
                seen += len(forwarded)
                if forwarded and self._stuck(seen):
                    self.die(forwarded[0])
        os.close(reader)

    def _stuck(self, seen: int) -> bool:
        """Whether a second goes by without the guest having been told of `seen` signals:
        `emu` itself hangs.
        """
        for _ in range(_TRIES):
            if self._over or self._taken >= seen and not self.kernel.system.host.speaks:
                return False
            time.sleep(1 / _TRIES)
            self.cpu.stop()
        return True

    def _arrived(self, number: int, _frame: FrameType | None) -> None:
        self.cpu.stop()
        self.kernel.system.post_host_signal(number)
        self._taken += 1  # not before: the watcher may look in between

    def _expired(self, _number: int, _frame: FrameType | None) -> None:
        self.timed_out = True
        self.cpu.stop()
        self.kernel.system.host.stop()
