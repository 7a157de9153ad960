"""flock: locks of whole files, held by open file descriptions. Source: flock(2); Linux fs/locks.c."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emu.kernel.openfile import OpenFile


class FileLocks:
    """Who holds a lock on which file: descriptions by (device, inode); an exclusive lock has one holder."""

    __slots__ = ("_exclusive", "_holders", "_keys")

    def __init__(self) -> None:
        self._holders: dict[tuple[int, int], list[OpenFile]] = {}
        self._keys: dict[OpenFile, tuple[int, int]] = {}
        self._exclusive: set[tuple[int, int]] = set()

    def acquire(self, file: OpenFile, *, exclusive: bool) -> bool:
        """Lock a file; false when another description's lock is in the way. A lock that one has already is converted: it is lost
        even if the new one cannot be had.
        """
        self.release(file)
        if not self.free(file, exclusive=exclusive):
            return False
        key = self._keys[file] = _key(file)
        self._holders.setdefault(key, []).append(file)
        if exclusive:
            self._exclusive.add(key)
        return True

    def free(self, file: OpenFile, *, exclusive: bool) -> bool:
        """Whether `acquire` would succeed."""
        key = _key(file)
        return key not in self._holders or not exclusive and key not in self._exclusive

    def release(self, file: OpenFile) -> None:
        """Give up a lock, if there is one."""
        key = self._keys.pop(file, None)
        if key is not None:
            holders = self._holders[key]
            holders.remove(file)
            self._exclusive.discard(key)
            if not holders:
                del self._holders[key]


def _key(file: OpenFile) -> tuple[int, int]:
    status = file.stat()
    return status.dev, status.ino
