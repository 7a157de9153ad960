"""`emu maps`: the guest's memory map after start-up."""

from __future__ import annotations

from typing import Any, Literal

import click

from emu.cli import completion, notes, options
from emu.cli.answers import Answering, answer_options
from emu.cli.guest import GuestCommand
from emu.core.events import EventBus
from emu.process import Process
from emu.process.hosting import needing


@click.command("maps", short_help="Show a program's memory after start-up.", cls=GuestCommand)
@options.loader_options
@options.limit_options
@answer_options("analysis.areas:MemoryMap", "The answer of emu maps --json", runs=False)
@click.argument("program", shell_complete=completion.files)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(
    program: str,
    arguments: tuple[str, ...],
    variables: dict[str, str],
    clean_env: bool,
    sysroot: str,
    limits: dict[str, Any],
    ldso: Literal["emu", "real"],
    answering: Answering,
) -> None:
    """Show PROGRAM's memory just before its first instruction: loaded, relocated and protected.

    The lines are range, permissions, offset in the file in bytes, and name, as in /proc/PID/maps. With
    `--ldso real` the program's own ld.so has run, and the constructors of the libraries.

    \b
    Examples:
      emu maps /bin/ls
      emu maps --json ./hello
    """
    from emu.analysis.areas import memory_map, render

    config = options.run_config(
        program, arguments, variables, clean_env, sysroot, hosted=needing, ldso=ldso, **limits
    )
    process = Process(config, EventBus())
    process.load()
    refusal = process.contract.refusal if process.contract is not None else None
    if refusal is None:
        process.start()
    else:
        notes.say(f"not relocated, so nothing of it is read-only yet: {refusal}")
    answer = memory_map(process)
    answering.write(answer, lambda: render(answer))
