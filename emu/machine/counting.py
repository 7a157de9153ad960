"""How an engine's counter of blocks or traps is put back with a snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emu.core.memento import Undo
    from emu.machine.engine import Counter


def note_counter(counter: Counter) -> Undo:
    """Return what makes the counter count, or not, as it does now, with as many left."""
    counting, left = counter.installed, counter.left

    def undo() -> None:
        if counting and not counter.installed:
            counter.install()
        elif counter.installed and not counting:
            counter.rest()  # the next run from here counts again, most likely
        counter.left = left

    return undo
