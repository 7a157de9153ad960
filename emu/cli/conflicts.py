"""`emu conflicts`: run a program and list the names that its objects compete for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from emu.cli import completion, options
from emu.cli.findings import report_options
from emu.cli.guest import GuestCommand
from emu.cli.tracing import follow_option
from emu.core.events import EventBus
from emu.process import Process
from emu.process.hosting import needing

if TYPE_CHECKING:
    from emu.cli.findings import Writing


@click.command(
    "conflicts",
    short_help="List names that one object takes from another.",
    cls=GuestCommand,
)
@options.run_options
@report_options("ConflictReport", "The report of emu conflicts --json")
@follow_option(
    "Whose conflicts are listed: those of all that the program starts, too (default), of none of those, or of those that run a program of that name."
)
@click.argument("program", shell_complete=completion.files)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(
    program: str, arguments: tuple[str, ...], running: options.Running, follow: str, writing: Writing
) -> int:
    """Run PROGRAM and list its conflicts: a name that one object takes from another, a COPY that is
    by-passed, two allocators, a class twice.

    The most harmful come first. What is meant to be interposed is only counted, in the last line. The exit
    code is 1 if there are any, else PROGRAM's. Options after PROGRAM are PROGRAM's own.

    \b
    Examples:
      emu conflicts ./host plugin.so
      emu conflicts --env LD_PRELOAD=./trace.so ./host
      emu conflicts --json ./host
    """  # noqa: D205 - click shows it as written
    from emu.analysis.check_data import CONFLICT_RULES
    from emu.analysis.check_tree import TreeChecker
    from emu.analysis.conflicts import conflict_report, render

    bus = EventBus()
    with running.scheduled(writing.answering.config(running.config(program, arguments, needing))) as config:
        tree = TreeChecker(Process(config, bus), frozenset(CONFLICT_RULES), follow)
        report = conflict_report(tree.run(), tree.meant())
    every = running.fields["all_frames"]
    shown, count = writing.shown(report.findings)
    report = report.without(shown, count)
    return writing.write(report, lambda: render(report, every=every))
