"""How Python drives guest threads: stations, where a thread waits for what Python wants of it.

A station is a hosted function of the thread: the empty program's `main`, the start routine of a thread that Python made, a function of Python's
that the guest called. Control comes back to Python when such a function pauses, and Python goes on with it, or with another
station, which the scheduler then runs: threads that are not at the station in use wait on a futex of their own, and the guest's other
threads run as the schedule has it. Python's own functions run while the CPU stands still, never inside one of its hooks: they may call the guest
again, to any depth.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from emu.api.errors import ClosedError, GuestFault, ProcessEnded, StateError
from emu.api.interrupts import Interrupts
from emu.core.effects import PAUSE, Effect, Hosted, Jump, Resume, SystemCall
from emu.core.errors import EmuError
from emu.glibc.call_page import Arguments, Caller, Outcome
from emu.kernel.syscalls.futex import wake
from emu.machine import regs
from emu.process.deadlock import DeadlockError

if TYPE_CHECKING:
    from emu.core.effects import Exit
    from emu.glibc.call import Call
    from emu.glibc.contract import Contract
    from emu.kernel.signals import Killed
    from emu.kernel.task import Task
    from emu.machine.cpu import Context
    from emu.process import Process
    from emu.process.config import Result

T = TypeVar("T")
Work = Generator[Effect, int, T]
Step = Callable[[], Generator[Effect, int, object]]

CALLBACKS = 1024
_FRAMES_PER_CALL = 12
"""Python's frames for a call of the guest that calls Python again, with a margin: beyond its limit nothing could be undone."""
_SYS_FUTEX, _WAIT_PRIVATE = 202, 0 | 128
_RED_ZONE = 128
_SEARCH_PHASE, _HANDLER_FRAME = 1, 4
_HANDLER_FOUND, _CONTINUE_UNWIND = 6, 8


class Station:
    """One place where `task` waits for Python. `word` is its futex; `request` is a Python function that the guest has called.

    `work` is what Python wants done, `result` what came of it once `done`; `value` is what the station returns when it is told to leave,
    or `then` is where it jumps to. `hosted` is the hosted function in progress.
    """

    __slots__ = (
        "at_return",
        "busy",
        "done",
        "hosted",
        "leaving",
        "request",
        "result",
        "task",
        "then",
        "thread",
        "value",
        "word",
        "work",
    )

    def __init__(self, word: int) -> None:
        self.word = word
        self.task: Task | None = None
        self.thread = self.value = 0
        self.work: Work[Any] | None = None
        self.request: Callable[[], int] | None = None
        self.at_return: Callable[[], None] | None = None
        self.result: Any = None
        self.hosted: Hosted | None = None
        self.then: Jump | Resume | None = None
        self.done = self.leaving = self.busy = False


class _JumpedOut(BaseException):
    """The guest has left a Python function that it called by a jump (longjmp) to below it, and `station`'s call is done."""

    def __init__(self, station: Station) -> None:
        super().__init__("the guest jumped out of a Python function")
        self.station = station


