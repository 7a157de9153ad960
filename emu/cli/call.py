"""`emu call`: call one function of a library, without writing a program."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

import click

from emu.cli import options
from emu.core.events import EventBus
from emu.process import RunConfig

if TYPE_CHECKING:
    from emu.process.call import Argument, Kind


@click.command("call", short_help="Call one function of a library.", context_settings=options.GUEST_CONTEXT)
@options.guest_options
@options.trace_options
@click.option(
    "--returns", default="int", metavar="TYPE",
    help="What the function returns: int (default), uint, long, ulong, short, char, bool, double, float, str, ptr, void.",
)  # fmt: skip
@click.option(
    "--tls-dtors", type=click.Choice(["model", "guest"]), default="model",
    help="Who runs thread_local destructors: emu's model (default) or libc's own code.",
)  # fmt: skip
@click.argument("library")
@click.argument("function")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(
    library: str,
    function: str,
    arguments: tuple[str, ...],
    returns: str,
    variables: dict[str, str],
    clean_env: bool,
    sysroot: str,
    tracing: options.Tracing,
    tls_dtors: Literal["model", "guest"],
) -> int:
    """Load LIBRARY into an empty program, call its C FUNCTION and print the result.

    Constructors run before, destructors after. An argument that reads as a whole number is an int or (if it is
    too large for one) a long, one that reads as a decimal fraction a double, anything else a string; TYPE:VALUE
    says it, as in long:5, float:0.5, str:42.

    \b
    Examples:
      emu call --returns double libm.so.6 hypot 3.0 4.0
      emu call ./libplugin.so plugin_init 3 verbose
      emu call --returns str libc.so.6 strerror 2
      emu call --trace dl,dtors ./libplugin.so touch 1
    """
    from emu.process.call import KINDS, call_function

    if returns not in KINDS:
        raise click.UsageError(f"--returns {returns}: choose from {', '.join(KINDS)}")
    typed = [_argument(word, KINDS) for word in arguments]
    config = RunConfig(
        program="emu-call",
        env=options.environment(variables, clean_env),
        cwd=options.guest_directory(sysroot),
        sysroot=sysroot,
        tls_dtors=tls_dtors,
    )
    bus = EventBus()
    with tracing.attached(bus):
        result, text = call_function(config, bus, library, function, typed, KINDS[returns])
    if result.report:
        print(result.report, file=sys.stderr)
    if text:
        print(text)
    return result.status


def _argument(word: str, kinds: dict[str, Kind]) -> Argument:
    """Return the argument that a word of the command line means. Raises UsageError."""
    from emu.process.call import Argument

    name, colon, value = word.partition(":")
    if not colon or name not in kinds or name == "void":
        name, value = _guess(word), word
    try:
        kinds[name].encode(value)
    except ValueError as error:
        raise click.UsageError(f"argument {word!r} is no {name}: {error}") from None
    return Argument(kinds[name], value)


def _guess(word: str) -> str:
    try:
        return "int" if -(1 << 31) <= int(word, 0) < 1 << 31 else "long"
    except ValueError:
        pass
    try:
        float(word)
    except ValueError:
        return "str"
    return "double" if any(c.isdigit() for c in word) else "str"
