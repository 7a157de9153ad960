"""What came from outside the guest, in order, so that a run can be done again:
answers of the host, and decisions of a debugger.

All else that a run depends on is the guest's own state, which a snapshot holds. An answer is asked for once;
when the same moment is run again, it comes from here, and the host is left alone: nothing is written twice,
and nothing is read that was read already.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from emu.core.errors import EmuError

T = TypeVar("T")


class Journal:
    """The answers so far; `cursor` is the number of the next one. Behind the last one the host is asked."""

    def __init__(self) -> None:
        self._entries: list[tuple[str, Any]] = []
        self.cursor = 0

    @property
    def repeats(self) -> bool:
        """Whether the next answer is already known."""
        return self.cursor < len(self._entries)

    def peek(self) -> object:
        """Return the next answer, which is known."""
        return self._entries[self.cursor][1]

    def ask(self, kind: str, act: Callable[[], T]) -> T:
        """Return what `act` returned, or raise the OSError that it raised, at this moment of the run.

        Raises EmuError if another kind was asked for then.
        """
        if self.repeats:
            known, value = self._entries[self.cursor]
            if known != kind:
                raise EmuError(f"the run does not repeat itself: {kind} was asked for where {known} was")
            self.cursor += 1
            if isinstance(value, OSError):
                raise value
            result: T = value
            return result
        try:
            answer = act()
        except OSError as error:
            self.note(kind, error)
            raise
        self.note(kind, answer)
        return answer

    def note(self, kind: str, value: object) -> None:
        """Enter an answer as the last one."""
        self._entries.append((kind, value))
        self.cursor += 1

    def cut(self) -> None:
        """Forget the answers behind the cursor: they belong to a future that will not come."""
        del self._entries[self.cursor :]
