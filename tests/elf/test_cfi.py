"""Unwind information: the rules are those that pyelftools' own decoder and the
standard give, and damage ends in ElfError.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from typing import Any

import pytest

from emu.core.errors import ElfError, MemoryFault
from emu.elf import cfi
from emu.elf.cfa_program import structs
from emu.elf.cfi import UnwindTable
from emu.elf.eh_frame import FrameEntry, encode_eh_frame, encode_eh_frame_hdr
from emu.elf.expression import evaluate, parse_expression
from tests.elf.support import LIBC, LIBSTDCXX

_KINDS = ("UNDEFINED", "SAME_VALUE", "OFFSET", "VAL_OFFSET", "REGISTER", "EXPRESSION", "VAL_EXPRESSION")
_START = 0x1000
_FRAMES, _HEADER = 0x8000, 0x9000


class Bytes:
    """ReadableMemory of a few regions."""

    def __init__(self, regions: dict[int, bytes]) -> None:
        self.regions = regions

    def read(self, address: int, size: int) -> bytes:
        for start, data in self.regions.items():
            if start <= address and address + size <= start + len(data):
                return data[address - start : address - start + size]
        raise MemoryFault(address, "read")


def _table(*frames: FrameEntry) -> UnwindTable:
    section, table = encode_eh_frame(frames, _FRAMES)
    header = encode_eh_frame_hdr(table, _HEADER, _FRAMES)
    return UnwindTable(Bytes({_FRAMES: section, _HEADER: header}), _HEADER, len(header), "made")


def _rules(table: UnwindTable, pc: int) -> dict[int, tuple[int, Any]]:
    row = table.row(pc)
    assert row is not None
    return {register: (kind, argument) for register, kind, argument in row.rules}


@pytest.mark.parametrize("path", [LIBC, LIBSTDCXX])
def test_every_function_of_a_library(path: str) -> None:
    from elftools.dwarf.callframe import FDE
    from elftools.elf.elffile import ELFFile

    with open(path, "rb") as file:
        elf = ELFFile(file)
        memory = Bytes({p["p_vaddr"]: p.data() for p in elf.iter_segments() if p["p_type"] == "PT_LOAD"})
        (header,) = (p for p in elf.iter_segments() if p["p_type"] == "PT_GNU_EH_FRAME")
        table = UnwindTable(memory, header["p_vaddr"], header["p_memsz"], path)
        section = elf.get_section_by_name(".eh_frame")
        assert section is not None
        scanned = UnwindTable(memory, 0, 0, path, frames=section["sh_addr"])
        entries = elf.get_dwarf_info(relocate_dwarf_sections=False).EH_CFI_entries()
        rows = 0
        for entry in [entry for entry in entries if isinstance(entry, FDE)][::11]:
            start, end = entry["initial_location"], entry["initial_location"] + entry["address_range"]
            first = table.row(start)
            assert first is not None and (first.start, first.end) == (start, end)
            if any(instruction.opcode.name == "GNU_args_size" for instruction in entry.instructions):
                continue  # pyelftools' own decoder refuses it
            lines = {line["pc"]: line for line in entry.get_decoded().table if line["pc"] < end}
            for pc, line in lines.items():
                row = table.row(pc)
                assert row is not None
                assert row == scanned.row(pc)
                rule = line["cfa"]
                if rule.expr is None:
                    assert (row.cfa_register, row.cfa_offset) == (rule.reg, rule.offset)
                else:
                    assert row.cfa_expression is not None
                expected = {k: _KINDS.index(v.type) for k, v in line.items() if isinstance(k, int)}
                assert {register: kind for register, kind, _ in row.rules} == expected
                rows += 1
        assert rows > 1000


def test_rules_hold_from_their_location_on() -> None:
    # advance 4; CFA rsp+16, rbp at CFA-16; remember; advance 2; CFA rsp+24; restore; advance 1; rbx same; r12
    # undefined; rbp restored
    program = bytes.fromhex("44 0e10 8602 0a 42 0e18 41 0b 0803 070c c6")
    table = _table(FrameEntry(_START, 8, program), FrameEntry(_START + 16, 4, b"\x0e\x20", signal=True))
    at_call = {16: (cfi.OFFSET, -8)}
    assert table.row(_START - 1) is None
    assert table.row(_START + 8) is None
    assert _rules(table, _START + 3) == at_call
    assert _rules(table, _START + 4) == at_call | {6: (cfi.OFFSET, -16)}
    offsets = [row.cfa_offset for at in range(8) if (row := table.row(_START + at)) is not None]
    assert offsets == [8, 8, 8, 8, 16, 16, 24, 16]
    assert _rules(table, _START + 7) == at_call | {3: (cfi.SAME_VALUE, 0), 12: (cfi.UNDEFINED, 0)}
    signal = table.row(_START + 16)
    assert signal is not None and (signal.signal, signal.cfa_offset) == (True, 32)


def test_forms_with_signed_and_factored_operands() -> None:
    # def_cfa_sf rbp, -2 (factor -8); val_offset rbx, 3; register r12 in rax; offset_extended_sf r13, -1;
    # args_size 8
    program = bytes.fromhex("12067e 140303 090c00 110d7f 2e08")
    table = _table(FrameEntry(_START, 4, program))
    row = table.row(_START)
    assert row is not None and (row.cfa_register, row.cfa_offset) == (6, 16)
    assert _rules(table, _START) == {
        16: (cfi.OFFSET, -8), 3: (cfi.VAL_OFFSET, -24), 12: (cfi.REGISTER, 0), 13: (cfi.OFFSET, 8),
    }  # fmt: skip


def _value(code: str, first: int | None = None, registers: tuple[int | None, ...] = (5, None, 7)) -> int:
    expression = parse_expression(bytes.fromhex(code), structs(), "x")
    return evaluate(expression, registers, Bytes({0x100: struct.pack("<Qq", 0x200, -2)}), "x", first)


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("31", 1), ("0a3412", 0x1234), ("09ff", (1 << 64) - 1), ("707e", 3), ("92027f", 6), ("0a000106", 0x200),
        ("0a0801 9404", 0xFFFFFFFE), ("32 33 1c", (1 << 64) - 1), ("09f8 32 1b", (1 << 64) - 4), ("38 33 1d", 2),
        ("09f8 32 26", (1 << 64) - 2), ("09f8 32 25", ((1 << 64) - 8) >> 2), ("31 32 14", 1), ("31 32 33 17", 2), ("31 32 16", 1),
        ("31 32 33 1502", 1), ("09ff 30 2d", 1), ("31 280100 32 39", 9), ("2f0100 32 33", 3), ("3f 1f", (1 << 64) - 15), ("09f1 19", 15),
        ("35 2303", 8), ("31 32 12 13", 2), ("80 00 31 1e", 0), ("38 20", (1 << 64) - 9), ("33 35 27", 6), ("33 35 1a", 1), ("33 35 21", 7),
    ],
)  # fmt: skip
def test_expressions(code: str, value: int) -> None:
    registers = (5, None, 7, *[0] * 14)
    assert _value(code, registers=registers) == value


def test_plt_entries_know_how_far_they_are() -> None:
    # GNU ld's rule for a PLT: rsp + 8 + (((rip & 15) >= 11) << 3)
    code = "77 08 80 00 3f 1a 3b 2a 33 24 22"
    for rip, cfa in ((0x1000, 0x508), (0x100A, 0x508), (0x100B, 0x510), (0x100F, 0x510)):
        registers = [0] * 17
        registers[7], registers[16] = 0x500, rip
        assert _value(code, registers=tuple(registers)) == cfa


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("", "its stack is empty"), ("22", "its stack is empty"), ("31 30 1b", "division by zero"), ("2ffdff", "does not end"),
        ("2f0500", "a branch to no operation"), ("7100", "register 1 is unknown"), ("31 12 2ffcff", "overflows"), ("9c", "DW_OP_call_frame_cfa"),
        ("31 9403", "deref_size of 3"), ("a301 50", "DW_OP_entry_value"),
    ],
)  # fmt: skip
def test_wrong_expressions_end(code: str, why: str) -> None:
    with pytest.raises(ElfError, match=why):
        _value(code)


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        (0, b"\2", "version 2"), (1, b"\x50", "encoding 0x50"), (3, b"\x1b", "table encoding 0x1b"), (8, b"\xff\xff\xff\x7f", "lists 2147483647"),
        (16, b"\0\0\0\x70", "it leads to"),
    ],
)  # fmt: skip
def test_damaged_search_tables_are_elf_errors(field: int, value: bytes, why: str) -> None:
    section, entries = encode_eh_frame([FrameEntry(_START, 8)], _FRAMES)
    header = bytearray(encode_eh_frame_hdr(entries, _HEADER, _FRAMES))
    header[field : field + len(value)] = value
    table = UnwindTable(Bytes({_FRAMES: section, _HEADER: bytes(header)}), _HEADER, len(header), "made")
    with pytest.raises(ElfError, match=why):
        table.row(_START)


def test_without_a_search_table_the_records_are_passed_over() -> None:
    frames = [FrameEntry(_START + 32 * n, 16, bytes([0x0E, 8 * n])) for n in range(5)]
    section, entries = encode_eh_frame(frames[::-1], _FRAMES)
    header = bytearray(encode_eh_frame_hdr(entries, _HEADER, _FRAMES))
    header[2:4] = b"\xff\xff"
    table = UnwindTable(Bytes({_FRAMES: section, _HEADER: bytes(header)}), _HEADER, len(header), "made")
    found = [(at, row.cfa_offset) for at in range(_START, _START + 160) if (row := table.row(at))]
    assert found == [
        (at, frames[bisect_right([f.start for f in frames], at) - 1].instructions[1]) for at, _ in found
    ]
    assert len(found) == 5 * 16
