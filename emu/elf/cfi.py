"""Call frame information: how to find a caller's registers, from .eh_frame in memory.

One question reads one FDE: .eh_frame_hdr has a table sorted by address. pyelftools decodes the records; it is imported with the first question.
Source: LSB "Exception Frames" and "Exception Frame Header"; DWARF 5 6.4; psABI table 3.36 (register numbers).
"""

from __future__ import annotations

import io
import struct
from bisect import bisect_right
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from emu.core.errors import ElfError, MemoryFault
from emu.elf.expression import Expression, parse_expression
from emu.elf.pyelf import malformed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.core.types import ReadableMemory

UNDEFINED, SAME_VALUE, OFFSET, VAL_OFFSET, REGISTER, EXPRESSION, VAL_EXPRESSION = range(7)
"""How a register's value in the caller is found: not at all, unchanged, at CFA + n, CFA + n itself, in another register, at what an expression
gives (with the CFA on its stack), what an expression gives.
"""
REGISTERS = 17
"""rax rdx rcx rbx rsi rdi rbp rsp r8 to r15, and the return address: the numbers that rules for the integer registers use."""
RSP, RBP, RETURN_ADDRESS = 7, 6, 16
_RECORD_LIMIT = 1 << 16
_TABLE_LIMIT = 1 << 26
_OMIT, _PCREL, _DATAREL = 0xFF, 0x10, 0x30
_FORMATS = {0: "Q", 2: "H", 3: "I", 4: "Q", 10: "h", 11: "i", 12: "q"}
_M64 = (1 << 64) - 1

Argument = int | Expression
Rules = dict[int, tuple[int, Argument]]


class Row(NamedTuple):
    """The rules at one pc. The CFA is a register plus an offset, or what `cfa_expression` gives.

    `start` and `end` delimit the code that the FDE covers; `signal` marks a signal trampoline.
    """

    cfa_register: int
    cfa_offset: int
    cfa_expression: Expression | None
    rules: tuple[tuple[int, int, Argument], ...]
    return_column: int
    signal: bool
    start: int
    end: int


class UnwindTable:
    """The unwind information of one mapped object. Addresses are guest addresses.

    `header` is where its .eh_frame_hdr lies (PT_GNU_EH_FRAME), `size` the bytes of that; an object without one (a static program) has its
    .eh_frame at `frames`. Rows are kept. Nothing is read before the first question.
    """

    def __init__(self, memory: ReadableMemory, header: int, size: int, name: str, *, frames: int = 0) -> None:
        self._memory, self._header, self._size, self._name = memory, header, size, name
        self._frames = frames
        self._rows: dict[int, Row | None] = {}
        self._starts: Sequence[int] | None = None  # as they stand in the table: relative to `_base`
        self._fdes: Sequence[int] = ()
        self._base = 0

    def row(self, pc: int) -> Row | None:
        """Return the rules at `pc`, or None where no FDE covers it. Raises `ElfError` for malformed unwind information."""
        if pc not in self._rows:
            with malformed(self._name, "unwind information"):
                try:
                    self._rows[pc] = self._find(pc)
                except MemoryFault as fault:
                    raise ElfError(
                        self._name, f"malformed unwind information: it leads to {fault.address:#x}"
                    ) from None
        return self._rows[pc]

    def _find(self, pc: int) -> Row | None:
        if self._starts is None:
            self._open()
        assert self._starts is not None
        at = bisect_right(self._starts, pc - self._base) - 1
        if at < 0:
            return None
        cie, fde, structs = self._fde(self._base + self._fdes[at])
        start = fde["initial_location"] & _M64
        if not start <= pc < start + fde["address_range"]:
            return None
        return _Program(cie, structs, self._name).row(fde, start, pc)

    def _open(self) -> None:
        """Find the search table; without one, make it from .eh_frame (GNU ld leaves it out when it understands not all of that)."""
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
        form = _FORMATS.get(table_encoding & 0xF)
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
        form = _FORMATS.get(encoding & 0xF)
        bases = {0: 0, _PCREL: self._header + at, _DATAREL: self._header}
        if form is None or encoding & 0xF0 not in bases:
            raise ElfError(self._name, f".eh_frame_hdr pointer encoding {encoding:#x}")
        (value,) = struct.unpack_from(f"<{form}", data, at)
        return (bases[encoding & 0xF0] + value) & _M64, at + struct.calcsize(form)

    def _index(self, frames: int) -> None:
        """Make the table: pass over all records, and decode no more of an FDE than where its function starts."""
        encodings: dict[int, int] = {}
        found = []
        address = frames
        # Every record takes eight bytes at least, so this ends with the mapping if not with the terminator.
        while record := self._record(address):
            if back := int.from_bytes(record[4:8], "little"):
                cie = address + 4 - back
                if cie not in encodings:
                    encodings[cie] = self._fde(address)[0].augmentation_dict["FDE_encoding"]
                form = _FORMATS.get(encodings[cie] & 0xF)
                if form is None or encodings[cie] & 0xF0 not in (0, _PCREL):
                    raise ElfError(self._name, f"pointer encoding {encodings[cie]:#x} in .eh_frame")
                (start,) = struct.unpack_from(f"<{form}", record, 8)
                found.append((start + (address + 8 if encodings[cie] & _PCREL else 0) & _M64, address))
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

    def _fde(self, address: int) -> tuple[Any, Any, Any]:
        """Return an FDE, after its CIE, and pyelftools' structs for both.

        pyelftools reads whole sections: it gets one of these two records, as they would lie in it side by side.
        """
        from elftools.dwarf.callframe import CallFrameInfo

        record = self._record(address)
        back = int.from_bytes(record[4:8], "little")
        if not back:
            raise ElfError(self._name, "malformed unwind information: a CIE where an FDE should be")
        cie = self._record(address + 4 - back)
        if cie[4:8] != bytes(4):
            raise ElfError(self._name, "malformed unwind information: an FDE without a CIE")
        section = cie + record[:4] + struct.pack("<I", len(cie) + 4) + record[8:]
        structs = _structs()
        info = CallFrameInfo(
            io.BytesIO(section), len(section), address - len(cie), structs, for_eh_frame=True
        )
        first, second = info.get_entries()
        return first, second, structs


