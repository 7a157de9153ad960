"""`emu check`: run a program and report what goes wrong between threads, destructors and dlclose."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from emu.cli import options
from emu.core.errors import EXIT_FINDINGS
from emu.core.events import EventBus
from emu.process import Process

if TYPE_CHECKING:
    from emu.analysis.check_data import Report

_BEGINNINGS = ("emu check: ", "emu: ", '{\n  "program"')
"""Of its own reports, as text and as JSON: other files are not overwritten."""


def _print_schema(ctx: click.Context, _param: click.Parameter, asked: bool) -> None:
    if asked:
        from emu.analysis.check_data import Report
        from emu.analysis.data import schema

        print(json.dumps(schema(Report, "The report of emu check --json"), indent=2))
        ctx.exit()


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
    context_settings=options.GUEST_CONTEXT,
)
@options.run_options
@click.option("--rule", "only", multiple=True, metavar="RULE", help="Ask only this rule; repeatable.")
@click.option("--no-rule", "without", multiple=True, metavar="RULE", help="Do not ask this rule; repeatable.")
@click.option(
    "--list-rules", is_flag=True, is_eager=True, expose_value=False, callback=_print_rules,
    help="Print the rules and stop.",
)  # fmt: skip
@click.option(
    "--suppressions", multiple=True, metavar="FILE", help="Hide what FILE (TOML) names; repeatable."
)
@click.option(
    "--gen-suppressions", is_flag=True, help="Print suppressions for what was found, after the report."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@click.option(
    "--schema", is_flag=True, is_eager=True, expose_value=False, callback=_print_schema,
    help="Print the JSON Schema of --json and stop.",
)  # fmt: skip
@click.option(
    "--watch", is_flag=True,
    help="See each access to destroyed thread_locals and to data of finalised DSOs; the run is several times slower.",
)  # fmt: skip
@click.option("-o", "--output", metavar="FILE", help="Where the report goes; standard error otherwise.")
@click.option("--force", is_flag=True, help="Let --output overwrite a file that is no report.")
@click.argument("program")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(
    program: str,
    arguments: tuple[str, ...],
    running: options.Running,
    only: tuple[str, ...],
    without: tuple[str, ...],
    suppressions: tuple[str, ...],
    gen_suppressions: bool,
    as_json: bool,
    watch: bool,
    output: str | None,
    force: bool,
) -> int:
    """Run PROGRAM and report code used after its DSO was unloaded, destructors that never run, closes without effect, and more.

    The exit code is 1 if anything was found, else PROGRAM's. Options after PROGRAM are PROGRAM's own.

    \b
    Examples:
      emu check ./host plugin.so
      emu check --no-rule dlclose-no-effect ./host
      emu check --rule handle-leaked ./host
      emu check --watch ./host
      emu check --json --output report.json ./host
      emu check --gen-suppressions ./host 2> known.txt
      emu check --suppressions known.toml ./host
    """  # noqa: D205 - click shows it as written
    from emu.analysis import check_suppress
    from emu.analysis.check import Checker, chosen_rules
    from emu.trace.output import check_output, write_answer

    if output is not None:
        check_output(output, _BEGINNINGS, force=force, what="report")
    try:
        rules = chosen_rules(only, without)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    hidden = [entry for path in suppressions for entry in check_suppress.load(path)]
    bus = EventBus()
    with running.scheduled(running.config(program, arguments)) as config:
        report = Checker(Process(config, bus), bus, rules, watch=watch).run()
    shown, count = check_suppress.split(report.findings, hidden)
    report = replace(report, findings=tuple(shown), suppressed=count)
    text = _text(report, as_json=as_json, gen_suppressions=gen_suppressions, watched=watch)
    write_answer(output, text)
    return EXIT_FINDINGS if report.findings else report.exit_code


def _text(report: Report, *, as_json: bool, gen_suppressions: bool, watched: bool) -> str:
    from emu.analysis import check_text

    if as_json:
        from emu.analysis.data import as_json as convert

        text = json.dumps(convert(report), indent=2) + "\n"
    else:
        text = check_text.render(report, watched=watched)
    return text + (f"\n{check_text.suppressions(report.findings)}" if gen_suppressions else "")
