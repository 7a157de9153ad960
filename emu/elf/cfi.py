"""Call frame information: how to find a caller's registers, from .eh_frame in memory.

One question reads one FDE: .eh_frame_hdr has a table sorted by address. What an FDE says of its whole
function is kept.
Source: LSB "Exception Frames" and "Exception Frame Header"; DWARF 5 6.4; psABI table 3.36 (register numbers).
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from contextlib import contextmanager
from typing import TYPE_CHECKING

from emu.core.errors import ElfError, MemoryFault
from emu.elf.cfa_program import (
    EXPRESSION,
    FORMATS,
    OFFSET,
    PCREL,
    RBP,
    REGISTER,
    REGISTERS,
    RETURN_ADDRESS,
    RSP,
    SAME_VALUE,
    UNDEFINED,
    VAL_EXPRESSION,
    VAL_OFFSET,
    CfaRows,
    Cie,
    Row,
    lsda_of,
    parse_cie,
    place_of,
    rows_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from emu.core.types import ReadableMemory

__all__ = [
    "EXPRESSION", "OFFSET", "RBP", "REGISTER", "REGISTERS", "RETURN_ADDRESS", "RSP", "SAME_VALUE", "UNDEFINED", "VAL_EXPRESSION", "VAL_OFFSET",
    "Row", "UnwindTable",
]  # fmt: skip
_RECORD_LIMIT = 1 << 16
_TABLE_LIMIT = 1 << 26
_OMIT, _DATAREL = 0xFF, 0x30
_M64 = (1 << 64) - 1


class UnwindTable:
    """The unwind information of one mapped object. Addresses are guest addresses.

    `header` is where its .eh_frame_hdr lies (PT_GNU_EH_FRAME), `size` the bytes of that; an object without
    one (a static program) has its .eh_frame at `frames`. The rows of a function, and what was asked, are
    kept. Nothing is read before the first question.
    """

    def __init__(self, memory: ReadableMemory, header: int, size: int, name: str, *, frames: int = 0) -> None:
        self._memory, self._header, self._size, self._name = memory, header, size, name
        self._frames = frames
        self._rows: dict[int, CfaRows] = {}
        self._known: dict[int, Row | None] = {}
        self._cies: dict[int, Cie] = {}
        self._starts: Sequence[int] | None = None  # as they stand in the table: relative to `_base`
        self._fdes: Sequence[int] = ()
        self._base = 0

    def row(self, pc: int) -> Row | None:
        """Return the rules at `pc`, or None where no FDE covers it.

        Raises `ElfError` for malformed unwind information.
        """
        if pc in self._known:
            return self._known[pc]
        with self._malformed():
            row = self._known[pc] = self._find(pc)
        return row

    def last_start(self, pc: int) -> int:
        """Return where the last function that the table knows begins at or before `pc`; 0 if there is none.

        Raises `ElfError`.
        """
        with self._malformed():
            at = self._place(pc)
        return self._base + self._starts[at] & _M64 if self._starts is not None and at >= 0 else 0

    @contextmanager
    def _malformed(self) -> Iterator[None]:
        """Give every fault of the records one type; `ElfError` passes."""
        try:
            yield
        except MemoryFault as fault:
            why: object = f"it leads to {fault.address:#x}"
        except (LookupError, ValueError, struct.error) as error:
            why = error
        else:
            return
        raise ElfError(self._name, f"malformed unwind information: {why}")

    def _place(self, pc: int) -> int:
        if self._starts is None:
            self._open()
        assert self._starts is not None
        return bisect_right(self._starts, pc - self._base) - 1

    def _find(self, pc: int) -> Row | None:
        at = self._place(pc)
        if at < 0:
            return None
        address = self._base + self._fdes[at]
        rows = self._rows.get(address)
        if rows is None:
            rows = self._rows[address] = rows_of(*self._fde(address), self._name)
        return rows.at(pc)

    def exception_table(self, pc: int) -> tuple[int, int] | None:
        """Return where the language-specific data area of the function at `pc` lies, and where that begins;
        None if it has none.

        Raises `ElfError` for malformed unwind information.
        """
        with self._malformed():
            at = self._place(pc)
            if at < 0:
                return None
            record, address, cie = self._fde(self._base + self._fdes[at])
            start, end, _ = place_of(record, address, cie, self._name)
            lsda = lsda_of(record, address, cie, self._name) if start <= pc < end else 0
        return (lsda, start) if lsda else None

    def _open(self) -> None:
        """Find the search table; without one, make it from .eh_frame (GNU ld leaves it out when it
        understands not all of that).
        """
        if self._frames:
            self._index(self._frames)
            return
        if not 4 <= self._size <= _TABLE_LIMIT:
            raise ElfError(self._name, f"PT_GNU_EH_FRAME of {self._size:#x} bytes")
        data = self._memory.read(self._header, self._size)
        version, frame_encoding, count_encoding, table_encoding = data[:4]
        if version != 1:
            raise ElfError(self._name, f".eh_frame_hdr version {version}")
        frames, at = self._pointer(data, 4, frame_encoding)
        if _OMIT in (count_encoding, table_encoding):
            self._index(frames)
            return
        count, at = self._pointer(data, at, count_encoding)
        form = FORMATS.get(table_encoding & 0xF)
        relative = table_encoding & 0xF0
        if form is None or relative not in (0, _DATAREL):
            raise ElfError(self._name, f".eh_frame_hdr table encoding {table_encoding:#x}")
        end = at + 2 * struct.calcsize(form) * count
        if end > len(data):
            raise ElfError(
                self._name, f".eh_frame_hdr lists {count} functions, more than its {len(data)} bytes hold"
            )
        words = memoryview(data[at:end]).cast(form)  # type: ignore[call-overload]
        self._starts, self._fdes = words[::2], words[1::2]
        self._base = self._header if relative else 0

    def _pointer(self, data: bytes, at: int, encoding: int) -> tuple[int, int]:
        """Return a pointer of .eh_frame_hdr and the offset behind it."""
        form = FORMATS.get(encoding & 0xF)
        bases = {0: 0, PCREL: self._header + at, _DATAREL: self._header}
        if form is None or encoding & 0xF0 not in bases:
            raise ElfError(self._name, f".eh_frame_hdr pointer encoding {encoding:#x}")
        (value,) = struct.unpack_from(f"<{form}", data, at)
        return (bases[encoding & 0xF0] + value) & _M64, at + struct.calcsize(form)

    def _index(self, frames: int) -> None:
        """Make the table: pass over all records, and decode no more of an FDE
        than where its function starts.
        """
        found = []
        address = frames
        # Every record takes eight bytes at least, so this ends with the mapping if not with the terminator.
        while record := self._record(address):
            if back := int.from_bytes(record[4:8], "little"):
                start, _, _ = place_of(record, address, self._cie(address + 4 - back), self._name)
                found.append((start, address))
            address += len(record)
        found.sort()
        self._starts, self._fdes = [start for start, _ in found], [address for _, address in found]

    def _record(self, address: int) -> bytes:
        """Return a CIE or FDE with its length word; nothing for the terminator."""
        size = int.from_bytes(self._memory.read(address, 4), "little")
        if size == 0:
            return b""
        if not 4 <= size <= _RECORD_LIMIT:
            raise ElfError(self._name, f"malformed unwind information: a record of {size:#x} bytes")
        return self._memory.read(address, 4 + size)

    def _fde(self, address: int) -> tuple[bytes, int, Cie]:
        """Return an FDE, its address, and its CIE."""
        record = self._record(address)
        back = int.from_bytes(record[4:8], "little")
        if not back:
            raise ElfError(self._name, "malformed unwind information: a CIE where an FDE should be")
        return record, address, self._cie(address + 4 - back)

    def _cie(self, address: int) -> Cie:
        cie = self._cies.get(address)
        if cie is None:
            record = self._record(address)
            if record[4:8] != bytes(4):
                raise ElfError(self._name, "malformed unwind information: an FDE without a CIE")
            cie = self._cies[address] = parse_cie(record, self._name)
        return cie
