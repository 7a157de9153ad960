"""How Python drives guest threads.

Control comes back to Python when a station pauses (see `emu.api.station`), and Python goes on with it, or
with another station, which the scheduler then runs. Python's own functions run while the CPU stands still,
never inside one of its hooks: they may call the guest again, to any depth.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from emu.api.errors import ClosedError, GuestFault, ProcessEnded, StateError
from emu.api.interrupts import Interrupts
from emu.api.station import Station, Stations, T, Work
from emu.core.errors import EmuError
from emu.glibc.call_page import Arguments, CallOutcome
from emu.kernel.syscalls.futex import private_key, wake
from emu.process.deadlock import DeadlockError

if TYPE_CHECKING:
    from emu.core.effects import Exit
    from emu.kernel.run.signals import Killed
    from emu.kernel.run.task import Task
    from emu.process import Process
    from emu.process.config import Result

_FRAMES_PER_CALL = 12
"""Python's frames for a call of the guest that calls Python again, with a margin:
beyond its limit nothing could be undone.
"""


class _JumpedOut(BaseException):
    """The guest has left a Python function that it called by a jump (longjmp) to
    below it, and `station`'s call is done.
    """

    def __init__(self, station: Station) -> None:
        super().__init__("the guest jumped out of a Python function")
        self.station = station


class Engine(Stations):
    """Runs the guest of one process for Python. `result` tells how the process ended, None before that."""

    HOST_SIDE = Stations.HOST_SIDE | {"_driving", "_depth", "interrupts", "requests", "turns"}

    def __init__(self, process: Process, limit: float | None = None) -> None:
        """`limit` is the host time in seconds that a call from outside may take."""
        super().__init__(process)
        self.result: Result | None = None
        self.at_return: Callable[[], None] | None = None
        """What a Python function wants done in the guest's thread when it returns."""
        self._pending: BaseException | None = None
        self._interrupts: list[Callable[[], None]] = []
        self._broken: BaseException | None = None
        self._driving = self._depth = 0
        self.turns = 0
        """How often the guest has run, or was given something to go by."""
        self.requests = 0
        """How often it has called Python."""
        self.interrupts = Interrupts(process, limit)

    # -- Python's side ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Run to the first station. Raises EmuError."""
        self.process.begin()
        with self.limited():
            self._advance()
        if self.here is None:
            raise self._over("before the program's first instruction")

    def call(self, function: int, arguments: Arguments, task: Task | None = None) -> CallOutcome:
        """Call a guest function in the innermost station's thread, or in that of `task`; see `run`."""
        station = self.at(task)
        return self.run(self.caller.call(station.thread, function, arguments), station)

    def at(self, task: Task | None) -> Station:
        """Return the innermost station of a thread, or of all."""
        self.check()
        if task is None:
            return self.stations[-1]
        found = next((s for s in reversed(self.stations) if s.task is task), None) or self.workers.get(task)
        if found is None:
            raise ClosedError(f"thread {task.tid} is over, or not one that Python drives")
        return found

    def run(self, work: Work[T], station: Station | None = None) -> T:
        """Have `work` done at a station and return its result.

        Raises ProcessEnded, GuestFault if the process ends meanwhile, StateError where the station is busy,
        DeadlockError when no thread can go on (the station stays busy until what a call in another thread
        does lets it), EmuError.
        """
        self.check()
        station = station if station is not None else self.stations[-1]
        if station.busy:
            raise StateError(
                "the thread is in another call; Process.resume goes on with one that was broken off"
            )
        if _FRAMES_PER_CALL * len(self.stations) > sys.getrecursionlimit():
            raise RecursionError(
                f"{len(self.stations)} Python functions are called by the guest, one in another"
            )
        station.work, station.done, station.busy = work, False, True
        if self.here is not station:
            self.wake(station)
        self._enter()
        try:
            self._pump(station)
        except DeadlockError:
            if station.task is None or station.task.tid in self.process.kernel.tasks:
                raise
            raise ClosedError(f"thread {station.task.tid} ended in the call") from None
        finally:
            self._exit()
        result: T = station.result
        station.result = None
        return result

    def resume(self) -> None:
        """Go on with the calls that were broken off, the innermost first. Raises as `run` does."""
        self.check()
        with self.limited():
            for station in [*reversed(self.stations), *self.workers.values()]:
                if station.busy:
                    self._pump(station)
                    station.result = None

    def take_pending(self) -> BaseException | None:
        """Return the error of a Python function that the guest called, if one failed, and forget it."""
        error, self._pending = self._pending, None
        return error

    def leave(self, station: Station) -> None:
        """Tell a station that Python wants no more of it."""
        station.leaving = True
        self.wake(station)

    @property
    def usable(self) -> bool:
        """Whether the main thread can be asked for anything."""
        return (
            self.result is None
            and self._broken is None
            and len(self.stations) == 1
            and not self.stations[0].busy
        )

    def begin(self) -> None:
        """Make ready to run a program that is never called."""
        self.process.begin()

    def noted(self) -> None:
        """Python has changed something that the guest goes by."""
        self.turns += 1

    def let_go(self) -> None:
        """Let the program have its first thread, to `proceed`."""
        self.check()
        self.leave(self.stations.pop())

    def proceed(self) -> None:
        """Run on to the next thing of interest: a halt, a breakpoint, a call of a Python function, the end.

        Raises EmuError.
        """
        if self.result is None:
            self._advance()
            if self.here is not None and self.here.request is not None:
                self._serve_request(self.here)
            error = self.take_pending()
            if error is not None:
                raise error

    def interrupt(self, action: Callable[[], None]) -> None:
        """Stop at the instruction that is about to run, do `action`, and go on. For use in hooks."""
        self._interrupts.append(action)
        self.process.halt()

    def finish(self) -> Result:
        """Let the process run to its end. Raises GuestFault if a signal kills it on the way."""
        if self.result is None:
            self.check()
            self.leave(self.stations[0])
            with self.limited():
                self._pump(None)
            assert self.result is not None
            if self.result.signal:
                raise self._over("at its end")
        assert self.result is not None
        return self.result

    @property
    def broken(self) -> bool:
        """Whether the run was broken off, so that nothing can be asked of the guest any more."""
        return self._broken is not None

    def check(self) -> None:
        """Raise ClosedError or StateError if nothing can be asked of the process any more."""
        if self.result is not None:
            raise ClosedError(
                f"{self.process.config.program}: the process has ended with status {self.result.status}"
            )
        if self._broken is not None:
            raise StateError(f"{self.process.config.program}: the run was broken off: {self._broken}")
        if not self.stations and self.contract is not None:
            raise StateError(
                f"{self.process.config.program}: the process is not at a place where it can be called"
            )

    def check_idle(self, what: str) -> None:
        """Raise StateError while the guest runs for somebody:
        in handlers, and in Python functions that the guest is calling.
        """
        if self._driving:
            raise StateError(
                f"{what} is not possible in a handler, or in a Python function that the guest is calling"
            )

    def wake(self, station: Station) -> None:
        """Let a station that waits look for work."""
        process = self.process
        process.arena.write_u32(station.word, 1)
        wake(process.kernel, private_key(process.kernel, station.word), 1)

    def _advance(self) -> None:
        """Run the guest on to the next pause or its end."""
        self.here = None
        self.turns += 1
        self._driving += 1
        try:
            self._go()
        finally:
            self._driving -= 1

    @contextmanager
    def limited(self) -> Iterator[None]:
        """A call from outside, which the limit of host time is for; calls within it are part of it."""
        self._enter()
        try:
            yield
        finally:
            self._exit()

    def _enter(self) -> None:
        self._depth += 1
        if self._depth == 1:
            self.interrupts.begin()

    def _exit(self) -> None:
        self._depth -= 1
        if not self._depth:
            self.interrupts.end()

    def _go(self) -> None:
        self.interrupts.raise_reason()
        try:
            with self.interrupts:
                self.process.advance()
        except DeadlockError:
            raise  # a call of another thread may end it
        except BaseException as error:
            self._broken = error
            raise
        assert self.process.runner is not None
        if self.process.runner.ended is not None:
            self._end()
        while self._interrupts:
            try:
                self._interrupts.pop(0)()
            except BaseException as error:
                if self._pending is None:
                    self._pending = error
        if self.here is None or self.here.request is None:
            self.interrupts.raise_reason()

    def _pump(self, target: Station | None) -> None:
        """Run the guest until the work of `target` is done (None: to its end),
        serving its calls of Python functions.
        """
        while True:
            self._advance()
            if self.result is not None:
                if target is None:
                    return
                raise self._over("during a call")
            station = self.here
            if station is None:
                continue
            if station.request is not None:
                try:
                    self._serve_request(station)
                except _JumpedOut as jump:
                    if jump.station is not target:
                        raise
                    return
            elif station is target:
                return
            elif target is not None and station.task is target.task and station.task is not None:
                raise _JumpedOut(station)

    def _serve_request(self, station: Station) -> None:
        """Run the Python function that the guest has called, and send its result."""
        self.requests += 1
        request, station.request = station.request, None
        assert request is not None
        self.stations.append(station)
        self._driving += 1
        try:
            station.value = request()
        except ProcessEnded:
            raise
        except _JumpedOut:
            self.stations.remove(station)
            raise
        except BaseException as error:
            if self.result is not None or self._broken is not None:
                raise
            # The guest's frames cannot be skipped: they finish with 0, and the error waits for whoever called
            # the guest.
            station.value = 0
            if self._pending is None:
                self._pending = error
        finally:
            self._driving -= 1
        self.stations.remove(station)
        if self.at_return is not None:
            station.at_return, self.at_return = self.at_return, None
        station.leaving = True
        if self.here is not station:
            self.wake(station)

    def _end(self) -> None:
        process = self.process
        self.ended: Exit | Killed | None = process.runner.ended if process.runner is not None else None
        self.result = process.finish()

    def _over(self, when: str) -> EmuError:
        """Return the error for a process that has ended."""
        assert self.result is not None
        result, name = self.result, self.process.config.program
        if result.signal:
            runner = self.process.runner
            here = runner is not None and getattr(runner.ended, "task", None) is runner.task
            frames = self.process.backtrace() if here else []
            return GuestFault(result.report.removeprefix("emu: "), result.status, result.signal, frames)
        return ProcessEnded(f"{name}: the guest ended with status {result.status} {when}", result.status)
