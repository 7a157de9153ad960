"""A trace in a file survives a hang-up: a thread takes the signals that end `emu` itself, and flushes first.

Python's own handlers run between bytecodes only, and guest code may run for minutes without one. SIGINT and
SIGTERM are not that thread's: while the guest runs `emu.process` forwards them to it, whose end flushes the
trace too; before and afterwards Python runs, and a handler will do.
Source: signal(7); pthread_sigmask(3).
"""

from __future__ import annotations

import os
import signal
from threading import Thread
from typing import TYPE_CHECKING

from emu.process.config import die_of

if TYPE_CHECKING:
    from collections.abc import Callable

_DEADLY = (signal.SIGHUP, signal.SIGQUIT)
_PYTHONS = (signal.SIGINT, signal.SIGTERM)
_flushes: list[Callable[[], None]] = []


def flush_all() -> None:
    """Flush what `flush_before_death` was told of: the process ends."""
    for flush in _flushes:
        flush()


def die(number: int) -> None:
    """Die of a signal, with everything flushed."""
    try:
        flush_all()
    finally:
        die_of(number)


def flush_before_death(flush: Callable[[], None]) -> None:
    """Call `flush` before the process dies of a signal."""
    _flushes.append(flush)
    for number in _PYTHONS:
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, lambda taken, _frame: die(taken))
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
