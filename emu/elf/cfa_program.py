"""CIE and FDE records, and the CFA programs in them:
from bytes to the rules that hold at each address of a function.

A function's program is run once and all its rows are kept, since a backtrace that is taken again has other
addresses in the same functions.
Source: LSB "Exception Frames"; DWARF 5 6.4.2, 7.24.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from enum import IntEnum
from functools import cache
from typing import TYPE_CHECKING, Any

from emu.core.errors import ElfError
from emu.core.record import NamedTuple
from emu.elf.expression import Expression, parse_expression

if TYPE_CHECKING:
    from collections.abc import Iterator

UNDEFINED, SAME_VALUE, OFFSET, VAL_OFFSET, REGISTER, EXPRESSION, VAL_EXPRESSION = range(7)
"""How a register's value in the caller is found: not at all, unchanged, at CFA + n, CFA + n itself, in
another register, at what an expression gives (with the CFA on its stack), what an expression gives.
"""
REGISTERS = 17
"""rax rdx rcx rbx rsi rdi rbp rsp r8 to r15, and the return address:
the numbers that rules for the integer registers use.
"""
RSP, RBP, RETURN_ADDRESS = 7, 6, 16
PCREL = 0x10
_NO_POINTER = 0xFF
FORMATS = {0: "Q", 2: "H", 3: "I", 4: "Q", 10: "h", 11: "i", 12: "q"}
"""DW_EH_PE_*, the low half: how a pointer is stored."""
_UNSIGNED = {0: "Q", 2: "H", 3: "I", 4: "Q", 10: "H", 11: "I", 12: "Q"}
_WORD = struct.Struct("<I")
_ADVANCES = {2: 1, 3: 2, 4: 4}
_M64 = (1 << 64) - 1
_MOST_ROWS = 1 << 16

Argument = int | Expression
Rules = dict[int, tuple[int, Argument]]
Cfa = tuple[int, int, Expression | None]


class DwCfa(IntEnum):
    """DW_CFA_*, instructions of a program but for the three that have an operand in their byte.

    Source: DWARF 5 7.24; LSB "DWARF Extensions".
    """

    NOP = 0x00
    OFFSET_EXTENDED = 0x05
    RESTORE_EXTENDED = 0x06
    UNDEFINED = 0x07
    SAME_VALUE = 0x08
    REGISTER = 0x09
    REMEMBER_STATE = 0x0A
    RESTORE_STATE = 0x0B
    DEF_CFA = 0x0C
    DEF_CFA_REGISTER = 0x0D
    DEF_CFA_OFFSET = 0x0E
    DEF_CFA_EXPRESSION = 0x0F
    EXPRESSION = 0x10
    OFFSET_EXTENDED_SF = 0x11
    DEF_CFA_SF = 0x12
    DEF_CFA_OFFSET_SF = 0x13
    VAL_OFFSET = 0x14
    VAL_OFFSET_SF = 0x15
    VAL_EXPRESSION = 0x16
    GNU_ARGS_SIZE = 0x2E
    GNU_NEGATIVE_OFFSET_EXTENDED = 0x2F


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


class Cie(NamedTuple):
    """What FDEs have in common.

    `encoding` is DW_EH_PE_* of their addresses, `sized` tells that they have augmentation data of a stated
    length, `lsda` is DW_EH_PE_* of the pointer to exception tables in these.
    """

    code: int
    data: int
    column: int
    signal: bool
    encoding: int
    sized: bool
    program: bytes
    lsda: int = _NO_POINTER


class CfaRows(NamedTuple):
    """The rows of one function, sorted by where they begin to hold."""

    start: int
    end: int
    places: list[int]
    rows: list[Row]

    def at(self, pc: int) -> Row | None:
        """Return the row that holds at `pc`."""
        return self.rows[bisect_right(self.places, pc) - 1] if self.start <= pc < self.end else None


class _Reader:
    """Bytes from left to right. Raises IndexError and struct.error at the end."""

    __slots__ = ("data", "at")

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data, self.at = data, at

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def uleb(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def sleb(self) -> int:
        begin = self.at
        value = self.uleb()
        bits = 7 * (self.at - begin)
        return value - (1 << bits) if value >> bits - 1 else value

    def take(self, size: int) -> bytes:
        if self.at + size > len(self.data):
            raise IndexError("it ends too early")
        self.at += size
        return self.data[self.at - size : self.at]

    def word(self, form: str) -> int:
        size = struct.calcsize(form)
        value: int = struct.unpack(f"<{form}", self.take(size))[0]
        return value


@cache
def structs() -> Any:
    """Return pyelftools' structures for the expressions in rules."""
    from elftools.dwarf.structs import DWARFStructs

    return DWARFStructs(little_endian=True, dwarf_format=32, address_size=8)


