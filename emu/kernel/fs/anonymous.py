"""Files without a name: the counters of eventfd and timerfd, the signals of signalfd.

Source: eventfd(2), timerfd_create(2), signalfd(2).
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.fs.file import OpenFile, fresh
from emu.kernel.fs.watch import wake
from emu.kernel.run.timer import Timer

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.kernel.fs.file import Volume
    from emu.kernel.fs.stat import Stat
    from emu.kernel.fs.watch import Watcher
    from emu.kernel.run.clock import Clock
    from emu.kernel.run.signal_info import SignalInfo

_COUNTER_MAX = 0xFFFF_FFFF_FFFF_FFFE


class EventFile(OpenFile):
    """An eventfd: a counter that writes add to and a read takes (or decrements, with EFD_SEMAPHORE)."""

    __slots__ = ("_stat", "_watchers", "count", "semaphore")

    def __init__(self, volume: Volume, count: int, semaphore: bool, flags: int) -> None:
        super().__init__("anon_inode:[eventfd]", abi.O_RDWR | flags)
        self.count = count
        self.semaphore = semaphore
        self._watchers: list[Watcher] = []
        self._stat = fresh(volume, 0o600)

    def stat(self) -> Stat:
        """Return the attributes of an anonymous inode."""
        return self._stat

    def read(self, size: int) -> bytes:
        """Return the counter as eight bytes and make it 0; a semaphore gives 1, and goes down by that."""
        if size < 8:
            raise fail(errno.EINVAL)
        if not self.count:
            raise fail(errno.EAGAIN)
        taken = 1 if self.semaphore else self.count
        self.count -= taken
        wake(self._watchers, abi.POLLOUT)
        return taken.to_bytes(8, "little")

    def write(self, data: bytes) -> int:
        """Add a number of eight bytes to the counter."""
        if len(data) < 8:
            raise fail(errno.EINVAL)
        added = int.from_bytes(data[:8], "little")
        if added > _COUNTER_MAX:
            raise fail(errno.EINVAL)
        if self.count + added > _COUNTER_MAX:
            raise fail(errno.EAGAIN)
        self.count += added
        wake(self._watchers, abi.POLLIN)
        return 8

    def takes(self, data: bytes) -> bool:
        """Whether there is room for this much more."""
        return self.count + int.from_bytes(data[:8], "little") <= _COUNTER_MAX

    def watchers(self) -> list[Watcher]:
        """Return who watches the counter."""
        return self._watchers

    def poll(self) -> int:
        """Readable with a count, writable with room for one."""
        return (abi.POLLIN | abi.POLLRDNORM if self.count else 0) | (
            abi.POLLOUT | abi.POLLWRNORM if self.count < _COUNTER_MAX else 0
        )


class SignalFile(OpenFile):
    """A signalfd: reading takes pending signals of the reader's that are in `mask`.

    `take(mask)` takes one of the running thread's, `pending(file)` tells which may be had by somebody who has
    the file open.
    """

    __slots__ = ("mask", "_pending", "_stat", "_take")

    def __init__(
        self,
        volume: Volume,
        mask: int,
        take: Callable[[int], SignalInfo | None],
        pending: Callable[[OpenFile], int],
        flags: int,
    ) -> None:
        super().__init__("anon_inode:[signalfd]", abi.O_RDWR | flags)
        self.mask = mask
        self._take, self._pending = take, pending
        self._stat = fresh(volume, 0o600)

    def stat(self) -> Stat:
        """Return the attributes of an anonymous inode."""
        return self._stat

    def read(self, size: int) -> bytes:
        """Take as many signals as there is room for."""
        if size < _SIGNALFD_SIZE:
            raise fail(errno.EINVAL)
        taken = b""
        while len(taken) + _SIGNALFD_SIZE <= size and (info := self._take(self.mask)) is not None:
            taken += _signalfd_siginfo(info)
        if not taken:
            raise fail(errno.EAGAIN)
        return taken

    def poll(self) -> int:
        """Readable while a signal is pending."""
        return abi.POLLIN | abi.POLLRDNORM if self._pending(self) & self.mask else 0


_SIGNALFD_SIZE = 128


def _signalfd_siginfo(info: SignalInfo) -> bytes:
    """Return struct signalfd_siginfo."""
    value = info.value & abi.U64
    head = struct.pack(
        "<IiiIIiIIIIiiQQQQ", info.signo, 0, info.code, info.pid, info.uid, 0, info.timer, 0, info.overrun, info.trapno, 0,
        (value & abi.U32 ^ 1 << 31) - (1 << 31), value, 0, 0, info.address,
    )  # fmt: skip
    return head.ljust(_SIGNALFD_SIZE, b"\0")


class TimerFile(OpenFile):
    """A timerfd over the clock `clock` (CLOCK_*):
    reading takes the number of expiries since the last read.
    """

    __slots__ = ("clock", "timer", "_stat", "_taken", "_time")

    def __init__(self, volume: Volume, time: Clock, clock: int, flags: int) -> None:
        super().__init__("anon_inode:[timerfd]", abi.O_RDWR | flags)
        self.clock = clock
        self.timer = Timer(0, clock)
        self._taken = 0
        self._time = time
        self._stat = fresh(volume, 0o600)

    def stat(self) -> Stat:
        """Return the attributes of an anonymous inode."""
        return self._stat

    def _expiries(self) -> int:
        timer, now = self.timer, self._time.now
        if not timer.expiry or now < timer.expiry:
            return 0
        return 1 + (now - timer.expiry) // timer.interval if timer.interval else 1

    def read(self, size: int) -> bytes:
        """Return how often the timer has expired as eight bytes, and begin to count anew."""
        if size < 8:
            raise fail(errno.EINVAL)
        count = self._expiries()
        if not count:
            raise fail(errno.EAGAIN)
        self._taken += count
        self.timer.expiry += count * self.timer.interval
        if not self.timer.interval:
            self.timer.expiry = 0
        return count.to_bytes(8, "little")

    def poll(self) -> int:
        """Readable after an expiry."""
        return abi.POLLIN | abi.POLLRDNORM if self._expiries() else 0

    def deadline(self) -> int | None:
        """Return the virtual time of the next expiry, None without one."""
        timer, now = self.timer, self._time.now
        if now < timer.expiry:
            return timer.expiry
        return timer.expiry + self._expiries() * timer.interval if timer.interval else None

    def occasions(self) -> int:
        """Return the number of expiries so far."""
        return self._taken + self._expiries()
