"""The group of sub-commands, and how every error ends: one line and an exit code, never a traceback."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import NoReturn

import click

from emu import __version__
from emu.cli import streams
from emu.core.errors import EXIT_USAGE, EmuError, LinkError

EXIT_SIGINT = 128 + 2

COMMANDS = {
    "run": "run", "call": "call", "ldd": "ldd", "explain": "explain", "why": "why",
    "check": "check", "report": "report", "shell": "shell", "tour": "tour", "maps": "maps", "trace-schema": "trace_schema",
}  # fmt: skip
"""Each sub-command and its module in this package, in the order of `emu --help`."""


class LazyGroup(click.Group):
    """A group that imports a sub-command when it is used: `emu run` pays for no other."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, most used first."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the sub-command, None if there is none of that name."""
        module = COMMANDS.get(cmd_name)
        if module is None:
            return None
        command: click.Command = import_module(f"emu.cli.{module}").command
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="emu", message="%(prog)s %(version)s")
def group() -> None:
    """Run and question x86-64 ELF programs under a dynamic linker that you can read.

    \b
    Examples:
      emu run ./hello                    run a program
      emu run --trace dtors ./hello      watch its thread_local destructors
      emu call libm.so.6 abs -5          call one function of a library
      emu ldd ./hello                    what it loads, for whom, and by which rule
      emu explain ./hello printf         why a symbol binds where it does
      emu why ./host libplugin.so        why dlclose leaves it loaded
      emu check ./host                   destructors that never run, code used after dlclose, and more
      emu report ./host -o report.html   the whole run as a page to look at
      emu maps /bin/ls                   its memory after start-up
      emu shell ./hello                  a Python prompt with the process in it
      emu tour                           lessons about how all this works
    """


def error_line(error: EmuError) -> str:
    """Return what the user reads: a loader error as ld.so prints it, the rest under the command's name."""
    return str(error) if isinstance(error, LinkError) else f"emu: {error}"


def _dispatch(arguments: list[str]) -> int:
    try:
        result = group.main(arguments, prog_name="emu", standalone_mode=False)
        sys.stdout.flush()
    except EmuError as error:
        if isinstance(error, streams.StreamError):
            streams.abandon(error.number)
        _say(error_line(error) if str(error) else "")
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        _say(error.format_message())
        return EXIT_USAGE
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "emu"
        _say(f"emu: {error.format_message()} (try '{where} --help')")
        return EXIT_USAGE
    except click.ClickException as error:
        _say(f"emu: {error.format_message()}")
        return EXIT_USAGE
    except (KeyboardInterrupt, click.Abort):
        return EXIT_SIGINT
    return result if isinstance(result, int) else 0


def _say(line: str) -> None:
    """Write a line to standard error, if that can be written to: the exit code tells the rest."""
    try:
        if line:
            print(line, file=sys.stderr)
        sys.stderr.flush()
    except streams.StreamError as error:
        streams.abandon(error.number)


def main() -> NoReturn:
    """Run the command line of this process and end with its exit code."""
    streams.install()
    sys.exit(_dispatch(sys.argv[1:]))
