"""Who makes the runs: this process, processes beside it, or a cluster, through the interface of
`concurrent.futures.Executor`.

Each process that makes runs has one session, which it keeps. What comes back does not depend on who made a
run.
"""

from __future__ import annotations

import gc
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING

from emu.core.errors import EmuError
from emu.exploration.session import ExplorationSession

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor

    from emu.exploration.choosers import Request
    from emu.exploration.data import ExploredProgram, Ran

_TRIES = 3
"""How often a piece of work is given to new workers after one has died, before the search ends."""

_sessions: list[tuple[ExploredProgram, ExplorationSession]] = []
"""At most one."""


class WorkerError(EmuError):
    """Workers die again and again."""


def session_of(program: ExploredProgram) -> ExplorationSession:
    """Return this process's session of a program, made at the first call. Raises EmuError."""
    if _sessions and _sessions[0][0] == program:
        return _sessions[0][1]
    for _, old in _sessions:
        old.close()
    _sessions.clear()
    gc.unfreeze()
    gc.collect()  # old sessions have files open, and addresses: frozen they would for ever
    _sessions.append((program, ExplorationSession(program)))
    gc.freeze()  # what every run begins with need not be looked through again and again
    return _sessions[0][1]


def make_runs(program: ExploredProgram, requests: Sequence[Request]) -> list[Ran]:
    """Make the runs that are asked for. Raises EmuError."""
    session = session_of(program)
    return [session.run(request.chooser()) for request in requests]


class Crew:
    """Makes runs of `program` with `jobs` processes, or with the executor that `connect` makes.

    To be closed.
    """

    def __init__(
        self, program: ExploredProgram, jobs: int = 1, connect: Callable[[], Executor] | None = None
    ) -> None:
        self._program, self.jobs = program, jobs
        self._connect = connect
        self._executor: Executor | None = None
        if connect is not None or jobs > 1:
            self._executor = self._make()

    def _make(self) -> Executor:
        if self._connect is not None:
            return self._connect()
        import multiprocessing

        return ProcessPoolExecutor(self.jobs, multiprocessing.get_context("spawn"))

    def begin(self, requests: Sequence[Request]) -> Work:
        """Have some runs made, in pieces of equal size."""
        return Work(self, list(requests))

    def submit(self, requests: list[Request]) -> Future[list[Ran]]:
        """Give a piece of work to whoever is free. Raises EmuError where it is done here."""
        if self._executor is None:
            done: Future[list[Ran]] = Future()
            done.set_result(make_runs(self._program, requests))
            return done
        return self._executor.submit(make_runs, self._program, requests)

    def renew(self) -> None:
        """Take new workers after one has died."""
        assert self._executor is not None
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._executor = self._make()

    def close(self) -> None:
        """Let the workers go."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)


class Work:
    """Runs that are being made."""

    def __init__(self, crew: Crew, requests: list[Request]) -> None:
        self._crew = crew
        size = max(1, -(-len(requests) // (2 * crew.jobs)))
        self._pieces = [requests[at : at + size] for at in range(0, len(requests), size)]
        self._futures = [crew.submit(piece) for piece in self._pieces]

    def results(self) -> list[Ran]:
        """Return them, in the order in which they were asked for. Raises EmuError, WorkerError."""
        found: list[Ran] = []
        for index, piece in enumerate(self._pieces):
            found += self._result(index, piece)
        return found

    def _result(self, index: int, piece: list[Request]) -> list[Ran]:
        for _ in range(_TRIES):
            try:
                return self._futures[index].result()
            except BrokenProcessPool:
                self._crew.renew()
                for later in range(index, len(self._pieces)):
                    self._futures[later] = self._crew.submit(self._pieces[later])
        raise WorkerError(f"a worker has died {_TRIES} times over the same runs")
