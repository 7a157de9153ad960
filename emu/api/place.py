"""Where a process is, as far as Python keeps it: what a snapshot takes along."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emu.core.events import Record


class Place:
    """`records` are the events so far, `cursor` those that `step` has returned; `running` tells that the program has its first thread.

    `skip` are the breakpoints, by thread pointer and address, that were dealt with and let their instruction pass; `through` counts entries of
    interposed functions to let pass. `observers` are those who keep what they have seen of the process.
    """

    __slots__ = ("cursor", "observers", "records", "running", "skip", "through")

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.cursor = 0
        self.observers: tuple[object, ...] = ()
        self.running = False
        self.skip: set[tuple[int, int]] = set()
        self.through: Counter[tuple[int, int]] = Counter()
