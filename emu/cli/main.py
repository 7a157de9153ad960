"""The group of sub-commands, and how every error ends: one line and an exit code, never a traceback."""

from __future__ import annotations

import errno
import sys
from typing import NoReturn

import click

from emu import __version__
from emu.cli import notes, streams
from emu.cli.group import LazyGroup
from emu.core.errors import (
    EXIT_EMU,
    EXIT_USAGE,
    STRICT,
    UNFORESEEN,
    EmuError,
    LinkError,
    MemoryFault,
    place_of,
)

EXIT_SIGINT = 128 + 2


def _version(ctx: click.Context, _param: click.Parameter, asked: bool) -> None:
    if not asked:
        return
    print(f"emu {__version__}")
    if notes.level() == notes.VERBOSE:
        from emu.cli.version import details

        print("\n".join(details()))
    ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-V", "--version", is_flag=True, expose_value=False, callback=_version, help="Show the version and exit."
)
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
      emu conflicts ./host               names that one object takes from another
      emu diff ./host --ldso real        where emu's loader and the real ld.so differ
      emu report ./host -o report.html   the whole run as a page to look at
      emu gdb ./hello                    under gdb, forwards and backwards
      emu maps /bin/ls                   its memory after start-up
      emu shell ./hello                  a Python prompt with the process in it
      emu sysroot add debian:13          another system, for --sysroot debian:13
      emu tour                           lessons about how all this works
      emu help                           pages about each of these
    """


notes.add_options(
    group,
    "Say more: what runs, what it costs; with --version what emu runs with, and where defaults are from.",
)


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
    except MemoryFault as error:
        _say(f"emu: the program's own data are broken: {error}")
        return EXIT_EMU
    except MemoryError:
        _say("emu: there is not enough memory for emu itself; is there a limit (ulimit -v)?")
        return EXIT_EMU
    except UNFORESEEN as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            _say("emu: there are not enough descriptors for emu itself; is there a limit (ulimit -n)?")
            return EXIT_EMU
        if STRICT:
            raise
        _say(f"emu: a fault of emu itself: {place_of(error)}: {error}; EMU_STRICT=1 shows more")
        return EXIT_EMU
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
