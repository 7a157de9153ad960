"""What a child of fork is not to have of private memory: ranges that it lacks, and ranges that are zero
for it.

Source: madvise(2), MADV_DONTFORK, MADV_WIPEONFORK.
"""

from __future__ import annotations

from collections.abc import Iterator

from emu.machine.arena import PAGE_SIZE
from emu.machine.guards import Guards


class ForkAdvice:
    """The advice about one address space, by pages: `lacks` are those that a child does not have."""

    def __init__(self) -> None:
        self._lacks, self._wiped = Guards(), Guards()

    def copy(self) -> ForkAdvice:
        """Return a child's advice: what is wiped for it is wiped for its own children, too."""
        advice = ForkAdvice()
        advice._wiped = self._wiped.copy()
        return advice

    def give(self, start: int, stop: int, *, lacks: bool, wanted: bool) -> None:
        """Let a child lack a range, or have zeroes there; or (not `wanted`) have it as it is."""
        pages = self._lacks if lacks else self._wiped
        if wanted:
            pages.add(start, stop)
        else:
            pages.drop(start, stop)

    def drop(self, start: int, stop: int) -> None:
        """Forget what was said of a range that is unmapped."""
        self._lacks.drop(start, stop)
        self._wiped.drop(start, stop)

    def move(self, old: int, size: int, new: int) -> None:
        """Let the advice about a range go where its pages go."""
        self._lacks.move(old, size, new)
        self._wiped.move(old, size, new)

    def lacking(self) -> Iterator[tuple[int, int]]:
        """Yield start and end of each range that a child does not have."""
        return _ranges(self._lacks)

    def wiped(self) -> Iterator[tuple[int, int]]:
        """Yield start and end of each range that is zero for a child."""
        return _ranges(self._wiped)


def _ranges(pages: Guards) -> Iterator[tuple[int, int]]:
    start = stop = -1
    for page in pages.all():
        if page != stop:
            if start >= 0:
                yield start, stop
            start = page
        stop = page + PAGE_SIZE
    if start >= 0:
        yield start, stop
