"""The group of sub-commands: each is imported when it is used, has its defaults from outside, and a word that
is none is answered with what was meant.
"""

from __future__ import annotations

import gc
import os
from importlib import import_module
from typing import TYPE_CHECKING

import click

from emu.cli import defaults, notes
from emu.cli.guest import GuestCommand

if TYPE_CHECKING:
    from collections.abc import Iterable

COMMANDS = {
    "run": "run", "call": "call", "ldd": "ldd", "explain": "explain", "why": "why",
    "check": "check", "explore": "explore", "conflicts": "conflicts", "diff": "diff", "report": "report", "gdb": "gdb",
    "shell": "shell", "tour": "tour", "maps": "maps",
    "sysroot": "sysroot", "engines": "engines", "cache": "cache", "layout": "layout", "trace-schema": "trace_schema", "help": "help",
    "completion": "completion",
}  # fmt: skip
"""Each sub-command and its module in this package, in the order of `emu --help`."""


_COLLECT_AT = 20_000
"""Objects made since the last look for garbage, of which there is little: the usual 700 cost a start 5 ms."""


class LazyGroup(click.Group):
    """A group that imports a sub-command when it is used: `emu run` pays for no other."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, most used first."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the sub-command, None if there is none of that name. Raises ConfigError."""
        module = COMMANDS.get(cmd_name)
        if module is None:
            return None
        command: click.Command = import_module(f"emu.cli.{module}").command
        if isinstance(command, GuestCommand):
            notes.add_options(
                command,
                "Say what runs and what it costs, and of each thing that is not supported when it is asked for.",
            )
        if not gc.isenabled():  # the first that is asked for in this process
            gc.freeze()
            gc.set_threshold(_COLLECT_AT)
            gc.enable()
        names = {}
        for spelled, option in _options(command).items():
            option.envvar = defaults.variable(spelled)
            names[spelled] = str(option.name)
        given = defaults.read()
        if given.table:
            given.refuse_unknown(COMMANDS, names, _options_of_all)
            ctx.default_map = {**(ctx.default_map or {}), cmd_name: given.of(cmd_name, names)}
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the first word names.

        Raises UsageError, with what was meant if that can be guessed.
        """
        word = args[0]
        if word not in COMMANDS and not word.startswith("-"):
            raise click.UsageError(f"no command {word!r}{_meant(word)}", ctx)
        return super().resolve_command(ctx, args)


def _options(command: click.Command) -> dict[str, click.Option]:
    """Return the options of a command that may have a default from outside, by how they are written."""
    return {
        max(option.opts, key=len).lstrip("-"): option
        for option in command.params
        if isinstance(option, click.Option) and not option.is_eager and option.name is not None
    }


def _options_of_all() -> set[str]:
    """Return how the options of all commands are written."""
    modules = (import_module(f"emu.cli.{module}") for module in COMMANDS.values())
    return {spelled for module in modules for spelled in _options(module.command)}


def _meant(word: str) -> str:
    if "/" in word or os.path.exists(word):
        return f": to run a program say `emu run {word}'"
    return meant(word, COMMANDS)


def meant(word: str, known: Iterable[str]) -> str:
    """Return what to add to an error about a word that is none of the known ones:
    the nearest of them, if one is near.
    """
    from difflib import get_close_matches

    near = get_close_matches(word, list(known), n=1)
    return f": did you mean {near[0]!r}?" if near else ""
