"""Schedules by name: `round-robin`, `random:17`, `replay:FILE`; and how many of them a test is run under."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.record import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from emu.api import Process
    from emu.kernel.run.policy import Decision, Policy

_SEEDS = 1 << 64


class Schedule(NamedTuple):
    """A schedule of threads: round-robin, random by `seed`, or that of the file at `path`."""

    policy: str
    seed: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"replay:{self.path}"
        return f"{self.policy}:{self.seed}" if self.policy == "random" else self.policy


ROUND_ROBIN = Schedule("round-robin")


def parse(text: str) -> Schedule:
    """Return the schedule that POLICY[:SEED] or replay:FILE names. Raises ValueError."""
    policy, colon, seed = text.partition(":")
    if text == "round-robin":
        return ROUND_ROBIN
    if policy == "replay" and seed:
        return Schedule(policy, path=seed)
    if policy == "random" and not colon:
        return Schedule(policy)
    if policy == "random" and seed.isascii() and seed.isdigit() and int(seed) < _SEEDS:
        return Schedule(policy, int(seed))
    raise ValueError(
        f"{text!r} is no schedule: choose round-robin, random:SEED (SEED a number below 2^64) or replay:FILE"
    )


def several(count: int, seed: int) -> Iterator[Schedule]:
    """Yield `count` schedules: round-robin, then random ones by `seed` and its successors."""
    yield ROUND_ROBIN
    for number in range(count - 1):
        yield Schedule("random", (seed + number) % _SEEDS)


class ScheduledRun:
    """One run of a test: its schedule, its number of `count`.

    `choices` are the decisions of its schedulers, `failed` tells of an exception, `given_up` that what is
    left of it is known from others.
    """

    remembers = True
    """Whether what a set-up does may be known from other runs."""

    def __init__(self, schedule: Schedule = ROUND_ROBIN, number: int = 1, count: int = 1) -> None:
        self.schedule, self.number, self.count = schedule, number, count
        self.choices, self.failed, self.given_up = 0, False, False

    def begin(self, process: Process) -> None:
        """A process of the run was made."""

    def policy(self) -> Policy:
        """Return a policy for one process of the run."""
        from emu.kernel.run.policy import Random, RoundRobin, replay_of

        chosen: Policy = RoundRobin()
        if self.schedule.path:
            chosen = replay_of(self.schedule.path)
        elif self.schedule.policy == "random":
            chosen = Random(self.schedule.seed)
        return _Counted(self, chosen)


class _Counted:
    """A policy whose decisions are counted."""

    def __init__(self, run: ScheduledRun, policy: Policy) -> None:
        self._run, self._policy = run, policy

    def choose(self, tasks: Sequence[int]) -> Decision:
        """Return the policy's decision."""
        self._run.choices += 1
        return self._policy.choose(tasks)

    def finish(self) -> None:
        """Pass it on."""
        self._policy.finish()
