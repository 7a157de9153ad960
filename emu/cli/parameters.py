"""Option values of `emu run` that click has no type for: callbacks that raise click.BadParameter."""

from __future__ import annotations

import click

from emu.core.events import CATEGORIES, ON_REQUEST


def categories(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Return comma-separated trace categories, or (for `all`) those that are not only on request, in their canonical order."""
    if value is None:
        return None
    asked = set(value.split(","))
    unknown = asked.difference(CATEGORIES, ON_REQUEST, ("all",))
    if unknown:
        names = ", ".join(repr(name) for name in sorted(unknown))
        raise click.BadParameter(
            f"no category {names}: choose from {', '.join((*CATEGORIES, *ON_REQUEST))}, all"
        )
    chosen = tuple(name for name in CATEGORIES if name in asked or "all" in asked)
    return (*chosen, *(name for name in ON_REQUEST if name in asked))


def size(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    """Return a number of bytes; a suffix K, M or G multiplies by a power of 1024."""
    if value is None:
        return None
    shift = {"K": 10, "M": 20, "G": 30}.get(value[-1:].upper(), 0)
    digits = value[:-1] if shift else value
    if not (digits.isascii() and digits.isdigit()) or int(digits) == 0:
        raise click.BadParameter(f"{value!r} is no size: a number of bytes, or with K, M or G")
    return int(digits) << shift
