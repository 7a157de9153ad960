"""Where guest threads wait for Python: the guest's side of calls between the two.

A station is a hosted function of the thread: the empty program's `main`, the start routine of a thread that
Python made, a function of Python's that the guest called. Control comes back to Python when such a function
pauses, and Python goes on with it, or with another station, which the scheduler then runs: threads that are
not at the station in use wait on a futex of their own, and the guest's other threads run as the schedule has
it. Python's own functions run while the CPU stands still, never inside one of its hooks: they may call the
guest again, to any depth.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from emu.api.errors import ClosedError, StateError
from emu.core.effects import PAUSE, Effect, Hosted, Jump, Resume, SystemCall
from emu.core.errors import MemoryFault
from emu.glibc.call_page import BlockCaller
from emu.machine import regs

if TYPE_CHECKING:
    from emu.glibc.call import HostedCall
    from emu.glibc.contract import Contract
    from emu.kernel.run.task import Task
    from emu.machine.engine import Context
    from emu.process import Process
    from emu.process.backtrace import Captured

T = TypeVar("T")
Work = Generator[Effect, int, T]
Step = Callable[[], Generator[Effect, int, object]]

CALLBACKS = 1024
_SYS_FUTEX, _WAIT_PRIVATE = 202, 0 | 128
_RED_ZONE = 128
_SEARCH_PHASE, _HANDLER_FRAME = 1, 4
_HANDLER_FOUND, _CONTINUE_UNWIND = 6, 8


class Station:
    """One place where `task` waits for Python.

    `word` is its futex; `request` is a Python function that the guest has called.

    `work` is what Python wants done, `result` what came of it once `done`; `value` is what the station
    returns when it is told to leave, or `then` is where it jumps to. `hosted` is the hosted function in
    progress.
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


class Stations:
    """The stations of one process, and the guest code by which they are reached."""

    HOST_SIDE = frozenset(("_free", "_detour", "_thrown"))

    def __init__(self, process: Process) -> None:
        self.process = process
        self.stations: list[Station] = []
        """Where calls go, the innermost last: the main thread's, and those of Python
        functions that the guest is calling.
        """
        self.workers: dict[Task, Station] = {}
        """The stations of threads that Python made."""
        self.here: Station | None = None
        """The one that has given Python control."""
        self.caller: BlockCaller
        self._thrown: tuple[int, list[Captured]] = 0, []
        """The exception that a call was last found to end with, and the frames when it was thrown."""
        self._free: list[int] = []
        self._words: list[int] = []
        self._detour: int | None = None
        self._detours: dict[int, tuple[Callable[[], int], Callable[[], None], Context]] = {}

    # -- set-up ----------------------------------------------------------------------------------------------

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
        self.caller = BlockCaller(self.process.arena, contract.rtld.heap, page)
        contract.traps[page.personality] = self._personality

    def host_at(self, trap: int, station: Station) -> None:
        """Make the function at `trap` a station: its first instructions become a trap.

        The first one that is reached gives Python control.
        """

        def enter(_contract: Contract, _call: HostedCall) -> Hosted:
            if station.hosted is not None:
                raise MemoryFault(trap, "execute")  # not a function for the guest to call
            return self.serve(station, at_once=station in self.stations)

        self.contract.plant(trap, enter)

    def station(self) -> Station:
        """Return a new station."""
        word = self._words.pop() if self._words else self.contract.rtld.heap.allocate(4)
        return Station(word)

    def trap(self) -> int:
        """Return the address of a function for the guest to call, not in use.

        Raises StateError when there are too many.
        """
        if not self._free:
            raise StateError(f"more than {CALLBACKS} Python functions are known to the guest")
        return self._free.pop()

    def give_back(self, trap: int) -> None:
        """The guest does not know the function at `trap` any more."""
        self.contract.traps[trap] = self._nobody
        self._free.append(trap)

    def _nobody(self, _contract: Contract, call: HostedCall) -> Hosted:
        """Answer the call of a Python function that is not there any more."""

        def request() -> int:
            raise ClosedError(
                "the guest called a Python function that is gone: keep the callback as long as the guest may call it"
            )

        return self.called(request)

    # -- what the guest runs ---------------------------------------------------------------------------------

    def serve(self, station: Station, *, at_once: bool, first: Sequence[Step] = ()) -> Hosted:
        """Do what is to be done `first`, then what Python wants until it wants no more.

        `at_once`: Python gets control before that.
        """
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
            self.here = station
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
            self.here = station
            yield PAUSE

    def called(self, request: Callable[[], int]) -> Hosted:
        """The guest calls a Python function: a station whose request is to run it."""
        station = self.station()
        station.request = request
        return self.serve(station, at_once=True)

    def _personality(self, _contract: Contract, call: HostedCall) -> int | Hosted:
        """Called by the unwinder for `call`'s frame:
        it catches all exceptions, and lets forced unwinding pass.
        """
        actions = call.args[1] & 0xFFFFFFFF
        if actions & _SEARCH_PHASE:
            self._thrown = call.args[3], self.process.backtraces.capture_callers()
            return _HANDLER_FOUND
        if not actions & _HANDLER_FRAME:
            return _CONTINUE_UNWIND
        return self._land(call)

    def frames_of(self, exception: int) -> list[Captured]:
        """Return the frames of the thread when an exception that has ended a call was thrown."""
        found, frames = self._thrown
        self._thrown = 0, []
        return frames if found == exception else []

    def _land(self, call: HostedCall) -> Hosted:
        block = self.caller.catch(self.process.thread_pointer(), call.rsp, call.args[3])
        if block is None:
            return _CONTINUE_UNWIND
        yield Jump(self.caller.page.landing, (block,))
        return 0

    def divert(self, request: Callable[[], int], done: Callable[[], None]) -> Context:
        """Let the thread that runs call a Python function where it is, and then go on there as if nothing had
        been; `done` is told before that. Return the registers that it goes on with.

        For use in `interrupt`'s actions. The function finds the guest's stack below the part that belongs to
        the present one (psABI 3.2.2, red zone).
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

    def _enter_detour(self, _contract: Contract, call: HostedCall) -> Hosted:
        request, done, context = self._detours.pop(call.rsp)
        station = self.station()
        station.request, station.at_return, station.then = request, done, Resume(context)
        return self.serve(station, at_once=True)
