"""`emu run`: run a program; the exit code is the guest's."""

from __future__ import annotations

import sys
from typing import Literal

import click

from emu.cli import options, parameters
from emu.cli import schedule as schedules
from emu.core.events import EventBus
from emu.kernel.clock import EPOCH_NS
from emu.process import Process, RunConfig


@click.command("run", context_settings=options.GUEST_CONTEXT)
@options.guest_options
@options.trace_options
@click.option(
    "--schedule", callback=schedules.check, default="round-robin", metavar="POLICY",
    help="Which thread runs next: round-robin (default), random (by --seed), or replay:FILE.",
)  # fmt: skip
@click.option(
    "--record-schedule", metavar="FILE", help="Write the decisions about threads to FILE, for replay:FILE."
)
@click.option(
    "--seed", type=click.IntRange(0, (1 << 64) - 1), default=0, metavar="N",
    help="Seed of the guest's random bytes and of a random schedule (default 0).",
)  # fmt: skip
@click.option(
    "--time", "start_time", callback=parameters.start_time, default=str(EPOCH_NS // 10**9), metavar="now|SECONDS",
    help="The guest's time at the start, in seconds since 1970 (default: 2024-01-01, so that runs are alike).",
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
@click.option(
    "--unload-rule", type=click.Choice(["dtor-count", "nodelete-flag"]), default="dtor-count",
    help="What keeps a DSO with pending thread_local destructors: their count, as in glibc 2.23 and later (default), or NODELETE, as in 2.18 to 2.22.",
)  # fmt: skip
@click.argument("program")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(
    program: str,
    arguments: tuple[str, ...],
    variables: dict[str, str],
    clean_env: bool,
    sysroot: str,
    tracing: options.Tracing,
    schedule: str,
    record_schedule: str | None,
    seed: int,
    start_time: int,
    writable: tuple[str, ...],
    max_memory: int | None,
    timeout: float | None,
    tls_dtors: Literal["model", "guest"],
    unload_rule: Literal["dtor-count", "nodelete-flag"],
) -> int:
    """Run PROGRAM under emu; its exit code is emu's.

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
    if unload_rule == "nodelete-flag" and tls_dtors == "guest":
        raise click.UsageError(
            "--unload-rule nodelete-flag is not what the guest's libc does: it needs --tls-dtors model"
        )
    policy = schedules.make_policy(schedule, seed)
    env = options.environment(variables, clean_env)
    config = RunConfig(
        program=options.find_program(program, env.get("PATH", options.DEFAULT_PATH), sysroot),
        args=arguments,
        env=env,
        cwd=options.guest_directory(sysroot),
        sysroot=sysroot,
        seed=seed,
        start_time=start_time,
        writable=writable,
        max_memory=max_memory,
        timeout=timeout,
        tls_dtors=tls_dtors,
        unload_rule=unload_rule,
        argv0=program,
    )
    bus = EventBus()
    _die_at_once()
    with tracing.attached(bus), schedules.recorded(policy, record_schedule) as recorder:
        result = Process(config._replace(policy=recorder), bus).run()
    if result.report:
        print(result.report, file=sys.stderr)
    return result.status


def _die_at_once() -> None:
    """Let Ctrl-C end the process while it loads, as it would the guest; from the start on the guest gets it."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)