@cache
def _structs() -> Any:
    from elftools.dwarf.structs import DWARFStructs

    return DWARFStructs(little_endian=True, dwarf_format=32, address_size=8)


class _Program:
    """Executes DW_CFA instructions up to a pc."""

    def __init__(self, cie: Any, structs: Any, name: str) -> None:
        self._cie, self._structs, self._name = cie, structs, name
        self._code, self._data = cie["code_alignment_factor"], cie["data_alignment_factor"]
        self._cfa: tuple[int, int, Expression | None] = (RSP, 0, None)
        self._rules: Rules = {}
        self._initial: Rules = {}

    def row(self, fde: Any, start: int, pc: int) -> Row:
        """Return the rules that hold at `pc`."""
        self._run(self._cie.instructions, start, pc)
        self._initial = dict(self._rules)
        self._run(fde.instructions, start, pc)
        rules = tuple((register, *rule) for register, rule in self._rules.items() if register < REGISTERS)
        signal = b"S" in self._cie["augmentation"]
        end = start + fde["address_range"]
        return Row(*self._cfa, rules, self._cie["return_address_register"], signal, start, end)

    def _run(self, instructions: list[Any], location: int, pc: int) -> None:
        remembered: list[tuple[tuple[int, int, Expression | None], Rules]] = []
        for instruction in instructions:
            name, args = instruction.opcode.name, instruction.args
            if name.startswith("advance_loc"):
                location += args[0] * self._code
                if location > pc:
                    return
            elif name == "remember_state":
                remembered.append((self._cfa, dict(self._rules)))
            elif name == "restore_state":
                self._cfa, self._rules = remembered.pop()
            elif name.startswith("def_cfa"):
                self._define(name, args)
            elif name in ("restore", "restore_extended"):
                if args[0] in self._initial:
                    self._rules[args[0]] = self._initial[args[0]]
                else:
                    self._rules.pop(args[0], None)
            elif name not in ("nop", "GNU_args_size"):
                self._rules[args[0]] = self._rule(name, args)

    def _define(self, name: str, args: list[Any]) -> None:
        register, offset, _ = self._cfa
        match name:
            case "def_cfa":
                self._cfa = (args[0], args[1], None)
            case "def_cfa_sf":
                self._cfa = (args[0], args[1] * self._data, None)
            case "def_cfa_register":
                self._cfa = (args[0], offset, None)
            case "def_cfa_offset":
                self._cfa = (register, args[0], None)
            case "def_cfa_offset_sf":
                self._cfa = (register, args[0] * self._data, None)
            case _:
                self._cfa = (RSP, 0, parse_expression(args[0], self._structs, self._name))

    def _rule(self, name: str, args: list[Any]) -> tuple[int, Argument]:
        match name:
            case "undefined":
                return UNDEFINED, 0
            case "same_value":
                return SAME_VALUE, 0
            case "offset" | "offset_extended" | "offset_extended_sf":
                return OFFSET, args[1] * self._data
            case "val_offset" | "val_offset_sf":
                return VAL_OFFSET, args[1] * self._data
            case "register":
                return REGISTER, args[1]
            case "expression":
                return EXPRESSION, parse_expression(args[1], self._structs, self._name)
            case "val_expression":
                return VAL_EXPRESSION, parse_expression(args[1], self._structs, self._name)
            case _:
                raise ElfError(self._name, f"DW_CFA_{name} in unwind information")
