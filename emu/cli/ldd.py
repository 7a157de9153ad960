"""`emu ldd`: the load order of a program, who needed each object, and by which rule it was found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from emu.cli import completion, options
from emu.cli.answers import Answering, answer_options
from emu.cli.guest import MixedCommand
from emu.core.errors import EXIT_FINDINGS
from emu.core.events import EventBus, LibraryReused
from emu.core.text import aligned, printable
from emu.process import Process, RunConfig
from emu.process.execvp import DEFAULT_PATH, find_program

if TYPE_CHECKING:
    from emu.analysis.opens.listing import Listing


@click.command(
    "ldd",
    short_help="Show what a program loads, for whom, by which rule.",
    cls=MixedCommand,
)
@options.guest_options
@answer_options("analysis.opens.listing:Listing", "The answer of emu ldd --json", ("NAME  ",), runs=False)
@click.argument("program", shell_complete=completion.files)
def command(
    program: str, variables: dict[str, str], clean_env: bool, sysroot: str, answering: Answering
) -> int:
    """Show what PROGRAM, or a shared library, loads, in load order:
    name, path, who needed it, the rule that found it.

    Below the table: where each object that is missing was looked for, versions that an object lacks, and
    names for which something else was there already. Nothing of PROGRAM is executed; auditors (LD_AUDIT)
    are, since they have a say. The exit code is 1 when an object or a version is missing.

    \b
    Examples:
      emu ldd /bin/ls
      emu ldd --env LD_LIBRARY_PATH=./lib ./hello
      emu ldd ./libplugin.so
      emu ldd --json ./hello
    """
    from emu.analysis.opens import listing

    env = options.environment(variables, clean_env)
    config = RunConfig(
        program=find_program(program, env.get("PATH", DEFAULT_PATH), sysroot),
        args=(),
        env=env,
        cwd=options.guest_directory(sysroot),
        sysroot=sysroot,
        keep_going=True,
        argv0=program,
    )
    bus = EventBus()
    reused: list[LibraryReused] = []
    bus.subscribe(
        lambda record: reused.append(record.event) if isinstance(record.event, LibraryReused) else None,
        ("libs",),
    )
    process = Process(config, bus)
    process.load()
    rtld = process.rtld
    if rtld is not None and rtld.auditor_names is not None:
        process.start()  # auditors have a say in what is loaded
    answer = listing.listed(process, reused)
    answering.write(answer, lambda: _text(answer))
    return EXIT_FINDINGS if answer.missing or answer.missing_versions else 0


def _text(answer: Listing) -> str:
    from emu.analysis.opens.listing import lines

    if not answer.dynamic:
        return f"{printable(answer.program)}: statically linked\n"
    rows = [("NAME", "PATH", "NEEDED BY", "FOUND BY")]
    rows += [(o.name, o.path or "-", o.needed_by or "-", o.rule or "-") for o in answer.objects]
    rows += [(m.name, "not found", m.needed_by, "-") for m in answer.missing]
    return "".join(f"{line}\n" for line in (*aligned(rows), *lines(answer)))
