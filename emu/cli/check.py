"""`emu check`: run a program and report what goes wrong between threads, destructors and dlclose."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from emu.cli import completion, options
from emu.cli.findings import report_options
from emu.cli.guest import GuestCommand
from emu.cli.tracing import follow_option
from emu.core.events import EventBus
from emu.process import Process
from emu.process.hosting import opening

if TYPE_CHECKING:
    from emu.cli.findings import Writing


def _print_rules(ctx: click.Context, _param: click.Parameter, asked: bool) -> None:
    if asked:
        from emu.analysis.check_data import RULES

        for name, rule in RULES.items():
            off = "" if rule.default else "; only with --rule"
            print(f"{name:24} {rule.severity + off:26} {rule.about}")
        ctx.exit()


@click.command(
    "check",
    short_help="Find destructors and code that a dlclose breaks.",
    cls=GuestCommand,
)
@options.run_options
@click.option(
    "--rule",
    "only",
    multiple=True,
    metavar="RULE",
    shell_complete=completion.rules,
    help="Ask only this rule; repeatable.",
)
@click.option(
    "--no-rule",
    "without",
    multiple=True,
    metavar="RULE",
    shell_complete=completion.rules,
    help="Do not ask this rule; repeatable.",
)
@click.option(
    "--list-rules", is_flag=True, is_eager=True, expose_value=False, callback=_print_rules,
    help="Print the rules and stop.",
)  # fmt: skip
@report_options("Report", "The report of emu check --json")
@click.option(
    "--watch", is_flag=True,
    help="See each access to destroyed thread_locals and to data of finalised DSOs; the run is several times slower.",
)  # fmt: skip
@follow_option(
    "Which processes are checked: all that the program starts, too (default), none of those, or those that run a program of that name."
)
@click.argument("program", shell_complete=completion.files)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(
    program: str,
    arguments: tuple[str, ...],
    running: options.Running,
    only: tuple[str, ...],
    without: tuple[str, ...],
    watch: bool,
    follow: str,
    writing: Writing,
) -> int:
    """Run PROGRAM and report code used after its DSO was unloaded, destructors that
    never run, closes without effect, and more.

    The exit code is 1 if anything was found, else PROGRAM's. Options after PROGRAM are PROGRAM's own.

    \b
    Examples:
      emu check ./host plugin.so
      emu check --no-rule dlclose-no-effect ./host
      emu check --rule handle-leaked ./host
      emu check --watch ./host
      emu check --json=report.json ./host
      emu check --quiet-program --json ./host | jq .findings
      emu check --gen-suppressions=known.toml ./host
      emu check --suppressions known.toml ./host
    """  # noqa: D205 - click shows it as written
    from emu.analysis import check_text
    from emu.analysis.check import chosen_rules
    from emu.analysis.check_tree import TreeChecker

    try:
        rules = chosen_rules(only, without)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    bus = EventBus()
    with running.scheduled(writing.answering.config(running.config(program, arguments, opening))) as config:
        report = TreeChecker(Process(config, bus), rules, follow, watch=watch).run()
    every = running.fields["all_frames"]
    shown, count = writing.shown(report.findings)
    report = replace(report, findings=shown, suppressed=count)
    return writing.write(report, lambda: check_text.render(report, watched=watch, every=every))
