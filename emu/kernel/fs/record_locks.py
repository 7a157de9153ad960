"""Locks of parts of files, held by processes (POSIX) or by open file descriptions (OFD).

Source: fcntl(2), fcntl_locking(2); Linux fs/locks.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from emu.core.record import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator


Key = tuple[int, int]
"""Device and inode of a file."""
Owner = "int | Holder"
END: Final = 1 << 63
"""Where a lock of the rest of a file ends."""


class RecordLock(NamedTuple):
    """The bytes [start, end) of a file, locked by a process (its id) or an open file description."""

    start: int
    end: int
    exclusive: bool
    owner: object

    def conflicts(self, other: RecordLock) -> bool:
        """Whether the two cannot be held together."""
        return (
            self.owner != other.owner
            and self.start < other.end
            and other.start < self.end
            and (self.exclusive or other.exclusive)
        )


class RecordLocks:
    """Who holds which parts of which files, and which processes wait for whom."""

    __slots__ = ("_records", "_waits")

    def __init__(self) -> None:
        self._records: dict[Key, list[RecordLock]] = {}
        self._waits: dict[object, tuple[Key, RecordLock]] = {}

    def conflict(self, key: Key, wanted: RecordLock) -> RecordLock | None:
        """Return the first lock that is in the way."""
        ways = sorted(record[:2] for record in self._records.get(key, ()) if record.conflicts(wanted))
        return next(
            (r for r in self._records.get(key, ()) if ways and r[:2] == ways[0] and r.conflicts(wanted)), None
        )

    def put(self, key: Key, wanted: RecordLock) -> None:
        """Hold a lock that nobody is in the way of, in place of what the owner held there."""
        self.clear(key, wanted.start, wanted.end, wanted.owner)
        self._records.setdefault(key, []).append(wanted)

    def clear(self, key: Key, start: int, end: int, owner: object) -> None:
        """Give up what an owner holds of a range."""
        kept: list[RecordLock] = []
        for record in self._records.get(key, ()):
            if record.owner != owner or record.end <= start or record.start >= end:
                kept.append(record)
                continue
            if record.start < start:
                kept.append(record._replace(end=start))
            if record.end > end:
                kept.append(record._replace(start=end))
        if kept:
            self._records[key] = kept
        else:
            self._records.pop(key, None)

    def drop(self, owner: object, key: Key | None = None) -> None:
        """Give up all that an owner holds, of one file or of every one."""
        for each in [key] if key is not None else list(self._records):
            self.clear(each, 0, END, owner)

    def wait(self, key: Key, wanted: RecordLock) -> bool:
        """Note that a process waits for a lock; false if that could never end, each waiting for the next."""
        self._waits[wanted.owner] = key, wanted
        seen: set[object] = set()
        todo = list(self._blockers(wanted.owner))
        while todo:
            owner = todo.pop()
            if owner == wanted.owner:
                del self._waits[wanted.owner]
                return False
            if owner not in seen:
                seen.add(owner)
                todo.extend(self._blockers(owner))
        return True

    def waited(self, owner: object) -> None:
        """Forget that a process waits for a lock."""
        self._waits.pop(owner, None)

    def _blockers(self, owner: object) -> Iterator[object]:
        if owner in self._waits:
            key, wanted = self._waits[owner]
            yield from (record.owner for record in self._records.get(key, ()) if record.conflicts(wanted))
