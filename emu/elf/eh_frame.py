"""Writing unwind information: .eh_frame for given functions, and the .eh_frame_hdr
with its binary search table.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from emu.core.record import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

_DW_EH_PE_udata4 = 0x03
_DW_EH_PE_pcrel_sdata4 = 0x1B
_DW_EH_PE_datarel_sdata4 = 0x3B
_RETURN_ADDRESS_COLUMN = 16

AT_CALL = bytes([0x0C, 7, 8, 0x80 | _RETURN_ADDRESS_COLUMN, 1])
"""CFA instructions for the moment after a call: the CFA is rsp + 8, the return address is at CFA - 8."""


class FrameEntry(NamedTuple):
    """The unwind information of one function.

    `start` is its link-time address, `size` its bytes, `instructions` the DW_CFA program of its FDE, after
    the rules in `initial` of its CIE. Factored offsets are in units of -8 bytes, code advances in bytes.
    `signal` marks a signal trampoline: the unwinder then takes the return address itself for the place of
    interruption, not the byte before it. `personality` is the link-time address of the function that the
    unwinder asks about an exception there (0: none); it gets no language-specific data.
    """

    start: int
    size: int
    instructions: bytes = b""
    initial: bytes = AT_CALL
    signal: bool = False
    personality: int = 0


def encode_eh_frame(frames: Sequence[FrameEntry], vaddr: int) -> tuple[bytes, list[tuple[int, int]]]:
    """Return .eh_frame for link-time address `vaddr`, and (function start, FDE address) for each frame.

    Frames with the same initial rules share a CIE. Source: LSB "Exception Frames"; psABI 4.2.4 (registers in
    table 3.36).
    """
    out = bytearray()
    cies: dict[tuple[bytes, bool, int], int] = {}
    table: list[tuple[int, int]] = []
    for frame in frames:
        key = frame.initial, frame.signal, frame.personality
        if key not in cies:
            cies[key] = len(out)
            augmentation = (b"zP" if frame.personality else b"z") + (b"RS\0" if frame.signal else b"R\0")
            body = struct.pack("<IB", 0, 1) + augmentation
            # code alignment 1, data alignment -8 (SLEB128), then the augmentation data: the personality, the
            # pointer encoding
            body += bytes([1, 0x78, _RETURN_ADDRESS_COLUMN])
            if frame.personality:
                body += bytes([6, _DW_EH_PE_pcrel_sdata4])
                field = vaddr + len(out) + 4 + len(body)  # the record's length comes first
                body += struct.pack("<iB", frame.personality - field, _DW_EH_PE_pcrel_sdata4)
            else:
                body += bytes([1, _DW_EH_PE_pcrel_sdata4])
            out += _record(body + frame.initial)
        at = len(out)
        # The CIE pointer counts back from its own field, which lies behind the length.
        body = struct.pack("<IiIB", at + 4 - cies[key], frame.start - (vaddr + at + 8), frame.size, 0)
        out += _record(body + frame.instructions)
        table.append((frame.start, vaddr + at))
    return bytes(out) + bytes(4), table


def encode_eh_frame_hdr(table: Sequence[tuple[int, int]], vaddr: int, eh_frame: int) -> bytes:
    """Return .eh_frame_hdr for link-time address `vaddr`, `eh_frame` being that of
    .eh_frame, `table` as it came with it.

    Source: LSB "Exception Frame Header".
    """
    encodings = (1, _DW_EH_PE_pcrel_sdata4, _DW_EH_PE_udata4, _DW_EH_PE_datarel_sdata4)
    out = bytearray(struct.pack("<BBBBiI", *encodings, eh_frame - (vaddr + 4), len(table)))
    for start, fde in sorted(table):
        out += struct.pack("<ii", start - vaddr, fde - vaddr)
    return bytes(out)


def eh_frame_hdr_size(count: int) -> int:
    """Return the bytes of an .eh_frame_hdr with `count` entries."""
    return 12 + 8 * count


def _record(body: bytes) -> bytes:
    """Prefix the length and pad with DW_CFA_nop to eight bytes."""
    body += bytes(-(len(body) + 4) % 8)
    return struct.pack("<I", len(body)) + body
