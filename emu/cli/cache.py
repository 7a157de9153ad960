"""`emu cache`: what emu keeps for later runs, and how to be rid of it."""

from __future__ import annotations

import click

from emu.core import user_cache
from emu.core.errors import EmuError

_ABOUT = {
    "layouts": "layout tables made from debug files",
    "lookups": "what references are bound to at start-up",
}


@click.group("cache", short_help="List and clear what emu keeps for later runs.")
def command() -> None:
    """List and clear what emu keeps for later runs, in $XDG_CACHE_HOME/emu (~/.cache/emu).

    All of it is made again when it is missing. `--no-cache` of a run, or EMU_NO_CACHE=1, leaves look-ups
    alone. Sysroots are not part of it: see `emu sysroot`.

    \b
    Examples:
      emu cache list
      emu cache clear
      emu cache clear lookups
    """


@command.command("list", short_help="List the kinds, with how many files there are.")
def list_command() -> None:
    """List what is kept: the kind, how many files, and their bytes.

    \b
    Example:
      emu cache list
    """
    for kind, files, size in user_cache.kinds():
        print(f"{kind:10} {files:5} files {size:10,} bytes  {_ABOUT.get(kind, '')}".rstrip())


@command.command("clear", short_help="Remove what is kept.")
@click.argument("kind", required=False, type=click.Choice(sorted(_ABOUT)))
def clear(kind: str | None) -> None:
    """Remove what is kept, or only what is of KIND.

    \b
    Examples:
      emu cache clear
      emu cache clear layouts
    """
    for one in sorted(_ABOUT) if kind is None else (kind,):
        try:
            files = user_cache.clear(one)
        except OSError as error:
            raise EmuError(f"{user_cache.folder(one)}: {error.strerror}") from None
        print(f"{one}: {files} files removed")
