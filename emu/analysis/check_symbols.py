"""Rules about objects that several DSOs define: of different sizes under one name, or copied with another size.

Source: C++ [basic.def.odr]; gABI, "Symbol Table" (STB_WEAK); psABI 4.4.1 (R_X86_64_COPY).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from emu.analysis.check_notes import Notes, base
from emu.core.events import InitStarted
from emu.elf import constants as c
from emu.elf.demangle import demangle
from emu.elf.relocations import iter_rela
from emu.rtld.lookup import CLASS_COPY, lookup_symbol
from emu.rtld.runtime import reference_version
from emu.rtld.verdict import Verdict

if TYPE_CHECKING:
    from emu.core.events import Record
    from emu.rtld.link_map import LinkMap

_SYM = struct.Struct("<IBBHQQ")
_NAMED = (c.STB_GLOBAL, c.STB_WEAK, c.STB_GNU_UNIQUE)


class _Defined(NamedTuple):
    map: LinkMap
    number: int
    size: int
    bind: int


class Symbols:
    """Looks through each object's symbols once, when it is linked."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._seen: set[int] = set()
        self._objects: dict[bytes, list[_Defined]] = {}

    def look(self, _record: Record, _event: InitStarted) -> None:
        """Constructors begin: look through what was linked since the last time."""
        assert self._notes.process.rtld is not None
        new = [map_ for map_ in self._notes.maps() if map_.relocated and map_.serial not in self._seen]
        for map_ in new:
            self._seen.add(map_.serial)
            for name, defined in _objects(map_):
                self._objects.setdefault(name, []).append(defined)
            self._copies(map_)
        for map_ in new:
            for name, defined in _objects(map_):
                if len(self._objects[name]) > 1:
                    self._compare(name, defined)

    def forget(self, start: int) -> None:
        """Drop what is known of the object that began there and is going."""
        for known in self._objects.values():
            known[:] = [defined for defined in known if defined.map.map_start != start]

    def _compare(self, name: bytes, mine: _Defined) -> None:
        """Does another object's definition take the place of this one, and differ? Only what one of them would look up matters."""
        rtld = self._notes.process.rtld
        assert rtld is not None
        for other in self._objects[name]:
            if other.size == mine.size or other.map.ns != mine.map.ns or other.map.removed:
                continue
            if c.STB_WEAK not in (mine.bind, other.bind) and c.STB_GNU_UNIQUE not in (mine.bind, other.bind):
                continue
            if not (self._reaches(name, mine, other) or self._reaches(name, other, mine)):
                continue
            first, second = sorted((mine, other), key=lambda d: d.map.serial)
            kind = "unique" if c.STB_GNU_UNIQUE in (first.bind, second.bind) else "weak"
            text = demangle(name.decode(errors="replace"))
            self._notes.report(
                "odr-size-mismatch",
                f"{kind} object {text} has {first.size} bytes in {first.map.display_name} and {second.size} in {second.map.display_name}",
                objects=[first.map.display_name, second.map.display_name],
            )  # fmt: skip

    def _reaches(self, name: bytes, user: _Defined, other: _Defined) -> bool:
        """Whether a reference of one object to its own definition is served by the other's."""
        rtld = self._notes.process.rtld
        assert rtld is not None
        version = reference_version(user.map, user.number)
        found = lookup_symbol(
            rtld, name, user.map, user.number, user.map.scopes, version, 0, watch=_tell_nobody
        )
        return found is not None and found[0] is other.map

    def _copies(self, map_: LinkMap) -> None:
        rtld = self._notes.process.rtld
        assert rtld is not None
        if map_.type != 0:
            return
        for _, info, _ in iter_rela(map_.table(rtld.memory, c.DT_RELA), map_.display_name):
            if info & 0xFFFFFFFF != c.R_X86_64_COPY:
                continue
            symbol = info >> 32
            name = map_.symtab.symbol_name(symbol)
            found = lookup_symbol(
                rtld, name, map_, symbol, map_.scopes, reference_version(map_, symbol), CLASS_COPY, watch=_tell_nobody
            )  # fmt: skip
            if found is None:
                continue
            mine, theirs = map_.symtab.fields(symbol)[5], found[0].symtab.fields(found[1])[5]
            if mine != theirs:
                text = demangle(name.decode(errors="replace"))
                self._notes.report(
                    "copy-size-mismatch",
                    f"{base(map_.display_name)} holds a copy of {text} of {mine} bytes, but in {found[0].display_name} it has {theirs}",
                    objects=[map_.display_name, found[0].display_name],
                )  # fmt: skip


def _objects(map_: LinkMap) -> list[tuple[bytes, _Defined]]:
    """Return the data objects that an object exports."""
    table = map_.symtab
    found = []
    for index, (_, info, other, shndx, _, size) in enumerate(
        _SYM.iter_unpack(table.data[: 24 * table.count])
    ):
        if info & 15 == c.STT_OBJECT and shndx and size and info >> 4 in _NAMED and other & 3 in (0, 3):
            found.append((table.symbol_name(index), _Defined(map_, index, size, info >> 4)))
    return found


def _tell_nobody(_map: LinkMap, _index: int, _verdict: Verdict) -> None:
    """A watched look-up changes nothing."""
