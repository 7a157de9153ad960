"""The search: runs are made until one fails, a bound is reached, or none is left.

Two batches are always under way, whoever makes the runs: so what is asked for, and in which order, depends on
nothing but the program.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

from emu.core.record import NamedTuple
from emu.exploration.choosers import Request
from emu.exploration.tree import ScheduleTree

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from emu.exploration.data import Outcome, Ran
    from emu.exploration.tree import Node

_BATCH = 32
_SEEDS = 1 << 32


class Bound(NamedTuple):
    """When a search ends: after `runs` runs, `time` seconds;
    `preemptions` and `depth` (steps) are the most that a run may have. None: no bound.
    """

    runs: int | None = None
    time: float | None = None
    preemptions: int | None = None
    depth: int | None = None


class Strategy(NamedTuple):
    """How runs are chosen: "dpor", "exhaustive", "pct" or "random"; the last two draw by `seed`.

    `depth` is PCT's: how many orderings a failure needs.
    """

    name: str = "dpor"
    seed: int = 0
    depth: int = 3


class Progress(NamedTuple):
    """How far a search has come: runs made, failures found, runs that are known
    to be left (None: nobody knows).
    """

    made: int
    found: int
    left: int | None


class SearchResult(NamedTuple):
    """What a search came to.

    `failures` are runs that failed, the first of each kind and text;
    `outcomes` counts runs by how they ended.

    `classes` is how many runs came to their end, each another order of what matters (dpor); `pruned` were
    given up as seen; `beyond` were left out for their preemptions. `learned` are instructions that
    synchronise: with them the search is to begin anew. `ended` says why it ended: "found", "exhausted",
    "runs", "time", "interrupted", "learned". `seconds` is the host's time.
    """

    failures: tuple[Ran, ...]
    outcomes: tuple[tuple[Outcome, int], ...]
    made: int
    classes: int
    pruned: int
    beyond: int
    ended: str
    seconds: float
    steps: int
    threads: int
    learned: tuple[int, ...] = ()


class Made(Protocol):
    """Runs that are being made."""

    def results(self) -> list[Ran]:
        """Return them, in the order in which they were asked for. Raises EmuError."""


class Maker(Protocol):
    """Who makes runs: `emu.exploration.workers.Crew`, for one."""

    def begin(self, requests: Sequence[Request]) -> Made:
        """Have some runs made."""


class _Source(Protocol):
    """Where requests come from."""

    pruned: int
    beyond: int

    @property
    def left(self) -> int:
        """How many are known to be left."""

    def take(self, most: int) -> list[tuple[Request, tuple[Node, int] | None]]:
        """Take the next."""

    def add(self, item: tuple[Node, int] | None, ran: Ran) -> None:
        """Take in what came of one."""


class _Drawn:
    """Runs that do not depend on one another."""

    def __init__(self, strategy: Strategy, runs: int | None) -> None:
        self._strategy, self._left = strategy, runs if runs is not None else _SEEDS
        self._number = self._length = 0
        self.pruned = self.beyond = 0

    @property
    def left(self) -> int:
        """How many are left."""
        return self._left

    def take(self, most: int) -> list[tuple[Request, tuple[Node, int] | None]]:
        """Take the next; the first is one without preemptions, which tells how long a run is."""
        count = min(most, self._left) if self._number else 1
        if self._number and not self._length:
            count = 0
        taken: list[tuple[Request, tuple[Node, int] | None]] = []
        for _ in range(count):
            seed = self._strategy.seed + self._number
            request = Request(self._strategy.name, seed=seed, depth=self._strategy.depth, length=self._length)
            taken.append((request if self._number else Request("guided"), None))
            self._number += 1
        self._left -= count
        return taken

    def add(self, _item: tuple[Node, int] | None, ran: Ran) -> None:
        """Note how long runs are."""
        self._length = max(self._length, len(ran.steps), 1)


class Search:
    """A search by `strategy` within `bound`; `keep_going`: past the first failure.

    `tell` hears of progress.
    """

    def __init__(
        self, crew: Maker, strategy: Strategy, bound: Bound, *, keep_going: bool = False,
        tell: Callable[[Progress], None] = lambda progress: None,
    ) -> None:  # fmt: skip
        self._crew, self._strategy, self._bound = crew, strategy, bound
        self._keep_going, self._tell = keep_going, tell
        self._failures: dict[tuple[str, int, str], Ran] = {}
        self._outcomes: dict[Outcome, int] = {}
        self._made = self._steps = 0
        self._threads: set[int] = set()
        self._learned: set[int] = set()
        self._source: _Source
        if strategy.name in ("dpor", "exhaustive"):
            self._source = ScheduleTree(
                reduce=strategy.name == "dpor", preemptions=bound.preemptions, depth=bound.depth
            )
        else:
            self._source = _Drawn(strategy, bound.runs)

    def run(self) -> SearchResult:
        """Search. Raises EmuError for what is not a failure of the program's."""
        begun = time.monotonic()
        ended = ""
        asked: deque[tuple[list[tuple[Node, int] | None], Made]] = deque()
        try:
            while not ended:
                while len(asked) < 2 and (taken := self._source.take(self._most(asked))):
                    asked.append(
                        ([item for _, item in taken], self._crew.begin([request for request, _ in taken]))
                    )
                if not asked:
                    ended = "runs" if self._spent() else "exhausted"
                    break
                items, work = asked.popleft()
                for item, ran in zip(items, work.results(), strict=True):
                    if ran.learned:
                        self._learned.update(ran.learned)
                        ended = "learned"
                        continue
                    self._take_in(item, ran)
                    if self._failures and not self._keep_going and not ended:
                        ended = "found"
                        break
                self._tell(Progress(self._made, len(self._failures), self._known_left()))
                if not ended and self._spent():
                    ended = "runs"
                elif (
                    not ended
                    and self._bound.time is not None
                    and time.monotonic() - begun >= self._bound.time
                ):
                    ended = "time"
        except KeyboardInterrupt:
            ended = "interrupted"
        return self._found(ended, time.monotonic() - begun)

    def _most(self, asked: deque[tuple[list[tuple[Node, int] | None], Made]]) -> int:
        if self._bound.runs is None:
            return _BATCH
        return max(0, min(_BATCH, self._bound.runs - self._made - sum(len(items) for items, _ in asked)))

    def _spent(self) -> bool:
        return self._bound.runs is not None and self._made >= self._bound.runs

    def _known_left(self) -> int | None:
        return (
            self._source.left
            if isinstance(self._source, ScheduleTree) or self._bound.runs is not None
            else None
        )

    def _take_in(self, item: tuple[Node, int] | None, ran: Ran) -> None:
        self._made += 1
        self._source.add(item, ran)
        self._steps = max(self._steps, len(ran.steps))
        self._threads.update(step.tid for step in ran.steps)
        outcome = ran.outcome
        if outcome is None:
            return
        self._outcomes[outcome] = self._outcomes.get(outcome, 0) + 1
        if outcome.failed:
            self._failures.setdefault(_nature(outcome), ran)

    def _found(self, ended: str, seconds: float) -> SearchResult:
        source = self._source
        return SearchResult(
            tuple(self._failures.values()), tuple(self._outcomes.items()), self._made, sum(self._outcomes.values()),
            source.pruned, source.beyond, ended, seconds, self._steps, len(self._threads),
            tuple(sorted(self._learned)),
        )  # fmt: skip


def _nature(outcome: Outcome) -> tuple[str, int, str]:
    """Return what two failures have in common that need not both be told."""
    if outcome.kind in ("deadlock", "signal"):
        return outcome.kind, outcome.status, ""
    return outcome.kind, outcome.status, outcome.text
