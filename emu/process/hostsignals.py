"""What the host may do to a run: SIGINT and SIGTERM go to the guest, and a time limit stops it.

While the guest computes, Python runs no bytecode, so its signal handlers would wait. A helper thread that reads the wake-up descriptor
stops the engine at once; the main thread then delivers the signal as the guest's.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel
    from emu.machine.cpu import Cpu

_FORWARDED = (signal.SIGINT, signal.SIGTERM)


class HostSignals:
    """A context for the time that the guest runs. `timed_out` tells that `timeout` seconds of host time have passed."""

    def __init__(self, kernel: Kernel, cpu: Cpu, timeout: float | None) -> None:
        self.kernel, self.cpu, self.timeout = kernel, cpu, timeout
        self.timed_out = False
        self._old: dict[int, Any] = {}
        self._pipe: tuple[int, int] | None = None
        self._old_wakeup = -1
        self._main = True

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
                signal.setitimer(signal.ITIMER_REAL, self.timeout)
            self._old_wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
            _thread.start_new_thread(self._watch, (reader,))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._main or self._pipe is None:
            return
        if self.timeout is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
        signal.set_wakeup_fd(self._old_wakeup)
        for number, handler in self._old.items():
            signal.signal(number, handler)
        os.close(self._pipe[1])

    def _watch(self, reader: int) -> None:
        with contextlib.suppress(OSError):
            while os.read(reader, 16):
                self.cpu.stop()
        os.close(reader)

    def _arrived(self, number: int, _frame: FrameType | None) -> None:
        self.cpu.stop()
        self.kernel.post_host_signal(number)

    def _expired(self, _number: int, _frame: FrameType | None) -> None:
        self.timed_out = True
        self.cpu.stop()
        self.kernel.signals.stop_from_host()
