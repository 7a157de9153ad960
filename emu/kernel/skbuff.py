"""What messages under way cost: the sizes of the kernel's buffers for them.

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
    """Return what a buffer for `size` bytes takes: a head of a power of two, and whole pages.

    Of a `packet` the head takes more than of a stream's piece.
    """
    pages = 0
    if packet:
        if size > _LINEAR:
            pages = min(-(-(size - _LINEAR) // abi.PAGE_SIZE) * abi.PAGE_SIZE, size)
    elif size > _IN_PAGE:
        pages = min(-(-(size - _IN_PAGE) // abi.PAGE_SIZE) * abi.PAGE_SIZE, size)
    bucket = max(_LEAST_BUCKET, 1 << (size - pages + _SHARED_INFO - 1).bit_length())
    return bucket + _BUFFER + -(-pages // abi.PAGE_SIZE) * abi.PAGE_SIZE
