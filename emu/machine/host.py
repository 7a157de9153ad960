"""The few host calls on the arena that Python's `mmap` module does not offer. Source: mmap(2), mremap(2)."""

from __future__ import annotations

import ctypes
import errno
import os
from ctypes import c_int, c_long, c_size_t, c_void_p

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.argtypes = [c_void_p, c_size_t, c_int, c_int, c_int, c_long]
_libc.mmap.restype = c_void_p
_libc.mremap.argtypes = [c_void_p, c_size_t, c_size_t, c_int, c_void_p]
_libc.mremap.restype = c_void_p
_libc.fallocate.argtypes = [c_int, c_int, c_long, c_long]
_READ_WRITE = 3
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_SHARED, _PRIVATE, _FIXED, _ANONYMOUS, _NORESERVE = 0x01, 0x02, 0x10, 0x20, 0x4000
_MAYMOVE, _MREMAP_FIXED = 1, 2
_FAILED = (1 << 64) - 1


def _check(result: int | None, what: str) -> None:
    if result is None or result == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def punch_hole(descriptor: int, offset: int, length: int) -> None:
    """Make zeroes that take no room of a part of a host file, whose length stays. Raises OSError."""
    if length > 0 and _libc.fallocate(descriptor, _KEEP_SIZE | _PUNCH_HOLE, offset, length):
        _check(None, "fallocate")


def map_file(address: int, length: int, descriptor: int, offset: int) -> None:
    """Put private, copy-on-write pages of a host file at the host address. Raises OSError."""
    flags = _PRIVATE | _FIXED | _NORESERVE
    _check(_libc.mmap(address, length, _READ_WRITE, flags, descriptor, offset), "mmap of a file")


def map_shared(address: int, length: int, descriptor: int, offset: int) -> None:
    """Put shared pages of a host file at the host address: what one mapping stores, every other shows.

    Raises OSError.
    """
    flags = _SHARED | _FIXED | _NORESERVE
    _check(_libc.mmap(address, length, _READ_WRITE, flags, descriptor, offset), "mmap of shared pages")


def map_anonymous(address: int, length: int) -> None:
    """Put fresh zero pages at the host address. Raises OSError."""
    flags = _PRIVATE | _FIXED | _NORESERVE | _ANONYMOUS
    _check(_libc.mmap(address, length, _READ_WRITE, flags, -1, 0), "mmap of zero pages")


def move_pages(old: int, length: int, new: int) -> None:
    """Move host pages, with what they hold, to another host address; then the old range may be a hole.

    Raises OSError.
    """
    result = _libc.mremap(old, length, length, _MAYMOVE | _MREMAP_FIXED, new)
    if result is None or result == _FAILED:
        if ctypes.get_errno() != errno.EFAULT:
            _check(result, "mremap")
        ctypes.memmove(new, old, length)  # the range spans several host mappings, which mremap refuses
