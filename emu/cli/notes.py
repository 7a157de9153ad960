"""What emu says beside its answers: lines on standard error, none with --quiet, more with --verbose."""

from __future__ import annotations

import os
import stat
import sys
import time
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

_LEVEL = "emu.cli.level"
QUIET, NORMAL, VERBOSE = range(3)


def _sets(level: int) -> Callable[[click.Context, click.Parameter, bool], None]:
    def remember(ctx: click.Context, _param: click.Parameter, asked: bool) -> None:
        if asked:
            ctx.meta[_LEVEL] = level

    return remember


def add_options(command: click.Command, verbose: str) -> None:
    """Give a command -q and -v, if it does not have them; `verbose` is what the second does there."""
    if any("--quiet" in parameter.opts for parameter in command.params):
        return
    common: dict[str, Any] = {"is_flag": True, "is_eager": True, "expose_value": False}
    command.params += [
        click.Option(["-q", "--quiet"], callback=_sets(QUIET), help="No notes: answers and errors only.", **common),
        click.Option(["-v", "--verbose"], callback=_sets(VERBOSE), help=verbose, **common),
    ]  # fmt: skip


def level() -> int:
    """Return QUIET, NORMAL or VERBOSE, as the command line said; NORMAL outside of a command."""
    ctx = click.get_current_context(silent=True)
    found: int = ctx.meta.get(_LEVEL, NORMAL) if ctx is not None else NORMAL
    return found


def say(text: str) -> None:
    """Tell what changes an answer's meaning, unless nobody wants notes."""
    if level() > QUIET:
        print(f"emu: {text}", file=sys.stderr)


def say_on_terminal(text: str) -> None:
    """Tell what only a person wants to know, where one looks on."""
    if level() == VERBOSE or (level() == NORMAL and os.isatty(2)):
        print(f"emu: {text}", file=sys.stderr)


def detail(text: str) -> None:
    """Tell a detail to who asked for them."""
    if level() == VERBOSE:
        print(f"emu: {text}", file=sys.stderr)


def written(path: str) -> None:
    """Tell on a terminal that a file was written, and its size;
    what goes to a device or a FIFO is seen by who has its other end.
    """
    try:
        status = os.stat(path)
    except OSError:
        return  # whoever waited for it took it away
    if not stat.S_ISREG(status.st_mode):
        return
    size = status.st_size
    amount = f"{size:,} bytes" if size < 1 << 20 else f"{size / (1 << 20):.1f} MiB"
    say_on_terminal(f"wrote {path} ({amount})")


def tell_cost(ctx: click.Context) -> None:
    """Let a verbose command end with the time and memory that it took."""
    began = time.monotonic()

    def tell() -> None:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        detail(f"took {time.monotonic() - began:.2f} s, {peak / 1024:.0f} MiB of memory at most")

    if level() == VERBOSE:
        ctx.call_on_close(tell)
