"""Schedules by name: `round-robin`, `random:17`; and how many of them a test is run under."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from emu.kernel.policy import Decision, Policy

_SEEDS = 1 << 64


class Schedule(NamedTuple):
    """A schedule of threads: round-robin, or random by `seed`."""

    policy: str
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.policy}:{self.seed}" if self.policy == "random" else self.policy


ROUND_ROBIN = Schedule("round-robin")


def parse(text: str) -> Schedule:
    """Return the schedule that POLICY[:SEED] names. Raises ValueError."""
    policy, colon, seed = text.partition(":")
    if text == "round-robin":
        return ROUND_ROBIN
    if policy == "random" and not colon:
        return Schedule(policy)
    if policy == "random" and seed.isascii() and seed.isdigit() and int(seed) < _SEEDS:
        return Schedule(policy, int(seed))
    raise ValueError(f"{text!r} is no schedule: choose round-robin or random:SEED, SEED a number below 2^64")


def several(count: int, seed: int) -> Iterator[Schedule]:
    """Yield `count` schedules: round-robin, then random ones by `seed` and its successors."""
    yield ROUND_ROBIN
    for number in range(count - 1):
        yield Schedule("random", (seed + number) % _SEEDS)


class Run:
    """One run of a test: its schedule, its number of `count`. `choices` are the decisions of its schedulers, `failed` tells of an exception."""

    def __init__(self, schedule: Schedule = ROUND_ROBIN, number: int = 1, count: int = 1) -> None:
        self.schedule, self.number, self.count = schedule, number, count
        self.choices, self.failed = 0, False

    def policy(self) -> Policy:
        """Return a policy for one process of the run."""
        from emu.kernel.policy import Random, RoundRobin

        chosen = Random(self.schedule.seed) if self.schedule.policy == "random" else RoundRobin()
        return _Counted(self, chosen)


class _Counted:
    """A policy whose decisions are counted."""

    def __init__(self, run: Run, policy: Policy) -> None:
        self._run, self._policy = run, policy

    def choose(self, tasks: Sequence[int]) -> Decision:
        """Return the policy's decision."""
        self._run.choices += 1
        return self._policy.choose(tasks)

    def finish(self) -> None:
        """Pass it on."""
        self._policy.finish()
