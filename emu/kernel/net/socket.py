"""Sockets between threads of the guest: what each holds, and how bytes and messages go from one to another.

They reach nobody outside: the network is one loopback interface that the guest has for itself
(`emu.kernel.net.network`). As in Linux a sender pays for what it has under way, in the sizes that the
kernel's buffers have, and waits when it has used up its share.

One piece: what one end sends is what the other has received.

Source: unix(7), tcp(7), udp(7), socket(7); Linux net/unix/af_unix.c, net/core/sock.c:sock_alloc_send_pskb,
net/ipv4/tcp_input.c:tcp_reset.
"""

from __future__ import annotations

import errno
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from emu.core.record import NamedTuple
from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.fs.file import OpenFile, fresh
from emu.kernel.fs.stat import Stat
from emu.kernel.fs.watch import wake
from emu.kernel.net.interfaces import interface_ioctl
from emu.kernel.net.skbuff import LARGEST, truesize
from emu.kernel.net.socket_address import AF_UNIX, Address

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from emu.kernel.fs.file import Volume
    from emu.kernel.fs.watch import Watcher
    from emu.machine.arena import Arena

SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET = 1, 2, 3, 5
SHUT_RD, SHUT_WR = 1, 2
"""Bits of `shut`."""
MSG_PEEK, MSG_TRUNC = 2, 0x20
_FIONREAD, _TIOCOUTQ = 0x541B, 0x5411
_IN, _OUT = abi.POLLIN | abi.POLLRDNORM, abi.POLLOUT | abi.POLLWRNORM
_POLLRDHUP = 0x2000
_SHARE: Final = 212992
"""net.core.wmem_default."""
_TCP_SHARE: Final = 3_939_840
_NETWORK_LIMIT: Final = 64 << 20
"""How many bytes may be under way between all sockets: Linux has such a limit, too (tcp_mem)."""
WAITING_COST: Final = 8192
"""What both ends of a connection that nobody has accepted are charged with."""
_FILE_COST: Final = 1024
"""What a file under way is charged with: nobody may have a descriptor for it."""
DGRAM_QUEUE: Final = 10
"""net.unix.max_dgram_qlen."""


class Wire(Protocol):
    """What sockets ask of the network that they belong to.

    `under_way` counts the bytes between all of them, `in_flight` the files; `sender` gives the process id,
    real user and group of whoever is sending, `caller` the same with the effective ones.
    """

    under_way: int
    in_flight: int
    sender: Callable[[], tuple[int, int, int]]
    caller: Callable[[], tuple[int, int, int]]

    @property
    def volume(self) -> Volume:
        """What numbers their inodes."""

    def forget(self, socket: Socket) -> None:
        """A socket that is closed has no name any more."""


class Message(NamedTuple):
    """Bytes under way.

    `cost` counts against the share of `sender`; `files` and `credentials` (pid, uid, gid) go along.
    """

    data: bytes
    cost: int
    sender: Socket
    source: Address | None
    files: tuple[OpenFile, ...]
    credentials: tuple[int, int, int]


class Received(NamedTuple):
    """What one receive gives; `size` is that of the whole message, of which `data` may be a part."""

    data: bytes
    size: int = 0
    source: Address | None = None
    files: tuple[OpenFile, ...] = ()
    credentials: tuple[int, int, int] = (0, -1, -1)


