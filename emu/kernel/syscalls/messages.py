"""Sending and receiving on sockets, with what goes along: names, files, credentials.

Source: send(2), recv(2), cmsg(3), unix(7); Linux net/socket.c, net/core/scm.c.
"""

from __future__ import annotations

import errno
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

from emu.core.errors import MemoryFault
from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.net.netlink import NetlinkSocket
from emu.kernel.net.socket import MSG_PEEK, MSG_TRUNC, SOCK_STREAM, Received, Socket
from emu.kernel.net.socket_address import InetAddress, pack, parse
from emu.kernel.run.block import Block
from emu.kernel.run.signal_info import SignalInfo
from emu.kernel.syscalls.control import Vectors, read_control, read_header, store_control
from emu.kernel.syscalls.sockets import (
    SO_RCVTIMEO,
    SO_SNDTIMEO,
    deadline_of,
    read_address,
    socket_call,
    store_address,
)
from emu.kernel.syscalls.waiting import resumable, wait
from emu.machine.arena import HIGH_END

if TYPE_CHECKING:
    from emu.kernel.fs.file import OpenFile
    from emu.kernel.kernel import Kernel
    from emu.kernel.net.socket_address import Address
    from emu.kernel.run.block import Waiting
    from emu.kernel.run.task import Task

    Outgoing = tuple[Vectors, tuple[OpenFile, ...], Address | None]
    Receiving = Generator[Block, None, Received]

_MSG_OOB, _MSG_DONTWAIT, _MSG_WAITALL, _MSG_ERRQUEUE = 1, 0x40, 0x100, 0x2000
_MSG_NOSIGNAL, _MSG_CMSG_CLOEXEC = 0x4000, 0x40000000
_PIECE = 1 << 20
_ENDS = abi.POLLIN | abi.POLLERR | abi.POLLHUP
_STORAGE_SIZE = 128


# -- receiving -----------------------------------------------------------------------------------------------


def receive(k: Kernel, t: Task, socket: OpenFile, vectors: Vectors, flags: int = 0) -> Waiting:
    """Receive into pieces of memory, as read(2), readv(2) and recv(2) do;
    files that come along are closed.
    """
    assert isinstance(socket, Socket)
    return _receive_to(k, t, socket, vectors, flags, deadline_of(k, socket, SO_RCVTIMEO))


@resumable
def _receive_to(
    k: Kernel, t: Task, socket: Socket, vectors: Vectors, flags: int, deadline: int | None
) -> Waiting:
    received = yield from _receive(k, t, socket, sum(size for _, size in vectors), flags, deadline)
    socket.drop(received.files)
    _scatter(k, vectors, received.data)
    return _length(socket, received, flags)


def _receive(k: Kernel, t: Task, socket: Socket, size: int, flags: int, deadline: int | None) -> Receiving:
    """Receive, waiting for something unless that is not wanted; with MSG_WAITALL for all of it."""
    if flags & _MSG_OOB:
        raise fail(errno.EOPNOTSUPP if socket.unix or not socket.connects else errno.EINVAL)
    if flags & _MSG_ERRQUEUE:
        raise fail(errno.EAGAIN)
    whole = flags & _MSG_WAITALL and socket.kind == SOCK_STREAM and not flags & MSG_PEEK
    got: Received | None = None
    while True:
        try:
            more = socket.receive(size - (len(got.data) if got is not None else 0), flags)
        except OSError as error:
            if got is not None and not isinstance(error, BlockingIOError):
                return got
            if not isinstance(error, BlockingIOError):
                raise
            if socket.flags & abi.O_NONBLOCK or flags & _MSG_DONTWAIT:
                if got is not None:
                    return got
                raise
        else:
            got = more if got is None else got._replace(data=got.data + more.data, size=got.size + more.size)
            if not whole or len(got.data) >= size or not more.data:
                return got
            continue
        ready = lambda: socket.poll() & _ENDS  # noqa: E731
        block = Block(
            f"to receive from {socket.path}", deadline, ready, ((socket, abi.POLLIN),), begun=got is not None
        )
        if not (yield from wait(k, t, block, restart=deadline is None)):
            if got is not None:
                return got
            raise fail(errno.EAGAIN)


def _scatter(k: Kernel, vectors: Vectors, data: bytes) -> None:
    for base, size in vectors:
        piece, data = data[:size], data[size:]
        k.arena.copy_out(base, piece)


def _length(socket: Socket, received: Received, flags: int) -> int:
    """What a call that received returns: with MSG_TRUNC a message's real length."""
    return received.size if flags & MSG_TRUNC and socket.kind != SOCK_STREAM else len(received.data)


def _source(socket: Socket, received: Received) -> tuple[bool, Address | None]:
    """Return whether a receive tells a name, and which."""
    return socket.kind != SOCK_STREAM and received.source is not None, received.source


