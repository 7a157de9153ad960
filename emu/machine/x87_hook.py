"""The hook before an x87 instruction that the host's CPU executes, in machine code: 0.5 us in place of 4.7.

It reads the guest's x87 registers by libunicorn's own functions into the image of `HostX87`, executes the
instruction there, writes them back, and has the engine go on behind it. What is not the usual case goes to
the hook in Python: other code at the place, an exception that is not masked, one that waits.

Source: unicorn/unicorn.h (uc_cb_hookcode_t); psABI 3.2.3; Intel SDM volume 1, 8.1 (status and
tag word), 10.5.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emu.machine.x87 import HostX87

_CODE = bytes.fromhex(
    "535541544889cb488b43600fb700663b43680f85ff000000"  # keep registers; other code here: to Python
    "488b3b488b7318488b5320b903000000ff5308488b6b28"  # read control, status, tags
    "8b4500f6d0a83f0f85db0000000fb74502a9808000000f85cc000000"  # unmasked, or waiting: to Python
    "6689437ac1e80b83e0076bc058488b5320488d540218"  # keep the status; the places of registers by its top
    "488b3b488b73184883c60cb908000000ff5308"  # read the eight registers
    "488b53700fb685000400000fb68d010400008a04028a0c0ac0e10408c8884504884378"  # tags as FXSAVE has them
    "66816502407f4889ef488db500020000"  # no exceptions yet
    "480fae06480fae0fd9d0480fae07480fae0e"  # save the host's, load the guest's, execute, and back
    "0fb7437a83e03f66094502"  # exceptions of before stay
    "0fb645043a43787412488b9380000000668b044266898500040000"  # tags as FSTENV has them, if they changed
    "0fb74502c1e80b83e0076bc058488b53204801c2488b3b488b7318b90b000000ff5310"  # write all
    "488b3b8bb388000000488d5350ff5358"  # go on behind the instruction
    "415c5d5bc3"
    "488b3b488bb390000000ba020000004889d9488b4338415c5d5bffe0"  # to Python
)
_OPCODE = _CODE.index(b"\xd9\xd0") + 1
_RECORD = struct.Struct("<8Q2Q3QH6x3QI4xQ")
"""What the code finds in the record, by its offsets there."""


class NativeHooks:
    """The hooks of one engine: a piece of code for each opcode, a record of data for each place."""

    def __init__(self, x87: HostX87, function: int, rip: int) -> None:
        """`function` is the host's address of uc_reg_write, `rip` the number of the program counter."""
        self._x87, self._write_register, self._rip = x87, function, rip
        self._code: dict[int, mmap.mmap] = {}
        self._records: list[object] = []

    def make(self, address: int, host: int, code: bytes, python: int) -> tuple[ctypes.c_void_p, int]:
        """Return the hook for the instruction `code` (two bytes) at `address`, which lies at `host`, and its
        data. `python` is the hook for all that is not the usual case.
        """
        opcode = code[1]
        page = self._code.get(opcode)
        if page is None:
            page = self._code[opcode] = mmap.mmap(
                -1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
            )
            page.write(_CODE[:_OPCODE] + bytes((opcode,)) + _CODE[_OPCODE + 1 :])
        places = self._x87.places
        values = (
            *places.functions, places.ids, places.tables, places.image, 0, python, 0, 0, address + len(code),
            self._write_register, host, int.from_bytes(code, "little"), places.full, 0, places.wide, self._rip, address,
        )  # fmt: skip
        record = ctypes.create_string_buffer(_RECORD.pack(*values))
        self._records.append(record)
        hook = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(page)))
        return hook, ctypes.addressof(record)

    def keep(self, callback: object) -> None:
        """Hold on to a hook in Python that the code knows by its address."""
        self._records.append(callback)


def usable() -> bool:
    """Whether this host can run the hook."""
    return os.uname().machine == "x86_64"
