"""`emu maps`: the guest's memory map after start-up."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from emu.cli import options
from emu.core.events import EventBus
from emu.process import Process

if TYPE_CHECKING:
    from emu.machine.vma import Vma


@click.command(
    "maps", short_help="Show a program's memory after start-up.", context_settings=options.GUEST_CONTEXT
)
@options.guest_options
@click.option("--json", "as_json", is_flag=True, help="A JSON array instead of lines.")
@click.argument("program")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(
    program: str,
    arguments: tuple[str, ...],
    variables: dict[str, str],
    clean_env: bool,
    sysroot: str,
    as_json: bool,
) -> None:
    """Show PROGRAM's memory just before its first instruction: loaded, relocated and protected.

    The lines are range, permissions, offset in the file in bytes, and name, as in /proc/PID/maps.

    \b
    Examples:
      emu maps /bin/ls
      emu maps --json ./hello
    """
    config = options.run_config(program, arguments, variables, clean_env, sysroot)
    process = Process(config, EventBus())
    process.start()
    areas = list(process.space)
    if as_json:
        print(json.dumps([_as_json(area) for area in areas], indent=2))
        return
    for area in areas:
        line = f"{area.start:012x}-{area.end:012x} {_permissions(area)} {area.offset:08x} {area.name}"
        print(line.rstrip())


def _permissions(area: Vma) -> str:
    bits = "".join(letter if area.prot & bit else "-" for letter, bit in (("r", 1), ("w", 2), ("x", 4)))
    return bits + ("s" if area.shared else "p")


def _as_json(area: Vma) -> dict[str, str | int]:
    return {
        "start": hex(area.start),
        "end": hex(area.end),
        "permissions": _permissions(area),
        "offset": area.offset,
        "name": area.name,
    }