def parse_cie(record: bytes, name: str) -> Cie:
    """Decode a CIE, its length word included. Raises ElfError, IndexError, struct.error."""
    reader = _Reader(record, 8)
    version = reader.byte()
    if version not in (1, 3, 4):
        raise ElfError(name, f"malformed unwind information: a CIE of version {version}")
    end = record.index(0, reader.at)
    augmentation = record[reader.at : end]
    reader.at = end + 1
    if version == 4:
        reader.take(2)
    if augmentation.startswith(b"eh"):
        reader.take(8)
        augmentation = augmentation[2:]
    code, data = reader.uleb(), reader.sleb()
    column = reader.byte() if version == 1 else reader.uleb()
    encoding, lsda, sized = 0, _NO_POINTER, augmentation.startswith(b"z")
    if augmentation and not sized:
        raise ElfError(name, f"malformed unwind information: augmentation {augmentation!r}")
    if sized:
        length = reader.uleb()
        extra = _Reader(reader.take(length))
        for letter in augmentation[1:]:
            if letter == ord("R"):
                encoding = extra.byte()
            elif letter == ord("L"):
                lsda = extra.byte()
            elif letter == ord("P"):
                form = FORMATS.get(extra.byte() & 0xF)
                if form is None:
                    raise ElfError(name, "malformed unwind information: the personality's encoding")
                extra.word(form)
            elif letter not in b"SB":
                break  # what follows is not known, but its length is
    return Cie(code, data, column, b"S" in augmentation, encoding, sized, record[reader.at :], lsda)


def place_of(record: bytes, address: int, cie: Cie, name: str) -> tuple[int, int, int]:
    """Return start and end of the code that an FDE at `address` covers, and where its record goes on.

    Raises ElfError.
    """
    form = FORMATS.get(cie.encoding & 0xF)
    if form is None or cie.encoding & 0xF0 not in (0, PCREL):
        raise ElfError(name, f"pointer encoding {cie.encoding:#x} in .eh_frame")
    reader = _Reader(record, 8)
    start = reader.word(form) + (address + 8 if cie.encoding & PCREL else 0) & _M64
    return start, start + reader.word(_UNSIGNED[cie.encoding & 0xF]), reader.at


def lsda_of(record: bytes, address: int, cie: Cie, name: str) -> int:
    """Return where the language-specific data area is that an FDE at `address` names; 0 for none.

    Raises ElfError, IndexError, struct.error.
    """
    if cie.lsda == _NO_POINTER or not cie.sized:
        return 0
    form = FORMATS.get(cie.lsda & 0xF)
    if form is None or cie.lsda & 0xF0 not in (0, PCREL):
        raise ElfError(name, f"pointer encoding {cie.lsda:#x} of an exception table")
    reader = _Reader(record, place_of(record, address, cie, name)[2])
    reader.uleb()
    place = address + reader.at
    value = reader.word(form)
    return value + (place if cie.lsda & PCREL else 0) & _M64 if value else 0


def rows_of(record: bytes, address: int, cie: Cie, name: str) -> CfaRows:
    """Run the program of an FDE at `address`.

    Raises ElfError, and what `_Reader` does for records that end too early.
    """
    start, end, at = place_of(record, address, cie, name)
    reader = _Reader(record, at)
    if cie.sized:
        reader.take(reader.uleb())
    program = _Program(cie, name)
    for _ in program.run(cie.program, 0, start):
        pass
    program.initial = dict(program.rules)
    places: list[int] = []
    rows: list[Row] = []
    for place in program.run(record, reader.at, start):
        if places and place == places[-1]:
            rows.pop()
            places.pop()
        rules = tuple((register, *rule) for register, rule in program.rules.items() if register < REGISTERS)
        places.append(place)
        rows.append(Row(*program.cfa, rules, cie.column, cie.signal, start, end))
        if len(rows) > _MOST_ROWS:
            raise ElfError(name, f"malformed unwind information: more than {_MOST_ROWS} rows")
    return CfaRows(start, end, places, rows)


