"""Events in Python: what has happened so far, asked by category or by kind."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from typing import Any, overload

from emu.api.errors import Error
from emu.core.events import CATEGORIES, CATEGORY_OF, EVENT_TYPES, Record
from emu.trace.text import render

_words = re.compile(r"(?<!^)(?=[A-Z])")


class Event:
    """One event with its stamp: `sequence` from 1, `time` in virtual nanoseconds, `task` (a thread id),
    `category`, `name` (`dtor_run` for instance); its own fields are attributes. `str` is its line in a trace.
    """

    __slots__ = ("record",)

    def __init__(self, record: Record) -> None:
        self.record = record

    @property
    def sequence(self) -> int:
        """The number of the event in this process, from 1."""
        return self.record.sequence

    @property
    def time(self) -> int:
        """Virtual nanoseconds since the start."""
        return self.record.time

    @property
    def task(self) -> int:
        """The id of the thread in which it happened."""
        return self.record.task

    @property
    def category(self) -> str:
        """The trace category."""
        return CATEGORY_OF[type(self.record.event)]

    @property
    def name(self) -> str:
        """What kind of event it is."""
        return event_name(type(self.record.event))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.record.event, name)

    def __str__(self) -> str:
        return render(self.record)

    def __repr__(self) -> str:
        return f"<emu.Event {str(self).strip()}>"


class Events(Sequence[Event]):
    """Events in the order in which they happened. `kind` narrows them down."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> Event: ...

    @overload
    def __getitem__(self, index: slice) -> Events: ...

    def __getitem__(self, index: int | slice) -> Event | Events:
        return Events(self._records[index]) if isinstance(index, slice) else Event(self._records[index])

    def __iter__(self) -> Iterator[Event]:
        return map(Event, self._records)

    def of(self, kind: str) -> Events:
        """Return the events of a category or kind (see `kinds_of`)."""
        types = kinds_of(kind)
        return Events([record for record in self._records if type(record.event) in types])

    def __repr__(self) -> str:
        return "\n".join(map(str, self)) or "<no events>"

    def _repr_html_(self) -> str:
        cells = (
            (
                str(e.sequence),
                f"{e.time / 1e9:.9f}",
                str(e.task),
                e.category,
                str(e).split(e.category, 1)[1].strip(),
            )
            for e in self
        )
        return table(("#", "seconds", "task", "category", "event"), cells)


def event_name(type_: type[Any]) -> str:
    """Return the name of a kind of event: `dtor_run` for DtorRun."""
    return _words.sub("_", type_.__name__).lower()


def kinds_of(kind: str) -> frozenset[type[Any]]:
    """Return the kinds of events that a word means:
    a category (`dtors`, `dtor` will do), or one kind (`dtor_run`, `DtorRun`). Raises Error.
    """
    for category in (kind, f"{kind}s"):
        if category in CATEGORIES:
            return frozenset(type_ for type_, its in CATEGORY_OF.items() if its == category)
    found = frozenset(type_ for type_ in EVENT_TYPES if kind in (type_.__name__, event_name(type_)))
    if not found:
        raise Error(
            f"no events {kind!r}: choose a category ({', '.join(CATEGORIES)}) or a kind such as dtor_run"
        )
    return found


def table(head: Sequence[str], rows: Any) -> str:
    """Return an HTML table."""
    cells = "".join(f"<th>{html.escape(word)}</th>" for word in head)
    lines = ("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
