"""Where an address is in the source: function names from the symbol tables, lines from DWARF, on demand.

Nothing here runs at a start-up: pyelftools is imported with the first question. A question parses the one compilation unit
that its address is in, and the answer's tables are kept for the next question.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from typing import Any, NamedTuple

from emu.elf import constants as c
from emu.elf.debug_file import open_elf, section, separate_file
from emu.elf.inlined import Inlined, InlinedFunctions
from emu.elf.pyelf import malformed
from emu.elf.strtab import StringTable
from emu.elf.units import Units

_SYM = struct.Struct("<IBBHQQ")
_FUNCTION_TYPES = (c.STT_FUNC, c.STT_GNU_IFUNC)
_BIND_RANK = {c.STB_GLOBAL: 0, c.STB_GNU_UNIQUE: 0, c.STB_WEAK: 1, c.STB_LOCAL: 2}
_SHF_ALLOC, _SHF_TLS = 0x2, 0x400


class Function(NamedTuple):
    """A function written in assembly may have no size: `end` is then its section's, and the next one may come before."""

    start: int
    end: int
    name: str


class StaticSymbol(NamedTuple):
    """A symbol of .symtab: STB_*, STV_* and its link-time address."""

    bind: int
    visibility: int
    value: int


class _Lines(NamedTuple):
    """The line table of one compilation unit: ascending addresses, and (file, line) of each, None where a sequence ends."""

    addresses: list[int]
    places: list[tuple[str, int] | None]


