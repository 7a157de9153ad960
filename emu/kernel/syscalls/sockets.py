"""Sockets: making, naming and connecting them, and socket calls on files that are none.

Source: socket(2), socketpair(2), bind(2), listen(2), accept(2), connect(2), shutdown(2), getsockname(2).
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.net.netlink import PROTOCOLS, NetlinkSocket
from emu.kernel.net.network import pair
from emu.kernel.net.socket import SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET, SOCK_STREAM, Socket
from emu.kernel.net.socket_address import (
    AF_INET,
    AF_INET6,
    AF_NETLINK,
    AF_UNIX,
    AF_UNSPEC,
    InetAddress,
    family_of,
    pack,
    parse,
)
from emu.kernel.run.block import Block
from emu.kernel.syscalls.waiting import resumable, wait
from emu.kernel.table import syscall

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel
    from emu.kernel.net.socket_address import Address
    from emu.kernel.run.block import Waiting
    from emu.kernel.run.task import Task

_FAMILIES = (AF_UNIX, AF_INET, AF_INET6, AF_NETLINK)
_OTHERS = {
    17: "AF_PACKET",
    29: "AF_CAN",
    31: "AF_BLUETOOTH",
    38: "AF_ALG",
    40: "AF_VSOCK",
    44: "AF_XDP",
}
"""Families that programs ask for. Source: the kernel's include/linux/socket.h."""
_TYPE_MASK, _LAST_TYPE, _LAST_FAMILY = 15, 10, 45
_IPPROTO_TCP, _IPPROTO_UDP, _IPPROTO_MPTCP = 6, 17, 262
_FAMILY_SIZE, _STORAGE_SIZE = 2, 128
_SOMAXCONN = 4096
SO_RCVTIMEO, SO_SNDTIMEO = (1, 20), (1, 21)


def socket_call(number: int, name: str, *formats: str) -> Callable[[Callable[..., int | Waiting]], None]:
    """Enter the decorated function as the handler of a call whose first argument is a socket;
    on one of the host's it is refused.
    """

    def enter(handler: Callable[..., int | Waiting]) -> None:
        @syscall(number, name, *formats)
        def call(k: Kernel, t: Task, fd: int, *rest: int) -> int | Waiting:
            file = k.file(fd)
            if isinstance(file, Socket):
                return handler(k, t, file, *rest)
            if file.stat().mode & abi.S_IFMT != abi.S_IFSOCK:
                raise fail(errno.ENOTSOCK)
            return k.refuse(f"{name} ({number}) on a socket of the host")

    return enter


def deadline_of(k: Kernel, socket: Socket, option: tuple[int, int]) -> int | None:
    """Return the virtual time until which a call waits (SO_RCVTIMEO, SO_SNDTIMEO), None for ever."""
    raw = socket.options.get(option)
    if raw is None or not any(raw):
        return None
    seconds, micros = struct.unpack("<qq", raw)
    return int(k.clock.now + seconds * abi.NSEC_PER_SEC + micros * 1000)


def read_address(k: Kernel, address: int, size: int) -> bytes:
    """Return a sockaddr of the guest's. Raises OSError(EINVAL)."""
    if not 0 <= size <= _STORAGE_SIZE:
        raise fail(errno.EINVAL)
    return k.arena.copy_in(address, size)


def store_address(k: Kernel, socket: Socket, name: Address | None, address: int, size: int) -> None:
    """Store a sockaddr, cut to the room there is, and its whole length at `size`."""
    room = int.from_bytes(k.arena.copy_in(size, 4), "little", signed=True)
    if room < 0:
        raise fail(errno.EINVAL)
    raw = pack(socket.family, name)
    k.arena.copy_out(address, raw[:room])
    k.arena.copy_out(size, len(raw).to_bytes(4, "little"))


# -- making --------------------------------------------------------------------------------------------------


def _check(family: int, kind: int) -> None:
    """Check what is wrong for every family. Raises OSError: EINVAL, EAFNOSUPPORT."""
    if kind & ~(_TYPE_MASK | abi.O_NONBLOCK | abi.O_CLOEXEC):
        raise fail(errno.EINVAL)
    if not 0 <= family <= _LAST_FAMILY:
        raise fail(errno.EAFNOSUPPORT)


def _kind(family: int, kind: int, protocol: int) -> tuple[int, int, int]:
    """Return type, protocol and O_* flags of a socket to be made. Raises OSError."""
    flags, kind = kind & ~_TYPE_MASK, kind & _TYPE_MASK
    if kind > _LAST_TYPE:
        raise fail(errno.EINVAL)
    if family == AF_UNIX:
        if protocol not in (0, AF_UNIX):
            raise fail(errno.EPROTONOSUPPORT)
        if kind not in (SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET):
            raise fail(errno.ESOCKTNOSUPPORT)
        return SOCK_DGRAM if kind == SOCK_RAW else kind, 0, flags
    if kind not in (SOCK_STREAM, SOCK_DGRAM):
        raise fail(errno.ESOCKTNOSUPPORT)
    own = _IPPROTO_TCP if kind == SOCK_STREAM else _IPPROTO_UDP
    if protocol not in (0, own):
        raise fail(errno.EPROTONOSUPPORT)
    return kind, own, flags


