"""`emu run`: run a program; the exit code is the guest's."""

from __future__ import annotations

import signal
import sys

import click

from emu.cli import options
from emu.core.events import EventBus
from emu.process import Process


@click.command(
    "run", short_help="Run a program; trace what the linker does.", context_settings=options.GUEST_CONTEXT
)
@options.trace_options
@options.run_options
@click.argument("program")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(
    program: str,
    arguments: tuple[str, ...],
    running: options.Running,
    tracing: options.Tracing,
) -> int:
    """Run PROGRAM; emu ends with its exit code.

    Options after PROGRAM are PROGRAM's own. One killed by signal N ends with 128+N and a line that says what
    happened.

    \b
    Examples:
      emu run ./hello a b
      emu run --trace libs,bindings ./hello
      emu run --trace dl,dtors ./host
      emu run --trace all --trace-format jsonl --trace-output t.jsonl ./hello
      emu run --clean-env --env LD_LIBRARY_PATH=./lib ./hello
      emu run --schedule random --seed 7 --record-schedule race.jsonl ./hello
      emu run --writable . --timeout 10 --max-memory 512M sort -o out in
    """
    config = running.config(program, arguments)
    bus = EventBus()
    die_at_once()
    with tracing.attached(bus), running.scheduled(config) as scheduled:
        result = Process(scheduled, bus).run()
    if result.report and result.signal != signal.SIGPIPE:  # as with `| head`; no shell says a word about it
        print(result.report, file=sys.stderr)
    return result.status


def die_at_once() -> None:
    """Let Ctrl-C end the process while it loads, as it would the guest; from the start on the guest gets it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