class Socket(OpenFile):
    """A socket, of AF_UNIX (`unix`) or not, that must be connected first (`connects`) or not.

    `local` and `remote` are its names, `peer` the socket at the other end, `peer_credentials` (pid, uid, gid)
    who made that connect, or listen.

    `incoming` is what has arrived, of the first the bytes from `start` on; `used` is the cost of what it sent
    and nobody took yet. `shut` holds SHUT_* bits, `error` is SO_ERROR; TCP's other end has told its end
    (`heard_end`); it was closed for good (`gone`). A connect that did not wait has not been heard of yet
    (`attempted`). A socket that listens has a `backlog`, and those `waiting` to be accepted. No method waits:
    see `OpenFile`.
    """

    __slots__ = (
        "attempted", "backlog", "connected", "error", "family", "gone", "heard_end", "incoming", "kind", "local", "network", "options", "peer", "protocol",
        "connects", "peer_credentials", "remote", "shut", "start", "unix", "used", "waiting", "_stat", "_watchers",
    )  # fmt: skip

    is_socket = True
    tells_owner = True

    def __init__(self, network: Wire, family: int, kind: int, protocol: int, flags: int = 0) -> None:
        self.network = network
        self._stat = fresh(network.volume, abi.S_IFSOCK | 0o777)
        super().__init__(f"socket:[{self._stat.ino}]", abi.O_RDWR | flags)
        self.family, self.kind, self.protocol = family, kind, protocol
        self.unix, self.connects = family == AF_UNIX, kind in (SOCK_STREAM, SOCK_SEQPACKET)
        self.local: Address | None = None
        self.remote: Address | None = None
        self.peer: Socket | None = None
        self.peer_credentials = (0, -1, -1)
        self.attempted = self.connected = self.heard_end = self.gone = False
        self.incoming: deque[Message] = deque()
        self.start = 0
        self.used = self.shut = self.error = 0
        self.backlog: int | None = None
        self.waiting: deque[Socket] = deque()
        self.options: dict[tuple[int, int], bytes] = {}
        self._watchers: list[Watcher] = []

    # -- what kind it is -------------------------------------------------------------------------------------

    @property
    def share(self) -> int:
        """How much it may have under way."""
        default = _SHARE if self.unix or not self.connects else _TCP_SHARE
        return self.number((1, 7), default)

    def number(self, option: tuple[int, int], default: int = 0) -> int:
        """Return an option (level, name) that is an int."""
        raw = self.options.get(option)
        return default if raw is None else int.from_bytes(raw, "little", signed=True)

    def stat(self) -> Stat:
        """Return the attributes of an anonymous inode."""
        return self._stat

    def watchers(self) -> list[Watcher]:
        """Return who watches the socket."""
        return self._watchers

    def tell(self, events: int) -> None:
        """Conditions have come about."""
        wake(self._watchers, events)

    def fail_later(self, error: int) -> None:
        """The next call meets an error."""
        self.error = error
        self.tell(abi.POLLERR)

    def take_error(self) -> None:
        """Raise the pending error, once."""
        if self.error:
            error, self.error = self.error, 0
            raise fail(error)

    # -- sending ---------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> int:
        """Send, as write(2) does."""
        return self.send(data)

    def send(self, data: bytes, files: tuple[OpenFile, ...] = (), to: Socket | None = None) -> int:
        """Send bytes (as many as there is room for), or one message;
        to another socket than the peer where datagrams may go anywhere.

        Raises OSError: EAGAIN where a sender waits, EPIPE, ENOTCONN, ECONNREFUSED, EMSGSIZE, or the pending
        error.
        """
        if self.kind == SOCK_STREAM:
            return self._send_bytes(data, files)
        self.take_error()
        if self.shut & SHUT_WR:
            raise fail(errno.EPIPE)
        peer = to if to is not None else self.peer
        if self.connects and (not self.connected or peer is None):
            raise fail(errno.EPIPE if self.connected else errno.ENOTCONN)
        if self.unix and len(data) > self.share - 32 or not self.unix and len(data) > 65507:
            raise fail(errno.EMSGSIZE)
        cost = truesize(len(data), packet=True)
        if self.used >= self.share:
            raise fail(errno.EAGAIN)
        if peer is not None and peer.accepts(self, cost):
            self._post(peer, data, cost, files)
        else:
            self.drop(files)  # a datagram that nobody has room for is lost
        return len(data)

    def accepts(self, sender: Socket, cost: int) -> bool:
        """Whether a message is taken; false where it is lost.

        Raises OSError: ECONNREFUSED, EPIPE, EAGAIN, EPERM.
        """
        if not self.unix:
            return sum(message.cost for message in self.incoming) + cost <= self.number((1, 8), _SHARE)
        if self.gone:
            sender.peer = None if sender.peer is self else sender.peer
            raise fail(errno.EPIPE if self.connects else errno.ECONNREFUSED)
        if self.shut & SHUT_RD:
            raise fail(errno.EPIPE)
        if self.peer is not None and self.peer is not sender:
            raise fail(errno.EPERM)
        if self.peer is not sender and len(self.incoming) > DGRAM_QUEUE:
            raise fail(errno.EAGAIN)
        return True

    def _send_bytes(self, data: bytes, files: tuple[OpenFile, ...]) -> int:
        peer = self.peer
        if not self.unix:
            self.take_error()
        if not self.connected or peer is None:
            raise fail(errno.ENOTCONN if self.unix else errno.EPIPE)
        if self.shut & SHUT_WR or self.unix and (peer.gone or peer.shut & SHUT_RD):
            raise fail(errno.EPIPE)
        self.take_error()
        if peer.gone:
            self.reset(errno.EPIPE)  # so TCP's other end answers
            return len(data)
        done = 0
        while done < len(data) and self.used < self.share:
            if self.unix:
                size = min(len(data) - done, (self.share >> 1) - 64, LARGEST)
            else:
                size = min(len(data) - done, self.share - self.used)
            cost = truesize(size) if self.unix else size
            if self.network.under_way + cost > _NETWORK_LIMIT:
                break
            try:
                self._post(peer, data[done : done + size], cost, files)
            except OSError:
                if done:
                    break
                raise
            files = ()
            done += size
        if data and not done:
            raise fail(errno.EAGAIN)
        return done

    def _post(self, peer: Socket, data: bytes, cost: int, files: tuple[OpenFile, ...]) -> None:
        self._charge(cost + _FILE_COST * len(files))
        self.network.in_flight += len(files)
        peer.incoming.append(Message(data, cost, self, self.local, files, self.network.sender()))
        self.used += cost
        self.network.under_way += cost
        peer.tell(_IN)

    def _charge(self, cost: int) -> None:
        """Account for a message under way. Raises OSError(ENOBUFS) at the memory limit."""
        try:
            self.network.volume.charge(cost)
        except OSError:
            raise fail(errno.ENOBUFS) from None

    def writable_now(self) -> bool:
        """Whether poll tells that there is room: a quarter of the share may be used, of TCP's two thirds."""
        if self.unix or not self.connects:
            return self.used * 4 <= self.share
        return self.used * 3 <= self.share * 2

    # -- receiving -------------------------------------------------------------------------------------------

    def read(self, size: int) -> bytes:
        """Receive, as read(2) does: files that come along are closed."""
        received = self.receive(size)
        self.drop(received.files)
        return received.data

    def receive(self, size: int, flags: int = 0) -> Received:
        """Take up to `size` bytes, or one message.

        Raises OSError: EAGAIN where a receiver waits, ENOTCONN, EINVAL, or the pending error.
        """
        if self.backlog is not None or self.connects and not self.connected:
            self.take_error()
            raise fail(errno.EINVAL if self.unix and self.kind == SOCK_STREAM else errno.ENOTCONN)
        if not self.incoming:
            if self.heard_end:
                return Received(b"")
            self.take_error()
            if self.shut & SHUT_RD:
                return Received(b"")
            raise fail(errno.EAGAIN)
        return (
            self._receive_bytes(size, flags)
            if self.kind == SOCK_STREAM
            else self._receive_message(size, flags)
        )

    def _receive_message(self, size: int, flags: int) -> Received:
        message = self.incoming[0]
        files = message.files
        if flags & MSG_PEEK:
            files = _share(files)
        else:
            self.incoming.popleft()
            self._taken(message)
        return Received(message.data[:size], len(message.data), message.source, files, message.credentials)

    def _receive_bytes(self, size: int, flags: int) -> Received:
        taken = bytearray()
        files: tuple[OpenFile, ...] = ()
        first = self.incoming[0]
        start, peek = self.start, bool(flags & MSG_PEEK)
        index = 0
        while index < len(self.incoming) and len(taken) < size:
            message = self.incoming[index]
            if self.number((1, 16)) and message.credentials != first.credentials:
                break
            piece = message.data[start : start + size - len(taken)]
            taken += piece
            start += len(piece)
            has_files = bool(message.files)
            files = message.files if has_files else files
            if start < len(message.data):
                if has_files and not peek:
                    self._landed(message)
                    self.incoming[index] = message._replace(files=())
                break
            start = 0
            if peek:
                index += 1
            else:
                self.incoming.popleft()
                self._taken(message)
            if has_files:
                break
        if not peek:
            self.start = start
        else:
            files = _share(files)
        return Received(bytes(taken), len(taken), None, files, first.credentials)

    def _taken(self, message: Message) -> None:
        """A message has left the queue."""
        sender = message.sender
        was_full = not sender.writable_now()
        sender.used -= message.cost
        self.network.under_way -= message.cost
        self.network.volume.charge(-message.cost)
        self._landed(message)
        if was_full and sender.writable_now() or not sender.connects:
            sender.tell(_OUT)

    def _landed(self, message: Message) -> None:
        """The files of a message are under way no longer."""
        self.network.in_flight -= len(message.files)
        self.network.volume.charge(-_FILE_COST * len(message.files))

    # -- conditions ------------------------------------------------------------------------------------------

    def poll(self) -> int:
        """Return what holds now. Source: Linux unix_poll, unix_dgram_poll, tcp_poll, datagram_poll."""
        if self.backlog is not None:
            return _IN if self.waiting else 0
        held = abi.POLLERR if self.error else 0
        if self.incoming:
            held |= _IN
        if self.shut & SHUT_RD:
            held |= _IN | _POLLRDHUP
        if self.shut & 3 == 3 or self.connects and not self.connected:
            held |= abi.POLLHUP
        room = self.writable_now()
        if room and not self.connects and self.unix and self.peer is not None and self.peer.peer is not self:
            room = len(self.peer.incoming) <= DGRAM_QUEUE
        if room or not self.unix and self.shut & SHUT_WR:
            held |= _OUT | (abi.POLLWRBAND if self.unix or not self.connects else 0)
        return held

    def ioctl(self, arena: Arena, request: int, argument: int) -> int:
        """Tell how many bytes wait here (FIONREAD; of a message socket, in the first) or are under way
        (TIOCOUTQ); or of interfaces.
        """
        if request == _FIONREAD:
            if self.backlog is not None:
                raise fail(errno.EINVAL)
            waiting = self.incoming if self.connects else list(self.incoming)[:1]
            value = sum(len(message.data) for message in waiting) - self.start
        elif request == _TIOCOUTQ:
            value = self.used
        elif interface_ioctl(arena, request, argument):
            return 0
        else:
            raise fail(errno.ENOTTY)
        arena.copy_out(argument, value.to_bytes(4, "little"))
        return 0

    def drop(self, files: Sequence[OpenFile]) -> None:
        """Let go of files that were under way."""
        for file in files:
            file.release()

    # -- the end ---------------------------------------------------------------------------------------------

    def shut_down(self, how: int) -> None:
        """End one direction or both (SHUT_* bits); the other end sees it."""
        self.shut |= how
        peer = self.peer
        if peer is not None and self.connects and peer.peer is self:
            peer.shut |= how >> 1 & SHUT_RD | (how << 1 & SHUT_WR if self.unix else 0)
            peer.heard_end |= not self.unix and bool(how & SHUT_WR)
            peer.tell(_IN | _POLLRDHUP | (abi.POLLHUP if peer.shut & 3 == 3 else 0) | _OUT)
        self.tell(_IN | _OUT | _POLLRDHUP | (abi.POLLHUP if self.shut & 3 == 3 else 0))

    def reset(self, error: int) -> None:
        """The connection is broken."""
        self.error, self.shut = error, self.shut | SHUT_RD | SHUT_WR
        self.tell(abi.POLLERR | abi.POLLHUP | _IN | _OUT | _POLLRDHUP)

    def closed(self) -> None:
        """The last descriptor is gone."""
        unread = bool(self.incoming or self.waiting)
        while self.waiting:
            self.take_waiting().closed_unaccepted()
        while self.incoming:
            message = self.incoming.popleft()
            self._taken(message)
            self.drop(message.files)
        self.gone = True
        peer = self.peer
        if peer is not None and self.connects and peer.peer is self:
            if unread:
                peer.reset(errno.ECONNRESET)
            else:
                peer.shut |= SHUT_RD | SHUT_WR if self.unix else SHUT_RD
                peer.heard_end |= not self.unix
                peer.tell(_IN | _OUT | _POLLRDHUP | (abi.POLLHUP if peer.shut & 3 == 3 else 0))
        self.network.forget(self)

    def take_waiting(self) -> Socket:
        """Take the end of a connection that has waited longest to be accepted."""
        self.network.volume.charge(-WAITING_COST)
        return self.waiting.popleft()

    def closed_unaccepted(self) -> None:
        """Nobody accepted this end of a connection, and nobody will."""
        peer = self.peer
        self.closed()
        if peer is not None:
            peer.reset(errno.ECONNRESET)


def _share(files: tuple[OpenFile, ...]) -> tuple[OpenFile, ...]:
    for file in files:
        file.hold()
    return files
