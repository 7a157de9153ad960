"""`emu call`: call one function of a library, without writing a program."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Literal

import click

from emu.cli import completion, notes, options
from emu.cli import tracing as traces
from emu.cli.gathered import gathered
from emu.cli.guest import GuestCommand
from emu.core.events import EventBus
from emu.process import RunConfig

if TYPE_CHECKING:
    from emu.process import Process
    from emu.process.call import Argument, Kind
    from emu.rtld.link_map import LinkMap


@click.command("call", short_help="Call one function of a library.", cls=GuestCommand)
@options.guest_options
@options.limit_options
@traces.trace_options
@click.option(
    "--returns", metavar="TYPE",
    help="What the function returns: int, uint, long, ulong, short, ushort, char, uchar, bool, double, float, str, ptr, void; "
    "without it what its debugging information says, else int.",
)  # fmt: skip
@click.option(
    "--tls-dtors", type=click.Choice(["model", "guest"]), default="model",
    help="Who runs thread_local destructors: emu's model (default) or libc's own code.",
)  # fmt: skip
@click.argument("library", shell_complete=completion.files)
@click.argument("function")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@gathered(options.Guest, "guest")
def command(
    library: str,
    function: str,
    arguments: tuple[str, ...],
    returns: str | None,
    guest: options.Guest,
    tracing: traces.Tracing,
    tls_dtors: Literal["model", "guest"],
) -> int:
    """Load LIBRARY into an empty program, call its FUNCTION and print the result.

    Constructors run before, destructors after. FUNCTION may be a C++ name as people write it. Arguments and
    result have the types that the library's debugging information gives them. Without it, one that reads as a
    whole number is an int or (if it is too large for one) a long, one that reads as a decimal fraction a
    double, anything else a string; TYPE:VALUE says it, as in long:5, float:0.5, str:42.

    \b
    Examples:
      emu call --returns double libm.so.6 hypot 3.0 4.0
      emu call ./libplugin.so plugin_init 3 verbose
      emu call ./libplugin.so 'codec::decode(char const*)' text
      emu call --returns str libc.so.6 strerror 2
      emu call --trace dl,dtors ./libplugin.so touch 1
    """
    from emu.process.call import KINDS, CallRequest, call_function

    if returns is not None and returns not in KINDS:
        raise click.UsageError(f"--returns {returns}: choose from {', '.join(KINDS)}")
    arguments = arguments[arguments[:1] == ("--",) :]  # nothing behind FUNCTION is emu's, so nothing needs it
    typed = tuple(_argument(word, KINDS) for word in arguments)
    config = RunConfig(
        program="emu-call",
        env=options.environment(guest.variables, guest.clean_env),
        cwd=options.guest_directory(guest.sysroot),
        sysroot=guest.sysroot,
        tls_dtors=tls_dtors,
        **guest.limits,
    )
    bus = EventBus()
    with tracing.attached(bus):
        answer = call_function(
            config, bus, CallRequest(library, function, typed, returns or "", _resolve, _explain)
        )
    if answer.result.report:
        print(answer.result.report, file=sys.stderr)
    if answer.text:
        print(answer.text)
        if answer.guessed:
            notes.say(f"result taken as {answer.guessed}; say --returns TYPE")
    return answer.result.status


def _explain(process: Process, library: str) -> str:
    """Return what a library is that was passed over or cannot be opened,
    or that one of that name lies in the current folder.
    """
    from emu.analysis.opens.files import what_is
    from emu.analysis.opens.looking import Looking
    from emu.process.hosting import is_library

    rtld = process.rtld
    assert rtld is not None
    looking = Looking(process, rtld)
    look = looking.look(library, looking.main)
    tried = [looking.judge(path) for path, _ in look.tried]
    other = next((one for one in tried if one.outcome in ("wrong-class", "wrong-machine")), None)
    if other is not None:
        return f"; {looking.shown(other.path)} is {other.text}"
    if any(one.outcome == "bad" for one in tried):
        what = next((what_is(looking.files, one.path) for one in tried if one.outcome == "bad"), "")
        return f"; it is {what}" if what else ""
    if look.path and not is_library(look.path, process.config.sysroot):
        return f"; it is a program: `emu run {library}` runs it"
    here = "/" not in library and process.config.sysroot == "/" and os.path.isfile(library)
    return f" (the file here is ./{library})" if here else ""


def _resolve(library: LinkMap, word: str, failure: str) -> bytes:
    """Return the symbol of a library, or of what it needs, that people write as `word`.

    Raises NotFoundError, with the nearest names of its own.
    """
    from emu.analysis import names
    from emu.elf.demangle import demangle

    own = set(names.defined(library))
    found = {raw for raw in own if names.means(word, raw.decode(errors="replace"))}
    for map_ in library.searchlist if not found else ():
        found |= {raw for raw in names.defined(map_) if names.means(word, raw.decode(errors="replace"))}
    if len(found) == 1:
        return found.pop()
    readable = {demangle(raw.decode(errors="replace")) for raw in found or own}
    if found:
        raise names.NotFoundError(f"ambiguous, choose one of {', '.join(sorted(readable))}")
    raise names.NotFoundError(
        names.missing(failure, word, readable | {names.without_parameters(text) for text in readable})
    )


def _argument(word: str, kinds: dict[str, Kind]) -> Argument:
    """Return the argument that a word of the command line means. Raises UsageError."""
    from emu.process.call import Argument

    name, colon, value = word.partition(":")
    if not colon or name not in kinds or name == "void":
        return Argument("", word)
    try:
        kinds[name].encode(value)
    except ValueError as error:
        raise click.UsageError(f"argument {word!r} is no {name}{': ' * bool(str(error))}{error}") from None
    return Argument(name, value)