class _Program:
    """Executes DW_CFA instructions; `cfa` and `rules` are what holds where it is."""

    def __init__(self, cie: Cie, name: str) -> None:
        self._cie, self._name = cie, name
        self.cfa: Cfa = (RSP, 0, None)
        self.rules: Rules = {}
        self.initial: Rules = {}

    def run(self, code: bytes, at: int, place: int) -> Iterator[int]:
        """Execute `code` from `at`; yield each place at whose end what holds there is known:
        before each advance, and at the end.
        """
        remembered: list[tuple[Cfa, Rules]] = []
        reader, unit = _Reader(code, at), self._cie.code
        size = len(code)
        while reader.at < size:
            byte = reader.byte()
            high, low = byte & 0xC0, byte & 0x3F
            if high == 0x40:
                yield place
                place += low * unit
            elif high == 0x80:
                self.rules[low] = OFFSET, reader.uleb() * self._cie.data
            elif high == 0xC0:
                self._restore(low)
            elif low in _ADVANCES:
                yield place
                place += int.from_bytes(reader.take(_ADVANCES[low]), "little") * unit
            elif low == DwCfa.REMEMBER_STATE:
                remembered.append((self.cfa, dict(self.rules)))
            elif low == DwCfa.RESTORE_STATE:
                self.cfa, self.rules = remembered.pop()
            else:
                self._execute(low, reader)
        yield place

    def _restore(self, register: int) -> None:
        if register in self.initial:
            self.rules[register] = self.initial[register]
        else:
            self.rules.pop(register, None)

    def _execute(self, code: int, reader: _Reader) -> None:
        data = self._cie.data
        register, offset, _ = self.cfa
        match code:
            case DwCfa.NOP:
                pass
            case DwCfa.DEF_CFA:
                self.cfa = reader.uleb(), reader.uleb(), None
            case DwCfa.DEF_CFA_REGISTER:
                self.cfa = reader.uleb(), offset, None
            case DwCfa.DEF_CFA_OFFSET:
                self.cfa = register, reader.uleb(), None
            case DwCfa.DEF_CFA_EXPRESSION:
                self.cfa = RSP, 0, self._expression(reader)
            case DwCfa.DEF_CFA_SF:
                self.cfa = reader.uleb(), reader.sleb() * data, None
            case DwCfa.DEF_CFA_OFFSET_SF:
                self.cfa = register, reader.sleb() * data, None
            case DwCfa.RESTORE_EXTENDED:
                self._restore(reader.uleb())
            case DwCfa.GNU_ARGS_SIZE:
                reader.uleb()  # for the callee's use
            case _:
                target = reader.uleb() if code in _RULES else 0
                self.rules[target] = self._rule(code, reader)

    def _rule(self, code: int, reader: _Reader) -> tuple[int, Argument]:
        data = self._cie.data
        match code:
            case DwCfa.OFFSET_EXTENDED:
                return OFFSET, reader.uleb() * data
            case DwCfa.UNDEFINED:
                return UNDEFINED, 0
            case DwCfa.SAME_VALUE:
                return SAME_VALUE, 0
            case DwCfa.REGISTER:
                return REGISTER, reader.uleb()
            case DwCfa.EXPRESSION:
                return EXPRESSION, self._expression(reader)
            case DwCfa.OFFSET_EXTENDED_SF:
                return OFFSET, reader.sleb() * data
            case DwCfa.VAL_OFFSET:
                return VAL_OFFSET, reader.uleb() * data
            case DwCfa.VAL_OFFSET_SF:
                return VAL_OFFSET, reader.sleb() * data
            case DwCfa.VAL_EXPRESSION:
                return VAL_EXPRESSION, self._expression(reader)
            case DwCfa.GNU_NEGATIVE_OFFSET_EXTENDED:
                return OFFSET, -reader.uleb() * data
            case _:
                raise ElfError(self._name, f"DW_CFA instruction {code:#x} in unwind information")

    def _expression(self, reader: _Reader) -> Expression:
        return parse_expression(reader.take(reader.uleb()), structs(), self._name)


_RULES = frozenset((
    DwCfa.OFFSET_EXTENDED, DwCfa.UNDEFINED, DwCfa.SAME_VALUE, DwCfa.REGISTER, DwCfa.EXPRESSION, DwCfa.OFFSET_EXTENDED_SF,
    DwCfa.VAL_OFFSET, DwCfa.VAL_OFFSET_SF, DwCfa.VAL_EXPRESSION, DwCfa.GNU_NEGATIVE_OFFSET_EXTENDED,
))  # fmt: skip
"""Instructions that give the register which they name a rule."""
