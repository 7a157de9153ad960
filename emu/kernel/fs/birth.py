"""When a host file was made, which `os.stat` does not tell. Source: statx(2)."""

from __future__ import annotations

import ctypes
import os
import struct

_AT_FDCWD, _NOFOLLOW = -100, 0x100
STATX_BTIME = 0x800
_SIZE, _BIRTH = 256, struct.Struct("<qI")
_BIRTH_AT = 80


def birth_of(path: str) -> tuple[int, int] | None:
    """Return seconds and nanoseconds since the epoch, None where the host's file system does not keep it."""
    try:
        statx = ctypes.CDLL(None).statx
    except AttributeError:
        return None
    buffer = ctypes.create_string_buffer(_SIZE)
    if statx(_AT_FDCWD, os.fsencode(path), _NOFOLLOW, STATX_BTIME, buffer):
        return None
    mask = int.from_bytes(buffer.raw[:4], "little")
    seconds, nanoseconds = _BIRTH.unpack_from(buffer, _BIRTH_AT)
    return (seconds, nanoseconds) if mask & STATX_BTIME else None
