"""Options of sockets.

Those that only tune a real network are kept and given back; one that nobody has said anything about is
refused with its number.

Source: getsockopt(2), socket(7), tcp(7), ip(7), ipv6(7).
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Final

from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.net.socket_address import AF_NETLINK
from emu.kernel.syscalls.sockets import SO_RCVTIMEO, SO_SNDTIMEO, socket_call

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel
    from emu.kernel.net.socket import Socket
    from emu.kernel.run.task import Task

_SOCKET, _IP, _TCP, _IPV6, _NETLINK = 1, 0, 6, 41, 270
_SO_TYPE, _SO_ERROR, _SO_PROTOCOL, _SO_DOMAIN, _SO_ACCEPTCONN, _SO_PEERCRED = 3, 4, 38, 39, 30, 17
_SO_SNDBUF, _SO_RCVBUF, _SO_LINGER = 7, 8, 13
_BUFFERS: Final = {7: (4608, 425984), 8: (2304, 425984)}
"""The least and the most that SO_SNDBUF and SO_RCVBUF become: they are doubled for the kernel's own needs."""
_FLAGS: Final = {
    (1, 1): 0, (1, 2): 0, (1, 5): 0, (1, 6): 0, (1, 9): 0, (1, 10): 0, (1, 15): 0, (1, 16): 0, (1, 29): 0, (1, 35): 0, (1, 63): 0,
    (6, 1): 0, (6, 3): 0, (6, 12): 1, (0, 11): 0, (41, 26): 0, (41, 25): 0,
}  # fmt: skip
"""Options that are on or off, as they are at first: SO_DEBUG, REUSEADDR, DONTROUTE, BROADCAST, KEEPALIVE,
OOBINLINE, REUSEPORT, PASSCRED, TIMESTAMP, TIMESTAMPNS, TIMESTAMP_NEW; TCP_NODELAY, CORK, QUICKACK;
IP_RECVERR; IPV6_V6ONLY, RECVERR.
"""
_NUMBERS: Final = {
    (1, 12): 0, (1, 18): 1, (1, 19): 1, (6, 2): 65483, (6, 4): 7200, (6, 5): 75, (6, 6): 9, (6, 7): 6, (6, 8): 60, (6, 9): 0, (6, 18): 0, (6, 23): 0,
    (6, 25): -1, (0, 1): 0, (0, 2): 64, (0, 10): 1, (41, 16): 64, (41, 67): 0,
}  # fmt: skip
"""Options that are numbers: SO_PRIORITY, RCVLOWAT, SNDLOWAT; TCP_MAXSEG, KEEPIDLE, KEEPINTVL, KEEPCNT,
SYNCNT, LINGER2, DEFER_ACCEPT, USER_TIMEOUT, FASTOPEN, NOTSENT_LOWAT; IP_TOS, TTL, MTU_DISCOVER;
IPV6_UNICAST_HOPS, TCLASS.
"""


def _known(socket: Socket, option: tuple[int, int]) -> bool:
    level = option[0]
    if level == _NETLINK and socket.family == AF_NETLINK:
        return True
    if socket.unix and level not in (_SOCKET, _NETLINK):
        raise fail(errno.EOPNOTSUPP)
    if level == _TCP and socket.protocol != _TCP or level in (_IP, _IPV6) and socket.unix:
        raise fail(errno.ENOPROTOOPT if not socket.unix else errno.EOPNOTSUPP)
    return option in _FLAGS or option in _NUMBERS


def _value(k: Kernel, socket: Socket, option: tuple[int, int]) -> bytes | None:
    """Return an option's value, None for one that is not known."""
    if option in socket.options:
        return socket.options[option]
    if _known(socket, option):
        return (_FLAGS.get(option, 0) or _NUMBERS.get(option, 0)).to_bytes(4, "little", signed=True)
    if option in (SO_RCVTIMEO, SO_SNDTIMEO):
        return bytes(16)
    level, name = option
    if level != _SOCKET:
        return None
    if name == _SO_LINGER:
        return bytes(8)
    if name == _SO_PEERCRED:
        return struct.pack("<iii", *(socket.peer_credentials if socket.unix else (0, -1, -1)))
    if name in _BUFFERS:
        number = _buffer(socket, name)
    elif name == _SO_ERROR:
        number, socket.error = socket.error, 0
    else:
        found = {
            _SO_TYPE: socket.kind, _SO_PROTOCOL: socket.protocol, _SO_DOMAIN: socket.family, _SO_ACCEPTCONN: socket.backlog is not None,
        }.get(name)  # fmt: skip
        if found is None:
            return None
        number = int(found)
    return number.to_bytes(4, "little")


def _buffer(socket: Socket, name: int) -> int:
    if socket.unix or not socket.connects:
        return 212992
    if name == _SO_RCVBUF:
        return 131072
    return socket.share if socket.connected else 16384


@socket_call(55, "getsockopt", "fd", "int", "int", "ptr", "ptr")
def _sys_getsockopt(
    k: Kernel, t: Task, socket: Socket, level: int, name: int, address: int, size: int
) -> int:
    room = int.from_bytes(k.arena.copy_in(size, 4), "little", signed=True)
    if room < 0:
        raise fail(errno.EINVAL)
    value = _value(k, socket, (level, name))
    if value is None:
        return k.refuse(f"getsockopt (55) of level {level}, option {name}", errno.ENOPROTOOPT)
    value = value[:room]
    k.arena.copy_out(address, value)
    k.arena.copy_out(size, len(value).to_bytes(4, "little"))
    return 0


@socket_call(54, "setsockopt", "fd", "int", "int", "ptr", "uint")
def _sys_setsockopt(
    k: Kernel, t: Task, socket: Socket, level: int, name: int, address: int, size: int
) -> int:
    option = (level, name)
    if option in (SO_RCVTIMEO, SO_SNDTIMEO):
        if size < 16:
            raise fail(errno.EINVAL)
        raw = k.arena.copy_in(address, 16)
        seconds, micros = struct.unpack("<qq", raw)
        if not 0 <= micros < 1_000_000:
            raise fail(errno.EDOM)
        socket.options[option] = raw if seconds >= 0 else bytes(16)
        return 0
    if size < 4:
        raise fail(errno.EINVAL)
    if option == (_SOCKET, _SO_LINGER):
        if size < 8:
            raise fail(errno.EINVAL)
        socket.options[option] = k.arena.copy_in(address, 8)
        return 0
    value = int.from_bytes(k.arena.copy_in(address, 4), "little", signed=True)
    if level == _SOCKET and name in _BUFFERS:
        least, most = _BUFFERS[name]
        value = min(max(2 * (value & abi.U32), least), most)
    elif level == _SOCKET and name in (
        _SO_TYPE,
        _SO_ERROR,
        _SO_PROTOCOL,
        _SO_DOMAIN,
        _SO_ACCEPTCONN,
        _SO_PEERCRED,
    ):
        raise fail(errno.ENOPROTOOPT)
    elif not _known(socket, option):
        return k.refuse(f"setsockopt (54) of level {level}, option {name}", errno.ENOPROTOOPT)
    elif option in _FLAGS:
        value = int(value != 0)
    socket.options[option] = value.to_bytes(4, "little", signed=True)
    return 0
