"""--ldso: who links the program, and what cannot be asked of a linker that is guest code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from emu.core.events import CATEGORIES

if TYPE_CHECKING:
    from emu.cli.tracing import Tracing

_SEEN = ("libs", "dl", "init", "fini", "syscalls", "faults", "threads", "sched")
"""The trace categories that can be seen of a linker which is guest code."""


def _refuse(ctx: click.Context, _param: click.Parameter, ldso: str) -> None:
    if ldso == "real":
        raise click.UsageError(
            f"--ldso real: '{ctx.command_path}' asks emu's own loader, and a real ld.so answers no questions; "
            "'emu run --ldso real' runs the program under its own, 'emu diff --ldso real' compares the two"
        )


_KINDS = click.Choice(["emu", "real"])
OPTION = click.option(
    "--ldso",
    type=_KINDS,
    default="emu",
    help="Who links the program: emu's loader (default), or its own ld.so, run as guest code: a second opinion, for any libc.",
)
REFUSED = click.option(
    "--ldso", type=_KINDS, default="emu", expose_value=False, callback=_refuse, hidden=True
)
"""The option of commands that need emu's loader: it says so."""


def visible(tracing: Tracing) -> Tracing:
    """Return what of a trace can be seen where the program's own ld.so runs.

    Raises UsageError for categories that are asked for by name.
    """
    asked = tracing.asked
    unseen = [name for name in asked.categories if name not in _SEEN]
    if unseen and not set(CATEGORIES) <= set(asked.categories):
        raise click.UsageError(
            f"--trace {','.join(unseen)}: the program's own ld.so (--ldso real) does not tell of that; what can be seen of it: "
            f"{', '.join(_SEEN)}; glibc's tells more with --env LD_DEBUG=all"
        )
    seen = tuple(name for name in _SEEN if name in asked.categories)
    return tracing._replace(asked=asked._replace(categories=seen))
