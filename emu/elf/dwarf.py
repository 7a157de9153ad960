"""Where an address is in the source: function names from the symbol tables, lines from DWARF, on demand.

Nothing here runs at a start-up: pyelftools is imported with the first question. A question parses the one compilation unit
that its address is in, and the answer's tables are kept for the next question.
"""

from __future__ import annotations

import mmap
import os
import posixpath
import struct
from bisect import bisect_right
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

from emu.core.errors import ElfError
from emu.elf import constants as c
from emu.elf.notes import build_id, parse_notes
from emu.elf.pyelf import malformed
from emu.elf.strtab import StringTable

if TYPE_CHECKING:
    from collections.abc import Iterator

_SYM = struct.Struct("<IBBHQQ")
_FUNCTION_TYPES = (c.STT_FUNC, c.STT_GNU_IFUNC)
_BIND_RANK = {c.STB_GLOBAL: 0, c.STB_GNU_UNIQUE: 0, c.STB_WEAK: 1, c.STB_LOCAL: 2}
_DEBUG_DIRECTORY = "usr/lib/debug"


class _Function(NamedTuple):
    start: int
    size: int
    name: str


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
    Source: DWARF 5 chapters 6.1 (aranges) and 6.2 (line table); gdb manual "Separate Debug Files".
    """

    def __init__(self, path: str, *, root: str = "/") -> None:
        self.path = path
        with malformed(path):
            self._elf = _open(path)
            found = None if self._has_lines(self._elf) else _separate_file(self._elf, path, root)
            self.debug_path = path if found is None else found
            self._debug_elf = self._elf if found is None else _open(found)
        self._functions: list[_Function] | None = None
        self._starts: list[int] = []
        self._dwarf: Any = None
        self._units: list[tuple[int, int, int]] | None = None  # ascending (start, end, offset of the unit)
        self._unit_starts: list[int] = []
        self._lines: dict[int, _Lines] = {}

    def function(self, vaddr: int) -> tuple[str, int] | None:
        """Return (linkage name, link-time start address) of the function that `vaddr` is in, or None.

        Of several names for one address the global one with the fewest leading underscores is returned.
        """
        if self._functions is None:
            with malformed(self.debug_path):
                self._functions = self._read_functions()
                self._starts = [function.start for function in self._functions]
        at = bisect_right(self._starts, vaddr) - 1
        if at < 0:
            return None
        function = self._functions[at]
        # A function written in assembly may have no size: it then reaches to the next one.
        if function.size and vaddr >= function.start + function.size:
            return None
        return function.name, function.start

    def line(self, vaddr: int) -> tuple[str, int] | None:
        """Return (source file, line) of the instruction at `vaddr`, or None. The file is a normalised path as compiled.

        Line 0 marks code that the compiler attributes to no source line: that is None too.
        """
        if not self._has_lines(self._debug_elf):
            return None
        with malformed(self.debug_path):
            offset = self._unit_at(vaddr)
            if offset is None:
                return None
            lines = self._lines.get(offset)
            if lines is None:
                lines = self._lines[offset] = self._read_lines(offset)
        at = bisect_right(lines.addresses, vaddr) - 1
        return lines.places[at] if at >= 0 else None

    @staticmethod
    def _has_lines(elf: Any) -> bool:
        return all(elf.has_dwarf_info() and _section(elf, name) for name in (".debug_info", ".debug_line"))

    def _read_functions(self) -> list[_Function]:
        for elf, section in ((self._debug_elf, ".symtab"), (self._elf, ".symtab"), (self._elf, ".dynsym")):
            symtab = _section(elf, section)
            if symtab is not None and symtab["sh_type"] != "SHT_NOBITS":
                strings = StringTable(elf.get_section(symtab["sh_link"]).data(), self.path)
                return _functions(symtab.data(), strings)
        return []

    def _info(self) -> Any:
        if self._dwarf is None:
            self._dwarf = self._debug_elf.get_dwarf_info(follow_links=False)
        return self._dwarf

    def _unit_at(self, vaddr: int) -> int | None:
        """Return the .debug_info offset of the unit that covers `vaddr`."""
        if self._units is None:
            self._units = sorted(self._unit_ranges())
            self._unit_starts = [start for start, _, _ in self._units]
        at = bisect_right(self._unit_starts, vaddr) - 1
        if at < 0 or vaddr >= self._units[at][1]:
            return None
        return self._units[at][2]

    def _unit_ranges(self) -> Iterator[tuple[int, int, int]]:
        """Yield (start, end, unit offset): from .debug_aranges, and from the units themselves where that does not list them."""
        info = self._info()
        listed: set[int] = set()
        aranges = info.get_aranges()
        for entry in aranges.entries if aranges is not None else ():
            listed.add(entry.info_offset)
            if entry.length:
                yield entry.begin_addr, entry.begin_addr + entry.length, entry.info_offset
        for unit in info.iter_CUs():
            if unit.cu_offset not in listed:
                for start, end in _unit_own_ranges(info, unit):
                    yield start, end, unit.cu_offset

    def _read_lines(self, offset: int) -> _Lines:
        info = self._info()
        unit = info.get_CU_at(offset)
        program = info.line_program_for_CU(unit)
        rows: list[tuple[int, int, tuple[str, int] | None]] = []
        if program is None:
            return _Lines([], [])
        files = _file_names(program, unit)
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


def _functions(data: bytes, strings: StringTable) -> list[_Function]:
    best: dict[int, tuple[tuple[bool, int, int, int], _Function]] = {}
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
            best[value] = rank, _Function(value, size, name)
    return [best[value][1] for value in sorted(best)]


def _unit_own_ranges(info: Any, unit: Any) -> Iterator[tuple[int, int]]:
    """Yield the address ranges that the root entry of a unit claims.

    Source: DWARF 5 2.17 (code addresses, ranges and base addresses).
    """
    root = unit.get_top_DIE()
    attributes = root.attributes
    low = attributes["DW_AT_low_pc"].value if "DW_AT_low_pc" in attributes else 0
    if "DW_AT_ranges" in attributes:
        ranges = info.range_lists()
        base = low
        entries = (
            ranges.get_range_list_at_offset(attributes["DW_AT_ranges"].value, cu=unit)
            if ranges is not None
            else ()
        )
        for entry in entries:
            if hasattr(entry, "base_address"):
                base = entry.base_address
            elif entry.begin_offset < entry.end_offset:
                shift = 0 if entry.is_absolute else base
                yield shift + entry.begin_offset, shift + entry.end_offset
    elif "DW_AT_high_pc" in attributes:
        high = attributes["DW_AT_high_pc"]
        end = high.value if high.form == "DW_FORM_addr" else low + high.value
        if low < end:
            yield low, end


def _file_names(program: Any, unit: Any) -> Any:
    """Return a function from a line table's file number to the path.

    Version 5 counts files and directories from 0, directory 0 being the compilation's own; before, files count from 1 and
    directory 0 is DW_AT_comp_dir, which is not in the table.
    """
    header = program.header
    first = 0 if header["version"] >= 5 else 1
    directories = [_text(directory) for directory in header["include_directory"]]
    if first:
        attribute = unit.get_top_DIE().attributes.get("DW_AT_comp_dir")
        is_text = attribute is not None and isinstance(attribute.value, bytes)
        directories.insert(0, _text(attribute.value) if is_text else "")
    cache: dict[int, str] = {}

    def path(number: int) -> str:
        known = cache.get(number)
        if known is None:
            entry = header["file_entry"][number - first]
            directory = posixpath.join(directories[0], directories[entry.dir_index])
            known = cache[number] = posixpath.normpath(posixpath.join(directory, _text(entry.name)))
        return known

    return path


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")


def _open(path: str) -> Any:
    from elftools.elf.elffile import ELFFile

    with open(path, "rb") as file:
        # An empty file cannot be mapped.
        if os.fstat(file.fileno()).st_size == 0:
            raise ElfError(path, "file too short")
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return ELFFile(cast("IO[bytes]", content))


def _section(elf: Any, name: str) -> Any:
    return elf.get_section_by_name(name)


def _separate_file(elf: Any, path: str, root: str) -> str | None:
    """Return the host path of the separate debug file, or None when there is none."""
    note = _section(elf, ".note.gnu.build-id")
    if note is not None and note["sh_type"] == "SHT_NOTE":
        digits = (build_id(parse_notes(note.data(), note["sh_addralign"], path)) or b"").hex()
        if len(digits) > 2:
            found = os.path.join(root, _DEBUG_DIRECTORY, ".build-id", digits[:2], digits[2:] + ".debug")
            if os.path.isfile(found):
                return found
    link = _section(elf, ".gnu_debuglink")
    if link is None:
        return None
    content = link.data()
    name = os.fsdecode(content.partition(b"\0")[0])
    checksum = int.from_bytes(content[-4:], "little")
    directory = os.path.dirname(os.path.abspath(path))
    in_root = os.path.relpath(directory, root)
    for candidate in (
        os.path.join(directory, name),
        os.path.join(directory, ".debug", name),
        os.path.join(root, _DEBUG_DIRECTORY, in_root, name),
    ):
        if os.path.isfile(candidate) and _crc32(candidate) == checksum:
            return candidate
    return None


def _crc32(path: str) -> int:
    import zlib

    with open(path, "rb") as file:
        return zlib.crc32(file.read())
