"""What a search runs, what came of each run, and what it found, as facts."""

from __future__ import annotations

from emu.analysis.check import chosen_rules
from emu.analysis.check_suppress import Suppression
from emu.core.record import NamedTuple
from emu.kernel.run.policy import Decision
from emu.process import RunConfig
from emu.process.steps import Step


class ExploredProgram(NamedTuple):
    """What is explored: how it runs, the rules of `emu check` to ask, whether output unlike the first run's
    is a failure (`expected`, once that was made), and whether data races are. `atomics` are instructions of
    the program that are known to synchronise; `scouting` only looks for these. A run may take `most_blocks`
    basic blocks; what `hidden` names is no failure.
    """

    config: RunConfig
    rules: frozenset[str] = chosen_rules((), ())
    same_output: bool = False
    expected: bytes | None = None
    races: bool = False
    atomics: tuple[int, ...] = ()
    scouting: bool = False
    most_blocks: int = 20_000_000
    hidden: tuple[Suppression, ...] = ()


class Outcome(NamedTuple):
    """How a run ended.

    `kind` is "exit", "signal", "deadlock", "finding", "output", "race", "predicate", "error" or "limit";
    `text` tells it in a line or more.

    `failed` says whether that is what is searched for, `status` is the exit code, `output` what was printed.
    `about` has rule, object and symbol of suppressions that would hide it.
    """

    kind: str
    failed: bool
    status: int
    text: str
    output: bytes
    about: tuple[tuple[str, str, str], ...] = ()


class Ran(NamedTuple):
    """One run from where the threads begin: its steps, its end (None: given up, since only what other runs do
    was left), the decisions of a schedule that makes it again. `learned` are instructions that synchronise,
    and were taken for plain accesses until here: the run is worth nothing.
    """

    steps: tuple[Step, ...]
    outcome: Outcome | None
    decisions: tuple[Decision, ...]
    learned: tuple[int, ...] = ()


class Segment(NamedTuple):
    """Thread `tid` makes so many `steps`."""

    tid: int
    steps: int


class GivenUp(Exception):  # noqa: N818 - no error: the rest of a run is known already
    """A chooser wants no more of a run."""


class Learned(Exception):  # noqa: N818 - no error: the run is to be made again, knowing more
    """Instructions that were taken for plain accesses are meant to synchronise."""

    def __init__(self, instructions: tuple[int, ...]) -> None:
        super().__init__(instructions)
        self.instructions = instructions
