"""`emu diff`: the same program under several glibc's, or under emu's loader and its own ld.so."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Literal

import click

from emu.cli import completion, options, schedule
from emu.cli.answers import Answering, answer_options
from emu.cli.guest import MixedCommand
from emu.core.errors import EXIT_FINDINGS
from emu.process import named_sysroot

if TYPE_CHECKING:
    from emu.process import RunConfig


@click.command(
    "diff",
    short_help="Compare a program's runs under several glibc's, or loaders.",
    cls=MixedCommand,
)
@options.sides_options
@click.option(
    "--sysroot", "sysroots", multiple=True, metavar="DIR|NAME",
    callback=lambda _context, _parameter, words: tuple(map(named_sysroot, words)),
    help="The root directory of one side, or a name that `emu sysroot list` shows; repeatable. With fewer than two, the sides are two loaders: --ldso real.",
)  # fmt: skip
@click.option(
    "--ldso", "loader", type=click.Choice(["emu", "real"]),
    help="real: with several sysroots, each side's own ld.so links it; else emu's loader is compared with the program's own ld.so.",
)  # fmt: skip
@click.option(
    "--show", "shown", multiple=True, type=click.Path(exists=True, file_okay=False), metavar="DIR",
    help="Show a directory of the host at its own path in every sysroot, as the working directory is; repeatable.",
)  # fmt: skip
@answer_options("analysis.diff_data:Diff", "The answer of emu diff --json", ("emu diff: ",), runs=False)
@click.argument("program", shell_complete=completion.files)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(
    program: str,
    arguments: tuple[str, ...],
    running: options.Running,
    sysroots: tuple[str, ...],
    loader: Literal["emu", "real"] | None,
    shown: tuple[str, ...],
    answering: Answering,
) -> int:
    """Run PROGRAM on each side and tell where the runs first differ:
    in output, load order, bindings, constructors, destructors, unloads, TLS, findings.

    Each difference comes with the rule of glibc that changed, which is tried: with that rule alone changed,
    the first side does as the other. Sides are sysroots (the same program under several glibc's), or emu's
    loader and the program's own ld.so. The first is compared with each other.

    The program's output is captured; its standard input is read once and given to every side.
    The exit code is 0 if all sides do the same, 1 if one differs, 125 and above if one cannot be run.

    \b
    Examples:
      emu diff ./host --sysroot debian:12 --sysroot debian:13 plugin.so
      emu diff ./host --ldso real
      emu diff ./host --ldso real --sysroot ./a --sysroot ./b
      emu diff --json=diff.json ./host --ldso real
      emu diff --schema
    """  # noqa: D205 - click shows it as written
    if len(sysroots) < 2 and loader != "real":
        raise click.UsageError("nothing to compare with: give two --sysroot, or --ldso real")
    from emu.analysis.diff import Ways, diff
    from emu.analysis.diff_text import render

    sides = _sides(sysroots, loader)
    configs = [_config(running, program, arguments, side, shown) for side in sides]
    policy = partial(schedule.make_policy, running.schedule, running.fields["seed"], running.preempt)
    answer = diff(Ways(configs, [_name(side, sides) for side in sides], _standard_input(), policy))
    answering.write(answer, lambda: render(answer))
    return EXIT_FINDINGS if any(comparison.differences for comparison in answer.comparisons) else 0


def _sides(sysroots: tuple[str, ...], loader: str | None) -> list[tuple[str, str]]:
    """Return the sysroot and the loader of each side."""
    if len(sysroots) < 2:
        (root,) = sysroots or ("/",)
        return [(root, "emu"), (root, "real")]
    return [(root, loader or "emu") for root in sysroots]


def _config(
    running: options.Running,
    program: str,
    arguments: tuple[str, ...],
    side: tuple[str, str],
    shown: tuple[str, ...],
) -> RunConfig:
    """Return the run of one side. Another root sees the working directory where it is here."""
    sysroot, loader = side
    fields = running.fields | {"sysroot": sysroot, "ldso": loader}
    config = running._replace(fields=fields).config(program, arguments)
    if os.path.realpath(sysroot) == "/":
        return config
    here = os.getcwd()
    inside = config.cwd != "/" or here == os.path.realpath(sysroot)
    return config._replace(shown=shown) if inside else config._replace(shown=(here, *shown), cwd=here)


def _name(side: tuple[str, str], sides: list[tuple[str, str]]) -> str:
    """Name a side by what tells it from the others."""
    sysroot, loader = side
    if len({root for root, _ in sides}) > 1:
        return sysroot
    return "emu's loader" if loader == "emu" else "its own ld.so"


def _standard_input() -> bytes:
    """Read what all sides get; a terminal has nothing for them."""
    return b"" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read()
