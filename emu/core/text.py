"""Text that may be shown: whatever names the guest's files and symbols have, a
line stays one line and a terminal as it is.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_CONTROL = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
"""What acts on a terminal or on the order of what is read;
tab and newline do not, lone surrogates are bytes that are no text.
"""
_COLOUR = "(\x1b\\[[0-9;]*m)"


def printable(line: str) -> str:
    """Return a line with whatever cannot be shown written out, newlines included."""
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else _escaped(c) for c in line)


def printable_in_colour(line: str) -> str:
    """As `printable`, for a line that is painted: what sets colours is left."""
    if line.isprintable():
        return line
    return "".join(part if at % 2 else printable(part) for at, part in enumerate(re.split(_COLOUR, line)))


def harmless(text: str, *, colour: bool = False) -> str:
    """Return text of several lines without control characters but tabs,
    newlines and (for a terminal) colours.
    """
    if re.search(_CONTROL, text) is None:
        return text
    if colour:
        return "".join(part if at % 2 else harmless(part) for at, part in enumerate(re.split(_COLOUR, text)))
    return re.sub(_CONTROL, lambda found: _escaped(found[0]), text)


def widths(rows: Sequence[Sequence[str]]) -> list[int]:
    """Return the width of each column of a table, which has a row at least."""
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the rows as lines with their columns aligned to the left, two blanks
    between them, each cell as `printable` has it.
    """
    shown = [tuple(map(printable, row)) for row in rows]
    columns = widths(shown)
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, columns, strict=True)) for row in shown)
    return [line.rstrip() for line in lines]


def _escaped(character: str) -> str:
    """Return the escape of a character; that of a byte which is no text is the byte's."""
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
