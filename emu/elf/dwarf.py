"""Where an address is in the source: function names from the symbol tables, lines from DWARF, on demand.

Nothing here runs at a start-up: pyelftools is imported with the first question. A question parses the one
compilation unit that its address is in, and the answer's tables are kept for the next question.

One piece: lines and functions are looked up in the same tables of one compilation unit.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from typing import TYPE_CHECKING, Any

from emu.core.errors import MemoryFault
from emu.core.record import NamedTuple
from emu.elf import constants as c
from emu.elf.cfi import UnwindTable
from emu.elf.debug_file import build_id_in, content, mini_debuginfo, open_elf, section, separate_file
from emu.elf.functions import BIND_RANK, DebugFunction, find_function, read_functions
from emu.elf.inlined import Inlined, InlinedFunctions
from emu.elf.prototypes import DebugPrototype, is_external, read_prototype
from emu.elf.pyelf import malformed
from emu.elf.strtab import StringTable
from emu.elf.units import Units
from emu.elf.variables import atomic_variables

if TYPE_CHECKING:
    from collections.abc import Iterator

_SYM = struct.Struct("<IBBHQQ")
_SHF_ALLOC, _SHF_TLS = 0x2, 0x400


class StaticSymbol(NamedTuple):
    """A symbol of .symtab: STB_*, STV_*, its link-time address, STT_* and its size."""

    bind: int
    visibility: int
    value: int
    type: int = 0
    size: int = 0


class _Lines(NamedTuple):
    """The line table of one compilation unit: ascending addresses, and (file,
    line) of each, None where a sequence ends.
    """

    addresses: list[int]
    places: list[tuple[str, int] | None]


class DebugInfo:
    """Names and lines of one object, `path` being a host file. Addresses are link-time addresses.

    Functions come from .symtab (of the file, or of its separate debug file), else from .dynsym; lines from
    .debug_line of whichever of the two has it. The separate file is found as gdb finds it: by build ID under
    `root`/usr/lib/debug/.build-id, else by .gnu_debuglink (checked by its CRC) beside the file, in its .debug
    directory, or under `root`/usr/lib/debug.

    Raises `ElfError` when the file, or the debugging information that a question needs, is malformed, and
    `OSError` when `path` cannot be read. An object without any debugging information is no error: the answers
    are None.
    Source: DWARF 5 6.2 (line table); gdb manual "Separate Debug Files".
    """

    def __init__(self, path: str, *, root: str = "/") -> None:
        self.path = path
        with malformed(path):
            self._elf = open_elf(path)
            found = None if _has_lines(self._elf) else separate_file(self._elf, path, root)
            self._debug_elf, self.debug_path = (self._elf, path) if found is None else found
        self._functions: list[DebugFunction] | None = None
        self._data: list[tuple[int, int, str]] | None = None
        self._thread_local: dict[int, tuple[str, int, int] | None] = {}
        self._sections: list[tuple[int, int, str]] | None = None
        self._unwind: UnwindTable | None = None
        self._has_lines = _has_lines(self._debug_elf)
        self._units: Units | None = None
        self._inlined: InlinedFunctions | None = None
        self._atomics: list[tuple[int, int]] | None = None
        self._lines: dict[int, _Lines] = {}

    def function(self, vaddr: int) -> tuple[str, int] | None:
        """Return (linkage name, link-time start address) of the function that `vaddr` is in, or None.

        Of several names for one address the global one with the fewest leading underscores is returned. One
        without a size does not reach into another function, as the unwind information tells them apart.
        """
        if self._functions is None:
            with malformed(self.debug_path):
                self._functions = self._read_functions()
        found = find_function(self._functions, vaddr)
        if found is None or not found.sized and self._unwind_start(vaddr) > found.start:
            return None
        return found.name, found.start

    def _unwind_start(self, vaddr: int) -> int:
        """Return where the last function that has unwind information begins at or before `vaddr`;
        0 if there is none.
        """
        if self._unwind is None:
            header = section(self._elf, ".eh_frame_hdr")
            if header is None or header["sh_type"] == "SHT_NOBITS":
                return 0
            with malformed(self.path):
                self._unwind = UnwindTable(
                    _Sections(self._elf, self.path), header["sh_addr"], header["sh_size"], self.path
                )
        return self._unwind.last_start(vaddr)

    def line(self, vaddr: int) -> tuple[str, int] | None:
        """Return (source file, line) of the instruction at `vaddr`, or None.

        The file is a normalised path as compiled.

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

    def addresses(self, file: str, line: int) -> list[int]:
        """Return where the code of a source line begins, in each function that has it;
        of the next line with code if that has none.

        `file` is the end of a path, whole components. Source: DWARF 5 6.2.2 (is_stmt).
        """
        if not self._has_lines:
            return []
        best: dict[int, list[int]] = {}
        with malformed(self.debug_path):
            self._unit_at(0)
            assert self._units is not None
            for offset in self._units.with_file(file.rpartition("/")[2]):
                if offset not in self._lines:
                    self._lines[offset] = self._read_lines(offset)
                before: tuple[str, int] | None = None
                for address, place in zip(*self._lines[offset], strict=True):
                    if (
                        place is not None
                        and place != before
                        and place[1] >= line
                        and f"/{place[0]}".endswith(f"/{file}")
                    ):
                        best.setdefault(place[1], []).append(address)
                    before = place
        found = sorted(best.get(min(best), ())) if best else []
        return self._first_of_functions(found)

    def _first_of_functions(self, addresses: list[int]) -> list[int]:
        """Keep of several places in one function the first."""
        kept: dict[object, int] = {}
        for address in addresses:
            function = self.function(address)
            kept.setdefault(function[1] if function is not None else address, address)
        return list(kept.values())

    def section(self, vaddr: int) -> str:
        """Return the name of the allocated section that `vaddr` is in, empty without section headers."""
        if self._sections is None:
            with malformed(self.path):
                self._sections = [
                    (found["sh_addr"], found["sh_addr"] + found["sh_size"], str(found.name))
                    for found in self._elf.iter_sections()
                    if found["sh_flags"] & _SHF_ALLOC
                    and not (found["sh_flags"] & _SHF_TLS and found["sh_type"] == "SHT_NOBITS")
                ]
        return next((name for start, end, name in self._sections if start <= vaddr < end), "")

    def static_symbols(self, name: bytes) -> list[StaticSymbol]:
        """Return what .symtab (of the file, or of its separate debug file) defines under a name."""
        return [symbol for found, symbol in self.named_symbols(name) if found == name]

    def named_symbols(self, part: bytes) -> list[tuple[bytes, StaticSymbol]]:
        """Return the definitions in .symtab (of the file, or of its separate debug
        file) whose names have `part` in them.
        """
        found = []
        with malformed(self.debug_path):
            symtab = section(self._debug_elf, ".symtab")
            if symtab is None or symtab["sh_type"] == "SHT_NOBITS":
                return []
            strings = StringTable(
                content(self._debug_elf.get_section(symtab["sh_link"]), self.path), self.path
            )
            if part not in strings.data:
                return []
            for st_name, info, other, shndx, value, size in _entries(symtab, self.path):
                if shndx != c.SHN_UNDEF and info & 15 != c.STT_FILE and part in (name := strings.at(st_name)):
                    found.append((name, StaticSymbol(info >> 4, other & 3, value, info & 15, size)))
        return found

    def tls_symbol(self, offset: int) -> tuple[str, int, int] | None:
        """Return (linkage name, offset, size) of the variable at an offset in the object's TLS block, from
        its static symbols or the dynamic ones.
        """
        if offset not in self._thread_local:
            self._thread_local[offset] = self._find_tls(offset)
        return self._thread_local[offset]

    def data_symbol(self, vaddr: int) -> tuple[str, int, int] | None:
        """Return (linkage name, link-time start, size) of the variable or constant
        that `vaddr` is in, None if no symbol tells.
        """
        if self._data is None:
            with malformed(self.path):
                self._data = self._read_data()
        at = bisect_right(self._data, (vaddr, 1 << 64)) - 1
        if at < 0 or vaddr >= self._data[at][1]:
            return None
        start, end, name = self._data[at]
        return name, start, end - start

    def _read_data(self) -> list[tuple[int, int, str]]:
        """Return start, end and name of the variables and constants by address,
        the most exported name of each.
        """
        best: dict[int, tuple[tuple[int, int], int, str]] = {}
        for elf, table in ((self._debug_elf, ".symtab"), (self._elf, ".symtab"), (self._elf, ".dynsym")):
            symtab = section(elf, table)
            if symtab is None or symtab["sh_type"] == "SHT_NOBITS":
                continue
            strings = StringTable(content(elf.get_section(symtab["sh_link"]), self.path), self.path)
            for st_name, info, _, shndx, value, size in _entries(symtab, self.path):
                if info & 15 in (c.STT_OBJECT, c.STT_COMMON) and shndx != c.SHN_UNDEF and size:
                    name = strings.at(st_name).partition(b"@")[0].decode("utf-8", "backslashreplace")
                    rank = (BIND_RANK.get(info >> 4, 3), len(name))
                    if value not in best or rank < best[value][0]:
                        best[value] = rank, value + size, name
            break
        return [(value, best[value][1], best[value][2]) for value in sorted(best)]

    def _find_tls(self, offset: int) -> tuple[str, int, int] | None:
        for elf, name in ((self._debug_elf, ".symtab"), (self._elf, ".symtab"), (self._elf, ".dynsym")):
            with malformed(self.path):
                symtab = section(elf, name)
                if symtab is None or symtab["sh_type"] == "SHT_NOBITS":
                    continue
                strings = StringTable(content(elf.get_section(symtab["sh_link"]), self.path), self.path)
                for st_name, info, _, shndx, value, size in _entries(symtab, self.path):
                    if info & 15 == c.STT_TLS and shndx != c.SHN_UNDEF and value <= offset < value + size:
                        return strings.at(st_name).decode("utf-8", "backslashreplace"), value, size
        return None

    def inlined(self, vaddr: int) -> list[Inlined]:
        """Return the functions that are inlined at `vaddr`, innermost first:
        the last was called in `function(vaddr)`, the others in the next.
        """
        with malformed(self.debug_path):
            offset = self._unit_at(vaddr)
            if offset is None:
                return []
            return self._functions_of_dwarf().at(vaddr, offset)

    def prototype(self, vaddr: int) -> DebugPrototype | None:
        """Return how the function at `vaddr` is declared, None if nothing tells."""
        with malformed(self.debug_path):
            offset = self._unit_at(vaddr)
            die = self._functions_of_dwarf().function(vaddr, offset) if offset is not None else None
            return read_prototype(die) if die is not None else None

    def called(self, back: int) -> str:
        """Return the linkage name of the function that the call before `back` is of, or ""."""
        with malformed(self.debug_path):
            offset = self._unit_at(back - 1)
            return self._functions_of_dwarf().called(back, offset) if offset is not None else ""

    def is_atomic_variable(self, vaddr: int) -> bool:
        """Whether a static variable of an atomic type lies at `vaddr`; false, too, where nothing tells."""
        if self._atomics is None:
            with malformed(self.debug_path):
                if self._units is None:
                    self._units = Units(self._debug_elf, self.debug_path)
                self._atomics = atomic_variables(self._units.info) if self._has_lines else []
        return any(start <= vaddr < start + size for start, size in self._atomics)

    def is_external(self, symbol: StaticSymbol) -> bool | None:
        """Whether a function of .symtab has external linkage in its source (DW_AT_external);
        None if nothing tells, as of data.
        """
        with malformed(self.debug_path):
            offset = self._unit_at(symbol.value) if symbol.type == c.STT_FUNC else None
            die = self._functions_of_dwarf().function(symbol.value, offset) if offset is not None else None
            return is_external(die) if die is not None else None

    def _functions_of_dwarf(self) -> InlinedFunctions:
        assert self._units is not None
        if self._inlined is None:
            self._inlined = InlinedFunctions(self._units, self.debug_path)
        return self._inlined

    def hidden(self, functions: frozenset[bytes]) -> dict[bytes, int]:
        """Return what .symtab defines and .dynsym does not export, with its addresses:
        objects with C++ names, and those functions.
        """
        found: dict[bytes, int] = {}
        with malformed(self.path):
            symtab = section(self._elf, ".symtab")
            if symtab is None or symtab["sh_type"] == "SHT_NOBITS":
                return found
            strings = StringTable(content(self._elf.get_section(symtab["sh_link"]), self.path), self.path)
            for st_name, info, _, shndx, value, _ in _entries(symtab, self.path):
                kind = info & 15
                if shndx and (
                    (kind == c.STT_OBJECT and strings.data.startswith(b"_Z", st_name))
                    or (kind == c.STT_FUNC and strings.at(st_name) in functions)
                ):
                    found[strings.at(st_name)] = value
            for name in _exported(self._elf, self.path):
                found.pop(name, None)
        return found

    def tls_section_alignment(self) -> int:
        """Return the largest alignment of a TLS section; 0 without one."""
        with malformed(self.path):
            tls = (s for s in self._elf.iter_sections() if s["sh_flags"] & _SHF_TLS and s["sh_size"])
            return max((int(s["sh_addralign"]) for s in tls), default=0)

    def build_id(self) -> str:
        """Return the build ID of the object in hexadecimal digits, "" without one."""
        with malformed(self.path):
            return build_id_in(self._elf, self.path)

    def section_address(self, name: str) -> int:
        """Return the link-time address of a section of the object; 0 where it has none of that name."""
        with malformed(self.path):
            found = section(self._elf, name)
            return int(found["sh_addr"]) if found is not None else 0

    def _read_functions(self) -> list[DebugFunction]:
        for elf in (self._debug_elf, self._elf):
            if found := self._functions_of(elf, ".symtab"):
                return found
        exported = self._functions_of(self._elf, ".dynsym")
        mini = mini_debuginfo(self._elf, self.path)
        if mini is None:
            return exported
        # It has only what .dynsym has not.
        starts = {function.start for function in exported}
        others = [
            function for function in self._functions_of(mini, ".symtab") if function.start not in starts
        ]
        return sorted([*exported, *others])

    def _functions_of(self, elf: Any, name: str) -> list[DebugFunction]:
        symtab = section(elf, name)
        if symtab is None or symtab["sh_type"] == "SHT_NOBITS":
            return []
        strings = StringTable(_bytes(elf.get_section(symtab["sh_link"]), elf, self.path), self.path)
        ends = [found["sh_addr"] + found["sh_size"] for found in elf.iter_sections()]
        return read_functions(_bytes(symtab, elf, self.path), strings, ends)

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
                # At an address where one sequence ends and another begins, the beginning counts: it sorts
                # behind.
                order = -1 if state.end_sequence else number
                nowhere = state.end_sequence or state.line == 0
                place = None if nowhere else (files(state.file), state.line)
                rows.append((state.address, order, place))
        rows.sort(key=lambda row: row[:2])
        return _Lines([row[0] for row in rows], [row[2] for row in rows])


