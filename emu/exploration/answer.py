"""What a search has found, as an answer: for JSON, and as text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from emu.core.text import printable
from emu.exploration.telling import Preemption

if TYPE_CHECKING:
    from emu.exploration.search import Bound, Strategy


@dataclass(frozen=True, slots=True)
class Ending:
    """How `runs` runs ended: `kind` (exit, signal, deadlock, finding, output, race, predicate, error, limit),
    their exit code and output.
    """

    kind: str
    status: int
    output: str
    failed: bool
    runs: int


@dataclass(frozen=True, slots=True)
class Failure:
    """A failing run, made short.

    `schedule` is the file that replays it, empty if none was written;
    `replayed` tells that the replay failed alike.

    `turns` is how often the running thread changes, `preemptions` where a thread loses the CPU that could go
    on.
    """

    kind: str
    status: int
    text: str
    output: str
    schedule: str
    replayed: bool
    turns: int
    preemptions: tuple[Preemption, ...]
    suppression: str


@dataclass(frozen=True, slots=True)
class Exploration:
    """What a search came to.

    `ended` is found, exhausted (nothing is left to be tried within the bound), runs, time or interrupted.

    `classes` counts runs that came to their end: with dpor each has another order of what threads share.
    `pruned` were given up, being like others; `beyond` were left out for their preemptions or depth.
    """

    program: str
    strategy: str
    ended: str
    runs: int
    classes: int
    pruned: int
    beyond: int
    threads: int
    steps: int
    endings: tuple[Ending, ...]
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]


_WHAT = {
    "signal": "a death by a signal",
    "deadlock": "a deadlock",
    "finding": "a finding",
    "output": "another output",
    "exit": "an exit code",
    "race": "a data race",
    "predicate": "a failed predicate",
    "error": "an error",
}


def strategy_text(strategy: Strategy, bound: Bound) -> str:
    """Return how was searched, in a few words."""
    parts = [strategy.name]
    if strategy.name == "pct":
        parts.append(f"depth {bound.depth or 3}")
    if strategy.name in ("pct", "random"):
        parts.append(f"seed {strategy.seed}")
    elif bound.depth is not None:
        parts.append(f"in the first {_count(bound.depth, 'step')}")
    if bound.preemptions is not None:
        parts.append(f"at most {_count(bound.preemptions, 'preemption')}")
    return ", ".join(parts)


def render(answer: Exploration, command: str) -> str:
    """Return the answer as text; `command` is the program with its arguments, for
    commands that may come next.
    """
    lines = [f"emu explore: {answer.program}: {_head(answer)}"]
    counts = [_count(answer.runs, "run"), f"{answer.classes} to their end"]
    counts += [f"{answer.pruned} given up as seen"] * bool(answer.pruned)
    counts += [f"{answer.beyond} beyond the bound"] * bool(answer.beyond)
    lines.append(
        f"  {answer.strategy}: {', '.join(counts)}; {_count(answer.threads, 'thread')}, at most {_count(answer.steps, 'step')} a run"
    )
    lines += [f"  {note}" for note in answer.notes]
    if len(answer.endings) > 1:
        lines += [f"  {_ending(ending)}" for ending in answer.endings[:20]]
        if len(answer.endings) > 20:
            lines.append(f"  ... and {len(answer.endings) - 20} other endings")
    for failure in answer.failures:
        lines += ["", *_failure(failure, command)]
    return "\n".join(lines) + "\n"


def _head(answer: Exploration) -> str:
    if answer.failures:
        kinds = list(dict.fromkeys(_WHAT.get(failure.kind, failure.kind) for failure in answer.failures))
        return f"found {' and '.join(kinds)}"
    if answer.ended == "exhausted":
        every = "every order of what the threads share was tried"
        return f"no failure: {every}{' within the bound' if answer.beyond else ''}"
    why = {"runs": "the bound of runs was reached", "time": "the bound of time was reached"}
    return f"no failure so far: {why.get(answer.ended, 'interrupted')}, there are orders that were not tried"


def _ending(ending: Ending) -> str:
    shown = f", output {ending.output[:60]!r}" if ending.output else ""
    return f"{ending.runs:6} x {ending.kind} {ending.status}{shown}"


def _failure(failure: Failure, command: str) -> list[str]:
    lines = [f"  {preemption_text(preemption)}" for preemption in failure.preemptions] or [
        "  without any preemption:"
    ]
    lines += [f"  {printable(line)}" for line in failure.text.splitlines()]
    if failure.schedule:
        again = "which fails alike" if failure.replayed else "which does NOT fail alike: please report it"
        lines.append(f"  schedule: {failure.schedule} ({_count(failure.turns, 'turn')}), {again}:")
        lines.append(f"    emu run --schedule replay:{failure.schedule} {command}")
    return lines


def preemption_text(preemption: Preemption) -> str:
    """Return who loses the CPU where, in a line."""
    return printable(
        f"thread {preemption.thread} ({preemption.name}) is preempted in {preemption.place}, before {preemption.operation};"
        f" thread {preemption.next} runs"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
