"""`emu report`: one HTML file about a run, for people who would rather look."""

from __future__ import annotations

import sys

import click

from emu.cli import options
from emu.cli.run import die_at_once
from emu.core.errors import EmuError
from emu.core.events import EventBus
from emu.process import Process


@click.command("report", short_help="Write one HTML page about a run.", cls=options.SeparatedCommand)
@options.run_options
@click.option("-o", "--output", required=True, metavar="FILE", help="The HTML file to write.")
@click.option("--force", is_flag=True, help="Overwrite a file that is no emu report.")
@click.option(
    "--max-events", type=click.IntRange(1), default=100_000, show_default=True, metavar="N",
    help="List that many events in full, and of later ones some; the report says which are left out.",
)  # fmt: skip
@click.argument("program")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(
    program: str,
    arguments: tuple[str, ...],
    running: options.Running,
    output: str,
    force: bool,
    max_events: int,
) -> int:
    """Run PROGRAM and write one HTML file about the run: findings of emu check, lives of objects, destructors, dependencies, memory, TLS, events.

    The file needs no network and nothing beside it, and takes the place of an earlier report when the run is over. The program's output is its
    own; its arguments go behind --. The exit code is 0 if the report was written, however the program ended: the report says how.

    \b
    Examples:
      emu report ./host -o report.html
      emu report ./host -o report.html -- --load ./plugins/a.so
      emu report --max-events 500000 ./host -o big.html
    """  # noqa: D205 - click shows it as written
    if arguments and not click.get_current_context().meta[options.SEPARATED]:
        raise click.UsageError(f"arguments of the program go behind `--': {arguments[0]!r}")
    from emu.analysis.report import Report
    from emu.analysis.report_page import BEGINNING, page
    from emu.trace.output import check_output, write_output

    config = running.config(program, arguments)
    bus = EventBus()
    die_at_once()
    check_output(output, (BEGINNING,), force=force, what="report")
    with running.scheduled(config) as scheduled:
        process = Process(scheduled, bus)
        report = Report(process, max_events)
        try:
            result = report.run()
            ended, failure = f"exit code {result.status}", result.report
        except EmuError as error:
            if process.rtld is None or not process.rtld.started:
                raise
            ended = failure = str(error)
    if failure:
        print(failure, file=sys.stderr)
    write_output(output, page(report.data(ended)), "report")
    return 0