def _entries(symtab: Any, path: str) -> Iterator[tuple[int, int, int, int, int, int]]:
    """Yield the entries of a symbol table section."""
    data = content(symtab, path)
    yield from _SYM.iter_unpack(data[: len(data) // c.SYM_SIZE * c.SYM_SIZE])


def _bytes(found: Any, elf: Any, path: str) -> bytes:
    """Return the bytes of a section, be its file mapped or (mini debug info) in memory."""
    return content(found, path) if hasattr(elf.stream, "size") else bytes(found.data())


def _has_lines(elf: Any) -> bool:
    return all(section(elf, name) is not None for name in (".debug_info", ".debug_line"))


def _exported(elf: Any, path: str) -> Iterator[bytes]:
    """Yield the names that the dynamic symbol table of a file defines."""
    table = section(elf, ".dynsym")
    if table is None or table["sh_type"] == "SHT_NOBITS":
        return
    strings = StringTable(content(elf.get_section(table["sh_link"]), path), path)
    for st_name, _, _, shndx, _, _ in _entries(table, path):
        if shndx:
            yield strings.at(st_name)


class _Sections:
    """An object's file by link-time addresses, for the reader of unwind information."""

    def __init__(self, elf: Any, path: str) -> None:
        self._elf, self._path = elf, path
        self._parts = [
            (found["sh_addr"], found) for found in elf.iter_sections() if found["sh_flags"] & _SHF_ALLOC
        ]

    def read(self, address: int, size: int) -> bytes:
        """Return `size` bytes.

        Raises MemoryFault outside of what is loaded and in the file, ElfError for a malformed section.
        """
        for start, found in self._parts:
            if start <= address and address + size <= start + found["sh_size"]:
                data = _bytes(found, self._elf, self._path)[address - start : address - start + size]
                if len(data) == size:
                    return data
        raise MemoryFault(address, "read")
