"""Guard pages inside of areas: every access faults, and the area stays one.

Source: madvise(2), MADV_GUARD_INSTALL (Linux 6.13).
"""

from __future__ import annotations

from collections.abc import Iterator

from emu.machine.arena import PAGE_SIZE


class Guards:
    """The guard pages of one address space, by address."""

    def __init__(self) -> None:
        self._pages: set[int] = set()

    def copy(self) -> Guards:
        """Return the same guard pages for a child."""
        guards = Guards()
        guards._pages = set(self._pages)
        return guards

    def __contains__(self, page: int) -> bool:
        return page in self._pages

    def add(self, start: int, stop: int) -> None:
        """Guard the pages of a range."""
        self._pages.update(range(start, stop, PAGE_SIZE))

    def drop(self, start: int, stop: int) -> None:
        """Take the guards of a range away."""
        if self._pages:
            self._pages.difference_update(range(start, stop, PAGE_SIZE))

    def move(self, old: int, size: int, new: int) -> None:
        """Let the guards of a range go where its pages go."""
        moved = [page - old + new for page in self.within(old, old + size)]
        self.drop(old, old + size)
        self._pages.update(moved)

    def all(self) -> list[int]:
        """Return the pages in order."""
        return sorted(self._pages)

    def within(self, start: int, stop: int) -> Iterator[int]:
        """Yield the guard pages of a range."""
        if self._pages:
            yield from [page for page in range(start, stop, PAGE_SIZE) if page in self._pages]
