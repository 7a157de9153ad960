"""The compilation units of one object's DWARF: which of them an address is in, and
what pyelftools reads of it.

Source: DWARF 5 2.17 (ranges), 6.1.2 (.debug_aranges), 6.2.4 (file names), 7.5.1 (unit headers).
"""

from __future__ import annotations

import io
import posixpath
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Any

from emu.core.errors import ElfError
from emu.elf.debug_file import content, section

_SECTIONS = (
    "info", "abbrev", "str", "line", "line_str", "ranges", "rnglists", "loclists", "addr", "str_offsets",
)  # fmt: skip
_UNIT_COMPILE, _UNIT_SKELETON = 1, 4


class Units:
    """Addresses are link-time addresses, a unit is known by its offset in .debug_info.

    Raises whatever pyelftools raises for malformed content: callers wrap it (`emu.elf.pyelf.malformed`).
    """

    def __init__(self, elf: Any, path: str) -> None:
        self.info = dwarf_info(elf, path)
        self._path = path
        aranges = section(elf, ".debug_aranges")
        self._ranges = sorted(_aranges(content(aranges, path) if aranges is not None else b"", path))
        self._starts = [start for start, _, _ in self._ranges]
        self._complete = False
        self._files: dict[int, Callable[[int], str]] = {}

    def at(self, vaddr: int) -> int | None:
        """Return the unit that covers `vaddr`, by .debug_aranges, else by what the
        units that are not listed there say themselves.
        """
        found = self._look_up(vaddr)
        if found is None and not self._complete:
            self._complete = True
            listed = {unit for _, _, unit in self._ranges}
            for offset in self._offsets():
                if offset not in listed:
                    unit = self.info.get_CU_at(offset)
                    ranges = die_ranges(self.info, unit.get_top_DIE())
                    self._ranges += [(start, end, offset) for start, end in ranges]
            self._ranges.sort()
            self._starts = [start for start, _, _ in self._ranges]
            found = self._look_up(vaddr)
        return found

    def _look_up(self, vaddr: int) -> int | None:
        at = bisect_right(self._starts, vaddr) - 1
        if at < 0 or vaddr >= self._ranges[at][1]:
            return None
        return self._ranges[at][2]

    def _offsets(self) -> Iterator[int]:
        """Yield the units that may have code: not type units, not partial ones.

        Only their headers are read.
        """
        data = self.info.debug_info_sec.stream.getvalue()
        at = 0
        while at + 12 <= len(data):
            size, body = int.from_bytes(data[at : at + 4], "little"), at + 4
            if size == 0xFFFFFFFF:
                size, body = int.from_bytes(data[at + 4 : at + 12], "little"), at + 12
            version, kind = struct.unpack_from("<HB", data, body)
            if version < 5 or kind in (_UNIT_COMPILE, _UNIT_SKELETON):
                yield at
            at = body + size

    def with_file(self, name: str) -> Iterator[int]:
        """Yield the units whose line tables know a file of that name, without folder."""
        wanted = name.encode("utf-8", "surrogateescape")
        for offset in self._offsets():
            program = self.info.line_program_for_CU(self.info.get_CU_at(offset))
            if program is not None and any(
                posixpath.basename(e.name) == wanted for e in program.header["file_entry"]
            ):
                yield offset

    def files(self, offset: int) -> Callable[[int], str]:
        """Return a function from a file number of the unit's line table to the path;
        KeyError-like errors for a number that is not there.
        """
        if offset not in self._files:
            unit = self.info.get_CU_at(offset)
            program = self.info.line_program_for_CU(unit)
            self._files[offset] = _file_names(program, unit)
        return self._files[offset]


def dwarf_info(elf: Any, path: str) -> Any:
    """Return pyelftools' DWARFInfo over the sections that lines and functions need:
    the rest takes as long to decompress.
    """
    import inspect

    from elftools.dwarf.dwarfinfo import DebugSectionDescriptor, DwarfConfig, DWARFInfo

    present = {}
    for name in _SECTIONS:
        found = section(elf, f".debug_{name}")
        if found is not None:
            stream = io.BytesIO(content(found, path))
            present[f"debug_{name}_sec"] = DebugSectionDescriptor(
                stream, found.name, found["sh_offset"], found.data_size, found["sh_addr"]
            )
    config = DwarfConfig(little_endian=True, machine_arch="x64", default_address_size=8)
    names = [name for name in inspect.signature(DWARFInfo).parameters if name != "config"]
    return DWARFInfo(config, **{name: present.get(name) for name in names})


def _aranges(data: bytes, path: str) -> Iterator[tuple[int, int, int]]:
    """Yield (start, end, unit) of .debug_aranges. pyelftools' reader takes longer for
    libc than all the rest of a look-up.
    """
    at = 0
    while at + 12 <= len(data):
        size, body, offset_form = int.from_bytes(data[at : at + 4], "little"), at + 4, "<HIBB"
        if size == 0xFFFFFFFF:
            size, body, offset_form = int.from_bytes(data[at + 4 : at + 12], "little"), at + 12, "<HQBB"
        end = body + size
        if end > len(data):
            raise ElfError(path, ".debug_aranges: a set ends outside the section")
        version, unit, address_size, segment_size = struct.unpack_from(offset_form, data, body)
        if (version, address_size, segment_size) != (2, 8, 0):
            raise ElfError(path, f".debug_aranges: version {version}, addresses of {address_size} bytes")
        # The pairs are aligned to their own size, counted from the set's start.
        first = at + (body + struct.calcsize(offset_form) - at + 15) // 16 * 16
        for start, length in struct.iter_unpack("<QQ", data[first : first + (end - first) // 16 * 16]):
            if length:
                yield start, start + length, unit
        at = end


def die_ranges(info: Any, die: Any) -> Iterator[tuple[int, int]]:
    """Yield the address ranges that an entry claims.

    Source: DWARF 5 2.17 (code addresses, ranges and base addresses).
    """
    attributes = die.attributes
    low = attributes["DW_AT_low_pc"].value if "DW_AT_low_pc" in attributes else 0
    if "DW_AT_ranges" in attributes:
        ranges = info.range_lists()
        root = die.cu.get_top_DIE().attributes
        base = root["DW_AT_low_pc"].value if "DW_AT_low_pc" in root else 0
        entries = (
            ranges.get_range_list_at_offset(attributes["DW_AT_ranges"].value, cu=die.cu)
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

    Version 5 counts files and directories from 0, directory 0 being the compilation's own; before, files
    count from 1 and directory 0 is DW_AT_comp_dir, which is not in the table.
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
            directory = directories[entry.dir_index]
            if entry.dir_index:  # the others are below the compilation's own, which may itself be relative
                directory = posixpath.join(directories[0], directory)
            known = cache[number] = posixpath.normpath(posixpath.join(directory, _text(entry.name)))
        return known

    return path


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")
