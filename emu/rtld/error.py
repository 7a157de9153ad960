"""The few words that ld.so has for error numbers before libc's are there.

Source: glibc elf/dl-minimal.c:__strerror_r.
"""

from __future__ import annotations

import errno
import os

_KNOWN = frozenset((errno.ENOMEM, errno.EINVAL, errno.ENOENT, errno.EPERM, errno.EIO, errno.EACCES))


def strerror(number: int) -> str:
    """Return ld.so's text for an errno value: a number for all but the most common."""
    return os.strerror(number) if number in _KNOWN else f"Error {number}"
