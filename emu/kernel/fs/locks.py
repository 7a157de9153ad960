"""flock: locks of whole files, held by open file descriptions. Source: flock(2); Linux fs/locks.c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from emu.kernel.fs.record_locks import RecordLocks

if TYPE_CHECKING:
    from emu.kernel.fs.stat import Stat


class Holder(Protocol):
    """An open file description, as locks know it; `locks` is where it has one."""

    locks: FileLocks | None

    def stat(self) -> Stat:
        """Return the attributes (fstat)."""


class FileLocks:
    """Who holds a lock on which file: descriptions by (device, inode); an exclusive lock has one holder.

    `records` are those of parts of files.
    """

    __slots__ = ("_exclusive", "_holders", "_keys", "records")

    def __init__(self) -> None:
        self._holders: dict[tuple[int, int], list[Holder]] = {}
        self._keys: dict[Holder, tuple[int, int]] = {}
        self.records = RecordLocks()
        self._exclusive: set[tuple[int, int]] = set()

    def acquire(self, file: Holder, *, exclusive: bool) -> bool:
        """Lock a file; false when another description's lock is in the way.

        A lock that one has already is converted: it is lost even if the new one cannot be had.
        """
        self.release(file)
        if not self.free(file, exclusive=exclusive):
            return False
        file.locks = self
        key = self._keys[file] = key_of(file)
        self._holders.setdefault(key, []).append(file)
        if exclusive:
            self._exclusive.add(key)
        return True

    def free(self, file: Holder, *, exclusive: bool) -> bool:
        """Whether `acquire` would succeed."""
        key = key_of(file)
        return key not in self._holders or not exclusive and key not in self._exclusive

    def closed(self, file: Holder) -> None:
        """A description is gone, and with it all its locks."""
        self.release(file)
        self.records.drop(file)

    def release(self, file: Holder) -> None:
        """Give up a lock of the whole file, if there is one."""
        key = self._keys.pop(file, None)
        if key is not None:
            holders = self._holders[key]
            holders.remove(file)
            self._exclusive.discard(key)
            if not holders:
                del self._holders[key]


class _Known(Protocol):
    """What has attributes: an open file, or an inode."""

    def stat(self) -> Stat:
        """Return the attributes."""


def key_of(file: _Known) -> tuple[int, int]:
    """Return what names a file: device and inode."""
    status = file.stat()
    return status.dev, status.ino
