"""The one interface that the guest has, and what any socket is asked about it. Source: netdevice(7)."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from emu.kernel.errors import fail
from emu.kernel.net.socket_address import AF_INET

if TYPE_CHECKING:
    from emu.machine.arena import Arena

LOOPBACK, INDEX, NAME = 772, 1, b"lo\0"
"""ARPHRD_LOOPBACK; the interface's number and name."""
_IFF_UP, _IFF_LOOPBACK, _IFF_RUNNING = 1, 8, 0x40
FLAGS = _IFF_UP | _IFF_LOOPBACK | _IFF_RUNNING
MTU = 65536
_SIOCGIFNAME, _SIOCGIFCONF, _SIOCGIFFLAGS, _SIOCGIFADDR = 0x8910, 0x8912, 0x8913, 0x8915
_SIOCGIFNETMASK, _SIOCGIFMTU, _SIOCGIFHWADDR, _SIOCGIFINDEX = 0x891B, 0x8921, 0x8927, 0x8933


def interface_ioctl(arena: Arena, request: int, argument: int) -> bool:
    """Serve an ioctl that any socket takes about interfaces; false for one that is none.

    Raises OSError(ENODEV).
    """
    if request == _SIOCGIFCONF:
        room = int.from_bytes(arena.copy_in(argument, 4), "little")
        entry = NAME.ljust(16, b"\0") + struct.pack("<HH4s16x", AF_INET, 0, b"\x7f\0\0\1")
        buffer = int.from_bytes(arena.copy_in(argument + 8, 8), "little")
        if buffer:
            entry = entry if room >= len(entry) else b""
            arena.copy_out(buffer, entry)
        arena.copy_out(argument, len(entry).to_bytes(4, "little"))
        return True
    values = {
        _SIOCGIFFLAGS: FLAGS.to_bytes(2, "little"), _SIOCGIFADDR: struct.pack("<HH4s", AF_INET, 0, b"\x7f\0\0\1"),
        _SIOCGIFNETMASK: struct.pack("<HH4s", AF_INET, 0, b"\xff\0\0\0"), _SIOCGIFMTU: MTU.to_bytes(4, "little"),
        _SIOCGIFHWADDR: LOOPBACK.to_bytes(2, "little") + bytes(6), _SIOCGIFINDEX: INDEX.to_bytes(4, "little"),
    }  # fmt: skip
    if request == _SIOCGIFNAME:
        if int.from_bytes(arena.copy_in(argument + 16, 4), "little") != INDEX:
            raise fail(errno.ENODEV)
        arena.copy_out(argument, NAME.ljust(16, b"\0"))
        return True
    if request not in values:
        return False
    if arena.copy_in(argument, 16).partition(b"\0")[0] != NAME.rstrip(b"\0"):
        raise fail(errno.ENODEV)
    arena.copy_out(argument + 16, values[request])
    return True