class Engine:
    """The stations of one process. `result` tells how the process ended, None before that."""

    HOST_SIDE = frozenset(("_free", "_driving", "_depth", "_detour", "interrupts"))

    def __init__(self, process: Process, limit: float | None = None) -> None:
        """`limit` is the host time in seconds that a call from outside may take."""
        self.process = process
        self.stations: list[Station] = []
        """Where calls go, the innermost last: the main thread's, and those of Python functions that the guest is calling."""
        self.workers: dict[Task, Station] = {}
        """The stations of threads that Python made."""
        self.result: Result | None = None
        self.at_return: Callable[[], None] | None = None
        """What a Python function wants done in the guest's thread when it returns."""
        self._pending: BaseException | None = None
        self._here: Station | None = None
        self._interrupts: list[Callable[[], None]] = []
        self._broken: BaseException | None = None
        self._free: list[int] = []
        self._driving = self._depth = 0
        self._words: list[int] = []
        self._detour: int | None = None
        self._detours: dict[int, tuple[Callable[[], int], Callable[[], None], Context]] = {}
        self.caller: Caller
        self.interrupts = Interrupts(process, limit)

    # -- set-up ---------------------------------------------------------------------------------------------------------

    @property
    def contract(self) -> Contract:
        """The process's contract with libc. Raises StateError for a static program, which has none."""
        contract = self.process.contract
        if contract is None:
            raise StateError(
                f"{self.process.config.program}: a static program has no libraries, and cannot be called"
            )
        return contract

    def plant(self) -> None:
        """Map the call page."""
        contract = self.contract
        page = contract.plant_call_page(CALLBACKS)
        self._free = list(reversed(page.traps))
        contract.traps.update(dict.fromkeys(page.traps, self._nobody))
        self.caller = Caller(self.process.arena, contract.rtld.heap, page)
        contract.traps[page.personality] = self._personality

    def host_at(self, trap: int, station: Station) -> None:
        """Make the function at `trap` a station. The first one that is reached gives Python control."""

        def enter(_contract: Contract, _call: Call) -> Hosted:
            return self.serve(station, at_once=station in self.stations)

        self.contract.traps[trap] = enter

    def station(self) -> Station:
        """Return a new station."""
        word = self._words.pop() if self._words else self.contract.rtld.heap.allocate(4)
        return Station(word)

    def trap(self) -> int:
        """Return the address of a function for the guest to call, not in use. Raises StateError when there are too many."""
        if not self._free:
            raise StateError(f"more than {CALLBACKS} Python functions are known to the guest")
        return self._free.pop()

    def give_back(self, trap: int) -> None:
        """The guest does not know the function at `trap` any more."""
        self.contract.traps[trap] = self._nobody
        self._free.append(trap)

    def _nobody(self, _contract: Contract, call: Call) -> Hosted:
        """Answer the call of a Python function that is not there any more."""

        def request() -> int:
            raise ClosedError(
                "the guest called a Python function that is gone: keep the callback as long as the guest may call it"
            )

        return self.called(request)

    # -- the guest's side -------------------------------------------------------------------------------------------------

    def serve(self, station: Station, *, at_once: bool, first: Sequence[Step] = ()) -> Hosted:
        """Do what is to be done `first`, then what Python wants until it wants no more. `at_once`: Python gets control before that."""
        station.hosted = generator = self._serve(station, at_once, first)
        return generator

    def reopen(self, hosted: Hosted) -> Callable[[], Hosted] | None:
        """Tell how a station's hosted function is opened again, None for another function."""
        for station in (*self.stations, *self.workers.values()):
            if station.hosted is hosted and not station.busy:
                return partial(self._open_again, station)
        return None

    def _open_again(self, station: Station) -> Hosted:
        def again() -> Hosted:
            yield PAUSE  # here it stands
            return (yield from self._attend(station))

        station.hosted = generator = again()
        next(generator)
        return generator

    def _serve(self, station: Station, at_once: bool, first: Sequence[Step]) -> Hosted:
        for step in first:
            yield from step()
        process = self.process
        assert process.runner is not None
        station.task, station.thread = process.runner.task, process.thread_pointer()
        if at_once:
            self._here = station
            yield PAUSE
        return (yield from self._attend(station))

    def _attend(self, station: Station) -> Hosted:
        process = self.process
        while True:
            while station.work is None and not station.leaving:
                process.arena.write_u32(station.word, 0)
                yield SystemCall(_SYS_FUTEX, (station.word, _WAIT_PRIVATE, 0))
            if station.work is None:
                self._words.append(station.word)
                if station.at_return is not None:
                    station.at_return()
                if station.then is not None:
                    yield station.then
                return station.value
            work, station.work = station.work, None
            station.result = yield from work
            station.done, station.busy = True, False
            self._here = station
            yield PAUSE

    def called(self, request: Callable[[], int]) -> Hosted:
        """The guest calls a Python function: a station whose request is to run it."""
        station = self.station()
        station.request = request
        return self.serve(station, at_once=True)

    def _personality(self, _contract: Contract, call: Call) -> int | Hosted:
        """Called by the unwinder for `call`'s frame: it catches all exceptions, and lets forced unwinding pass."""
        actions = call.args[1] & 0xFFFFFFFF
        if actions & _SEARCH_PHASE:
            return _HANDLER_FOUND
        if not actions & _HANDLER_FRAME:
            return _CONTINUE_UNWIND
        return self._land(call)

    def _land(self, call: Call) -> Hosted:
        block = self.caller.catch(self.process.thread_pointer(), call.rsp, call.args[3])
        if block is None:
            return _CONTINUE_UNWIND
        yield Jump(self.caller.page.landing, (block,))
        return 0

    # -- Python's side ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Run to the first station. Raises EmuError."""
        self.process.begin()
        with self.limited():
            self._advance()
        if self._here is None:
            raise self._over("before the program's first instruction")

    def call(self, function: int, arguments: Arguments, task: Task | None = None) -> Outcome:
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

        Raises ProcessEnded, GuestFault if the process ends meanwhile, StateError where the station is busy, DeadlockError when
        no thread can go on (the station stays busy until what a call in another thread does lets it), EmuError.
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
        if self._here is not station:
            self.wake(station)
        try:
            with self.limited():
                self._pump(station)
        except DeadlockError:
            if station.task is None or station.task.tid in self.process.kernel.tasks:
                raise
            raise ClosedError(f"thread {station.task.tid} ended in the call") from None
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

    def let_go(self) -> None:
        """Let the program have its first thread, to `proceed`."""
        self.check()
        self.leave(self.stations.pop())

    def proceed(self) -> None:
        """Run on to the next thing of interest: a halt, a breakpoint, a call of a Python function, the end. Raises EmuError."""
        if self.result is None:
            self._advance()
            if self._here is not None and self._here.request is not None:
                self._serve_request(self._here)
            error = self.take_pending()
            if error is not None:
                raise error

    def interrupt(self, action: Callable[[], None]) -> None:
        """Stop at the instruction that is about to run, do `action`, and go on. For use in hooks."""
        self._interrupts.append(action)
        self.process.halt()

    def divert(self, request: Callable[[], int], done: Callable[[], None]) -> Context:
        """Let the thread that runs call a Python function where it is, and then go on there as if nothing had been; `done` is told before that.
        Return the registers that it goes on with.

        For use in `interrupt`'s actions. The function finds the guest's stack below the part that belongs to the present one (psABI 3.2.2, red zone).
        """
        process, cpu = self.process, self.process.cpu
        context = cpu.save()
        top = (cpu.get(regs.RSP) - _RED_ZONE & -16) - 8
        process.arena.write_u64(top, cpu.get(regs.RIP))
        if self._detour is None:
            self._detour = self.trap()
        self._detours[top] = request, done, context
        self.contract.traps[self._detour] = self._enter_detour
        cpu.set(regs.RSP, top)
        cpu.set(regs.RIP, self._detour)
        return context

    def _enter_detour(self, _contract: Contract, call: Call) -> Hosted:
        request, done, context = self._detours.pop(call.rsp)
        station = self.station()
        station.request, station.at_return, station.then = request, done, Resume(context)
        return self.serve(station, at_once=True)

    def finish(self) -> Result:
        """Let the process run to its end."""
        if self.result is None:
            self.check()
            self.leave(self.stations[0])
            with self.limited():
                self._pump(None)
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
        """Raise StateError while the guest runs for somebody: in handlers, and in Python functions that the guest is calling."""
        if self._driving:
            raise StateError(
                f"{what} is not possible in a handler, or in a Python function that the guest is calling"
            )

    def wake(self, station: Station) -> None:
        """Let a station that waits look for work."""
        process = self.process
        process.arena.write_u32(station.word, 1)
        wake(process.kernel, (0, station.word), 1)

    def _advance(self) -> None:
        """Run the guest on to the next pause or its end."""
        self._here = None
        self._driving += 1
        try:
            self._go()
        finally:
            self._driving -= 1

    @contextmanager
    def limited(self) -> Iterator[None]:
        """A call from outside, which the limit of host time is for; calls within it are part of it."""
        self._depth += 1
        if self._depth == 1:
            self.interrupts.begin()
        try:
            yield
        finally:
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
        if self._here is None or self._here.request is None:
            self.interrupts.raise_reason()

    def _pump(self, target: Station | None) -> None:
        """Run the guest until the work of `target` is done (None: to its end), serving its calls of Python functions."""
        while True:
            self._advance()
            if self.result is not None:
                if target is None:
                    return
                raise self._over("during a call")
            station = self._here
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
            # The guest's frames cannot be skipped: they finish with 0, and the error waits for whoever called the guest.
            station.value = 0
            if self._pending is None:
                self._pending = error
        finally:
            self._driving -= 1
        self.stations.remove(station)
        if self.at_return is not None:
            station.at_return, self.at_return = self.at_return, None
        station.leaving = True
        if self._here is not station:
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
