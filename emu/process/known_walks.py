"""Walks over stacks that were made before, for programs that are run again and again from one place.

A walk depends on the registers that it begins with, on the words that it read, and on which objects lie
where. If all of these are the same, so are its frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.errors import MemoryFault
from emu.core.record import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from emu.core.types import ReadableMemory
    from emu.process.backtrace import Captured

_MOST = 64
_Start = tuple[tuple[int, ...], tuple[tuple[int, str], ...]]
"""The registers, and where each object lies."""


class NotingMemory:
    """Reads of `memory`, noted in `reads` as (address, size, content)."""

    def __init__(self, memory: ReadableMemory) -> None:
        self._memory = memory
        self.reads: list[tuple[int, int, bytes]] = []

    def read(self, address: int, size: int) -> bytes:
        """Return `size` bytes. Raises MemoryFault."""
        content = bytes(self._memory.read(address, size))
        self.reads.append((address, size, content))
        return content


class _Known(NamedTuple):
    frames: tuple[Captured, ...]
    reads: tuple[tuple[int, int, bytes], ...]


class KnownWalks:
    """The last walks over stacks in `memory`."""

    def __init__(self, memory: ReadableMemory) -> None:
        self._memory = memory
        self._known: dict[_Start, _Known] = {}

    def find(
        self, start: _Start, entered: Callable[[Captured], list[Captured]] | None
    ) -> list[Captured] | None:
        """Return the frames of a walk that is known and would come out the same, else None. `entered` may end
        it at a frame with others.
        """
        known = self._known.get(start)
        if known is None:
            return None
        try:
            for address, size, content in known.reads:
                if self._memory.read(address, size) != content:
                    return None
        except MemoryFault:
            return None
        frames = list(known.frames)
        for at, frame in enumerate(frames):
            if entered is not None and (outer := entered(frame)):
                return frames[:at] + outer
        return frames

    def keep(
        self, start: _Start, frames: Sequence[Captured], reads: Sequence[tuple[int, int, bytes]]
    ) -> None:
        """Take in a walk."""
        if len(self._known) >= _MOST:
            self._known.pop(next(iter(self._known)))
        self._known[start] = _Known(tuple(frames), tuple(reads))

    def clear(self) -> None:
        """Forget all of them: an object has gone."""
        self._known.clear()