@resumable
def _recvfrom(
    k: Kernel,
    t: Task,
    socket: Socket,
    buffer: int,
    size: int,
    flags: int,
    address: int,
    length: int,
    deadline: int | None,
) -> Waiting:
    received = yield from _receive(k, t, socket, size, flags, deadline)
    socket.drop(received.files)
    k.arena.copy_out(buffer, received.data)
    if address:
        told, name = _source(socket, received)
        if told:
            store_address(k, socket, name, address, length)
        else:
            k.arena.copy_out(length, bytes(4))
    return _length(socket, received, flags)


@socket_call(45, "recvfrom", "fd", "ptr", "size", "hex", "ptr", "ptr")
def _sys_recvfrom(
    k: Kernel, t: Task, socket: Socket, buffer: int, size: int, flags: int, address: int, length: int
) -> int | Waiting:
    size = _within(buffer, min(size, abi.MAX_RW_COUNT))
    return _recvfrom(
        k, t, socket, buffer, size, flags & abi.U32, address, length, deadline_of(k, socket, SO_RCVTIMEO)
    )


def receive_message(
    k: Kernel, t: Task, socket: Socket, place: int, flags: int, deadline: int | None
) -> Waiting:
    """Receive as a struct msghdr says; return how many bytes."""
    header = read_header(k, place)
    received = yield from _receive(k, t, socket, sum(size for _, size in header.vectors), flags, deadline)
    try:
        _scatter(k, header.vectors, received.data)
    except (OSError, MemoryFault):
        socket.drop(received.files)
        raise
    told, name = _source(socket, received)
    raw = pack(socket.family, name) if told else b""
    if header.name:
        k.arena.copy_out(header.name, raw[: header.name_size])
    k.arena.copy_out(place + 8, (len(raw) if header.name else 0).to_bytes(4, "little"))
    out = store_control(k, socket, header, received, flags)
    if received.size > len(received.data):
        out |= MSG_TRUNC
    k.arena.copy_out(place + 48, (out | flags & _MSG_CMSG_CLOEXEC).to_bytes(4, "little"))
    return _length(socket, received, flags)


_recvmsg_once = resumable(receive_message)


@socket_call(47, "recvmsg", "fd", "ptr", "hex")
def _sys_recvmsg(k: Kernel, t: Task, socket: Socket, place: int, flags: int) -> int | Waiting:
    return _recvmsg_once(k, t, socket, place, flags & abi.U32, deadline_of(k, socket, SO_RCVTIMEO))


# -- sending -------------------------------------------------------------------------------------------------


def send(k: Kernel, t: Task, socket: OpenFile, vectors: Vectors, flags: int = 0) -> Waiting:
    """Send pieces of memory, as write(2), writev(2) and send(2) do."""
    assert isinstance(socket, Socket)
    return send_from(k, t, socket, (vectors, (), None), flags, deadline_of(k, socket, SO_SNDTIMEO))


def _within(buffer: int, size: int) -> int:
    """Return the size of a buffer. Raises OSError(EFAULT) if it reaches beyond a user's addresses."""
    if buffer + size > HIGH_END:
        raise fail(errno.EFAULT)
    return size


def send_from(
    k: Kernel, t: Task, socket: Socket, message: Outgoing, flags: int, deadline: int | None
) -> Waiting:
    """Send what lies in pieces of memory.

    Of a stream's bytes no more are held than a piece: the guest says how many there are.
    """
    vectors, files, to = message
    if sum(size for _, size in vectors) <= _PIECE:
        data = b"".join(k.arena.copy_in(base, size) for base, size in vectors)
        return _send_once(k, t, socket, data, files, to, flags, deadline)
    if socket.kind == SOCK_STREAM:
        return _send_pieces(k, t, socket, message, flags, deadline)
    return _send_once(k, t, socket, next(_pieces(k, vectors)), files, to, flags, deadline)  # is too long


def _pieces(k: Kernel, vectors: Vectors) -> Iterator[bytes]:
    """Yield the bytes of pieces of memory, not more than `_PIECE` at a time. Raises MemoryFault."""
    held = bytearray()
    for base, size in vectors:
        for at in range(0, size, _PIECE):
            held += k.arena.copy_in(base + at, min(size - at, _PIECE))
            while len(held) >= _PIECE:
                yield bytes(held[:_PIECE])
                del held[:_PIECE]
    yield bytes(held)


def _send_pieces(
    k: Kernel, t: Task, socket: Socket, message: Outgoing, flags: int, deadline: int | None
) -> Waiting:
    vectors, files, to = message
    done = 0
    try:
        for piece in _pieces(k, vectors):
            count = yield from _send(k, t, socket, piece, files, to, flags, deadline)
            done, files = done + count, ()
            if count < len(piece):
                break
    except (OSError, MemoryFault):
        if not done:
            raise
    return done


