"""`emu why`: why a library stays loaded, and what would let it go."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import click

from emu.cli import options
from emu.cli.run import die_at_once
from emu.core.errors import EXIT_FINDINGS, EmuError
from emu.core.events import EventBus
from emu.process import Process

if TYPE_CHECKING:
    from emu.analysis.why_data import WhyAnswer

_BEGINNINGS = ("emu why: ", '{\n  "program"')


def _print_schema(ctx: click.Context, _param: click.Parameter, asked: bool) -> None:
    if asked:
        from emu.analysis.data import schema
        from emu.analysis.why_data import WhyAnswer

        print(json.dumps(schema(WhyAnswer, "The answer of emu why --json"), indent=2))
        ctx.exit()


@click.command("why", short_help="Tell why dlclose leaves a library loaded.", cls=options.SeparatedCommand)
@options.trace_options
@options.run_options
@click.option("-o", "--output", metavar="FILE", help="Where the answer goes; standard error otherwise.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@click.option(
    "--schema", is_flag=True, is_eager=True, expose_value=False, callback=_print_schema,
    help="Print the JSON Schema of --json and stop.",
)  # fmt: skip
@click.option("--last", "which", flag_value="last", help="Only the last moment of each generation.")
@click.option(
    "--all", "which", flag_value="all",
    help="Every moment; without it, a dlclose of another object that neither takes it along nor brings a new reason is left out.",
)  # fmt: skip
@click.argument("program")
@click.argument("library")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(
    program: str,
    library: str,
    arguments: tuple[str, ...],
    running: options.Running,
    tracing: options.Tracing,
    output: str | None,
    as_json: bool,
    which: str | None,
) -> int:
    """Run PROGRAM and tell why LIBRARY (soname, file name or path) stays loaded: at each dlclose of it, at others that collect, and at the end.

    Each reason comes with who, where and since when, and each moment with the shortest list of changes that would let LIBRARY go. The program's
    output is its own; the answer follows it on standard error. Arguments of PROGRAM go behind --.
    The exit code is 0 if LIBRARY was gone at the end or at its last dlclose, 1 if it stayed or was never there, 2 for a wrong command line.

    \b
    Examples:
      emu why ./host libplugin.so
      emu why ./host ./plugins/a.so --last -- --load ./plugins/a.so
      emu why --tls-dtors guest --json -o why.json ./host liba.so
      emu why --schema
    """  # noqa: D205 - click shows it as written
    if arguments and not click.get_current_context().meta[options.SEPARATED]:
        raise click.UsageError(f"arguments of the program go behind `--': {arguments[0]!r}")
    from emu.analysis.why import Why, only
    from emu.trace.output import check_output, write_answer

    config = running.config(program, arguments)
    bus = EventBus()
    die_at_once()
    if output is not None:
        check_output(output, _BEGINNINGS, force=tracing.force, what="answer")
    with tracing.attached(bus), running.scheduled(config) as scheduled:
        process = Process(scheduled, bus)
        why = Why(process, library)
        failure = ""
        try:
            result = process.run()
            ended, failure = f"exit code {result.status}", result.report
        except EmuError as error:
            if process.rtld is None or not process.rtld.started:
                raise
            ended = failure = str(error)
    if failure:
        print(failure, file=sys.stderr)
    answer = only(why.answer(ended), which)
    write_answer(output, _text(answer, as_json, output))
    return EXIT_FINDINGS if answer.stayed else 0


def _text(answer: WhyAnswer, as_json: bool, output: str | None) -> str:
    if as_json:
        from emu.analysis.data import as_json as convert

        return json.dumps(convert(answer), indent=2) + "\n"
    from emu.analysis.why_text import render

    return render(
        answer, folder=os.getcwd(), colour=output is None and os.isatty(2) and options.wants_colour()
    )
