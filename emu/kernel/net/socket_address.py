"""Addresses of sockets: struct sockaddr_un, sockaddr_in and sockaddr_in6, read and made.

An internet address is kept as sixteen bytes, an IPv4 one mapped into IPv6, so that sockets of both families
can meet.

Source: unix(7), ip(7), ipv6(7); RFC 4291 section 2.5.5.2.
"""

from __future__ import annotations

import errno
import struct
from typing import Final

from emu.core.record import NamedTuple
from emu.kernel.errors import fail

AF_UNSPEC: Final = 0
AF_UNIX: Final = 1
AF_INET: Final = 2
AF_INET6: Final = 10
AF_NETLINK: Final = 16
_FAMILY_SIZE: Final = 2
UNIX_SIZE: Final = 110
_INET, _INET6 = struct.Struct("<H2s4s8x"), struct.Struct("<H2sI16sI")
_NETLINK = struct.Struct("<HHII")
_INET6_LEAST: Final = 24
"""RFC 2133's sockaddr_in6 had no scope."""
MAPPED: Final = bytes(10) + b"\xff\xff"
"""What comes before an IPv4 address in an IPv6 one."""
ANY4, ANY6 = MAPPED + bytes(4), bytes(16)
LOOPBACK4, LOOPBACK6 = MAPPED + b"\x7f\0\0\1", bytes(15) + b"\1"


class UnixAddress(NamedTuple):
    """A name in the file system, or (with a NUL in front) an abstract one."""

    path: bytes

    @property
    def abstract(self) -> bool:
        """Whether no file goes with the name."""
        return self.path.startswith(b"\0")


class InetAddress(NamedTuple):
    """A host (16 bytes) and a port."""

    host: bytes
    port: int

    @property
    def wild(self) -> bool:
        """Whether it stands for every address of the host."""
        return self.host in (ANY4, ANY6)

    @property
    def local(self) -> bool:
        """Whether it is the loopback interface's: there is no other."""
        return self.host == LOOPBACK6 or self.host.startswith(LOOPBACK4[:13])

    def __str__(self) -> str:
        """The address as people write it."""
        from ipaddress import IPv4Address, IPv6Address

        if self.host.startswith(MAPPED):
            return f"{IPv4Address(self.host[len(MAPPED) :])}:{self.port}"
        return f"[{IPv6Address(self.host)}]:{self.port}"


class NetlinkAddress(NamedTuple):
    """A port (0: the kernel's) and the multicast groups that are listened to."""

    port: int
    groups: int


Address = UnixAddress | InetAddress | NetlinkAddress


def family_of(raw: bytes) -> int:
    """Return sa_family."""
    return int.from_bytes(raw[:_FAMILY_SIZE], "little")


def parse(family: int, raw: bytes) -> Address:
    """Return the address that a socket of `family` was given.

    Raises OSError: EINVAL for a wrong length, EAFNOSUPPORT (EINVAL for AF_UNIX) for another family.
    """
    if family == AF_UNIX:
        if not _FAMILY_SIZE < len(raw) <= UNIX_SIZE or family_of(raw) != AF_UNIX:
            raise fail(errno.EINVAL)
        path = raw[_FAMILY_SIZE:]
        return UnixAddress(path if path[:1] == b"\0" else path.partition(b"\0")[0])
    if family == AF_NETLINK:
        if len(raw) < _NETLINK.size or family_of(raw) != AF_NETLINK:
            raise fail(errno.EINVAL)
        return NetlinkAddress(*_NETLINK.unpack_from(raw)[2:])
    if len(raw) < (_INET.size if family == AF_INET else _INET6_LEAST):
        raise fail(errno.EINVAL)
    if family_of(raw) != family:
        raise fail(errno.EAFNOSUPPORT)
    port = int.from_bytes(raw[2:4], "big")
    return InetAddress(MAPPED + raw[4:8] if family == AF_INET else raw[8:24], port)


def pack(family: int, address: Address | None) -> bytes:
    """Return the sockaddr of a socket of `family`; that of a socket without a name when `address` is None."""
    if isinstance(address, UnixAddress):
        return struct.pack("<H", AF_UNIX) + address.path + (b"" if address.abstract else b"\0")
    if family == AF_NETLINK:
        port, groups = address if isinstance(address, NetlinkAddress) else (0, 0)
        return _NETLINK.pack(AF_NETLINK, 0, port, groups)
    if family == AF_UNIX:
        return struct.pack("<H", AF_UNIX)
    host, port = address if isinstance(address, InetAddress) else (ANY4 if family == AF_INET else ANY6, 0)
    if family == AF_INET:
        return _INET.pack(AF_INET, port.to_bytes(2, "big"), host[12:])
    return _INET6.pack(AF_INET6, port.to_bytes(2, "big"), 0, host, 0)
