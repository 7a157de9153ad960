"""Rules about objects that several DSOs define:
of different sizes under one name, vtables with other functions in them, copies of another size.

Source: C++ [basic.def.odr]; gABI, "Symbol Table" (STB_WEAK); psABI 4.4.1 (R_X86_64_COPY).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from emu.analysis.check_notes import Notes, base
from emu.analysis.meant import is_cxx_runtime, is_standard
from emu.core.events import InitStarted
from emu.core.record import NamedTuple
from emu.elf import constants as c
from emu.elf.demangle import demangle
from emu.elf.relocations import iter_rela
from emu.rtld.found import symbol_of
from emu.rtld.lookup import CLASS_COPY, Query, peek_symbol
from emu.rtld.runtime import reference_version

if TYPE_CHECKING:
    from emu.core.events import Record
    from emu.rtld.link_map import LinkMap

_SYM = struct.Struct("<IBBHQQ")
_MOST_RELOCATIONS = 100_000
"""Relocations of an object that are gone through for what is in its vtables."""
_LONGEST_VTABLE = 1 << 16
_NAMED = (c.STB_GLOBAL, c.STB_WEAK, c.STB_GNU_UNIQUE)


class _Defined(NamedTuple):
    map: LinkMap
    number: int
    size: int
    bind: int


class SymbolChecks:
    """Looks through each object's symbols once, when it is linked."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._seen: set[int] = set()
        self._objects: dict[bytes, tuple[_Defined, ...]] = {}
        self._exported: dict[LinkMap, tuple[bytes, ...]] = {}
        self._pointers: dict[LinkMap, dict[int, int]] = {}

    def look(self, _record: Record, _event: InitStarted) -> None:
        """Constructors begin: look through what was linked since the last time."""
        assert self._notes.process.rtld is not None
        new = [map_ for map_ in self._notes.maps() if map_.relocated and map_.serial not in self._seen]
        for map_ in new:
            self._seen.add(map_.serial)
            exported = _objects(map_)
            self._exported[map_] = tuple(name for name, _ in exported)
            for name, defined in exported:
                self._objects[name] = (*self._objects.get(name, ()), defined)
            self._copies(map_)
        for map_ in new:
            for name, defined in _objects(map_):
                if len(self._objects[name]) > 1:
                    self._compare(name, defined)
                    if (
                        name.startswith(b"_ZTV")
                        and "vtable-differs" in self._notes.rules
                        and not is_standard(name)
                    ):
                        self._vtables(name, defined)

    def forget(self, start: int) -> None:
        """Drop what is known of the object that began there and is going."""
        for gone in [map_ for map_ in self._exported if map_.map_start == start]:
            for name in self._exported.pop(gone):
                self._objects[name] = tuple(d for d in self._objects[name] if d.map is not gone)
        self._pointers = {map_: known for map_, known in self._pointers.items() if map_.map_start != start}

    def _compare(self, name: bytes, mine: _Defined) -> None:
        """Does another object's definition take the place of this one, and differ?

        Only what one of them would look up matters.
        """
        rtld = self._notes.process.rtld
        assert rtld is not None
        for other in self._objects[name]:
            if other.size == mine.size or other.map.ns != mine.map.ns or other.map.removed:
                continue
            if is_standard(name) and is_cxx_runtime(mine.map) and is_cxx_runtime(other.map):
                continue
            if c.STB_WEAK not in (mine.bind, other.bind) and c.STB_GNU_UNIQUE not in (mine.bind, other.bind):
                continue
            if not (self._reaches(name, mine, other) or self._reaches(name, other, mine)):
                continue
            first, second = sorted((mine, other), key=lambda d: d.map.serial)
            kind = "unique" if c.STB_GNU_UNIQUE in (first.bind, second.bind) else "weak"
            user, taken = (mine, other) if self._reaches(name, mine, other) else (other, mine)
            text = demangle(name.decode(errors="replace"))
            self._notes.report(
                "odr-size-mismatch",
                f"{kind} object {text} has {first.size} bytes in {base(first.map.display_name)} and {second.size} in {base(second.map.display_name)}:"
                f" {base(user.map.display_name)} uses {base(taken.map.display_name)}'s",
                objects=[first.map.display_name, second.map.display_name], remedies=_remedies(text, user.map, taken.map),
            )  # fmt: skip

    def _vtables(self, name: bytes, mine: _Defined) -> None:
        """Does another object's vtable of the same size take the place of this one,
        with other functions in it?
        """
        for other in self._objects[name]:
            if other.map is mine.map or other.map.ns != mine.map.ns or other.size != mine.size:
                continue
            pairs = ((mine, other), (other, mine))
            reaching = next((pair for pair in pairs if self._reaches(name, *pair)), None)
            if reaching is None:
                continue
            user, taken = reaching
            wanted, there = self._slots(user), self._slots(taken)
            differing = sorted(at for at in wanted.keys() & there.keys() if _other(wanted[at], there[at]))
            if not differing:
                continue
            at = differing[0]
            text, who, whose = (
                demangle(name.decode()),
                base(user.map.display_name),
                base(taken.map.display_name),
            )
            self._notes.report(
                "vtable-differs",
                f"{who} uses {whose}'s {text}, which is another: at {at:#x} it has {demangle(there[at].decode())}, where {who}'s own has"
                f" {demangle(wanted[at].decode())}: two classes of one name",
                objects=[user.map.display_name, taken.map.display_name], remedies=_remedies(text, user.map, taken.map),
            )  # fmt: skip

    def _slots(self, vtable: _Defined) -> dict[int, bytes]:
        """Return the symbols that the slots of a vtable name, by their offset;
        of functions that are bound without a look-up nothing is known.
        """
        map_ = vtable.map
        if map_ not in self._pointers:
            rtld = self._notes.process.rtld
            assert rtld is not None
            table = map_.table(rtld.memory, c.DT_RELA)
            found = {}
            if len(table) <= _MOST_RELOCATIONS * c.RELA_SIZE:
                entries = iter_rela(table, map_.display_name)
                found = {at: info >> 32 for at, info, _ in entries if info & 0xFFFFFFFF == c.R_X86_64_64}
            self._pointers[map_] = found
        start = map_.symtab.entry(vtable.number).value
        known = self._pointers[map_]
        places = range(start, start + min(vtable.size, _LONGEST_VTABLE), 8)
        return {at - start: map_.symtab.symbol_name(known[at]) for at in places if at in known}

    def _reaches(self, name: bytes, user: _Defined, other: _Defined) -> bool:
        """Whether a reference of one object to its own definition is served by the other's."""
        rtld = self._notes.process.rtld
        assert rtld is not None
        query = Query(name, user.map, user.number, reference_version(user.map, user.number))
        found = peek_symbol(rtld, query, user.map.scopes)
        return found is not None and found.map is other.map

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
            query = Query(name, map_, symbol, reference_version(map_, symbol), CLASS_COPY)
            found = peek_symbol(rtld, query, map_.scopes)
            if found is None:
                continue
            mine, theirs = symbol_of(map_, symbol).size, found.size
            if mine != theirs:
                text = demangle(name.decode(errors="replace"))
                program, there = base(map_.display_name), base(found.map.display_name)
                self._notes.report(
                    "copy-size-mismatch",
                    f"{program} holds a copy of {text} of {mine} bytes, but in {there} it has {theirs}: {_copied(mine, theirs)}",
                    objects=[map_.display_name, found.map.display_name],
                    remedies=[
                        f"link {program} again with {there} as it is now",
                        f"build {program} without copy relocations: compile it with -fPIC",
                    ],
                )  # fmt: skip


