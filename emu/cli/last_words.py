"""A trace in a file survives Ctrl-C and `kill`: a thread takes the signals that end processes and flushes first.

Python's own handlers run between bytecodes only, and guest code may run for minutes without one.
Source: signal(7); pthread_sigmask(3).
"""

from __future__ import annotations

import os
import signal
from threading import Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_DEADLY = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def flush_before_death(flush: Callable[[], None]) -> None:
    """Call `flush` when a signal that ends processes comes, then die of it."""
    signals = [number for number in _DEADLY if signal.getsignal(number) is not signal.SIG_IGN]
    for number in signals:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)

    def wait() -> None:
        number = signal.sigwait(signals)
        try:
            flush()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
            os.kill(os.getpid(), number)

    Thread(target=wait, daemon=True).start()
