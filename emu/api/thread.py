"""A thread of the guest that Python drives: a real pthread, whose start routine does what Python says."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from emu.api.errors import ClosedError, StateError
from emu.api.pointer import ForTheGuest
from emu.api.station import Station
from emu.core.effects import CallGuest, Effect

if TYPE_CHECKING:
    from collections.abc import Generator

    from emu.api.function import Function
    from emu.api.process import Process
    from emu.kernel.run.task import Task


class Thread(ForTheGuest, instead="use Thread.call"):
    """A thread made by `Process.thread`.

    Leaving the `with` block ends it as a return from its start routine does:
    destructors of its thread_local objects and of its keys run, then it is joined.

    >>> import emu
    >>> with emu.Process() as p:
    ...     libc = p.dlopen("libc.so.6")
    ...     with p.thread("worker") as t:
    ...         t.call(libc.gettid) == t.tid, t.name
    (True, 'worker')
    """

    def __init__(self, process: Process, name: str | None) -> None:
        self._process = process
        self._station: Station | None = None
        self._start(name)
        process.driven.add(self)

    def _start(self, name: str | None) -> None:
        process, engine = self._process, self._process.engine
        station = self._station = engine.station()
        trap = engine.trap()
        engine.host_at(trap, station)
        self.address = engine.run(self._create(trap))
        engine.run(_nothing(), station)
        engine.give_back(trap)  # the thread has passed it
        engine.workers[self.task] = station
        if name is not None:
            text = process.memory.new(name.encode())
            engine.run(self._call_by_name(b"pthread_setname_np", self.address, text), station)
            process.memory.free(text)

    def _create(self, start: int) -> Generator[Effect, int, int]:
        heap, arena = self._process.rtld.heap, self._process.inner.arena
        result = heap.allocate(8)
        error = yield from self._call_by_name(b"pthread_create", result, 0, start, 0)
        thread: int = struct.unpack("<Q", arena.read(result, 8))[0]
        heap.free(result)
        if error & 0xFFFFFFFF:
            raise StateError(f"pthread_create: error {error & 0xFFFFFFFF}")
        return thread

    def _call_by_name(self, name: bytes, *args: int) -> Generator[Effect, int, int]:
        return (yield CallGuest(self._process.engine.contract.guest_function(name), args))

    @property
    def station(self) -> Station | None:
        """Where the thread waits for Python, None when it is over."""
        return self._station

    @station.setter
    def station(self, station: Station | None) -> None:
        self._station = station

    @property
    def task(self) -> Task:
        """The kernel's side of the thread. Raises ClosedError when the thread is over."""
        if self._station is None or self._station.task is None:
            raise ClosedError("the thread is over")
        return self._station.task

    @property
    def tid(self) -> int:
        """The thread id."""
        return self.task.tid

    @property
    def name(self) -> str:
        """The thread's name, at most 15 bytes."""
        return self.task.name

    def call(self, function: Function, *args: Any) -> Any:
        """Call a guest function in this thread; see `Function`.

        Raises ClosedError when the thread is over.
        """
        return self._process.calls.call(function, args, self.task)

    def close(self) -> None:
        """End the thread and join it."""
        if self._station is None:
            return
        engine, station = self._process.engine, self._station
        if any(inner.task is station.task for inner in engine.stations):
            raise StateError(f"thread {self.tid} is in a call")
        del engine.workers[self.task]
        self._station = None
        engine.leave(station)
        engine.run(self._call_by_name(b"pthread_join", self.address, 0))
        error = engine.take_pending()
        if error is not None:
            raise error

    def __enter__(self) -> Thread:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        stuck = self._station is not None and self._station.busy and kind is not None
        if not self._process.ended and not self._process.engine.broken and not stuck:
            self.close()

    def __repr__(self) -> str:
        return f"<emu.Thread {self.tid} {self.name}>" if self._station is not None else "<emu.Thread, over>"


def _nothing() -> Generator[Effect, int, None]:
    """Work that is done as soon as the thread runs."""
    return
    yield
