"""`emu why`: why a library stays loaded, and what would let it go."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import click

from emu.cli import completion, options
from emu.cli import tracing as traces
from emu.cli.answers import Answering, answer_options
from emu.cli.guest import MixedCommand
from emu.cli.run import die_at_once
from emu.core.errors import EXIT_FINDINGS, EmuError
from emu.core.events import EventBus
from emu.process import Process
from emu.process.hosting import opening

if TYPE_CHECKING:
    from emu.analysis.why_data import WhyAnswer
    from emu.process import RunConfig

_PATIENCE = 3.0
"""Seconds after which a person is told how far the trying is."""


@click.command(
    "why",
    short_help="Tell why a library cannot be opened, or stays after dlclose.",
    cls=MixedCommand,
)
@traces.trace_options
@options.run_options
@answer_options("analysis.why_data:WhyAnswer", "The answer of emu why --json", ("emu why: ",), forces=False)
@click.option("--last", "which", flag_value="last", help="Only the last moment of each generation.")
@click.option(
    "--all", "which", flag_value="all",
    help="Every moment; without it, a dlclose of another object that neither takes it along nor brings a new reason is left out.",
)  # fmt: skip
@click.option(
    "--try/--no-try", "again", default=True,
    help="Run PROGRAM again with each remedy of an open that failed, silently and up to that open; without it they are only looked up.",
)  # fmt: skip
@click.argument("program", shell_complete=completion.files)
@click.argument("library", shell_complete=completion.files)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(
    program: str,
    library: str,
    arguments: tuple[str, ...],
    running: options.Running,
    tracing: traces.Tracing,
    answering: Answering,
    which: str | None,
    again: bool,
) -> int:
    """Run PROGRAM and tell why LIBRARY (soname, file name or path) could not be opened, or stays loaded.

    Of each dlopen, dlmopen or start-up that failed because of LIBRARY: what was searched and passed over, and
    what would make it work. Of a LIBRARY that was opened: what keeps it, at each dlclose of it, at others
    that collect, and at the end.

    Each reason comes with who, where and since when, and each moment with the shortest list of changes that
    would let LIBRARY go. Of the processes that PROGRAM starts, the answer is about the first that has
    LIBRARY; remedies of an open in a child are only looked up. The program's output is its own; the answer
    follows it on standard error. Behind LIBRARY come PROGRAM's arguments, behind -- if they read as options
    of emu why. The exit code is 0 if LIBRARY was gone at the end or at its last dlclose, 1 if it stayed or
    was never there, 2 for a wrong command line.

    \b
    Examples:
      emu why ./host libplugin.so
      emu why ./host ./plugins/a.so --last --load ./plugins/a.so
      emu why ./host plugin --quiet-program --json | jq .generations
      emu why --tls-dtors guest --json=why.json ./host liba.so
      emu why --schema
    """  # noqa: D205 - click shows it as written
    from emu.analysis.why import only
    from emu.analysis.why_text import render
    from emu.analysis.why_tree import TreeWhy
    from emu.kernel.abi import signal_name

    config = answering.config(running.config(program, arguments, opening))
    bus = EventBus()
    die_at_once()
    with tracing.attached(bus), running.scheduled(config) as scheduled:
        process = Process(scheduled, bus)
        why = TreeWhy(process, library, tracing.follow)
        failure = ""
        try:
            result = process.run()
            ended, failure = f"exit code {result.status}", result.report
            if result.signal:
                ended += f", {signal_name(result.signal)}"
        except EmuError as error:
            opens = why.first.opens
            opens.start_up(error)
            if process.rtld is None or not (process.rtld.started or opens.failures):
                raise
            failure = str(error)
            first = failure.partition("\n")[0].removeprefix(f"{config.program}: ")
            ended = first if process.rtld.started else f"exit code {error.exit_code}"
    if failure:
        print(failure, file=sys.stderr)
    answer = only(why.answer(ended), which)
    if again and answer.failures and not answer.process:
        answer = _tried(answer, config)
    every = running.fields["all_frames"]
    answering.write(answer, lambda: render(answer, folder=os.getcwd(), colour=answering.colour, every=every))
    return EXIT_FINDINGS if answer.stayed or not answer.opened else 0


def _tried(answer: WhyAnswer, config: RunConfig) -> WhyAnswer:
    """Return the answer with what became of each remedy; a person at a terminal sees how far that is."""
    from dataclasses import replace

    from emu.analysis.opens.trial import try_cures

    began, shown = time.monotonic(), False

    def on_step(at: int, of: int) -> None:
        nonlocal shown
        if os.isatty(2) and time.monotonic() - began > _PATIENCE:
            shown = True
            print(f"\remu why: trying remedy {at + 1} of {of}\x1b[K", end="", file=sys.stderr, flush=True)

    failures = tuple(try_cures(config, one, on_step) for one in answer.failures)
    if shown:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    return replace(answer, failures=failures)
