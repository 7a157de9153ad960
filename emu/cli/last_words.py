"""A trace in a file survives a hang-up: a thread takes the signals that end `emu` itself, and flushes first.

Python's own handlers run between bytecodes only, and guest code may run for minutes without one. SIGINT and SIGTERM
are not taken: `emu.process` forwards them to the guest, whose end flushes the trace too.
Source: signal(7); pthread_sigmask(3).
"""

from __future__ import annotations

import os
import signal
from threading import Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_DEADLY = (signal.SIGHUP, signal.SIGQUIT)


def flush_before_death(flush: Callable[[], None]) -> None:
    """Call `flush` when SIGHUP or SIGQUIT comes, then die of it."""
    signals = [number for number in _DEADLY if signal.getsignal(number) is not signal.SIG_IGN]
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)

    def wait() -> None:
        number = signal.sigwait(signals)
        try:
            flush()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
            os.kill(os.getpid(), number)

    Thread(target=wait, daemon=True).start()
