"""Which events are of interest: those that name a symbol or an object, and those of some processes."""

from __future__ import annotations

import fnmatch
import posixpath
from typing import TYPE_CHECKING

from emu.core.events import CATEGORY_OF
from emu.elf.demangle import demangle

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from emu.core.events import Record


class Filter:
    """Passes the records of some categories on only if a text in them is what was asked for;
    those of others always.

    `wanted` has the patterns by category, as fnmatch has them. A text is a symbol's name, mangled or as
    people write it, with its parameters or without, or an object's: its path or its file's name.
    """

    def __init__(self, sink: Callable[[Record], None], wanted: Mapping[str, Sequence[str]]) -> None:
        self._sink, self._wanted = sink, wanted
        self._known: dict[tuple[str, str], bool] = {}

    def __call__(self, record: Record) -> None:
        """Take one record."""
        category = CATEGORY_OF[type(record.event)]
        if category not in self._wanted or any(
            self._matches(category, v) for v in record.event if isinstance(v, str)
        ):
            self._sink(record)

    def _matches(self, category: str, text: str) -> bool:
        key = category, text
        if key not in self._known:
            spellings = _spellings(text)
            self._known[key] = any(
                fnmatch.fnmatchcase(s, pattern) for pattern in self._wanted[category] for s in spellings
            )
        return self._known[key]


class Following:
    """Passes the records of the first process, and those of others while they run a program of one name.

    `whom` is the program's file name; "none" is nobody's. `programs` are the names of what the others run
    (see `EventBus`).
    """

    def __init__(self, sink: Callable[[Record], None], whom: str, programs: Mapping[int, str]) -> None:
        self._sink, self._whom, self._programs = sink, whom, programs

    def __call__(self, record: Record) -> None:
        """Take one record."""
        if not record.process or self._programs.get(record.process) == self._whom:
            self._sink(record)


def _spellings(text: str) -> set[str]:
    plain = demangle(text)
    return {text, posixpath.basename(text), plain, plain.partition("(")[0]} - {""}
