"""Option values of `emu run` that click has no type for: callbacks that raise click.BadParameter."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

import click

from emu.core.events import CATEGORIES, ON_REQUEST
from emu.core.record import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    Command = TypeVar("Command", bound=Callable[..., Any])

_MOST_DIGITS = 20


class Asked(NamedTuple):
    """Trace categories, and for some of them what an event must name to be of interest."""

    categories: tuple[str, ...]
    filters: dict[str, tuple[str, ...]]


def traced(ctx: click.Context, param: click.Parameter, value: str | None) -> Asked | None:
    """Return comma-separated categories, each perhaps with `:NAME` behind it; see `categories`."""
    if value is None:
        return None
    filters: dict[str, tuple[str, ...]] = {}
    names = []
    for word in value.split(","):
        name, colon, pattern = word.partition(":")
        names.append(name)
        if colon and (not pattern or name == "all"):
            raise click.BadParameter(f"{word!r}: write CATEGORY:NAME, with the name of a symbol or an object")
        if colon:
            filters[name] = (*filters.get(name, ()), pattern)
    found = categories(ctx, param, ",".join(names))
    assert found is not None
    return Asked(found, filters)


def categories(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Return comma-separated trace categories, or (for `all`) those that are not
    only on request, in their canonical order.
    """
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


def history_option(text: str, default: str | None = None) -> Callable[[Command], Command]:
    """Return --history SIZE, in bytes: how much memory a debugger's past may take. `text` is its help."""
    return click.option("--history", callback=size, default=default, metavar="SIZE", help=text)


def size(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    """Return a number of bytes; a suffix K, M or G multiplies by a power of 1024."""
    if value is None:
        return None
    shift = {"K": 10, "M": 20, "G": 30}.get(value[-1:].upper(), 0)
    digits = value[:-1] if shift else value
    if not (digits.isascii() and digits.isdigit()) or len(digits) > _MOST_DIGITS or not int(digits):
        raise click.BadParameter(f"{value!r} is no size: a number of bytes, or with K, M or G")
    return int(digits) << shift


def start_time(_ctx: click.Context, _param: click.Parameter, value: str) -> int:
    """Return nanoseconds since the epoch for `now`, the host's time, or for a number of seconds."""
    if value == "now":
        return time.time_ns()
    if not (value.isascii() and value.isdigit()) or len(value) > _MOST_DIGITS or int(value) >= 1 << 33:
        raise click.BadParameter(f"{value!r} is neither now nor a number of seconds since 1970")
    return int(value) * 10**9
