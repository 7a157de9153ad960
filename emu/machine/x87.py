"""x87 instructions that Unicorn computes in double precision, executed by the host's CPU instead:
exact to the last bit.

The host runs exactly one instruction on the guest's registers: save its own, load them, execute, store them,
load its own again. Exceptions are masked meanwhile, since an unmasked one would be the host's. The guest's
registers are read straight into the FXSAVE image and written out of it; where a register lies there depends
on the top of the stack.

Source: Intel SDM volume 1, 8.5 (x87 exceptions), 10.5 (FXSAVE, FXRSTOR).
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from typing import TYPE_CHECKING

from emu.core.record import NamedTuple
from emu.machine import regs

if TYPE_CHECKING:
    from emu.machine.binding import Unicorn

_CODE = bytes.fromhex("480fae06 480fae0f d900 480fae07 480fae0e c3")
"""fxsave64 [rsi]; fxrstor64 [rdi]; the instruction; fxsave64 [rdi]; fxrstor64 [rsi]; ret"""
_OPCODE = 9
_ALL_MASKED = 0x3F
_BEFORE = 0x07
"""Invalid, denormal, zero divide: where one of these is unmasked, the
instruction leaves its operands alone.
"""
_RANGE = 0x18
_SUMMARY = 0x8080
"""Status bits that show an unmasked exception: error summary and busy."""
_STACK_FAULT = 0x40
_FXSAVE_SIZE, _MXCSR = 512, 0x1F80
_TAGS = 2 * _FXSAVE_SIZE
"""Where the full tag word lies in the room, behind the guest's image and the host's."""
_IDS = (regs.FPCW, regs.FPSW, regs.FPTAG, *(regs.FP0 + i for i in range(8)))
_FULL = bytes(sum((tags >> 2 * i & 3 != 3) << i for i in range(4)) for tags in range(256))
"""Four two-bit tags to the four bits of FXSAVE."""
_WIDE = tuple(sum((0 if used >> i & 1 else 3) << 2 * i for i in range(8)) for used in range(256))


class Places(NamedTuple):
    """Where on the host all that lies which the registers go through: the engine and its functions that read
    and write, the numbers of the registers, a table of their places for each top of the stack, the image,
    and what makes one kind of tags of the other.
    """

    functions: tuple[int, ...]
    ids: int
    tables: int
    image: int
    full: int
    wide: int


class HostX87:
    """Executes D9 xx on the guest's registers."""

    def __init__(self, engine: Unicorn) -> None:
        self._engine = engine
        self._page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._page.write(_CODE)
        self._code = ctypes.c_char.from_buffer(self._page)
        function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
        self._call = function(ctypes.addressof(self._code))
        self._storage = (ctypes.c_char * (_TAGS + 24))()
        at = self._image = -(-ctypes.addressof(self._storage) // 16) * 16
        self._room = memoryview((ctypes.c_char * (_TAGS + 2)).from_address(at)).cast("B")
        struct.pack_into("<I", self._room, 24, _MXCSR)
        self._ids = (ctypes.c_int * len(_IDS))(*_IDS)
        kind = ctypes.c_void_p * len(_IDS)
        self._tables = (kind * 8)(
            *(
                kind(at, at + 2, at + _TAGS, *(at + 32 + 16 * (register - top & 7) for register in range(8)))
                for top in range(8)
            )
        )
        self._pointers = list(self._tables)
        self._full, self._wide = ctypes.create_string_buffer(_FULL, 256), (ctypes.c_uint16 * 256)(*_WIDE)
        self.places = Places(
            (
                engine.handle.value or 0,
                engine.function("uc_reg_read_batch"),
                engine.function("uc_reg_write_batch"),
            ),
            ctypes.addressof(self._ids),
            ctypes.addressof(self._tables),
            at,
            ctypes.addressof(self._full),
            ctypes.addressof(self._wide),
        )

    def execute(self, opcode: int) -> bool:
        """Execute D9 `opcode`; false, with nothing changed, for an unmasked overflow or underflow,
        which has another result.
        """
        engine, room, count = self._engine, self._room, len(_IDS)
        engine.reg_read_batch(engine.handle, self._ids, self._pointers[0], 2)
        top = room[3] >> 3 & 7
        engine.reg_read_batch(engine.handle, self._ids, self._pointers[top], count)
        control, status = struct.unpack_from("<HH", room)
        used = room[4] = _FULL[room[_TAGS]] | _FULL[room[_TAGS + 1]] << 4
        struct.pack_into("<HH", room, 0, control | _ALL_MASKED, status & ~_SUMMARY & ~_ALL_MASKED)
        self._page[_OPCODE] = opcode
        self._call(self._image, self._image + _FXSAVE_SIZE)
        (raised,) = struct.unpack_from("<H", room, 2)
        unmasked = raised & ~control & _ALL_MASKED
        if unmasked & _RANGE:
            return False
        sticky = status & _ALL_MASKED | (_SUMMARY if unmasked or status & _SUMMARY else 0)
        if unmasked & _BEFORE:  # only the status changes
            struct.pack_into(
                "<HH", room, 0, control, status | unmasked & _BEFORE | raised & _STACK_FAULT | sticky
            )
            engine.reg_write_batch(engine.handle, self._ids, self._pointers[top], 2)
            return True
        struct.pack_into("<HH", room, 0, control, raised | sticky)
        if room[4] != used:
            struct.pack_into("<H", room, _TAGS, _WIDE[room[4]])
        engine.reg_write_batch(engine.handle, self._ids, self._pointers[room[3] >> 3 & 7], count)
        return True
