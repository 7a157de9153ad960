"""/proc/net/tcp, udp and unix: the sockets that the guest's processes have.

Source: proc(5); Linux net/ipv4/tcp_ipv4.c:tcp4_seq_show, net/ipv6/tcp_ipv6.c, net/ipv4/udp.c,
net/unix/af_unix.c.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from emu.kernel.net.socket import SOCK_DGRAM, SOCK_STREAM, Socket
from emu.kernel.net.socket_address import AF_INET, AF_INET6, AF_UNIX, ANY6, InetAddress, UnixAddress

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.kernel.kernel import Kernel
    from emu.kernel.net.socket_address import Address

    Text = Callable[[Kernel], bytes]

_ESTABLISHED, _CLOSE, _LISTEN = 1, 7, 10
_UNCONNECTED, _CONNECTED, _ACCEPTS = 1, 3, 0x10000
_TCP_WIDTH, _UDP_WIDTH = 149, 127
_NOBODY = InetAddress(ANY6, 0)


def sockets(k: Kernel) -> list[Socket]:
    """Return the sockets that processes have open, and those that wait to be accepted, by inode."""
    found: dict[int, Socket] = {}
    for process in k.system.processes.values():
        for file in process.fds.files.values():
            if isinstance(file, Socket):
                for socket in (file, *file.waiting):
                    found[socket.stat().ino] = socket
    return [found[number] for number in sorted(found)]


def _place(address: Address | None, family: int) -> str:
    assert address is None or isinstance(address, InetAddress)
    host, port = address or _NOBODY
    raw = host if family == AF_INET6 else host[12:]
    return "".join(f"{word:08X}" for (word,) in struct.iter_unpack("<I", raw)) + f":{port:04X}"


def _received(socket: Socket) -> int:
    return sum(len(message.data) for message in socket.incoming) - socket.start


def _inet(family: int, kind: int) -> Text:
    six = "                      " if family == AF_INET6 else ""
    tcp = kind == SOCK_STREAM
    width = (_TCP_WIDTH if tcp else _UDP_WIDTH) if family == AF_INET else 0
    first = "  sl " if tcp or six else "   sl "
    middle = "st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
    header = f"{first} local_address{six}   {'rem' if not six else 'remote'}_address{six[:-2]}   {middle}"
    if not tcp:
        header += " ref pointer drops"

    def text(k: Kernel) -> bytes:
        lines = [header]
        for socket in sockets(k):
            if socket.family != family or socket.kind != kind or socket.local is None:
                continue
            listens = socket.backlog is not None
            state = _LISTEN if listens else _ESTABLISHED if socket.remote is not None else _CLOSE
            arrived = len(socket.waiting) if listens else _received(socket)
            places = f"{_place(socket.local, family)} {_place(socket.remote, family)}"
            st = socket.stat()
            tail = (" 100 0 0 10 0" if listens else " 20 4 0 10 -1") if tcp else " 0"
            number = f"{len(lines) - 1:{4 if tcp else 5}d}"
            lines.append(
                f"{number}: {places} {state:02X} {0:08X}:{arrived:08X} 00:00000000 00000000"
                f" {st.uid:5d} {0:8d} {st.ino} {1 if tcp else 2} {0:016x}{tail}"
            )
        return "".join(f"{line:<{width}}\n" for line in lines).encode()

    return text


def _unix(k: Kernel) -> bytes:
    lines = ["Num       RefCount Protocol Flags    Type St Inode Path"]
    for socket in sockets(k):
        if socket.family != AF_UNIX:
            continue
        flags = _ACCEPTS if socket.backlog is not None else 0
        state = _CONNECTED if socket.connected else _UNCONNECTED
        local = socket.local
        path = f" {local.path.decode(errors='replace')}" if isinstance(local, UnixAddress) else ""
        lines.append(
            f"{0:016x}: {3 if socket.connected else 2:08X} {0:08X} {flags:08X} {socket.kind:04X} {state:02X}"
            f" {socket.stat().ino:5d}{path.replace(chr(0), '@')}"
        )
    return "".join(line + "\n" for line in lines).encode()


SOCKET_TEXTS: dict[str, Text] = {
    "net/tcp": _inet(AF_INET, SOCK_STREAM),
    "net/tcp6": _inet(AF_INET6, SOCK_STREAM),
    "net/udp": _inet(AF_INET, SOCK_DGRAM),
    "net/udp6": _inet(AF_INET6, SOCK_DGRAM),
    "net/unix": _unix,
}
"""By path under /proc."""
