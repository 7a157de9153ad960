"""`emu explore`: search for the schedule of a program's threads that breaks it."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import click

from emu.cli import completion, findings, notes, options
from emu.cli.answers import Answering, answer_options
from emu.cli.gathered import gathered
from emu.cli.guest import GuestCommand
from emu.core.errors import EXIT_FINDINGS
from emu.core.record import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from emu.exploration.search import Bound, Progress

_BOUNDS = ("preemptions", "depth", "time", "runs")
_MOST = 1 << 40


def _bound(_ctx: click.Context, _param: click.Parameter, words: tuple[str, ...]) -> Bound:
    from emu.exploration.search import Bound

    given: dict[str, float] = {}
    for word in ",".join(words).split(",") if words else ():
        name, equals, value = word.partition("=")
        if name not in _BOUNDS or not equals:
            raise click.BadParameter(f"{word!r} is no bound: choose from {'=N, '.join(_BOUNDS)}=N")
        try:
            number = float(value) if name == "time" else int(value)
        except ValueError:
            number = -1
        least = 0 if name == "preemptions" else 1e-3 if name == "time" else 1
        if not least <= number < _MOST:
            raise click.BadParameter(f"{word!r}: {value!r} is no number that can bound anything")
        given[name] = number
    return Bound(**given)  # type: ignore[arg-type]


def _executor(_ctx: click.Context, _param: click.Parameter, word: str | None) -> str | None:
    from emu.exploration.cluster import is_address

    if word is not None and not is_address(word):
        raise click.BadParameter(f"{word!r} is no dask://HOST:PORT")
    return word


class _Wanted(NamedTuple):
    """Which search is made: what counts as a failure, how far it goes, who makes the runs, where they go."""

    strategy: str
    bound: Bound
    same_output: bool
    races: bool
    no_check: bool
    keep_going: bool
    jobs: int
    executor: str | None
    schedule_output: str | None
    state: str | None
    suppressions: tuple[str, ...]
    gen_suppressions: str | None


@click.command(
    "explore",
    short_help="Search for the schedule of threads that breaks a program.",
    cls=GuestCommand,
)
@options.search_options
@click.option(
    "--strategy", type=click.Choice(["dpor", "pct", "random", "exhaustive"]), default="dpor", show_default=True,
    help="dpor: each order of what the threads share once. exhaustive: each order at all. pct, random: by --seed, until a bound.",
)  # fmt: skip
@click.option(
    "--bound", "bound", multiple=True, callback=_bound, metavar="NAME=N",
    help="Where to end, repeatable: runs=N, time=SECONDS; preemptions=N a run; depth=N: switches only in the first N steps (for pct: how many "
    "orderings a failure needs, 3).",
)  # fmt: skip
@click.option("--same-output", is_flag=True, help="Output unlike the first run's is a failure, too.")
@click.option(
    "--races",
    is_flag=True,
    help="A data race is a failure, too: each access to memory is looked at, which takes 5 to 20 times as long.",
)
@click.option("--no-check", is_flag=True, help="Do not ask the rules of emu check: faster.")
@click.option("--keep-going", is_flag=True, help="Search on after a failure, for others.")
@click.option(
    "--jobs",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    metavar="N",
    help="Processes that make runs.",
)
@click.option(
    "--executor", callback=_executor, metavar="dask://HOST:PORT",
    help="Let the workers of a dask.distributed cluster make the runs; it needs emu-ldso[cluster].",
)  # fmt: skip
@click.option(
    "--schedule-output", metavar="FILE",
    help="Where the schedule of a failure goes, for --schedule replay:FILE; PROGRAM's name with .schedule otherwise (- is nowhere).",
)  # fmt: skip
@findings.suppression_options
@click.option(
    "--state", metavar="FILE",
    help="Keep each run in FILE: the same search, also with other bounds, goes on from there, whatever ended it.",
)  # fmt: skip
@answer_options(
    "exploration.answer:Exploration", "The answer of emu explore --json", ("emu explore: ",), runs=False
)
@click.argument("program", shell_complete=completion.files)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@gathered(_Wanted, "wanted")
def command(
    program: str,
    arguments: tuple[str, ...],
    running: options.Running,
    wanted: _Wanted,
    answering: Answering,
) -> int:
    """Run PROGRAM again and again from where its threads begin, each time in another
    order, until it fails or every order was tried.

    A failure is a death by a signal, a deadlock, an exit code, what `emu check` finds, and other output with
    --same-output. It is made short, told, and written as a schedule that other commands replay. PROGRAM's
    output is taken in, its standard input is empty. The exit code is 1 if a failure was found.

    \b
    Examples:
      emu explore ./host plugin.so
      emu explore --bound preemptions=2 --bound time=60 ./host
      emu explore --strategy pct --bound runs=1000 --jobs 2 ./server
      emu explore --races ./host
      emu explore --races --keep-going --gen-suppressions=known.toml ./host
      emu explore --races --suppressions known.toml ./host
      emu explore --state search.state --bound time=3600 ./server
      emu explore --executor dask://10.0.0.5:8786 --jobs 16 ./server
      emu explore --same-output --keep-going ./counter
      emu run --schedule replay:host.schedule ./host plugin.so
    """  # noqa: D205 - click shows it as written
    from emu.exploration.answer import render
    from emu.exploration.cluster import Cluster
    from emu.exploration.data import ExploredProgram
    from emu.exploration.explore import Plan, explore
    from emu.exploration.search import Strategy

    strategy, bound, state = wanted.strategy, wanted.bound, wanted.state
    if strategy in ("pct", "random") and bound.runs is None and bound.time is None:
        raise click.UsageError(
            f"--strategy {strategy} has no end of its own: say --bound runs=N or time=SECONDS"
        )
    write = _schedule_writer(program, wanted.schedule_output, answering.force)
    config = running.config(program, arguments)
    hidden = tuple(findings.loaded(wanted.suppressions, wanted.gen_suppressions, answering))
    explored = ExploredProgram(config, same_output=wanted.same_output, races=wanted.races, hidden=hidden)
    if wanted.no_check:
        explored = explored._replace(rules=frozenset())
    with _progress() as tell:
        chosen = Strategy(strategy, running.fields["seed"], bound.depth or 3)
        connect = partial(Cluster, wanted.executor) if wanted.executor is not None else None
        plan = Plan(
            chosen, bound, wanted.keep_going, wanted.jobs, connect, tell, state, partial(_say_resumed, state)
        )
        answer = explore(explored, plan, write)
    known = "".join(dict.fromkeys(failure.suppression for failure in answer.failures))
    behind = f"\n{known}" * (wanted.gen_suppressions == "")
    answering.write(answer, lambda: render(answer, shlex.join([program, *arguments])) + behind)
    findings.write_suppressions(wanted.gen_suppressions, known)
    return EXIT_FINDINGS if answer.failures else 0


def _schedule_writer(program: str, path: str | None, force: bool) -> Callable[[int, str], str]:
    """Return what writes the schedule of a failure. Raises TraceError for a file that is something else."""
    from emu.kernel.run.policy import BEGINNING
    from emu.trace.output import check_output, write_output

    base = path if path is not None else f"{os.path.basename(program)}.schedule"
    if base == "-":
        return lambda number, text: ""
    check_output(base, (BEGINNING,), force=force, what="schedule")

    def write(number: int, text: str) -> str:
        stem, dot, extension = base.rpartition(".")
        name = (
            base if not number else f"{stem}-{number + 1}{dot}{extension}" if dot else f"{base}-{number + 1}"
        )
        check_output(name, (BEGINNING,), force=force, what="schedule")
        write_output(name, text, "schedule")
        notes.written(name)
        return name

    return write


def _say_resumed(path: str | None, runs: int, variables: list[str]) -> None:
    notes.say(f"{path} has {runs} run{'s' * (runs != 1)} already, which are not made again")
    if variables:
        notes.say(f"the environment is that of {path}, which differs in {', '.join(variables)}")


@contextmanager
def _progress() -> Iterator[Callable[[Progress], None]]:
    """Show progress on a terminal; elsewhere nothing."""
    if not sys.stderr.isatty():
        yield lambda progress: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        shown = bar.add_task("looking for the first thread")

        def tell(progress: Progress) -> None:
            elapsed = bar.tasks[0].elapsed or 0
            rate = f", {progress.made / elapsed:.0f} a second" if elapsed > 1 else ""
            left = f", {progress.left} known to be left" if progress.left is not None else ""
            bar.update(shown, description=f"{progress.made} runs{rate}, {progress.found} failures{left}")

        yield tell
