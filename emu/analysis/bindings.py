"""Bindings that several definitions compete for:
which one each reference gets, and which one it would get among its own dependencies alone.

Only names that two objects of one namespace define can make a difference, and only to references that the
linker looks up.
Source: gABI, "Shared Object Dependencies" (the order of the search); glibc elf/dl-lookup.c.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from emu.core.record import NamedTuple
from emu.elf import constants as c
from emu.elf.relocations import iter_rela
from emu.rtld.lookup import CLASS_COPY, CLASS_PLT, DYNAMIC_WEAK, Query, peek_symbol
from emu.rtld.runtime import reference_version, scopes_of
from emu.rtld.scope import Scope

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from emu.rtld.found import Found
    from emu.rtld.link_map import LinkMap
    from emu.rtld.rtld import Rtld

_SYM = struct.Struct("<IBBHQQ")
_TYPES = frozenset((c.STT_NOTYPE, c.STT_OBJECT, c.STT_FUNC, c.STT_COMMON, c.STT_TLS, c.STT_GNU_IFUNC))
_NAMED = frozenset((c.STB_GLOBAL, c.STB_WEAK, c.STB_GNU_UNIQUE))
_PLT_ONLY = frozenset((c.R_X86_64_JUMP_SLOT,))


class Exported(NamedTuple):
    """A symbol that an object exports; `info` is st_info."""

    map: LinkMap
    number: int
    info: int
    size: int

    @property
    def type(self) -> int:
        """STT_*, an IFUNC being a function."""
        kind = self.info & 15
        return c.STT_FUNC if kind == c.STT_GNU_IFUNC else kind

    @property
    def bind(self) -> int:
        """STB_*."""
        return self.info >> 4


class Use(NamedTuple):
    """A reference of `map` by its symbol `number`: it is bound to `winner`;
    among the object itself and what it needs it would be bound to `own`.
    """

    map: LinkMap
    name: bytes
    number: int
    winner: Exported
    own: Exported


class ExportTable(NamedTuple):
    """What one object exports by name, and the symbols that its relocations or nobody's definition make
    references (type class by index).
    """

    exports: dict[bytes, Exported]
    references: dict[int, tuple[bytes, int]]


class Bindings:
    """The definitions of all objects that were looked at."""

    def __init__(self, rtld: Rtld) -> None:
        self._rtld = rtld
        self._seen: set[int] = set()
        self._tables: dict[LinkMap, ExportTable] = {}
        self._references: dict[LinkMap, dict[bytes, tuple[int, int]]] = {}
        self._definitions: dict[tuple[int, bytes], tuple[Exported, ...]] = {}

    def add(self, maps: Iterable[LinkMap]) -> list[LinkMap]:
        """Take in the objects that are new and relocated; return them."""
        new = [map_ for map_ in maps if map_.relocated and map_.serial not in self._seen]
        for map_ in new:
            self._seen.add(map_.serial)
            table = self._tables[map_] = self._read(map_)
            for name, definition in table.exports.items():
                key = map_.ns, name
                self._definitions[key] = (*self._definitions.get(key, ()), definition)
        return new

    def forget(self, start: int) -> None:
        """Drop the object that began there and is going."""
        for map_ in [map_ for map_ in self._tables if map_.map_start == start]:
            self._references.pop(map_, None)
            for name in self._tables.pop(map_).exports:
                known = self._definitions[map_.ns, name]
                self._definitions[map_.ns, name] = tuple(one for one in known if one.map is not map_)

    def objects(self) -> list[LinkMap]:
        """Return the objects that were looked at and are still there."""
        return list(self._tables)

    def table(self, map_: LinkMap) -> ExportTable:
        """Return what one object exports and refers to."""
        return self._tables[map_]

    def reference(self, map_: LinkMap, name: bytes) -> tuple[int, int] | None:
        """Return the symbol and type class of an object's reference to a name, None if it has none."""
        if map_ not in self._references:
            self._references[map_] = {
                known: (index, class_) for index, (known, class_) in self._tables[map_].references.items()
            }
        return self._references[map_].get(name)

    def definitions(self, ns: int, name: bytes) -> Sequence[Exported]:
        """Return who exports a name in a namespace."""
        return self._definitions.get((ns, name), ())

    def uses(self, map_: LinkMap) -> Iterator[Use]:
        """Yield the references of one object that are bound to another
        definition than that of its own dependencies.
        """
        near: list[Scope] | None = None
        definitions = self._definitions
        for index, (name, class_) in self._tables[map_].references.items():
            known = definitions.get((map_.ns, name))
            if known is None or len(known) < 2:
                continue
            winner = self.bound(map_, index, class_)
            if winner is None:
                continue
            near = near or [Scope(own_scope(map_))]
            own = self.ask(map_, index, class_, near)
            if own is not None and own.map is not winner.map:
                yield Use(map_, name, index, winner, own)

    def weak_uses(self, map_: LinkMap) -> Iterator[Use]:
        """Yield the references of one object, of C names,
        that are bound to a weak definition though a strong one comes later in their scopes.

        A strong one of an object that uses it itself, or is linked with -Bsymbolic, is there for that object.
        """
        for index, (name, class_) in self._tables[map_].references.items():
            known = self._definitions.get((map_.ns, name))
            if known is None or len(known) < 2 or name.startswith(b"_Z"):
                continue
            strong = [one for one in known if one.bind == c.STB_GLOBAL and not self._uses_itself(one)]
            winner = self.bound(map_, index, class_) if strong else None
            if winner is None or winner.bind != c.STB_WEAK:
                continue
            visible = {listed.real for scope in scopes_of(self._rtld, map_) for listed in scope.maps}
            later = next((d for d in strong if d.map in visible and d.type == winner.type), None)
            if later is not None:
                yield Use(map_, name, index, winner, later)

    def _uses_itself(self, one: Exported) -> bool:
        return one.map.symbolic or one.number in self._tables[one.map].references

    def bound(self, map_: LinkMap, index: int, class_: int) -> Exported | None:
        """Return what a reference is bound to, or will be."""
        return self.ask(map_, index, class_, scopes_of(self._rtld, map_))

    def original(self, map_: LinkMap, index: int, class_: int) -> Exported | None:
        """Return what a reference is bound to, and of a copy in the program what was copied."""
        found = self.bound(map_, index, class_)
        if found is None or found.map.type != 0:
            return found
        copied = {found.map.symtab.entry(number).value for number in copies(self._rtld, found.map)}
        if found.map.symtab.entry(found.number).value not in copied:
            return found
        return self.bound(map_, index, CLASS_COPY)

    def ask(self, map_: LinkMap, index: int, class_: int, scopes: Sequence[Scope]) -> Exported | None:
        """Return what a reference would be bound to in `scopes`."""
        name = map_.symtab.symbol_name(index)
        flags = DYNAMIC_WEAK if self._rtld.dynamic_weak else 0
        query = Query(name, map_, index, reference_version(map_, index), class_, flags=flags)
        found = peek_symbol(self._rtld, query, scopes)
        return definition(found) if found is not None else None

    def _read(self, map_: LinkMap) -> ExportTable:
        table = map_.symtab
        at, data = table.strings.at, table.data
        classes: dict[int, int] = {}
        for tag in (c.DT_RELA, c.DT_JMPREL):
            words = memoryview(map_.table(self._rtld.memory, tag)).cast("Q")[1::3].tolist()
            for word in set(words):
                if word >> 32:
                    kind = word & 0xFFFFFFFF
                    class_ = CLASS_COPY if kind == c.R_X86_64_COPY else CLASS_PLT if kind in _PLT_ONLY else 0
                    classes[word >> 32] = class_ if classes.get(word >> 32, class_) == class_ else 0
        exports: dict[bytes, Exported] = {}
        references: dict[int, tuple[bytes, int]] = {}
        hidden = table.versym
        for index, (st_name, info, other, shndx, _, size) in enumerate(
            _SYM.iter_unpack(data[: 24 * table.count])
        ):
            if info >> 4 not in _NAMED or not st_name:
                continue
            if shndx == 0:
                references[index] = at(st_name), classes.get(index, 0)
                continue
            if other & 3 in (c.STV_HIDDEN, c.STV_INTERNAL) or info & 15 not in _TYPES:
                continue
            name = at(st_name)
            if hidden is None or not hidden[index] & 0x8000 or name not in exports:
                exports[name] = Exported(map_, index, info, size)
            if index in classes:
                references[index] = name, classes[index]
        return ExportTable(exports, references)


def definition(found: Found) -> Exported:
    """Return what a look-up found as a definition."""
    return Exported(found.map, found.number, found.info, found.size)


def own_scope(map_: LinkMap) -> list[LinkMap]:
    """Return an object and what it needs, breadth-first:
    where its references would be looked up if nothing else were there.
    """
    found, at = [map_], 0
    seen = {map_}
    while at < len(found):
        for needed in (found[at].initfini or ())[1:]:
            if needed not in seen:
                seen.add(needed)
                found.append(needed)
        at += 1
    return found


def copies(rtld: Rtld, map_: LinkMap) -> list[int]:
    """Return the symbols of which an object has a copy (R_X86_64_COPY)."""
    entries = iter_rela(map_.table(rtld.memory, c.DT_RELA), map_.display_name)
    return [info >> 32 for _, info, _ in entries if info & 0xFFFFFFFF == c.R_X86_64_COPY]
