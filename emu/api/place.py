"""Where a process is, as far as Python keeps it: what a snapshot takes along."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from emu.api.errors import Error

if TYPE_CHECKING:
    from emu.core.events import Record

MOST_RECORDS = 1 << 18
"""The most events that are kept of a process: some 100 MB."""


class Position:
    """`records` are the events so far, `beyond` how many came after MOST_RECORDS of them, `cursor` those that
    `step` has returned; `running` tells that the program has its first thread.

    `skip` are the breakpoints, by thread pointer and address, that were dealt with and let their instruction
    pass; `through` counts entries of interposed functions to let pass. `observers` are those who keep what
    they have seen of the process.
    """

    __slots__ = ("beyond", "cursor", "observers", "records", "running", "skip", "through")

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.beyond = 0
        self.cursor = 0
        self.observers: tuple[object, ...] = ()
        self.running = False
        self.skip: set[tuple[int, int]] = set()
        self.through: Counter[tuple[int, int]] = Counter()

    def keep(self, record: Record) -> None:
        """Keep an event, or count it where there are too many: a guest makes as many as it likes."""
        if len(self.records) < MOST_RECORDS:
            self.records.append(record)
        else:
            self.beyond += 1

    def whole(self) -> list[Record]:
        """Return the events so far. Raises Error if there were more than are kept."""
        if self.beyond:
            raise Error(
                f"{MOST_RECORDS} events are kept of a process, and {self.beyond} more came: trace fewer"
                " categories, or have each as it comes: listen()"
            )
        return self.records
