"""The routes and rules that a machine with nothing but its loopback interface has, as rtnetlink tells them.

Source: rtnetlink(7); Linux net/ipv4/fib_semantics.c, fib_rules.c, net/ipv6/route.c.
"""

from __future__ import annotations

import struct

from emu.kernel import abi
from emu.kernel.net.interfaces import INDEX
from emu.kernel.net.socket_address import AF_INET, AF_INET6

_DST, _OIF, _PRIORITY, _PREFSRC, _CACHEINFO, _TABLE, _PREF, _UID = 1, 4, 6, 7, 12, 15, 20, 25
_FRA_PRIORITY, _FRA_SUPPRESS, _FRA_TABLE, _FRA_PROTOCOL = 6, 14, 15, 21
_LOCAL_TABLE, _MAIN_TABLE, _DEFAULT_TABLE = 255, 254, 253
_KERNEL, _HOST, _LINK = 2, 254, 253
_LOCAL, _BROADCAST = 2, 3
_CLONED, _LOCAL_FLAG, _BROADCAST_FLAG = 0x200, 0x80000000, 0x10000000
_OWN, _OWN6 = b"\x7f\0\0\1", bytes(15) + b"\1"


def attribute(kind: int, data: bytes) -> bytes:
    """Return a struct rtattr with its data, padded."""
    return struct.pack("<HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def _head(family: int, bits: int, table: int, protocol: int, scope: int, kind: int, flags: int = 0) -> bytes:
    return struct.pack("<8BI", family, bits, 0, 0, table, protocol, scope, kind, flags)


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("<I", value))


def dump_routes(family: int) -> list[bytes]:
    """Return a struct rtmsg with attributes for each route of a family (0: all)."""
    found = []
    if family in (0, AF_INET):
        for bits, scope, kind, where in (
            (8, _HOST, _LOCAL, b"\x7f\0\0\0"), (32, _HOST, _LOCAL, _OWN), (32, _LINK, _BROADCAST, b"\x7f\xff\xff\xff"),
        ):  # fmt: skip
            head = _head(AF_INET, bits, _LOCAL_TABLE, _KERNEL, scope, kind)
            body = attribute(_DST, where) + attribute(_PREFSRC, _OWN) + _number(_OIF, INDEX)
            found.append(head + _number(_TABLE, _LOCAL_TABLE) + body)
    if family in (0, AF_INET6):
        head = _head(AF_INET6, 128, _LOCAL_TABLE, _KERNEL, 0, _LOCAL)
        body = attribute(_DST, _OWN6) + _number(_PRIORITY, 0) + _number(_OIF, INDEX)
        tail = attribute(_CACHEINFO, bytes(32)) + attribute(_PREF, b"\0")
        found.append(head + _number(_TABLE, _LOCAL_TABLE) + body + tail)
    return found


def dump_rules(family: int) -> list[bytes]:
    """Return a struct fib_rule_hdr with attributes for each rule of a family (0: those of IPv4 and IPv6)."""
    found = []
    for own, tables in (
        (AF_INET, (_LOCAL_TABLE, _MAIN_TABLE, _DEFAULT_TABLE)),
        (AF_INET6, (_LOCAL_TABLE, _MAIN_TABLE)),
    ):
        if family not in (0, own):
            continue
        for place, table in enumerate(tables):
            body = (
                _number(_FRA_TABLE, table) + _number(_FRA_SUPPRESS, abi.U32) + attribute(_FRA_PROTOCOL, b"\2")
            )
            if place:
                body += _number(_FRA_PRIORITY, 32765 + place)
            found.append(_head(own, 0, table, 0, 0, 1) + body)
    return found


def route_to(request: bytes) -> bytes | None:
    """Return the route to the destination in a struct rtmsg with attributes, None where none leads."""
    family, at, where = request[0], 12, b""
    while at + 4 <= len(request):
        size, kind = struct.unpack_from("<HH", request, at)
        if size < 4:
            break
        if kind == _DST:
            where = request[at + 4 : at + size]
        at += (size + 3) & ~3
    once = attribute(_CACHEINFO, struct.pack("<I28x", 1))
    if family == AF_INET and where in (b"", where[:4]) and where[:1] in (b"", b"\0", b"\x7f"):
        where = where or bytes(4)
        ends = where == b"\x7f\xff\xff\xff"
        flags = _CLONED | _LOCAL_FLAG | (_BROADCAST_FLAG if ends else 0)
        head = _head(AF_INET, 32, _MAIN_TABLE, 0, 0, _BROADCAST if ends else _LOCAL, flags)
        body = _number(_TABLE, _MAIN_TABLE) + attribute(_DST, where) + _number(_OIF, INDEX)
        return head + body + attribute(_PREFSRC, _OWN) + _number(_UID, 0) + once
    if family == AF_INET6 and where == _OWN6:
        head = struct.pack("<8BI", AF_INET6, 128, 128, 0, _LOCAL_TABLE, _KERNEL, 0, _LOCAL, 0)
        body = _number(_TABLE, _LOCAL_TABLE) + attribute(_DST, where) + attribute(2, bytes(16))
        body += attribute(_PREFSRC, _OWN6) + _number(_PRIORITY, 0) + _number(_OIF, INDEX)
        return head + body + once + attribute(_PREF, b"\0")
    return None
