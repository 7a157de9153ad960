"""`emu report`: one HTML file about a run, for people who would rather look."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import click

from emu import __version__
from emu.cli import completion, notes, options
from emu.cli.guest import MixedCommand
from emu.cli.run import die_at_once
from emu.cli.tracing import follow_option
from emu.core.errors import EmuError, UnsupportedError
from emu.core.events import EventBus
from emu.process import Process
from emu.process.hosting import opening

if TYPE_CHECKING:
    from emu.exploration.lanes import ScheduleLanes
    from emu.process import Result


@click.command("report", short_help="Write one HTML page about a run.", cls=MixedCommand)
@options.run_options
@click.option("-o", "--output", required=True, metavar="FILE", help="The HTML file to write.")
@click.option("--force", is_flag=True, help="Overwrite a file that is no emu report.")
@click.option(
    "--max-events", type=click.IntRange(1), default=100_000, show_default=True, metavar="N",
    help="List that many events in full, and of later ones some; the report says which are left out.",
)  # fmt: skip
@follow_option(
    "Which processes have a section: all that the program starts, too (default), none of those, or those that run a program of that name."
)
@click.argument("program", shell_complete=completion.files)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(
    program: str,
    arguments: tuple[str, ...],
    running: options.Running,
    output: str,
    force: bool,
    max_events: int,
    follow: str,
) -> int:
    """Run PROGRAM and write one HTML file about the run:
    findings of emu check, lives of objects, destructors, dependencies, memory, TLS, events.

    The file needs no network and nothing beside it, and takes the place of an earlier report when the run is
    over. The program's output is its own; its arguments go behind it, or behind -- if they read as options of
    emu report. The exit code is 0 if the report was written, however the program ended: the report says how.

    \b
    Examples:
      emu report ./host -o report.html
      emu report ./host -o report.html --load ./plugins/a.so
      emu report --schedule replay:host.schedule ./host -o found.html
      emu report --max-events 500000 ./host -o big.html
    """  # noqa: D205 - click shows it as written
    from emu.analysis.report_page import BEGINNING, page
    from emu.analysis.report_tree import TreeReport
    from emu.trace.output import check_output, write_output

    config = running.config(program, arguments, opening)
    bus = EventBus()
    die_at_once()
    check_output(output, (BEGINNING,), force=force, what="report")
    with running.scheduled(config) as scheduled:
        process = Process(scheduled, bus)
        report = TreeReport(process, max_events, follow, __version__)
        lanes: list[ScheduleLanes] = []
        try:
            result = report.run(partial(_follow_schedule, process, lanes))
            ended, failure = _ended(result), result.report
        except EmuError as error:
            if process.rtld is None or not process.rtld.started:
                raise
            ended = failure = str(error)
    if failure:
        print(failure, file=sys.stderr)
    data = report.data(ended)
    if lanes and lanes[0].lost:
        print(f"emu report: no lanes of threads: {lanes[0].lost}", file=sys.stderr)
        lanes.clear()
    data["schedule"] = lanes[0].data() if lanes else None
    write_output(output, page(data), "report")
    notes.written(output)
    return 0


def _follow_schedule(process: Process, lanes: list[ScheduleLanes]) -> None:
    """Look at the threads' steps of a run that goes by a schedule of somebody's, if its engine tells them."""
    from emu.kernel.run.policy import Replay

    if not isinstance(process.kernel.scheduler.policy, Replay):
        return
    from emu.exploration.lanes import ScheduleLanes

    with suppress(UnsupportedError):
        lanes.append(ScheduleLanes(process))


def _ended(result: Result) -> str:
    """Return how the program ended, in a few words."""
    if not result.signal:
        return f"exit code {result.status}"
    name = (
        signal.Signals(result.signal).name
        if result.signal in set(signal.Signals)
        else f"signal {result.signal}"
    )
    return f"killed by {name} (exit code {result.status})"
