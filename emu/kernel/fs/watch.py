"""Who wants to be told when something happens to a file. Source: Linux include/linux/wait.h."""

from __future__ import annotations

from typing import Protocol


class Watcher(Protocol):
    """One that a file wakes: an interest of an epoll instance."""

    def wake(self, events: int) -> None:
        """The POLL* conditions `events` have come about."""


def wake(watchers: list[Watcher], events: int) -> None:
    """Tell the watchers of a file that conditions have come about, the last comer first."""
    for watcher in reversed(watchers):
        watcher.wake(events)
