"""Parameter types of `emu run`: trace categories and memory sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from emu.core.events import CATEGORIES

if TYPE_CHECKING:
    from typing import Any

    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # click 8.1 has no type parameter


class Categories(_ParamType):
    """Comma-separated trace categories, or `all`; converts to a tuple without repetition."""

    name = "categories"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Return the categories in their canonical order."""
        asked = set(value.split(","))
        unknown = asked.difference(CATEGORIES, ("all",))
        if unknown:
            names = ", ".join(repr(name) for name in sorted(unknown))
            self.fail(f"no category {names}: choose from {', '.join(CATEGORIES)}, all", param, ctx)
        return tuple(name for name in CATEGORIES if name in asked or "all" in asked)


class Size(_ParamType):
    """A number of bytes with an optional suffix K, M or G (powers of 1024)."""

    name = "size"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the bytes."""
        digits, shift = value, 0
        if value[-1:].upper() in {"K", "M", "G"}:
            digits, shift = value[:-1], 10 * (" KMG".index(value[-1].upper()))
        if not (digits.isascii() and digits.isdigit()) or int(digits) == 0:
            self.fail(f"{value!r} is no size: a number of bytes, or with K, M or G", param, ctx)
        return int(digits) << shift
