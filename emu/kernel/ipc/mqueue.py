"""POSIX message queues: named, with messages by priority.

Source: mq_overview(7), mq_open(3), mq_notify(3); Linux ipc/mqueue.c.
"""

from __future__ import annotations

import errno
import struct
from bisect import insort
from typing import TYPE_CHECKING

from emu.core.record import NamedTuple
from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.fs.file import OpenFile, fresh
from emu.kernel.fs.watch import wake

if TYPE_CHECKING:
    from emu.kernel.fs.file import Volume
    from emu.kernel.fs.stat import Stat
    from emu.kernel.fs.watch import Watcher

ATTRIBUTES = struct.Struct("<qqqq32x")
"""struct mq_attr: flags, most messages, largest size, messages now."""


class Waiting(NamedTuple):
    """A message: the higher priority comes first, then the older one."""

    rank: int
    age: int
    data: bytes


class Notify(NamedTuple):
    """Who wants to be told of the next message:
    process id, and signal with its value (0: nothing but the place is taken).
    """

    pid: int
    signo: int
    value: int


class MessageQueue:
    """One queue, with or without a name. `readers` counts those who wait for a message."""

    def __init__(self, volume: Volume, name: str, mode: int, most: int, size: int) -> None:
        self.name, self.most, self.size = name, most, size
        self.messages: list[Waiting] = []
        self.readers = 0
        self.notify: Notify | None = None
        self.watchers: list[Watcher] = []
        self.volume = volume
        self.stat = fresh(volume, abi.S_IFREG | mode)
        self._age = 0

    @property
    def full(self) -> bool:
        """Whether nothing more fits."""
        return len(self.messages) >= self.most

    def put(self, data: bytes, priority: int) -> None:
        """Add a message. Raises OSError(ENOMEM) at the memory limit."""
        try:
            self.volume.charge(len(data))
        except OSError:
            raise fail(errno.ENOMEM) from None
        self._age += 1
        insort(self.messages, Waiting(-priority, self._age, data))
        wake(self.watchers, abi.POLLIN)

    def take(self) -> Waiting:
        """Remove the first message."""
        first = self.messages.pop(0)
        self.volume.charge(-len(first.data))
        wake(self.watchers, abi.POLLOUT)
        return first


class QueueFile(OpenFile):
    """A descriptor of a queue."""

    __slots__ = ("queue",)

    def __init__(self, queue: MessageQueue, flags: int) -> None:
        super().__init__(f"/{queue.name}", flags)
        self.queue = queue

    def stat(self) -> Stat:
        """Return the attributes."""
        return self.queue.stat._replace(size=80)

    def read(self, size: int) -> bytes:
        """Return what the file in the queues' file system says."""
        notify = self.queue.notify
        waiting = sum(len(message.data) for message in self.queue.messages)
        told = (notify.signo, notify.pid) if notify is not None else (0, 0)
        text = f"QSIZE:{waiting:<10} NOTIFY:0     SIGNO:{told[0]:<5} NOTIFY_PID:{told[1]:<6}\n".encode()
        part = text[self.offset : self.offset + size]
        self.offset += len(part)
        return part

    def watchers(self) -> list[Watcher]:
        """Return who watches the queue."""
        return self.queue.watchers

    def poll(self) -> int:
        """Readable with a message, writable with room for one."""
        return (abi.POLLIN | abi.POLLRDNORM if self.queue.messages else 0) | (
            0 if self.queue.full else abi.POLLOUT | abi.POLLWRNORM
        )
