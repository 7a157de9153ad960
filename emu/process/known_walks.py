"""Walks over stacks that were made before, for programs that are run again and again from one place.

A walk depends on the registers that it begins with, on the words that it read, and on which objects are
there. If all of these are the same, so are its frames, but for those of the loader: what they are called
hangs on what it does just now, and is asked again. An object that goes takes nothing away: whoever has its
place is another object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.errors import MemoryFault
from emu.core.record import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from emu.core.types import ReadableMemory
    from emu.process.backtrace import Captured
    from emu.process.unwind import UnwoundFrame
    from emu.rtld.link_map import LinkMap

EMU = "[emu]"
"""The object of a frame of the loader's own part in the guest."""
_MOST = 256
_MOST_EACH = 4
"""Walks that begin alike and have read different words."""
_Start = tuple[tuple[int, ...], tuple["LinkMap", ...]]
"""The registers, and the objects that are there."""


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
    whole: bool


class KnownWalks:
    """The last walks over stacks in `memory`. `hosted` gives the name and offset of a frame of the loader's,
    as they are now.
    """

    def __init__(
        self, memory: ReadableMemory, hosted: Callable[[UnwoundFrame], tuple[str, int] | None]
    ) -> None:
        self._memory, self._hosted = memory, hosted
        self._known: dict[_Start, list[_Known]] = {}

    def find(
        self, start: _Start, entered: Callable[[Captured], list[Captured]] | None
    ) -> list[Captured] | None:
        """Return the frames of a walk that is known and would come out the same, else None. `entered` may end
        it at a frame with others.
        """
        for known in self._known.get(start, ()):
            if self._same(known) and (frames := self._frames(known, entered)) is not None:
                return frames
        return None

    def _same(self, known: _Known) -> bool:
        """Whether the words are there that a walk has read."""
        read = self._memory.read
        try:
            return all(read(address, size) == content for address, size, content in known.reads)
        except MemoryFault:
            return False

    def _holds(self, one: Captured) -> bool:
        """Whether a frame is still called as it was: the loader's hang on what it does just now."""
        known = one.known
        return known.object != EMU or self._hosted(one.frame) == (known.function, known.offset)

    def _frames(
        self, known: _Known, entered: Callable[[Captured], list[Captured]] | None
    ) -> list[Captured] | None:
        for at, frame in enumerate(known.frames):
            if not self._holds(frame):
                return None
            if entered is not None and (outer := entered(frame)):
                return [*known.frames[:at], *outer]
        return list(known.frames) if known.whole else None

    def keep(
        self,
        start: _Start,
        frames: Sequence[Captured],
        reads: Sequence[tuple[int, int, bytes]],
        *,
        whole: bool,
    ) -> None:
        """Take in a walk, if all of it was found by unwind information in objects that are there, or in the
        loader. One that is not `whole` was ended at its last frame by who asked.
        """
        if not all(map(_certain, frames)):
            return
        if start not in self._known and len(self._known) >= _MOST:
            self._known.pop(next(iter(self._known)))
        alike = self._known.setdefault(start, [])
        alike[:] = [_Known(tuple(frames), tuple(reads), whole), *alike[: _MOST_EACH - 1]]


def _certain(one: Captured) -> bool:
    return not one.frame.guess and not one.known.note and (bool(one.path) or one.known.object == EMU)
