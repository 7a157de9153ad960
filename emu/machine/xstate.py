"""x87 and SSE state as the FXSAVE64 image that signal frames hold.

Source: Intel SDM volume 1, 10.5.1 and table 10-2.
"""

from __future__ import annotations

import ctypes
import struct

from emu.machine import regs
from emu.machine.binding import Unicorn

FXSAVE_SIZE = 512
_MXCSR_MASK = 0xFFFF
INITIAL_FXSAVE = struct.pack("<HHB19xII480x", 0x37F, 0, 0, 0x1F80, _MXCSR_MASK)
"""All registers zero and empty, all exceptions masked. Source: Linux arch/x86/kernel/fpu/init.c."""
_IDS = (
    regs.FPCW, regs.FPSW, regs.FPTAG, regs.MXCSR,
    *(regs.FP0 + i for i in range(8)), *(regs.XMM0 + i for i in range(16)),
)  # fmt: skip
_COUNT = len(_IDS)
_id_array = (ctypes.c_int * _COUNT)(*_IDS)
_values = (ctypes.c_char * (16 * _COUNT))()
_base = ctypes.addressof(_values)
_pointers = (ctypes.c_void_p * _COUNT)(*(_base + 16 * i for i in range(_COUNT)))


def store_fxsave(engine: Unicorn) -> bytes:
    """Return the image: x87 registers in stack order from byte 32, XMM0-15 from byte 160.

    The last instruction and operand pointers are zero: Unicorn does not keep them.
    """
    ctypes.memset(_base, 0, len(_values))
    engine.reg_read_batch(engine.handle, _id_array, _pointers, _COUNT)
    raw = bytes(_values)
    control, status, tags = (struct.unpack_from("<H", raw, 16 * i)[0] for i in range(3))
    (mxcsr,) = struct.unpack_from("<I", raw, 48)
    top = status >> 11 & 7
    used = 0
    for register in range(8):
        if tags >> 2 * register & 3 != 3:
            used |= 1 << register
    image = bytearray(FXSAVE_SIZE)
    struct.pack_into("<HHB3xQQII", image, 0, control, status, used, 0, 0, mxcsr, _MXCSR_MASK)
    for index in range(8):
        at = 16 * (4 + (top + index & 7))
        image[32 + 16 * index : 42 + 16 * index] = raw[at : at + 10]
    image[160:416] = raw[16 * 12 : 16 * 28]
    return bytes(image)


def load_fxsave(engine: Unicorn, image: bytes) -> None:
    """Load the state from `image`. Raises ValueError when it is not 512 bytes long."""
    if len(image) != FXSAVE_SIZE:
        raise ValueError(f"an FXSAVE image has {FXSAVE_SIZE} bytes, not {len(image)}")
    control, status, used = struct.unpack_from("<HHB", image, 0)
    (mxcsr,) = struct.unpack_from("<I", image, 24)
    top = status >> 11 & 7
    tags = sum((0 if used >> register & 1 else 3) << 2 * register for register in range(8))
    raw = bytearray(16 * _COUNT)
    struct.pack_into("<H", raw, 0, control)
    struct.pack_into("<H", raw, 16, status)
    struct.pack_into("<H", raw, 32, tags)
    struct.pack_into("<I", raw, 48, mxcsr & _MXCSR_MASK)
    for index in range(8):
        at = 16 * (4 + (top + index & 7))
        raw[at : at + 10] = image[32 + 16 * index : 42 + 16 * index]
    raw[16 * 12 : 16 * 28] = image[160:416]
    ctypes.memmove(_base, bytes(raw), len(raw))
    engine.reg_write_batch(engine.handle, _id_array, _pointers, _COUNT)