class DebugInfo:
    """Names and lines of one object, `path` being a host file. Addresses are link-time addresses.

    Functions come from .symtab (of the file, or of its separate debug file), else from .dynsym; lines from .debug_line of
    whichever of the two has it. The separate file is found as gdb finds it: by build ID under `root`/usr/lib/debug/.build-id,
    else by .gnu_debuglink (checked by its CRC) beside the file, in its .debug directory, or under `root`/usr/lib/debug.

    Raises `ElfError` when the file, or the debugging information that a question needs, is malformed, and `OSError` when `path` cannot be
    read. An object without any debugging information is no error: the answers are None.
    Source: DWARF 5 6.2 (line table); gdb manual "Separate Debug Files".
    """

    def __init__(self, path: str, *, root: str = "/") -> None:
        self.path = path
        with malformed(path):
            self._elf = open_elf(path)
            found = None if _has_lines(self._elf) else separate_file(self._elf, path, root)
            self.debug_path = path if found is None else found
            self._debug_elf = self._elf if found is None else open_elf(found)
        self._functions: list[Function] | None = None
        self._has_lines = _has_lines(self._debug_elf)
        self._units: Units | None = None
        self._inlined: InlinedFunctions | None = None
        self._lines: dict[int, _Lines] = {}

    def function(self, vaddr: int) -> tuple[str, int] | None:
        """Return (linkage name, link-time start address) of the function that `vaddr` is in, or None.

        Of several names for one address the global one with the fewest leading underscores is returned.
        """
        if self._functions is None:
            with malformed(self.debug_path):
                self._functions = self._read_functions()
        return find_function(self._functions, vaddr)

    def line(self, vaddr: int) -> tuple[str, int] | None:
        """Return (source file, line) of the instruction at `vaddr`, or None. The file is a normalised path as compiled.

        Line 0 marks code that the compiler attributes to no source line: that is None too.
        """
        with malformed(self.debug_path):
            offset = self._unit_at(vaddr)
            if offset is None:
                return None
            lines = self._lines.get(offset)
            if lines is None:
                lines = self._lines[offset] = self._read_lines(offset)
        at = bisect_right(lines.addresses, vaddr) - 1
        return lines.places[at] if at >= 0 else None

    def section(self, vaddr: int) -> str:
        """Return the name of the allocated section that `vaddr` is in, empty without section headers."""
        with malformed(self.path):
            for found in self._elf.iter_sections():
                start, size = found["sh_addr"], found["sh_size"]
                tls_bss = found["sh_flags"] & _SHF_TLS and found["sh_type"] == "SHT_NOBITS"
                if found["sh_flags"] & _SHF_ALLOC and start <= vaddr < start + size and not tls_bss:
                    return str(found.name)
        return ""

    def static_symbols(self, name: bytes) -> list[StaticSymbol]:
        """Return what .symtab (of the file, or of its separate debug file) defines under a name."""
        found = []
        with malformed(self.debug_path):
            symtab = section(self._debug_elf, ".symtab")
            if symtab is None or symtab["sh_type"] == "SHT_NOBITS":
                return []
            strings = StringTable(self._debug_elf.get_section(symtab["sh_link"]).data(), self.path)
            data = symtab.data()
            for st_name, info, other, shndx, value, _ in _SYM.iter_unpack(
                data[: len(data) // c.SYM_SIZE * c.SYM_SIZE]
            ):
                if shndx != c.SHN_UNDEF and info & 15 != c.STT_FILE and strings.holds(name + b"\0", st_name):
                    found.append(StaticSymbol(info >> 4, other & 3, value))
        return found

    def tls_symbol(self, offset: int) -> tuple[str, int, int] | None:
        """Return (linkage name, offset, size) of the variable at an offset in the object's TLS block, from its static symbols or the dynamic ones."""
        for elf, name in ((self._debug_elf, ".symtab"), (self._elf, ".symtab"), (self._elf, ".dynsym")):
            with malformed(self.path):
                symtab = section(elf, name)
                if symtab is None or symtab["sh_type"] == "SHT_NOBITS":
                    continue
                strings = StringTable(elf.get_section(symtab["sh_link"]).data(), self.path)
                data = symtab.data()
                for st_name, info, _, shndx, value, size in _SYM.iter_unpack(
                    data[: len(data) // c.SYM_SIZE * c.SYM_SIZE]
                ):
                    if info & 15 == c.STT_TLS and shndx != c.SHN_UNDEF and value <= offset < value + size:
                        return strings.at(st_name).decode("utf-8", "backslashreplace"), value, size
        return None

    def inlined(self, vaddr: int) -> list[Inlined]:
        """Return the functions that are inlined at `vaddr`, innermost first: the last was called in `function(vaddr)`, the others in the next."""
        with malformed(self.debug_path):
            offset = self._unit_at(vaddr)
            if offset is None:
                return []
            assert self._units is not None
            if self._inlined is None:
                self._inlined = InlinedFunctions(self._units, self.debug_path)
            return self._inlined.at(vaddr, offset)

    def section_address(self, name: str) -> int:
        """Return the link-time address of a section of the object; 0 where it has none of that name."""
        with malformed(self.path):
            found = section(self._elf, name)
            return int(found["sh_addr"]) if found is not None else 0

    def _read_functions(self) -> list[Function]:
        for elf, name in ((self._debug_elf, ".symtab"), (self._elf, ".symtab"), (self._elf, ".dynsym")):
            symtab = section(elf, name)
            if symtab is not None and symtab["sh_type"] != "SHT_NOBITS":
                strings = StringTable(elf.get_section(symtab["sh_link"]).data(), self.path)
                ends = [found["sh_addr"] + found["sh_size"] for found in elf.iter_sections()]
                return read_functions(symtab.data(), strings, ends)
        return []

    def _unit_at(self, vaddr: int) -> int | None:
        """Return the .debug_info offset of the unit that covers `vaddr`."""
        if not self._has_lines:
            return None
        if self._units is None:
            self._units = Units(self._debug_elf, self.debug_path)
        return self._units.at(vaddr)

    def _read_lines(self, offset: int) -> _Lines:
        assert self._units is not None
        info = self._units.info
        program = info.line_program_for_CU(info.get_CU_at(offset))
        rows: list[tuple[int, int, tuple[str, int] | None]] = []
        if program is None:
            return _Lines([], [])
        files = self._units.files(offset)
        for number, entry in enumerate(program.get_entries()):
            state = entry.state
            if state is not None:
                # At an address where one sequence ends and another begins, the beginning counts: it sorts behind.
                order = -1 if state.end_sequence else number
                nowhere = state.end_sequence or state.line == 0
                place = None if nowhere else (files(state.file), state.line)
                rows.append((state.address, order, place))
        rows.sort(key=lambda row: row[:2])
        return _Lines([row[0] for row in rows], [row[2] for row in rows])


def _has_lines(elf: Any) -> bool:
    return all(section(elf, name) is not None for name in (".debug_info", ".debug_line"))


def find_function(functions: list[Function], vaddr: int) -> tuple[str, int] | None:
    """Return (name, start) of the function at an address, from what `read_functions` gave."""
    at = bisect_right(functions, (vaddr, 1 << 64)) - 1
    if at < 0 or vaddr >= functions[at].end:
        return None
    return functions[at].name, functions[at].start


def read_functions(data: bytes, strings: StringTable, ends: list[int]) -> list[Function]:
    """Return the functions of a symbol table by address, one for each; `ends` are the ends of the sections by number, for those without a size."""
    best: dict[int, tuple[tuple[bool, int, int, int], Function]] = {}
    for st_name, info, _, shndx, value, size in _SYM.iter_unpack(
        data[: len(data) // c.SYM_SIZE * c.SYM_SIZE]
    ):
        if info & 0xF not in _FUNCTION_TYPES or shndx == c.SHN_UNDEF:
            continue
        # GNU ld appends @VERSION or @@VERSION to names in .symtab.
        name = strings.at(st_name).partition(b"@")[0].decode("utf-8", "backslashreplace")
        underscores = 0 if name.startswith("_Z") else len(name) - len(name.lstrip("_"))
        rank = (size == 0, _BIND_RANK.get(info >> 4, 3), underscores, len(name))
        known = best.get(value)
        if known is None or rank < known[0]:
            end = value + size if size else ends[shndx] if shndx < len(ends) else value + 1
            best[value] = rank, Function(value, end, name)
    return [best[value][1] for value in sorted(best)]
