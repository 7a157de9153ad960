"""`emu run`: run a program; the exit code is the guest's."""

from __future__ import annotations

import signal
import sys

import click

from emu.cli import completion, ldso, options, parameters
from emu.cli import tracing as traces
from emu.cli.guest import GuestCommand
from emu.core.events import EventBus
from emu.process import Process


@click.command("run", short_help="Run a program; trace what the linker does.", cls=GuestCommand)
@traces.trace_options
@options.run_loader_options
@click.option(
    "--gdb",
    "gdb_address",
    metavar="[HOST:]PORT|unix:PATH|-",
    help="Wait for a debugger there before the first instruction: see `emu help gdb`. HOST is the loopback interface unless it is given.",
)
@parameters.history_option("With --gdb: how much memory the past may take, to go back to (default 512M).")
@click.argument("program", shell_complete=completion.files)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(
    program: str,
    arguments: tuple[str, ...],
    running: options.Running,
    tracing: traces.Tracing,
    gdb_address: str | None,
    history: int | None,
) -> int:
    """Run PROGRAM; emu ends with its exit code.

    Options after PROGRAM are PROGRAM's own. One killed by signal N ends with 128+N and a line that says what
    happened.

    \b
    Examples:
      emu run ./hello a b
      emu run --trace libs,bindings ./hello
      emu run --trace bindings:malloc,dl:libfoo.so ./hello
      emu run --trace dl,dtors ./host
      emu run --trace all --trace-format jsonl --trace-output t.jsonl ./hello
      emu run --clean-env --env LD_LIBRARY_PATH=./lib ./hello
      emu run --schedule random --seed 7 --record-schedule race.jsonl ./hello
      emu run --ldso real --trace libs,dl ./hello
      emu run --gdb 1234 ./hello          then: gdb -ex 'target remote :1234'
      emu run --writable . --timeout 10 --max-memory 512M sort -o out in
    """
    config = running.config(program, arguments)
    if running.fields["ldso"] == "real":
        tracing = ldso.visible(tracing)
    if gdb_address is not None:
        from emu.cli.gdb import serve_run
        from emu.gdb.target import HISTORY

        if tracing.asked.categories:
            raise click.UsageError(
                "--trace and --gdb do not go together: a run that goes back has no one trace; `monitor events` lists what has happened"
            )
        return serve_run(gdb_address, config, running, HISTORY if history is None else history)
    if history is not None:
        raise click.UsageError("--history needs --gdb")
    bus = EventBus()
    die_at_once()
    with tracing.attached(bus), running.scheduled(config) as scheduled:
        result = Process(scheduled, bus).run()
    if result.report and result.signal != signal.SIGPIPE:  # as with `| head`; no shell says a word about it
        print(result.report, file=sys.stderr)
    return result.status


def die_at_once() -> None:
    """Let Ctrl-C end the process while it loads, as it would the guest;
    from the start on the guest gets it.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