@syscall(41, "socket", "int", "hex", "int")
def _sys_socket(k: Kernel, t: Task, family: int, kind: int, protocol: int) -> int:
    _check(family, kind)
    if family not in _FAMILIES:
        why = "there are sockets of the guest's own machine only: AF_UNIX, AF_INET, AF_INET6 (emu help works)"
        return k.refuse(f"socket (41) of family {_OTHERS.get(family, family)}", errno.EAFNOSUPPORT, why)
    if family == AF_NETLINK:
        if kind & _TYPE_MASK not in (SOCK_RAW, SOCK_DGRAM):
            raise fail(errno.ESOCKTNOSUPPORT)
        if protocol not in PROTOCOLS:
            raise fail(errno.EPROTONOSUPPORT)
        netlink = NetlinkSocket(k.network, kind & _TYPE_MASK, protocol, kind & abi.O_NONBLOCK)
        return k.fds.install(netlink, bool(kind & abi.O_CLOEXEC))
    if family != AF_UNIX and kind & _TYPE_MASK == SOCK_RAW:
        return k.refuse(
            f"socket (41) of type SOCK_RAW, family {family}",
            errno.EPERM,
            "it takes CAP_NET_RAW, which no guest has",
        )
    kind, protocol, flags = _kind(family, kind, protocol)
    socket = Socket(k.network, family, kind, protocol, flags & abi.O_NONBLOCK)
    return k.fds.install(socket, bool(flags & abi.O_CLOEXEC))


@syscall(53, "socketpair", "int", "hex", "int", "ptr")
def _sys_socketpair(k: Kernel, t: Task, family: int, kind: int, protocol: int, address: int) -> int:
    if kind & ~(_TYPE_MASK | abi.O_NONBLOCK | abi.O_CLOEXEC):
        raise fail(errno.EINVAL)
    lowest = k.fds.lowest()
    k.arena.copy_out(address, struct.pack("<ii", lowest, lowest + 1))  # before anything else is looked at
    _check(family, kind)
    if family not in _FAMILIES:
        return k.refuse(f"socketpair (53) of family {family}", errno.EAFNOSUPPORT)
    if family == AF_NETLINK:
        raise fail(errno.EOPNOTSUPP)
    kind, protocol, flags = _kind(family, kind, protocol)
    if family != AF_UNIX:
        raise fail(errno.EOPNOTSUPP)
    sockets = [Socket(k.network, family, kind, protocol, flags & abi.O_NONBLOCK) for _ in range(2)]
    pair(*sockets)
    cloexec = bool(flags & abi.O_CLOEXEC)
    first = k.fds.install(sockets[0], cloexec)
    try:
        second = k.fds.install(sockets[1], cloexec)
    except OSError:
        k.fds.close(first)
        raise
    k.arena.copy_out(address, struct.pack("<ii", first, second))
    return 0


# -- names ---------------------------------------------------------------------------------------------------


@socket_call(49, "bind", "fd", "ptr", "uint")
def _sys_bind(k: Kernel, t: Task, socket: Socket, address: int, size: int) -> int:
    raw = read_address(k, address, size)
    if socket.family == AF_UNIX and len(raw) == _FAMILY_SIZE and family_of(raw) == AF_UNIX:
        k.network.autobind(socket)
        return 0
    if socket.family == AF_INET and len(raw) >= 16 and family_of(raw) == AF_UNSPEC and not any(raw[4:8]):
        raw = AF_INET.to_bytes(2, "little") + raw[2:]  # an old habit of programs that Linux allows
    k.network.bind(socket, parse(socket.family, raw))
    return 0


@socket_call(51, "getsockname", "fd", "ptr", "ptr")
def _sys_getsockname(k: Kernel, t: Task, socket: Socket, address: int, size: int) -> int:
    store_address(
        k, socket, socket.name() if isinstance(socket, NetlinkSocket) else socket.local, address, size
    )
    return 0


@socket_call(52, "getpeername", "fd", "ptr", "ptr")
def _sys_getpeername(k: Kernel, t: Task, socket: Socket, address: int, size: int) -> int:
    if socket.peer is None and socket.remote is None:
        raise fail(errno.ENOTCONN)
    name = socket.peer.local if socket.unix and socket.peer is not None else socket.remote
    store_address(k, socket, name, address, size)
    return 0


# -- connections ---------------------------------------------------------------------------------------------


@socket_call(50, "listen", "fd", "int")
def _sys_listen(k: Kernel, t: Task, socket: Socket, backlog: int) -> int:
    if not socket.connects:
        raise fail(errno.EOPNOTSUPP)
    if socket.connected or socket.unix and socket.local is None:
        raise fail(errno.EINVAL)
    k.network.autobind(socket)
    socket.backlog = min(backlog & abi.U32, _SOMAXCONN)
    socket.peer_credentials = k.network.caller()
    return 0


