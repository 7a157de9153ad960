"""Who decides which task runs next and for how long: policies, and schedules as data.

A decision is due only where more than one task can run. It names the task and how many basic blocks it may
execute before the next one is due, and at which instruction of the block behind them; it is due earlier when
the task waits, yields or ends. Decisions depend on nothing but their predecessors, so a recorded schedule
replays the run that it was taken from.

A schedule in a file is JSON Lines: `{"schedule":1}`, then `{"task":1001,"blocks":20000}` for each decision,
with `"instruction":N` where that is not 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from emu.core.errors import EmuError
from emu.core.inputs import read_input
from emu.core.record import NamedTuple
from emu.kernel.run.entropy import Entropy

SLICE = 20_000
"""Basic blocks that round-robin gives a task at most: about 0.1 ms of virtual time."""
_GOLDEN = 0x9E37_79B9
"""2**32 over the golden ratio: its multiples modulo 2**32 are spread evenly and
never fall into step with a loop.
"""
_RANDOM_BITS = 13
_MOST_BLOCKS = 1 << 62
_STREAM = 0x7363_6865_6475_6C65
_FORCED = "a thread computed so long without a system call that the host's clock stopped it, which cannot be repeated; --engine unicorn can"
REPLAY = "replay:"
"""What a schedule's name begins with that is a file's."""
BEGINNING = '{"schedule":1}'
"""The first line of a schedule."""


class ScheduleError(EmuError):
    """A schedule cannot be followed: the file, the line (0: none) and why."""

    def __init__(self, name: str, line: int, reason: str) -> None:
        super().__init__(f"schedule {name}{f', line {line}' if line else ''}: {reason}")


class Decision(NamedTuple):
    """Task `task` runs next, for `blocks` basic blocks and then up to instruction `instruction` (from 0,
    modulo their number) of the next.
    """

    task: int
    blocks: int
    instruction: int = 0


class Policy(Protocol):
    """Makes the decisions.

    `tasks` are the ids of those that can run, the one that has waited longest first.
    """

    def choose(self, tasks: Sequence[int]) -> Decision:
        """Return the next decision."""

    def finish(self) -> None:
        """Check or write what is left, at the end of the run."""


class Promise:
    """A policy whose decisions are to give the same run again."""

    def forced(self) -> None:
        """The host's clock has ended a slice. Raises ScheduleError: the promise cannot be kept."""
        raise NotImplementedError


class RoundRobin:
    """Everybody in turn, for slices between half of SLICE and all of it.

    With slices of one length a task that takes a lock again and again can be preempted at the same place of
    its loop for ever, and never without the lock: those that wait for it would starve.
    """

    def __init__(self) -> None:
        self._phase = 0

    def choose(self, tasks: Sequence[int]) -> Decision:
        """Return the first."""
        blocks = SLICE - (SLICE // 2 * self._phase >> 32)
        self._phase = (self._phase + _GOLDEN) & 0xFFFF_FFFF
        return Decision(tasks[0], blocks)

    def finish(self) -> None:
        """There is nothing to do."""


class Random:
    """Any task, for a slice whose length is spread over orders of magnitude,
    so that races of every width show.

    It ends between any two instructions, or (`whole_blocks`) only where a basic block does.
    """

    def __init__(self, seed: int, *, whole_blocks: bool = False) -> None:
        self._entropy = Entropy(seed ^ _STREAM)
        self._mask = 0 if whole_blocks else 0xFF

    def choose(self, tasks: Sequence[int]) -> Decision:
        """Draw one."""
        word = self._entropy.word()
        base = 1 << (word >> 32) % _RANDOM_BITS
        instruction = word >> 24 & self._mask
        return Decision(tasks[(word & 0xFFFF_FFFF) % len(tasks)], base + (word >> 48) % base, instruction)

    def finish(self) -> None:
        """There is nothing to do."""


class Replay(Promise):
    """The decisions of an earlier run, from `lines` of the schedule called `name`. Raises ScheduleError."""

    def __init__(self, lines: Iterable[str], name: str) -> None:
        self._name = name
        self._decisions = _parse(lines, name)
        self._next = 0

    def choose(self, tasks: Sequence[int]) -> Decision:
        """Return the next decision. Raises ScheduleError when it does not fit the run."""
        at = self._next
        if at == len(self._decisions):
            raise ScheduleError(self._name, at + 2, "the schedule ends here, the program does not")
        decision = self._decisions[at]
        if decision.task not in tasks:
            can = ", ".join(map(str, tasks))
            raise ScheduleError(self._name, at + 2, f"task {decision.task} cannot run now, only {can}")
        self._next += 1
        return decision

    def finish(self) -> None:
        """Raise ScheduleError if there are decisions left."""
        left = len(self._decisions) - self._next
        if left:
            raise ScheduleError(self._name, self._next + 2, f"the program ended {left} decisions early")

    def forced(self) -> None:
        """Raise: a recorded run has no decision of the host."""
        raise ScheduleError(self._name, self._next + 1, _FORCED)


def _parse(lines: Iterable[str], name: str) -> list[Decision]:
    import json  # late: only a schedule from a file needs it

    decisions: list[Decision] = []
    rest = iter(lines)
    if next(rest, "").rstrip("\n") != BEGINNING:
        raise ScheduleError(name, 1, f"a schedule begins with {BEGINNING}")
    for number, line in enumerate(rest, 2):
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError):
            raise ScheduleError(name, number, "not a JSON object") from None
        if not isinstance(fields, dict) or set(fields) - {"instruction"} != {"task", "blocks"}:
            raise ScheduleError(name, number, "a decision has the members task and blocks")
        decision = Decision(**fields)
        if (
            any(type(value) is not int for value in decision)
            or not 1 <= decision.blocks <= _MOST_BLOCKS
            or not 0 <= decision.instruction <= _MOST_BLOCKS
        ):
            reason = f"task and blocks are whole numbers, blocks is from 1 to {_MOST_BLOCKS}"
            raise ScheduleError(name, number, reason)
        decisions.append(decision)
    return decisions


def replay_of(path: str) -> Replay:
    """Return the decisions that a file of the host has. Raises ScheduleError."""
    try:
        return Replay(read_input(path).decode("utf-8").splitlines(), path)
    except OSError as error:
        raise ScheduleError(path, 0, str(error.strerror)) from None
    except UnicodeDecodeError:
        raise ScheduleError(path, 0, "not text in UTF-8") from None


class Recording(Promise):
    """Another policy's decisions, each handed to `sink` as a line of a schedule;
    `decided` tells that there was one.
    """

    def __init__(self, policy: Policy, sink: Callable[[str], None]) -> None:
        self._policy, self._sink = policy, sink
        self.decided = False
        sink(BEGINNING)

    def choose(self, tasks: Sequence[int]) -> Decision:
        """Return the other policy's decision."""
        decision = self._policy.choose(tasks)
        self.decided = True
        inside = f',"instruction":{decision.instruction}' if decision.instruction else ""
        self._sink(f'{{"task":{decision.task},"blocks":{decision.blocks}{inside}}}')
        return decision

    def finish(self) -> None:
        """Do what the inner policy does at the end."""
        self._policy.finish()

    def forced(self) -> None:
        """Refuse: what has been written could not be replayed."""
        raise ScheduleError("of this run", 0, _FORCED)
