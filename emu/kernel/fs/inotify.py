"""inotify instances: a queue of what happened to what they watch. Source: inotify(7)."""

from __future__ import annotations

import errno
import os
import struct
from collections import deque
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.fs.file import OpenFile, fresh
from emu.kernel.fs.hostfile import FIONREAD
from emu.kernel.fs.notices import MAX_QUEUED, MAX_WATCHES, FileWatch
from emu.kernel.fs.watch import wake

if TYPE_CHECKING:
    from emu.kernel.fs.file import Inode, Volume
    from emu.kernel.fs.notices import Key, Notices
    from emu.kernel.fs.stat import Stat
    from emu.kernel.fs.watch import Watcher
    from emu.machine.arena import Arena

_EVENT = struct.Struct("<iIII")
_WATCH_COST, _EVENT_COST = 512, 128
"""What a watch and an event are charged with."""
_IN_Q_OVERFLOW, _IN_IGNORED = 0x4000, 0x8000
_IN_MASK_CREATE, _IN_MASK_ADD = 1 << 28, 1 << 29
_KEPT = 0xFFF | 1 << 26 | 1 << 31


class InotifyFile(OpenFile):
    """An inotify instance."""

    __slots__ = ("_by_key", "_charge", "_events", "_last", "_notices", "_stat", "_watchers", "_watches")
    tells_owner = True

    def __init__(self, volume: Volume, notices: Notices, flags: int) -> None:
        super().__init__("anon_inode:inotify", abi.O_RDONLY | flags)
        self._notices = notices
        self._charge = volume.charge
        self._stat = fresh(volume, 0o600)
        self._watches: dict[int, FileWatch] = {}
        self._by_key: dict[Key, FileWatch] = {}
        self._events: deque[bytes] = deque()
        self._watchers: list[Watcher] = []
        self._last = 0

    def stat(self) -> Stat:
        """Return the attributes of an anonymous inode."""
        return self._stat

    # -- what is watched -------------------------------------------------------------------------------------

    def watch(self, inode: Inode, mask: int) -> int:
        """Watch an inode, or change what is asked of it; return the number of the watch.

        Raises OSError: EEXIST, ENOSPC.
        """
        st = inode.stat()
        known = self._by_key.get((st.dev, st.ino))
        if known is not None:
            if mask & _IN_MASK_CREATE:
                raise fail(errno.EEXIST)
            known.change(mask & _KEPT | (known.mask if mask & _IN_MASK_ADD else 0))
            return known.number
        if len(self._watches) >= MAX_WATCHES:
            raise fail(errno.ENOSPC)
        self._charge(_WATCH_COST)
        self._last += 1
        watch = FileWatch(self, inode, self._last, mask & _KEPT)
        self._watches[watch.number] = self._by_key[watch.key] = watch
        self._notices.add(watch)
        return watch.number

    def unwatch(self, number: int) -> None:
        """Watch no longer. Raises OSError(EINVAL)."""
        watch = self._watches.get(number)
        if watch is None:
            raise fail(errno.EINVAL)
        self._notices.drop(watch)
        self.ended(watch)

    def ended(self, watch: FileWatch) -> None:
        """Drop a watch that has ended, and tell the reader of it."""
        del self._watches[watch.number], self._by_key[watch.key]
        self._charge(-_WATCH_COST)
        self._queue(_EVENT.pack(watch.number, _IN_IGNORED, 0, 0))

    def tell(self, watch: FileWatch, mask: int, name: str, cookie: int) -> None:
        """Queue an event; one that is as the last one, but for its cookie, is not told again."""
        raw = os.fsencode(name)
        size = -(-(len(raw) + 1) // _EVENT.size) * _EVENT.size if raw else 0
        self._queue(_EVENT.pack(watch.number, mask, cookie, size) + raw.ljust(size, b"\0"))

    def _queue(self, event: bytes) -> None:
        if self._events:
            last = self._events[-1]
            if last[:8] == event[:8] and last[12:] == event[12:]:
                return
        if len(self._events) > MAX_QUEUED:
            return
        try:
            self._charge(_EVENT_COST)
        except OSError:
            return
        full = len(self._events) == MAX_QUEUED
        self._events.append(_EVENT.pack(-1, _IN_Q_OVERFLOW, 0, 0) if full else event)
        wake(self._watchers, abi.POLLIN | abi.POLLRDNORM)

    # -- the descriptor --------------------------------------------------------------------------------------

    def read(self, size: int) -> bytes:
        """Take as many events as there is room for. Raises OSError: EAGAIN, EINVAL without room for one."""
        if not self._events:
            raise fail(errno.EAGAIN)
        if len(self._events[0]) > size:
            raise fail(errno.EINVAL)
        taken = bytearray()
        while self._events and len(taken) + len(self._events[0]) <= size:
            taken += self._events.popleft()
            self._charge(-_EVENT_COST)
        return bytes(taken)

    def poll(self) -> int:
        """Return the POLL* bits: readable while an event waits."""
        return abi.POLLIN | abi.POLLRDNORM if self._events else 0

    def watchers(self) -> list[Watcher]:
        """Return who watches the queue."""
        return self._watchers

    def ioctl(self, arena: Arena, request: int, argument: int) -> int:
        """Tell how many bytes wait (FIONREAD)."""
        if request != FIONREAD:
            raise fail(errno.ENOTTY)
        arena.copy_out(argument, sum(map(len, self._events)).to_bytes(4, "little"))
        return 0

    def closed(self) -> None:
        """Nobody can ask it any more."""
        for watch in self._watches.values():
            self._notices.drop(watch)
        self._charge(-_WATCH_COST * len(self._watches) - _EVENT_COST * len(self._events))
        self._watches.clear()
        self._by_key.clear()
        self._events.clear()
