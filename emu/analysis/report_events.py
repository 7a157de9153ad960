"""The events of a report, as many as fit, and what is left out.

The first `limit` events are listed whatever they are. Of the later ones a tenth as many are listed, of the
categories that tell of objects, threads and destructors: the end of a long run is often what is looked for.
Long texts take the room of several events.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from emu.core import events as ev
from emu.core.text import printable
from emu.trace.text import RENDERERS

if TYPE_CHECKING:
    from emu.core.events import Record

MAX_EVENTS = 100_000
"""So many events a report lists in full, unless more are asked for."""

CHATTY = ("bindings", "reloc", "syscalls", "sched")
"""Categories of which there may be any number of events, each of little weight."""

_SHARE = 10
"""The part of a list's room that is kept for its end, and that a child's list has."""
_SIZE = 160
"""Bytes of the page that an event may take on average."""
_FREE = 500_000
"""Bytes that do not count."""
_NUMBERS = 38
"""Bytes that the numbers of an event take."""


class EventList:
    """Takes records as they come. `seen` is how many there were, `last` the number of the last."""

    def __init__(self, limit: int = MAX_EVENTS) -> None:
        self.seen = self.last = 0
        self._cells: list[int] = []
        self._strings: dict[str, int] = {}
        self._left_out: dict[str, int] = {}
        self._first_left_out = 0
        self._room, self._bytes = limit, limit * _SIZE + _FREE
        self._late = limit // _SHARE

    def fresh(self) -> EventList:
        """Return an empty list for a child, which has a part of the room."""
        return EventList(max(self._late, 1))

    def take(self, record: Record) -> None:
        """List a record if there is room for it, count it in any case."""
        self.seen += 1
        self.last = record.sequence
        category = ev.CATEGORY_OF[type(record.event)]
        if (self._first_left_out and category in CHATTY) or not self._add(record, category):
            if not self._first_left_out:
                self._first_left_out = record.sequence
                self._room, self._bytes = self._late, self._late * _SIZE
                if category not in CHATTY and self._add(record, category):
                    return
            self._left_out[category] = self._left_out.get(category, 0) + 1

    def _add(self, record: Record, category: str) -> bool:
        if not self._room:
            return False
        said = printable(RENDERERS[type(record.event)](record.event))
        size = _NUMBERS
        if said not in self._strings:
            size += len(json.dumps(said)) + 1 + 5 * (said.count("<") + said.count("&"))  # as `page` writes it
        if size > self._bytes:
            self._room = 0
            return False
        self._room -= 1
        self._bytes -= size
        text = self._strings.setdefault(said, len(self._strings))
        self._cells += (record.sequence, record.time, record.task, ev.CATEGORIES.index(category), text)
        return True

    def data(self) -> dict[str, Any]:
        """Return the list: rows of five cells (number, time, task, category, text) end to end, the texts, and
        the number left out by category.
        """
        return {
            "last": self.last, "seen": self.seen, "categories": list(ev.CATEGORIES), "strings": list(self._strings), "events": self._cells,
            "left_out": self._left_out, "first_left_out": self._first_left_out,
        }  # fmt: skip
