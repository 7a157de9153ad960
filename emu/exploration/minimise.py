"""Making a failing schedule short: fewer preemptions, then fewer turns,
as long as the failure stays the same.

A schedule is taken as the turns of the threads. Turns are left out, or made as long as they can be, one after
the other, until nothing helps any more; what was left out comes by itself where the program goes on without
switches.

Source: Zeller, Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002, for the principle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.exploration.choosers import Request, segments_of
from emu.exploration.data import Segment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from emu.exploration.data import Outcome, Ran

_LONG = 1 << 40


def preemptions(ran: Ran) -> int:
    """Return how often a thread that could have gone on did not."""
    return sum(1 for step in ran.steps if step.point.current and step.tid != step.point.current)


def same_failure(one: Outcome, other: Outcome | None) -> bool:
    """Whether two failures are of one kind: two findings by the same rules, two
    deaths by one signal, and so on.
    """
    if other is None or not other.failed or (one.kind, one.status) != (other.kind, other.status):
        return False
    return one.kind != "finding" or _rules(one) == _rules(other)


def _rules(outcome: Outcome) -> set[str]:
    return {line.partition(":")[0] for line in outcome.text.splitlines()}


def minimise(ran: Ran, make: Callable[[Request], Ran], most: int = 400) -> Ran:
    """Return a run that fails as `ran` does, with as few preemptions as is found by
    making at most so many runs.
    """
    assert ran.outcome is not None
    best, made = ran, 0
    improved = True
    while improved and made < most:
        improved = False
        for candidate in _shorter(segments_of(best.steps)):
            if made >= most:
                break
            made += 1
            tried = make(Request("segments", segments=tuple(candidate)))
            if same_failure(ran.outcome, tried.outcome) and _size(tried) < _size(best):
                best, improved = tried, True
                break
    return best


def _size(ran: Ran) -> tuple[int, int, int]:
    return preemptions(ran), len(segments_of(ran.steps)), len(ran.steps)


def _shorter(segments: list[Segment]) -> Iterator[list[Segment]]:
    """Yield schedules to be tried: nothing beyond a turn, from the shortest on; without a turn;
    with one that lasts.
    """
    length = 1
    while length < len(segments):
        yield segments[:length]
        length *= 2
    for index, segment in enumerate(segments):
        yield segments[:index] + segments[index + 1 :]
        yield [*segments[:index], Segment(segment.tid, _LONG), *segments[index + 1 :]]
