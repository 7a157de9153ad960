"""Which steps of a run happen before which, and which pairs could have come in the other order.

A step happens before a later one if they are one thread's, if their operations meet, or if it is what let the
other's thread run; and so on along such pairs. Clocks have for each thread how many of its steps are known to
have happened.

Source: Abdulla, Aronsson, Jonsson, Sagonas, "Source Sets: A Foundation for Optimal Dynamic Partial Order
Reduction", 2017; Mattern, "Virtual Time and Global States of Distributed Systems", 1989.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.record import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from emu.process.steps import Step
    from emu.process.visible import Thing

Clock = dict[int, int]


class Reversible(NamedTuple):
    """Steps `first` and `second` of a run could have come in the other order;
    nothing between them orders them.
    """

    first: int
    second: int


class Order:
    """The order within the steps of one run."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = steps
        self._clocks: list[Clock] = []
        self._own: list[int] = []
        self.races: list[Reversible] = []
        threads: dict[int, Clock] = {}
        writer: dict[Thing, int] = {}
        readers: dict[Thing, list[int]] = {}
        before: frozenset[int] = frozenset()
        for number, step in enumerate(steps):
            enabled = frozenset(step.point.enabled)
            if number:
                self._enable(threads, enabled - before, number - 1)
            before = enabled
            mine = threads.setdefault(step.tid, {})
            earlier = self._earlier(step, writer, readers)
            for other in earlier:
                if self._races(other, mine, earlier):
                    self.races.append(Reversible(other, number))
            for other in earlier:
                _join(mine, self._clocks[other])
            mine[step.tid] = mine.get(step.tid, 0) + 1
            self._own.append(mine[step.tid])
            self._clocks.append(dict(mine))
            for thing in step.operation.reads:
                readers.setdefault(thing, []).append(number)
            for thing in step.operation.writes:
                writer[thing] = number
                readers.pop(thing, None)

    def happens_before(self, first: int, second: int) -> bool:
        """Whether step `first` happens before step `second`, which is a later one."""
        return self._clocks[second].get(self._steps[first].tid, 0) >= self._own[first]

    def initials(self, race: Reversible) -> Iterator[int]:
        """Yield the threads with which a run can begin, where `race.first` was,
        that has the second step before the first one.
        """
        first, second = race
        beside = [n for n in range(first + 1, second) if not self.happens_before(first, n)]
        beside.append(second)
        seen: set[int] = set()
        for index, number in enumerate(beside):
            tid = self._steps[number].tid
            if tid not in seen:
                seen.add(tid)
                if not any(self.happens_before(n, number) for n in beside[:index]):
                    yield tid

    def _enable(self, threads: dict[int, Clock], woken: frozenset[int], by: int) -> None:
        for tid in woken:
            _join(threads.setdefault(tid, {}), self._clocks[by])

    def _earlier(self, step: Step, writer: dict[Thing, int], readers: dict[Thing, list[int]]) -> list[int]:
        """Return the latest steps of others that meet `step`."""
        found: set[int] = set()
        for thing in step.operation.reads:
            if thing in writer:
                found.add(writer[thing])
        for thing in step.operation.writes:
            if thing in writer:
                found.add(writer[thing])
            found.update(readers.get(thing, ()))
        return [number for number in sorted(found) if self._steps[number].tid != step.tid]

    def _races(self, other: int, mine: Clock, earlier: list[int]) -> bool:
        tid, own = self._steps[other].tid, self._own[other]
        if mine.get(tid, 0) >= own:
            return False
        return not any(n != other and self._clocks[n].get(tid, 0) >= own for n in earlier)


def _join(clock: Clock, other: Clock) -> None:
    for tid, count in other.items():
        if clock.get(tid, 0) < count:
            clock[tid] = count
