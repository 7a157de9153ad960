"""`--timeout` for a whole command: it ends then, whatever Python is doing.

First the run is asked to stop: a timer's signal, which Python handles between two of its own instructions,
and `emu.process` between two of the guest's. Where that leads to nothing within some seconds, a thread says
where the command hangs, and ends the process.

Source: setitimer(2); Python `sys._current_frames`.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from emu.core.errors import EXIT_TIMEOUT, RunTimeout

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_GRACE = 2.0
"""Seconds between being asked and being made to stop."""
_LONGEST = 1e9
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def seconds(_ctx: click.Context, _param: click.Parameter, value: float | None) -> float | None:
    """Return a number of seconds that a clock has: for click."""
    if value is not None and not (math.isfinite(value) and 0 < value <= _LONGEST):
        raise click.BadParameter(f"{value} is no number of seconds from above 0 to {_LONGEST:g}")
    return value


@contextmanager
def deadline(limit: float | None, what: str) -> Iterator[None]:
    """Give the work inside `limit` seconds of host time (None: for ever). Raises RunTimeout;
    `what` is the program's name for the user.
    """
    if limit is None:
        yield
        return

    def expired(_number: int, _frame: FrameType | None) -> None:
        raise RunTimeout(_words(what, limit))

    over = threading.Event()
    main = threading.get_ident()
    old = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, limit)
    threading.Thread(target=_watch, args=(over, limit, what, main), daemon=True).start()
    try:
        yield
    finally:
        over.set()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def _words(what: str, limit: float) -> str:
    return f"{what}: stopped after {limit:g} s (--timeout)"


def _watch(over: threading.Event, limit: float, what: str, main: int) -> None:
    if over.wait(limit + _GRACE):
        return
    from emu.cli.last_words import flush_all

    where = _place(sys._current_frames().get(main))
    os.write(2, os.fsencode(f"emu: {_words(what, limit)}; emu itself did not stop, it was {where}\n"))
    flush_all()
    os._exit(EXIT_TIMEOUT)


def _place(frame: FrameType | None) -> str:
    """Return the innermost place in `emu`."""
    while frame is not None and not frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    if frame is None:
        return "elsewhere"
    path = os.path.relpath(frame.f_code.co_filename, os.path.dirname(_PACKAGE))
    return f"in {frame.f_code.co_name} ({path}:{frame.f_lineno})"
