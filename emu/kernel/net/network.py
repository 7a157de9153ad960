"""The names that sockets have: the guest has a network of its own, with a loopback
interface and nobody else in it.

Source: bind(2), connect(2), listen(2), accept(2), unix(7), ip(7); Linux
net/ipv4/inet_connection_sock.c:inet_csk_get_port.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.fs.file import Meta, fresh
from emu.kernel.fs.inodes import SpecialInode
from emu.kernel.fs.special import make_node
from emu.kernel.net.socket import SOCK_DGRAM, SOCK_STREAM, WAITING_COST, Socket
from emu.kernel.net.socket_address import (
    AF_INET6,
    AF_UNIX,
    ANY4,
    ANY6,
    LOOPBACK4,
    LOOPBACK6,
    MAPPED,
    Address,
    InetAddress,
    NetlinkAddress,
    UnixAddress,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.kernel.fs.vfs import FileSystem

SO_REUSEADDR, SO_REUSEPORT, IPV6_V6ONLY = (1, 2), (1, 15), (41, 26)
"""Options: level and name."""
_FIRST_PORT, _LAST_PORT, _PRIVILEGED = 32768, 60999, 1024
_AUTOBIND: Final = 1 << 20


class Network:
    """The sockets that have a name, and what all sockets ask for (`emu.kernel.net.socket.Wire`)."""

    def __init__(
        self,
        fs: FileSystem,
        sender: Callable[[], tuple[int, int, int]],
        caller: Callable[[], tuple[int, int, int]],
        tell: Callable[[InetAddress], None],
    ) -> None:
        self.volume, self.sender, self.caller = fs, sender, caller
        self._tell_unreachable = tell
        self.under_way = self.in_flight = 0
        self._abstract: dict[bytes, Socket] = {}
        self._nodes: dict[tuple[int, int], Socket] = {}
        self._ports: dict[tuple[int, int], list[Socket]] = {}
        self._next_port = _FIRST_PORT
        self._next_name = 0

    # -- names -----------------------------------------------------------------------------------------------

    def bind(self, socket: Socket, address: Address) -> None:
        """Give a socket its name.

        Raises OSError: EINVAL, EADDRINUSE, EADDRNOTAVAIL, EACCES, and those of a path.
        """
        if isinstance(address, InetAddress) and not (address.wild or address.local):
            raise fail(errno.EADDRNOTAVAIL)
        if socket.local is not None:
            raise fail(errno.EINVAL)
        if isinstance(address, NetlinkAddress):
            socket.local = NetlinkAddress(address.port or self.sender()[0], address.groups)
        elif isinstance(address, UnixAddress):
            self._bind_unix(socket, address)
        else:
            self._bind_inet(socket, address)

    def _bind_unix(self, socket: Socket, address: UnixAddress) -> None:
        if address.abstract:
            if address.path in self._abstract:
                raise fail(errno.EADDRINUSE)
            self._abstract[address.path] = socket
        else:
            fs = self.volume
            node = SpecialInode(
                fs, None, Meta(fresh(fs, abi.S_IFSOCK | 0o777 & ~fs.caller.umask)), abi.S_IFSOCK
            )
            try:
                make_node(fs, address.path, node)
            except FileExistsError:
                raise fail(errno.EADDRINUSE) from None
            st = node.stat()
            self._nodes[st.dev, st.ino] = socket
        socket.local = address

    def autobind(self, socket: Socket) -> None:
        """Give a socket that has no name one that is free."""
        if socket.local is not None:
            return
        if socket.family == AF_UNIX:
            while (name := b"\0%05x" % (self._next_name % _AUTOBIND)) in self._abstract:
                self._next_name += 1
            self._bind_unix(socket, UnixAddress(name))
        else:
            self._bind_inet(socket, InetAddress(ANY6 if socket.family == AF_INET6 else ANY4, 0))

    def _bind_inet(self, socket: Socket, address: InetAddress) -> None:
        port = address.port
        if 0 < port < _PRIVILEGED and self.volume.uid:
            raise fail(errno.EACCES)
        if not port:
            port = self._free_port(socket.kind)
        address = address._replace(port=port)
        users = self._ports.setdefault((socket.kind, port), [])
        if any(_conflict(socket, address, other) for other in users):
            raise fail(errno.EADDRINUSE)
        users.append(socket)
        socket.local = address

    def _free_port(self, kind: int) -> int:
        for _ in range(_FIRST_PORT, _LAST_PORT + 1):
            port = self._next_port
            self._next_port = port + 1 if port < _LAST_PORT else _FIRST_PORT
            if not self._ports.get((kind, port)):
                return port
        raise fail(errno.EADDRINUSE)

    def forget(self, socket: Socket) -> None:
        """A socket that is closed has no name any more; its file stays."""
        local = socket.local
        if isinstance(local, InetAddress):
            users = self._ports.get((socket.kind, local.port), [])
            if socket in users:
                users.remove(socket)
                if not users:
                    del self._ports[socket.kind, local.port]
        elif local is not None:
            names: dict[bytes, Socket] | dict[tuple[int, int], Socket]
            for names in (self._abstract, self._nodes):
                for name in [name for name, owner in names.items() if owner is socket]:
                    del names[name]  # type: ignore[arg-type]

    # -- who is there ----------------------------------------------------------------------------------------

    def find(self, socket: Socket, address: Address) -> Socket | None:
        """Return the socket to which `address` leads from `socket`, None where nobody is.

        Raises OSError: ECONNREFUSED and those of a path, EPROTOTYPE, ENETUNREACH.
        """
        if isinstance(address, InetAddress):
            return self._find_inet(socket, self.reachable(address))
        if isinstance(address, NetlinkAddress):
            return None  # the kernel itself
        if address.abstract:
            found = self._abstract.get(address.path)
        else:
            fs = self.volume
            inode = fs.find(address.path.decode("utf-8", "surrogateescape"))
            fs.allow(inode, abi.W_OK)
            st = inode.stat()
            found = self._nodes.get((st.dev, st.ino))
        if found is None or found.gone:
            raise fail(errno.ECONNREFUSED)
        if found.kind != socket.kind:
            raise fail(errno.EPROTOTYPE)
        return found

    def reachable(self, address: InetAddress) -> InetAddress:
        """Return the address meant; a wild one means this host.

        Raises OSError(ENETUNREACH): there is only the loopback interface.
        """
        if address.wild:
            return address._replace(host=LOOPBACK4 if address.host == ANY4 else LOOPBACK6)
        if not address.local:
            self._tell_unreachable(address)
            raise fail(errno.ENETUNREACH)
        return address

    def _find_inet(self, socket: Socket, address: InetAddress) -> Socket | None:
        best: Socket | None = None
        rank = -1
        for other in self._ports.get((socket.kind, address.port), ()):
            local = other.local
            assert isinstance(local, InetAddress)
            if local.host == address.host:
                score = 2
            elif local.wild and _covers(other, address.host):
                score = 1
            else:
                continue
            if socket.kind == SOCK_STREAM and other.backlog is None:
                continue
            if other.remote is not None and socket.kind == SOCK_DGRAM:
                if other.remote != self.source(socket, address):
                    continue
                score += 2
            if score > rank:
                best, rank = other, score
        return best

    def source(self, socket: Socket, to: InetAddress) -> InetAddress:
        """Return the address that what `socket` sends to `to` comes from."""
        local = socket.local
        assert isinstance(local, InetAddress)
        if local.wild:
            return local._replace(host=LOOPBACK6 if to.host == LOOPBACK6 else LOOPBACK4)
        return local

    # -- connections -----------------------------------------------------------------------------------------

    def connect(self, socket: Socket, listener: Socket, address: Address) -> None:
        """Connect `socket` to one that listens: its other end waits there to be accepted, and counts so long.

        Raises OSError(ENOBUFS) at the memory limit.
        """
        try:
            self.volume.charge(WAITING_COST)
        except OSError:
            raise fail(errno.ENOBUFS) from None
        other = Socket(self, listener.family, listener.kind, listener.protocol)
        if isinstance(address, InetAddress):
            self.autobind(socket)
            socket.local = self.source(socket, address)
            other.local = address
        else:
            other.local = listener.local
        other.options = dict(listener.options)
        other.remote, socket.remote = socket.local, address
        other.peer, socket.peer = socket, other
        other.connected = socket.connected = True
        other.peer_credentials, socket.peer_credentials = self.caller(), listener.peer_credentials
        listener.waiting.append(other)
        socket.tell(abi.POLLOUT | abi.POLLWRNORM)
        listener.tell(abi.POLLIN | abi.POLLRDNORM)


def pair(first: Socket, second: Socket) -> None:
    """Connect two new sockets with each other."""
    first.peer, second.peer = second, first
    first.peer_credentials = second.peer_credentials = first.network.caller()
    first.connected = second.connected = True


def _covers(socket: Socket, host: bytes) -> bool:
    """Whether a socket with a wild name is meant by `host`."""
    local = socket.local
    assert isinstance(local, InetAddress)
    mapped = host.startswith(MAPPED)
    if local.host == ANY4:
        return mapped
    return not mapped or not socket.number(IPV6_V6ONLY)


def _conflict(socket: Socket, address: InetAddress, other: Socket) -> bool:
    """Whether two sockets cannot share a port."""
    local = other.local
    assert isinstance(local, InetAddress)
    if (
        other.connected
        and socket.kind == SOCK_STREAM
        and other.backlog is None
        and socket.number(SO_REUSEADDR)
    ):
        return False
    same = local.host == address.host
    if not same:
        mine = InetAddress(address.host, 0)
        if local.wild:
            same = _covers(other, address.host)
        elif mine.wild:
            same = address.host == ANY6 and not socket.number(IPV6_V6ONLY) or local.host.startswith(MAPPED)
    if not same:
        return False
    if socket.number(SO_REUSEPORT) and other.number(SO_REUSEPORT):
        return False
    return not (socket.number(SO_REUSEADDR) and other.number(SO_REUSEADDR) and other.backlog is None)
