"""`emu run`: run a program; the exit code is the guest's."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Literal

import click

from emu.cli import options, parameters
from emu.cli import schedule as schedules
from emu.core.events import CATEGORIES, EventBus
from emu.process import Process, RunConfig

if TYPE_CHECKING:
    from emu.trace.output import TraceWriter


@click.command("run", context_settings=options.GUEST_CONTEXT)
@options.guest_options
@click.option(
    "--trace", "categories", callback=parameters.categories, metavar="CATEGORIES",
    help=f"What to trace, comma-separated: {', '.join(CATEGORIES)}, or all.",
)  # fmt: skip
@click.option("--trace-output", metavar="FILE", help="Where the trace goes; standard error otherwise.")
@click.option(
    "--trace-format", type=click.Choice(["text", "jsonl"]), help="Text for people (default) or JSON Lines."
)
@click.option(
    "--schedule", callback=schedules.check, default="round-robin", metavar="POLICY",
    help="Which thread runs next: round-robin (default), random (by --seed), or replay:FILE.",
)  # fmt: skip
@click.option(
    "--record-schedule", metavar="FILE", help="Write the decisions about threads to FILE, for replay:FILE."
)
@click.option("--force", is_flag=True, help="Let --trace-output overwrite a file that is no trace.")
@click.option(
    "--seed", type=click.IntRange(0, (1 << 64) - 1), default=0, metavar="N",
    help="Seed of the guest's random bytes and of a random schedule (default 0).",
)  # fmt: skip
@click.option(
    "--writable", multiple=True, type=click.Path(exists=True, file_okay=False), metavar="DIR",
    help="Let writes under DIR through to the host; others vanish at exit. Repeatable.",
)  # fmt: skip
@click.option(
    "--max-memory", callback=parameters.size, metavar="SIZE",
    help="Limit of the guest's memory, as in 512M.",
)  # fmt: skip
@click.option(
    "--timeout", type=click.FloatRange(0, min_open=True), metavar="SECONDS",
    help="End the run with exit code 124 after that time.",
)  # fmt: skip
@click.option(
    "--tls-dtors", type=click.Choice(["model", "guest"]), default="model",
    help="Who runs thread_local destructors: emu's model (default) or libc's own code.",
)  # fmt: skip
@click.argument("program")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(
    program: str,
    arguments: tuple[str, ...],
    variables: dict[str, str],
    clean_env: bool,
    sysroot: str,
    categories: tuple[str, ...] | None,
    trace_output: str | None,
    trace_format: str | None,
    schedule: str,
    record_schedule: str | None,
    force: bool,
    seed: int,
    writable: tuple[str, ...],
    max_memory: int | None,
    timeout: float | None,
    tls_dtors: Literal["model", "guest"],
) -> int:
    """Run PROGRAM under emu; its exit code is emu's.

    Options after PROGRAM are PROGRAM's own. One killed by signal N ends with 128+N and a line that says what
    happened.

    \b
    Examples:
      emu run ./hello a b
      emu run --trace libs,bindings ./hello
      emu run --trace all --trace-format jsonl --trace-output t.jsonl ./hello
      emu run --clean-env --env LD_LIBRARY_PATH=./lib ./hello
      emu run --schedule random --seed 7 --record-schedule race.jsonl ./hello
      emu run --writable . --timeout 10 --max-memory 512M sort -o out in
    """
    if categories is None and (trace_output or trace_format or force):
        raise click.UsageError("--trace-output, --trace-format and --force need --trace")
    policy = schedules.make_policy(schedule, seed)
    env = options.environment(variables, clean_env)
    config = RunConfig(
        program=options.find_program(program, env.get("PATH", options.DEFAULT_PATH), sysroot),
        args=arguments,
        env=env,
        cwd=options.guest_directory(sysroot),
        sysroot=sysroot,
        seed=seed,
        writable=writable,
        max_memory=max_memory,
        timeout=timeout,
        tls_dtors=tls_dtors,
        argv0=program,
    )
    bus = EventBus()
    writer = _tracing(bus, categories, trace_output, trace_format or "text", force) if categories else None
    _die_at_once()
    try:
        with schedules.recorded(policy, record_schedule) as recorder:
            result = Process(config._replace(policy=recorder), bus).run()
    finally:
        if writer is not None:
            writer.flush()
    if result.report:
        print(result.report, file=sys.stderr)
    return result.status


def _die_at_once() -> None:
    """Let Ctrl-C end the process while it loads, as it would the guest; from the start on the guest gets it."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _tracing(
    bus: EventBus, categories: tuple[str, ...], path: str | None, form: str, force: bool
) -> TraceWriter:
    """Subscribe a writer to the categories and return it. Raises TraceError."""
    from emu.trace import text
    from emu.trace.output import TraceWriter, open_output

    render = text.render
    beginnings: tuple[str, ...] = (text.BEGINNING,)
    if form == "jsonl" or path is not None:
        from emu.trace import jsonl

        beginnings = (text.BEGINNING, jsonl.BEGINNING)
        render = jsonl.render if form == "jsonl" else text.render
    if path is None:
        if form == "text" and _colourful():
            render = text.render_coloured
        writer = TraceWriter(2, "standard error", render, buffered=False)
    else:
        writer = TraceWriter(open_output(path, beginnings, force=force), path, render, buffered=True)
        if form == "text":
            writer.line(text.BEGINNING)
        from emu.cli.last_words import flush_before_death

        flush_before_death(writer.flush)
    bus.subscribe(writer, categories)
    return writer


def _colourful() -> bool:
    """Whether standard error is a terminal that wants colour. Source: no-color.org."""
    return os.isatty(2) and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
