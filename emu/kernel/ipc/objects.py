"""System V objects, found by key and id, and who may use them. All of it is the system's, no process's.

Source: sysvipc(7), shmget(2), semget(2), msgget(2); Linux ipc/util.c.
"""

from __future__ import annotations

import errno
import struct
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

from emu.core.record import NamedTuple
from emu.kernel.errors import fail

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.kernel.ipc.mqueue import MessageQueue
    from emu.machine.shared_files import SharedMemory

IPC_CREAT, IPC_EXCL, IPC_NOWAIT = 0o1000, 0o2000, 0o4000
IPC_RMID, IPC_SET, IPC_STAT, IPC_INFO = range(4)
READ, WRITE = 0o444, 0o222
_PERM = struct.Struct("<iIIIIIHxxxxxxQQ")
_MOST = 1 << 15


class IpcCaller(NamedTuple):
    """Who makes a call, and when: process id, effective user and group, seconds since the epoch."""

    pid: int
    uid: int
    gid: int
    time: int


class Object:
    """What all three kinds have: key and id, owner, creator, permissions; times in seconds."""

    def __init__(self, who: IpcCaller, key: int, mode: int) -> None:
        self.key, self.id, self.mode = key, -1, mode & 0o777
        self.uid = self.creator = who.uid
        self.gid = self.creator_group = who.gid
        self.changed = who.time
        self.gone = False

    def perm(self) -> bytes:
        """Return struct ipc64_perm."""
        sequence = self.id // _MOST
        return _PERM.pack(
            self.key, self.uid, self.gid, self.creator, self.creator_group, self.mode, sequence, 0, 0
        )

    def allow(self, who: IpcCaller, wanted: int) -> None:
        """Check READ and WRITE. Raises OSError(EACCES)."""
        uid, gid = who.uid, who.gid
        if not uid:
            return
        shift = 6 if uid in (self.uid, self.creator) else 3 if gid in (self.gid, self.creator_group) else 0
        if (wanted >> 6 | wanted >> 3 | wanted) & 7 & ~(self.mode >> shift):
            raise fail(errno.EACCES)

    def own(self, who: IpcCaller) -> None:
        """Check that the process may change or remove it. Raises OSError(EPERM)."""
        if who.uid not in (0, self.uid, self.creator):
            raise fail(errno.EPERM)

    def set_perm(self, who: IpcCaller, raw: bytes) -> None:
        """Take owner, group and permissions from a struct ipc64_perm (IPC_SET)."""
        self.own(who)
        _, self.uid, self.gid, _, _, mode, *_ = _PERM.unpack_from(raw)
        self.mode = self.mode & ~0o777 | mode & 0o777
        self.changed = who.time


class SharedSegment(Object):
    """A segment of shared memory; `removed` is one that goes with its last attachment."""

    def __init__(self, who: IpcCaller, key: int, mode: int, size: int, memory: SharedMemory) -> None:
        super().__init__(who, key, mode)
        self.size, self.memory = size, memory
        self.attached = self.detached = 0
        self.maker, self.last = who.pid, 0
        self.removed = False


_SET_BYTES, _SEMAPHORE_BYTES = 1024, 16


class Semaphores(Object):
    """A set of semaphores.

    `bytes` is what it costs the host. `undo` is what is given back when a process ends, by its id and the
    semaphore's number; `waiting` are (index, for zero) of those who wait.
    """

    def __init__(self, who: IpcCaller, key: int, mode: int, count: int) -> None:
        super().__init__(who, key, mode)
        self.values, self.pids = [0] * count, [0] * count
        self.undo: dict[int, dict[int, int]] = {}
        self.waiting: list[tuple[int, bool]] = []
        self.bytes = _SET_BYTES + _SEMAPHORE_BYTES * count
        self.used = 0


class QueuedMessage(NamedTuple):
    """A message of a queue: its type and its bytes."""

    kind: int
    data: bytes


class Queue(Object):
    """A queue of messages, at most `room` bytes of them."""

    def __init__(self, who: IpcCaller, key: int, mode: int, room: int) -> None:
        super().__init__(who, key, mode)
        self.room = room
        self.messages: deque[QueuedMessage] = deque()
        self.sent = self.received = 0
        self.last_sender = self.last_receiver = 0

    @property
    def used(self) -> int:
        """How many bytes are in it."""
        return sum(len(message.data) for message in self.messages)


T = TypeVar("T", bound=Object)


class IdTable(Generic[T]):
    """All objects of a kind."""

    def __init__(self) -> None:
        self._by_id: dict[int, T] = {}
        self._sequence = 0

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._by_id.values()))

    def find(self, ident: int) -> T:
        """Return the object of an id. Raises OSError(EINVAL)."""
        found = self._by_id.get(ident)
        if found is None:
            raise fail(errno.EINVAL)
        return found

    def by_key(self, who: IpcCaller, key: int, flags: int) -> T | None:
        """Return the object of a key, None where one is to be made.

        Raises OSError: ENOENT, EEXIST, EACCES.
        """
        found = next((one for one in self._by_id.values() if key and one.key == key), None)
        if found is None:
            if key and not flags & IPC_CREAT:
                raise fail(errno.ENOENT)
            return None
        if flags & IPC_CREAT and flags & IPC_EXCL:
            raise fail(errno.EEXIST)
        found.allow(who, flags & 0o777)
        return found

    def add(self, one: T) -> int:
        """Enter a new object; return its id. Raises OSError(ENOSPC)."""
        used = {ident % _MOST for ident in self._by_id}
        index = next((index for index in range(_MOST) if index not in used), -1)
        if index < 0:
            raise fail(errno.ENOSPC)
        one.id = self._sequence * _MOST + index
        self._by_id[one.id] = one
        return one.id

    def remove(self, one: T) -> None:
        """Take an object away; who waits for it is told."""
        one.gone = True
        del self._by_id[one.id]
        self._sequence = (self._sequence + 1) % (1 << 15)


class Ipc:
    """Everything that is found by a key or by the name of a message queue."""

    def __init__(self) -> None:
        self.segments: IdTable[SharedSegment] = IdTable()
        self.semaphores: IdTable[Semaphores] = IdTable()
        self.queues: IdTable[Queue] = IdTable()
        self.named: dict[str, MessageQueue] = {}

    def process_ends(self, pid: int) -> None:
        """Give back what a process wanted to be undone (SEM_UNDO)."""
        for one in self.semaphores:
            for index, given in one.undo.pop(pid, {}).items():
                if given:
                    one.values[index] = min(max(one.values[index] + given, 0), 32767)
                    one.pids[index] = pid
