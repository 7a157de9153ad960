"""AF_NETLINK: what a program asks about interfaces, addresses and routes;
the guest has the loopback interface and nothing else.

A request is answered at once, by messages in the socket that asked. Nobody may change anything.

Source: netlink(7), rtnetlink(7), netdevice(7); RFC 3549.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Final

from emu.kernel import abi
from emu.kernel.net.interfaces import FLAGS, INDEX, LOOPBACK, MTU, NAME
from emu.kernel.net.routes import attribute, dump_routes, dump_rules, route_to
from emu.kernel.net.skbuff import truesize
from emu.kernel.net.socket import Message, Socket
from emu.kernel.net.socket_address import AF_INET, AF_INET6, AF_NETLINK, NetlinkAddress

if TYPE_CHECKING:
    from emu.kernel.fs.file import OpenFile
    from emu.kernel.net.socket import Wire

ROUTE, SOCK_DIAG, KOBJECT_UEVENT = 0, 4, 15
PROTOCOLS: Final = (ROUTE, SOCK_DIAG, KOBJECT_UEVENT)
_HEADER = struct.Struct("<IHHII")
_NOOP, _ERROR, _DONE = 1, 2, 3
_REQUEST, _MULTI, _ACK, _DUMP = 1, 2, 4, 0x300
_NEWLINK, _GETLINK, _NEWADDR, _GETADDR, _GETROUTE, _GETNEIGH, _GETRULE = 16, 18, 20, 22, 26, 30, 34
_NEWROUTE, _NEWRULE = 24, 32
_IFF_LOWER_UP = 0x10000
_PERMANENT, _HOST_SCOPE = 0x80, 254
_IFLA_IFNAME = 3


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, value.to_bytes(4, "little"))


def _link() -> bytes:
    """Return struct ifinfomsg and the attributes of the loopback interface."""
    return struct.pack("<BxHiII", 0, LOOPBACK, INDEX, FLAGS | _IFF_LOWER_UP, 0) + b"".join((
        attribute(_IFLA_IFNAME, NAME), _number(13, 1000), attribute(16, b"\0"), attribute(17, b"\0"), _number(4, MTU), _number(27, 0),
        _number(30, 0), _number(31, 1), _number(32, 1), attribute(33, b"\1"), attribute(1, bytes(6)), attribute(2, bytes(6)),
        attribute(7, bytes(96)), attribute(23, bytes(200)), attribute(6, b"noqueue\0"),
    ))  # fmt: skip


def _addresses(family: int) -> list[bytes]:
    """Return struct ifaddrmsg and attributes of each address of a family (0: all)."""
    always = _number(8, _PERMANENT) + attribute(6, struct.pack("<4I", abi.U32, abi.U32, 0, 0))
    found = []
    if family in (0, AF_INET):
        head = struct.pack("<BBBBI", AF_INET, 8, _PERMANENT, _HOST_SCOPE, INDEX)
        own = b"\x7f\0\0\1"
        found.append(head + attribute(1, own) + attribute(2, own) + attribute(3, NAME) + always)
    if family in (0, AF_INET6):
        head = struct.pack("<BBBBI", AF_INET6, 128, _PERMANENT, _HOST_SCOPE, INDEX)
        found.append(head + attribute(1, bytes(15) + b"\1") + always)
    return found


class NetlinkSocket(Socket):
    """A socket of the kernel's own protocol."""

    __slots__ = ()

    def __init__(self, network: Wire, kind: int, protocol: int, flags: int) -> None:
        super().__init__(network, AF_NETLINK, kind, protocol, flags)
        self.unix, self.connects = True, False

    def name(self) -> NetlinkAddress:
        """Return its address; one that has none gets that of its process."""
        if self.local is None:
            self.local = NetlinkAddress(self.network.sender()[0], 0)
        assert isinstance(self.local, NetlinkAddress)
        return self.local

    def send(self, data: bytes, files: tuple[OpenFile, ...] = (), to: Socket | None = None) -> int:
        """Answer the requests in a message."""
        port = self.name().port
        at = 0
        while at + _HEADER.size <= len(data):
            size, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
            if not _HEADER.size <= size <= len(data) - at:
                break
            if flags & _REQUEST and kind > _DONE and self.protocol != KOBJECT_UEVENT:
                self._answer(kind, flags, sequence, port, data[at : at + size])
            at += (size + 3) & ~3
        return len(data)

    def _answer(self, kind: int, flags: int, sequence: int, port: int, request: bytes) -> None:
        dump = flags & _DUMP == _DUMP
        family = request[_HEADER.size] if len(request) > _HEADER.size else 0
        multi = _MULTI if dump else 0
        answers: list[tuple[int, bytes]] = []
        error = 0
        if self.protocol == SOCK_DIAG:
            error = errno.ENOENT  # as of a kernel without that module: programs then look into /proc/net
        elif kind == _GETLINK:
            if dump or _asks_for_loopback(request):
                answers.append((_NEWLINK, _link()))
            else:
                error = errno.ENODEV
        elif kind == _GETADDR and dump:
            answers += [(_NEWADDR, body) for body in _addresses(family)]
        elif kind == _GETROUTE and dump:
            answers += [(_NEWROUTE, body) for body in dump_routes(family)]
        elif kind == _GETROUTE and (route := route_to(request[_HEADER.size :])) is not None:
            answers.append((_NEWROUTE, route))
        elif kind == _GETRULE and dump:
            answers += [(_NEWRULE, body) for body in dump_rules(family)]
        elif kind not in (_GETROUTE, _GETNEIGH, _GETRULE):
            error = errno.EOPNOTSUPP if kind % 4 == 2 else errno.EPERM
        elif not dump:
            error = errno.ENETUNREACH
        parts = [
            _HEADER.pack(_HEADER.size + len(body), answer, multi, sequence, port)
            + body
            + bytes(-len(body) % 4)
            for answer, body in answers
        ]
        if parts:
            self._put(b"".join(parts))
        if error or not dump and flags & _ACK:
            body = struct.pack("<i", -error) + (request if error else request[: _HEADER.size])
            self._put(_HEADER.pack(_HEADER.size + len(body), _ERROR, 0, sequence, port) + body)
        elif dump:
            self._put(_HEADER.pack(_HEADER.size + 4, _DONE, _MULTI, sequence, port) + bytes(4))

    def _put(self, data: bytes) -> None:
        cost = truesize(len(data), packet=True)
        self._charge(cost)
        self.used += cost
        self.network.under_way += cost
        self.incoming.append(Message(data, cost, self, NetlinkAddress(0, 0), (), (0, 0, 0)))
        self.tell(abi.POLLIN | abi.POLLRDNORM)


def _asks_for_loopback(request: bytes) -> bool:
    """Whether a request about one interface, by index or name, means the loopback one."""
    if len(request) < _HEADER.size + 16:
        return False
    (index,) = struct.unpack_from("<i", request, _HEADER.size + 4)
    at = _HEADER.size + 16
    while at + 4 <= len(request):
        size, kind = struct.unpack_from("<HH", request, at)
        if size < 4:
            break
        if kind == _IFLA_IFNAME:
            return request[at + 4 : at + size].rstrip(b"\0") == NAME.rstrip(b"\0")
        at += (size + 3) & ~3
    return bool(index == INDEX)
