"""One exploration from beginning to end: the search, the failures made short, told, written and replayed."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

from emu.analysis.check_text import suppression
from emu.core.record import NamedTuple
from emu.exploration.answer import Ending, Exploration, Failure, strategy_text
from emu.exploration.choosers import Guided, Request, segments_of
from emu.exploration.minimise import minimise, same_failure
from emu.exploration.search import Bound, Progress, Search, Strategy
from emu.exploration.session import ExplorationSession, replay
from emu.exploration.telling import tell
from emu.exploration.workers import Crew, session_of
from emu.kernel.run.policy import BEGINNING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Executor

    from emu.exploration.data import ExploredProgram, Ran
    from emu.exploration.journal import RunsJournal
    from emu.exploration.search import Maker, SearchResult
    from emu.kernel.run.policy import Decision


class Plan(NamedTuple):
    """How to explore: `keep_going` past the first failure;
    with `jobs` processes, or with the executor that `connect` makes.
    """

    strategy: Strategy = Strategy()
    bound: Bound = Bound()
    keep_going: bool = False
    jobs: int = 1
    connect: Callable[[], Executor] | None = None
    tell: Callable[[Progress], None] = lambda progress: None
    state: str | None = None
    """The file that keeps the runs, so that a search can go on."""
    resumed: Callable[[int, list[str]], None] = lambda runs, variables: None
    """Is told how many runs that file has, and which variables were different when it was begun."""


def explore(program: ExploredProgram, plan: Plan, write: Callable[[int, str], str]) -> Exploration:
    """Search, and return the answer.

    `write` is handed the number of each failure (from 0) and its schedule as text, and returns the file's
    name (empty: none). Raises EmuError for what is not a failure of the program's.
    """
    with _journal(program, plan) as journal:
        program = journal.program if journal is not None else program
        program, notes = scout(program)
        if program.same_output:
            program = program._replace(expected=_first_output(program))
        found = _search(program, plan, journal)
        while found.ended == "learned":
            program = program._replace(atomics=tuple(sorted({*program.atomics, *found.learned})))
            found = _search(program, plan, journal)
    failures = [
        _failure(program, ran, lambda text, number=number: write(number, text))  # type: ignore[misc]
        for number, ran in enumerate(found.failures)
    ]
    unended = sum(runs for outcome, runs in found.outcomes if outcome.kind == "limit")
    if unended:
        notes += (
            f"{unended} run{'s' * (unended != 1)} did not come to an end, so that nothing is said of how",
        )
    return Exploration(
        program.config.argv0 or program.config.program,
        strategy_text(plan.strategy, plan.bound),
        found.ended, found.made, found.classes, found.pruned, found.beyond, found.threads, found.steps,
        _endings(found), tuple(failures), notes,
    )  # fmt: skip


def scout(program: ExploredProgram) -> tuple[ExploredProgram, tuple[str, ...]]:
    """Look for loads and stores of the program by which its threads synchronise, in a few runs that look at
    each access; return the program that knows them, and what else is to be said: that races were seen, if
    they are not searched for. Raises EmuError.
    """
    session = ExplorationSession(program._replace(scouting=True, rules=frozenset()))
    try:
        for request in (Request("guided"), Request("newest"), *(Request("random", seed=n) for n in (1, 2))):
            if session.threads:
                session.run(request.chooser())
    finally:
        session.close()
    notes = ("threads use the same memory with nothing that orders them: --races tells where",) * (
        session.raced and not program.races
    )
    return program._replace(atomics=tuple(sorted(session.learned))), notes


def _first_output(program: ExploredProgram) -> bytes:
    """Return what the program prints without any preemption: every worker compares with that."""
    session = ExplorationSession(program._replace(races=False))
    try:
        outcome = session.run(Request("guided").chooser()).outcome
    finally:
        session.close()
    assert outcome is not None, "nobody sleeps in a first run"
    return outcome.output


@contextmanager
def _journal(program: ExploredProgram, plan: Plan) -> Iterator[RunsJournal | None]:
    """Give the file that keeps the runs, None if there is to be none. Raises SearchStateError."""
    if plan.state is None:
        yield None
        return
    from emu.exploration.journal import RunsJournal

    how = f"races={program.races}, same output={program.same_output}, rules={sorted(program.rules)}"
    how += f", suppressions={program.hidden}" * bool(program.hidden)
    journal = RunsJournal(plan.state, program, how)
    try:
        if journal.found:
            then, now = journal.program.config.env, program.config.env
            plan.resumed(journal.found, sorted(n for n in {*then, *now} if then.get(n) != now.get(n)))
        yield journal
    finally:
        journal.close()


def _search(program: ExploredProgram, plan: Plan, journal: RunsJournal | None) -> SearchResult:
    crew = Crew(program, plan.jobs, plan.connect)
    maker: Maker = crew
    if journal is not None:
        from emu.exploration.journal import Remembering

        maker = Remembering(crew, journal, program.atomics)
    try:
        return Search(maker, plan.strategy, plan.bound, keep_going=plan.keep_going, tell=plan.tell).run()
    finally:
        crew.close()


def _endings(found: SearchResult) -> tuple[Ending, ...]:
    kinds: dict[tuple[str, int, str, bool], int] = {}
    for outcome, runs in found.outcomes:
        key = outcome.kind, outcome.status, outcome.output.decode("utf-8", "replace"), outcome.failed
        kinds[key] = kinds.get(key, 0) + runs
    return tuple(Ending(*key, runs) for key, runs in sorted(kinds.items(), key=lambda item: -item[1]))


def _failure(program: ExploredProgram, ran: Ran, write: Callable[[str], str]) -> Failure:
    session = session_of(program)
    short = minimise(ran, lambda request: session.run(request.chooser()))
    assert short.outcome is not None
    preemptions = tell(session, short)
    schedule = as_text(short.decisions)
    name = write(schedule)
    if short.outcome.kind == "race":
        again = session.run(Guided([step.tid for step in short.steps], {})).outcome
        short = short._replace(
            outcome=short.outcome._replace(text=short.outcome.text + session.allocation(short.steps))
        )
    else:
        again = replay(program, schedule)
    outcome = short.outcome
    assert outcome is not None
    return Failure(
        outcome.kind, outcome.status, outcome.text, outcome.output.decode("utf-8", "replace"), name,
        same_failure(outcome, again), len(segments_of(short.steps)), preemptions,
        "".join(suppression(*one) for one in dict.fromkeys(outcome.about)),
    )  # fmt: skip


def as_text(decisions: Sequence[Decision]) -> str:
    """Return a schedule as a file has it (see `emu.kernel.run.policy`)."""
    lines = [BEGINNING]
    for decision in decisions:
        fields = {"task": decision.task, "blocks": decision.blocks}
        if decision.instruction:
            fields["instruction"] = decision.instruction
        lines.append(json.dumps(fields, separators=(",", ":")))
    return "\n".join(lines) + "\n"
