"""Who makes the next step: the ways in which one run can be directed."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from emu.core.errors import EmuError
from emu.core.record import NamedTuple
from emu.exploration.data import GivenUp, Segment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.process.steps import Point, Step
    from emu.process.visible import Operation


class DivergedError(EmuError):
    """A run that was to begin as an earlier one went another way: the program is not deterministic here."""


def going_on(point: Point) -> int:
    """Return the thread that runs, or else the one that could have run the longest."""
    return point.current or point.enabled[0]


class Guided:
    """Makes the steps of `prefix` again, then goes on without switches as far as that can be.

    `sleep` are threads, with their operations, whose turn at the last step of `prefix` other runs have had:
    the run is given up where nobody else is left, as long as nothing that meets their operation has happened.

    Source: Godefroid, "Partial-Order Methods for the Verification of Concurrent Systems", 1996, chapter 5
    (sleep sets).
    """

    def __init__(self, prefix: Sequence[int], sleep: dict[int, Operation]) -> None:
        self._prefix = prefix
        self._sleep = dict(sleep)

    def choose(self, point: Point) -> int:
        """Return the next thread of the prefix, or one that does not sleep. Raises DivergedError, GivenUp."""
        if point.number < len(self._prefix):
            chosen = self._prefix[point.number]
            if chosen not in point.enabled:
                raise DivergedError(
                    f"step {point.number}: thread {chosen} could make it in an earlier run, and cannot now"
                )
            return chosen
        awake = [tid for tid in point.enabled if tid not in self._sleep]
        if not awake:
            raise GivenUp
        return point.current if point.current in awake else awake[0]

    def made(self, step: Step) -> None:
        """Wake whom a step concerns."""
        if self._sleep and step.point.number >= len(self._prefix) - 1:
            operation = step.operation
            self._sleep = {
                tid: theirs
                for tid, theirs in self._sleep.items()
                if tid != step.tid and not theirs.meets(operation)
            }


class AtRandom:
    """Any thread at each point."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def choose(self, point: Point) -> int:
        """Draw one."""
        return self._random.choice(sorted(point.enabled))

    def made(self, step: Step) -> None:
        """There is nothing to note."""


class Newest:
    """The thread that was made last, as long as it can run."""

    def choose(self, point: Point) -> int:
        """Return the thread with the highest number."""
        return max(point.enabled)

    def made(self, step: Step) -> None:
        """There is nothing to note."""


class Pct:
    """Priorities at random, lowered at `depth` - 1 steps of about `length`: finds a failure that needs
    `depth` orderings of `threads` threads with a probability of at least 1 / (threads * length ** (depth -
    1)) in each run.

    Source: Burckhardt, Kothari, Musuvathi, Nagarakatte, "A Randomized Scheduler with Probabilistic Guarantees
    of Finding Bugs", 2010.
    """

    def __init__(self, seed: int, depth: int, length: int) -> None:
        self._random = Random(seed)
        self._priority: dict[int, float] = {}
        self._changes = [self._random.randrange(max(length, 1)) for _ in range(depth - 1)]

    def choose(self, point: Point) -> int:
        """Return the thread with the highest priority."""
        for tid in sorted(point.enabled):
            if tid not in self._priority:
                self._priority[tid] = 1 + self._random.random()
        best = max(point.enabled, key=self._priority.__getitem__)
        for rank, number in enumerate(self._changes):
            if number == point.number and self._priority[best] >= 1:
                self._priority[best] = -float(rank + 1)
                best = max(point.enabled, key=self._priority.__getitem__)
        if (
            not point.current
            and len(point.enabled) > 1
            and best == point.enabled[-1]
            and best in point.pending
        ):
            # It has had its turn: it yields, or waits in a loop for somebody who has a lower priority.
            self._priority[best] = min(self._priority.values()) - 1
            best = max(point.enabled, key=self._priority.__getitem__)
        return best

    def made(self, step: Step) -> None:
        """There is nothing to note."""


class Segmented:
    """Follows segments as far as the threads can; then goes on without switches as far as that can be."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._segments = list(segments)
        self._left = self._segments[0].steps if self._segments else 0

    def choose(self, point: Point) -> int:
        """Return the thread of the present segment if it can run."""
        while self._segments:
            tid = self._segments[0].tid
            if self._left and tid in point.enabled:
                return tid
            del self._segments[0]
            self._left = self._segments[0].steps if self._segments else 0
        return going_on(point)

    def made(self, step: Step) -> None:
        """Count it."""
        if self._segments and step.tid == self._segments[0].tid:
            self._left -= 1


class Request(NamedTuple):
    """One run to be made, to be sent to another process.

    `kind` is "guided", "newest", "random", "pct" or "segments".
    """

    kind: str
    prefix: tuple[int, ...] = ()
    sleep: tuple[tuple[int, Operation], ...] = ()
    seed: int = 0
    depth: int = 0
    length: int = 0
    segments: tuple[Segment, ...] = ()

    def chooser(self) -> Guided | Newest | AtRandom | Pct | Segmented:
        """Return what directs the run."""
        if self.kind == "newest":
            return Newest()
        if self.kind == "random":
            return AtRandom(self.seed)
        if self.kind == "pct":
            return Pct(self.seed, self.depth, self.length)
        if self.kind == "segments":
            return Segmented(self.segments)
        return Guided(self.prefix, dict(self.sleep))


def segments_of(steps: Sequence[Step]) -> list[Segment]:
    """Return the turns that the threads had."""
    segments: list[Segment] = []
    for step in steps:
        if segments and segments[-1].tid == step.tid:
            segments[-1] = Segment(step.tid, segments[-1].steps + 1)
        else:
            segments.append(Segment(step.tid, 1))
    return segments
