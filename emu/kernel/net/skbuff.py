"""What a message costs its sender until it is received: the size of the kernel's buffers that hold it.

Source: Linux include/linux/skbuff.h:SKB_TRUESIZE, net/unix/af_unix.c:unix_stream_sendmsg, unix_dgram_sendmsg.
"""

from __future__ import annotations

from typing import Final

from emu.kernel import abi

_BUFFER, _SHARED_INFO, _LINEAR, _IN_PAGE, _IN_PAGES = 256, 320, 16064, 3776, 32768
_LEAST_BUCKET: Final = 512
LARGEST: Final = _IN_PAGE + _IN_PAGES
"""The most bytes of a stream that one buffer takes."""


def truesize(size: int, *, packet: bool = False) -> int:
    """Return the memory, in bytes, of a buffer that holds `size` bytes:
    a linear part, rounded up to a power of two, and whole pages.

    The linear part of a `packet` may be larger than that of a piece of a stream.
    """
    pages = 0
    if packet:
        if size > _LINEAR:
            pages = min(-(-(size - _LINEAR) // abi.PAGE_SIZE) * abi.PAGE_SIZE, size)
    elif size > _IN_PAGE:
        pages = min(-(-(size - _IN_PAGE) // abi.PAGE_SIZE) * abi.PAGE_SIZE, size)
    bucket = max(_LEAST_BUCKET, 1 << (size - pages + _SHARED_INFO - 1).bit_length())
    return bucket + _BUFFER + -(-pages // abi.PAGE_SIZE) * abi.PAGE_SIZE
