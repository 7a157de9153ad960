"""What breaks off a run from outside: Ctrl-C, and a limit of host time.

While the guest computes Python runs no bytecode, so that its handler of SIGINT would wait for ever. A thread
reads the wake-up descriptor, to which the interpreter writes at once, and stops the guest between two
instructions. Then Python's handler has its turn, in the run's own frame: the guest is whole, and can go on.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what `signal` is made of: without its enumerations, which cost a third of a call
import math
import os
import select
import signal
import threading
import time
import weakref
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from emu.core.errors import RunTimeout

if TYPE_CHECKING:
    from emu.process import Process

_LOOK = b"\0"
"""Written to the watcher: there is another limit. No signal has this number."""
_PATIENCE = 0.002
"""Seconds between two attempts to stop: one that comes just before the guest runs is lost."""


class Interrupts:
    """A context for the time that the guest of `process` runs;
    `limit` is in seconds of host time for one call from outside (None: none).

    `raise_reason` is to be called after it: it raises what broke the run off.
    """

    def __init__(self, process: Process, limit: float | None) -> None:
        self._process, self.limit = process, limit
        self._deadline: float | None = None
        self._past: float | None = None
        self._lock = threading.Lock()
        self._inside = False
        self._runs = 0
        self._reason = ""
        self._pressed = False
        self._reader = self._writer = -1
        self._old_handler: Any = None
        self._old_wakeup = -1
        self._handles = False

    def begin(self) -> None:
        """A call from outside begins: its time runs from here."""
        if self.limit is not None:
            self._watch()
            self._deadline = time.monotonic() + self.limit
            os.write(self._writer, _LOOK)

    def end(self) -> None:
        """The call is over."""
        self._deadline = None

    def __enter__(self) -> Interrupts:
        self._handles = threading.current_thread() is threading.main_thread() and callable(
            _signal.getsignal(signal.SIGINT)
        )
        self._pressed = False
        if self._handles:
            self._watch()
            self._old_handler = _signal.signal(signal.SIGINT, self._pass)
            self._old_wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        with self._lock:
            self._inside = True
            self._runs += 1
        if self.left() == 0.0:
            self._stop("time", self._runs)
        if self._pressed:  # before the watcher could know that a run has begun
            os.write(self._writer, bytes([signal.SIGINT]))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._inside = False
        if self._handles:
            signal.set_wakeup_fd(self._old_wakeup)
            _signal.signal(signal.SIGINT, self._old_handler)
        if self._pressed:  # perhaps after the watcher could still stop anything
            self._reason = "interrupt"

    def raise_reason(self) -> None:
        """Let Python's handler of SIGINT act if that came.

        Raises RunTimeout at the limit, and what the handler raises.
        """
        reason, self._reason = self._reason, ""
        self._process.kernel.system.host.goes_on()
        if reason == "interrupt":
            self._old_handler(signal.SIGINT, None)
        elif reason == "time":
            raise RunTimeout(f"{self._process.config.program}: stopped after {self.limit:g} s (timeout)")

    def _pass(self, _number: int, _frame: FrameType | None) -> None:
        """Note it for the edges of a run: within it the watcher knows already, and has stopped the guest."""
        self._pressed = True

    # -- the watcher -----------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Start the watcher, once; it ends with this object."""
        if self._writer >= 0:
            return
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        weakref.finalize(self, os.close, self._writer)
        threading.Thread(
            target=_watcher, args=(self._reader, weakref.ref(self)), name="emu interrupts", daemon=True
        ).start()

    def left(self) -> float | None:
        """Return the seconds to the limit, None where there is none."""
        deadline = self._deadline
        return None if deadline is None else max(deadline - time.monotonic(), 0.0)

    def ahead(self) -> float | None:
        """Return the seconds to a limit that `look` has not acted on yet, None where there is none."""
        return None if self._deadline == self._past else self.left()

    def look(self, numbers: bytes) -> None:
        """Act on the signals that have come, and on the limit."""
        if signal.SIGINT in numbers:
            self._insist("interrupt")
            return
        deadline = self._deadline
        if deadline is not None and deadline <= time.monotonic():
            self._past = deadline
            self._insist("time")

    def _insist(self, reason: str) -> None:
        """Stop the present run, for sure."""
        run = self._runs
        while self._stop(reason, run):
            time.sleep(_PATIENCE)

    def _stop(self, reason: str, run: int) -> bool:
        """Ask a run to stop; false if it has."""
        with self._lock:
            if not self._inside or run != self._runs:
                return False
            self._reason = reason
            self._process.kernel.system.host.breaks_off()
            self._process.halt()
            return True


def _watcher(reader: int, owner: weakref.ref[Interrupts]) -> None:
    """Wait for signals and the limit of `owner`, without keeping it alive."""
    readable = select.poll()  # select has no room for a descriptor of 1024 or more
    readable.register(reader, select.POLLIN)
    while True:
        interrupts = owner()
        left = interrupts.ahead() if interrupts is not None else None
        del interrupts
        ready = readable.poll(None if left is None else math.ceil(left * 1000))
        numbers = os.read(reader, 64) if ready else b""
        interrupts = owner()
        if interrupts is None or ready and not numbers:
            os.close(reader)
            return
        interrupts.look(numbers)
        del interrupts