@socket_call(42, "connect", "fd", "ptr", "uint")
def _sys_connect(k: Kernel, t: Task, socket: Socket, address: int, size: int) -> int | Waiting:
    raw = read_address(k, address, size)
    if len(raw) < _FAMILY_SIZE:
        raise fail(errno.EINVAL)
    if family_of(raw) == AF_UNSPEC and (not socket.unix or not socket.connects):
        socket.peer = socket.remote = None
        socket.connected = False
        return 0
    name = parse(socket.family, raw)
    if not socket.connects:
        return _connect_datagrams(k, socket, name)
    if socket.backlog is not None:
        raise fail(errno.EINVAL if socket.unix else errno.EISCONN)
    if socket.connected:
        return _connect_again(socket)
    if not socket.unix:
        socket.shut = 0  # as it was before an attempt that failed, of which it hears now if it has not yet
        socket.take_error()
    return _connect(k, t, socket, name, deadline_of(k, socket, SO_SNDTIMEO))


def _connect_again(socket: Socket) -> int:
    if socket.attempted:
        socket.attempted = False
        return 0  # the attempt that did not wait has succeeded meanwhile
    raise fail(errno.EISCONN)


def _connect_datagrams(k: Kernel, socket: Socket, name: Address) -> int:
    if isinstance(name, InetAddress):
        k.network.autobind(socket)
        socket.remote = k.network.reachable(name)
        if isinstance(socket.local, InetAddress) and socket.local.wild:
            socket.local = k.network.source(socket, socket.remote)
        return 0
    other = k.network.find(socket, name)
    if other is not None and other.peer is not None and other.peer is not socket:
        raise fail(errno.EPERM)
    socket.peer, socket.remote = other, name
    return 0


@resumable
def _connect(k: Kernel, t: Task, socket: Socket, name: Address, deadline: int | None) -> Waiting:
    nonblocking = bool(socket.flags & abi.O_NONBLOCK)
    while True:
        if isinstance(name, InetAddress):
            name = k.network.reachable(name)
        listener = k.network.find(socket, name)
        if listener is None or listener.backlog is None or listener.shut:
            if isinstance(name, InetAddress) and nonblocking:
                socket.reset(errno.ECONNREFUSED)
                raise fail(errno.EINPROGRESS)
            raise fail(errno.ECONNREFUSED)
        if isinstance(name, InetAddress) or len(listener.waiting) <= listener.backlog:
            break
        if nonblocking:
            raise fail(errno.EAGAIN)
        room = lambda there=listener: there.gone or len(there.waiting) <= there.backlog  # noqa: E731
        block = Block(f"to connect to {name}", deadline, room)
        if not (yield from wait(k, t, block, restart=deadline is None)):
            raise fail(errno.EAGAIN)
    k.network.connect(socket, listener, name)
    if isinstance(name, InetAddress) and nonblocking:
        socket.attempted = True
        raise fail(errno.EINPROGRESS)
    return 0


def _accept(k: Kernel, t: Task, socket: Socket, address: int, size: int, flags: int) -> Waiting:
    if flags & ~(abi.O_NONBLOCK | abi.O_CLOEXEC):
        raise fail(errno.EINVAL)
    if not socket.connects:
        raise fail(errno.EOPNOTSUPP)
    if socket.backlog is None:
        raise fail(errno.EINVAL)
    return _accepted(k, t, socket, address, size, flags, deadline_of(k, socket, SO_RCVTIMEO))


@resumable
def _accepted(
    k: Kernel, t: Task, socket: Socket, address: int, size: int, flags: int, deadline: int | None
) -> Waiting:
    while not socket.waiting:
        if socket.shut:
            raise fail(errno.EINVAL)
        if socket.flags & abi.O_NONBLOCK:
            raise fail(errno.EAGAIN)
        ready = lambda: socket.waiting or socket.shut  # noqa: E731
        block = Block(f"to accept a connection on {socket.path}", deadline, ready, ((socket, abi.POLLIN),))
        if not (yield from wait(k, t, block, restart=deadline is None)):
            raise fail(errno.EAGAIN)
    k.fds.lowest()
    other = socket.take_waiting()
    if address:
        name = other.peer.local if other.unix and other.peer is not None else other.remote
        store_address(k, other, name, address, size)
    other.flags |= flags & abi.O_NONBLOCK
    return k.fds.install(other, bool(flags & abi.O_CLOEXEC))


@socket_call(43, "accept", "fd", "ptr", "ptr")
def _sys_accept(k: Kernel, t: Task, socket: Socket, address: int, size: int) -> Waiting:
    return _accept(k, t, socket, address, size, 0)


@socket_call(288, "accept4", "fd", "ptr", "ptr", "hex")
def _sys_accept4(k: Kernel, t: Task, socket: Socket, address: int, size: int, flags: int) -> Waiting:
    return _accept(k, t, socket, address, size, flags & abi.U32)


@socket_call(48, "shutdown", "fd", "int")
def _sys_shutdown(k: Kernel, t: Task, socket: Socket, how: int) -> int:
    if not 0 <= how <= 2:
        raise fail(errno.EINVAL)
    if not socket.unix and not socket.connected and socket.backlog is None and socket.remote is None:
        raise fail(errno.ENOTCONN)
    socket.shut_down(how + 1)
    return 0