def _remedies(text: str, user: LinkMap, taken: LinkMap) -> list[str]:
    """Return how each of two objects comes to use its own definition, or both the same."""
    who, whose = base(user.display_name), base(taken.display_name)
    what = "the class" if text.startswith(("vtable for ", "VTT for ", "typeinfo")) else "it"
    return [
        f"if {what} is meant to be one, build {who} and {whose} with the same definition of it",
        "if there are to be two, name them differently: two things of one name are one in a program (C++ [basic.def.odr])",
        f"hide it in {who} (-fvisibility=hidden), or link {who} with -Bsymbolic: it then uses its own",
    ]


def _other(one: bytes, other: bytes) -> bool:
    """Whether two names are of different functions; compilers choose among the aliases of a destructor."""
    names = {demangle(one.decode(errors="replace")), demangle(other.decode(errors="replace"))}
    return len(names) > 1 and not any("::~" in name for name in names)


def _copied(mine: int, theirs: int) -> str:
    """Return what a copy of another size comes to.

    Source: glibc elf/dl-machine.h (R_X86_64_COPY copies the smaller of the two).
    """
    if mine < theirs:
        return f"the last {theirs - mine} bytes are not copied, and whoever uses them reads what lies behind the copy"
    return f"the last {mine - theirs} bytes of the copy stay zero"


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