def _send(
    k: Kernel,
    t: Task,
    socket: Socket,
    data: bytes,
    files: tuple[OpenFile, ...],
    to: Address | None,
    flags: int,
    deadline: int | None,
) -> Waiting:
    """Send all of `data`, waiting for room unless that is not wanted;
    a stream that ends meanwhile gives SIGPIPE.
    """
    if flags & _MSG_OOB:
        raise fail(errno.EOPNOTSUPP)
    done = 0
    try:
        while True:
            try:
                other = _destination(k, socket, to)
                for file in files:
                    file.hold()
                try:
                    done += socket.send(data[done:] if done else data, files, other)
                except OSError:
                    for file in files:
                        file.references -= 1
                    raise
                files = ()
                if other is None and to is None and not socket.unix and not socket.connects:
                    socket.fail_later(errno.ECONNREFUSED)  # what the ICMP message tells who is connected
                if done >= len(data):
                    return done
            except BlockingIOError:
                if socket.flags & abi.O_NONBLOCK or flags & _MSG_DONTWAIT:
                    if done:
                        return done
                    raise
            if done and (socket.flags & abi.O_NONBLOCK or flags & _MSG_DONTWAIT):
                return done
            block = _room(k, socket, to, deadline, begun=done > 0)
            if not (yield from wait(k, t, block, restart=deadline is None)):
                if done:
                    return done
                raise fail(errno.EAGAIN)
    except BrokenPipeError:
        if socket.kind == SOCK_STREAM and not done and not flags & _MSG_NOSIGNAL:
            k.signals.send(SignalInfo(abi.SIGPIPE, abi.SI_USER, k.pid, k.credentials.users.real), t)
        if done:
            return done
        raise


_send_once = resumable(_send)


def _room(k: Kernel, socket: Socket, to: Address | None, deadline: int | None, *, begun: bool) -> Block:
    """Return what a sender waits for."""
    if socket.kind == SOCK_STREAM:
        ready = lambda: socket.poll() & (abi.POLLOUT | abi.POLLERR | abi.POLLHUP)  # noqa: E731
    else:
        ready = lambda: _takes(k, socket, to)  # noqa: E731
    return Block(f"to send to {socket.path}", deadline, ready, ((socket, abi.POLLOUT),), begun=begun)


def _takes(k: Kernel, socket: Socket, to: Address | None) -> bool:
    """Whether a message would be taken, or refused for good."""
    try:
        other = _destination(k, socket, to) or socket.peer
        return socket.used < socket.share and (other is None or other.accepts(socket, 0) or True)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _destination(k: Kernel, socket: Socket, to: Address | None) -> Socket | None:
    """Return the socket that a message goes to; None means the peer, or with UDP nobody. Raises OSError."""
    if isinstance(socket, NetlinkSocket):
        return None
    if socket.connects:
        if to is not None and socket.connected and socket.kind == SOCK_STREAM and socket.unix:
            raise fail(errno.EISCONN)
        return None
    if socket.unix:
        if to is not None:
            return k.network.find(socket, to)
        if socket.peer is None:
            raise fail(errno.ENOTCONN)
        return None
    target = to if to is not None else socket.remote
    if target is None:
        raise fail(errno.EDESTADDRREQ)
    assert isinstance(target, InetAddress)
    if not target.port:
        raise fail(errno.EINVAL)
    k.network.autobind(socket)
    return k.network.find(socket, target)


@socket_call(44, "sendto", "fd", "in", "size", "hex", "ptr", "uint")
def _sys_sendto(
    k: Kernel, t: Task, socket: Socket, buffer: int, size: int, flags: int, address: int, length: int
) -> int | Waiting:
    to = parse(socket.family, read_address(k, address, length)) if address and length else None
    size = _within(buffer, min(size, abi.MAX_RW_COUNT))
    deadline = deadline_of(k, socket, SO_SNDTIMEO)
    return send_from(k, t, socket, ([(buffer, size)], (), to), flags & abi.U32, deadline)


def message_at(k: Kernel, socket: Socket, place: int) -> Outgoing:
    """Return what a struct msghdr asks to be sent: pieces of memory, files, and to whom."""
    header = read_header(k, place)
    to = None
    if header.name and header.name_size:
        to = parse(socket.family, read_address(k, header.name, min(header.name_size, _STORAGE_SIZE)))
    files = read_control(k, socket, header)
    return header.vectors, files, to


@socket_call(46, "sendmsg", "fd", "ptr", "hex")
def _sys_sendmsg(k: Kernel, t: Task, socket: Socket, place: int, flags: int) -> int | Waiting:
    return send_from(
        k, t, socket, message_at(k, socket, place), flags & abi.U32, deadline_of(k, socket, SO_SNDTIMEO)
    )
