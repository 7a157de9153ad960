"""The rule about a function whose address is not the same everywhere.

Code of the program that is not position-independent takes the address of its own PLT entry, which then stands
for the function in every look-up. A DSO that is bound to itself without a look-up (-Bsymbolic-functions,
protected visibility) or first (-Bsymbolic, RTLD_DEEPBIND) takes the function's own: the two differ. Weak
references do not count: they are asked whether there is anything.
Source: psABI 3.5.5 and 5.2.3 (canonical PLT entries); Intel SDM 2, LEA.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from emu.analysis.check_notes import NOWHERE, Notes, base
from emu.analysis.meant import is_standard
from emu.core.errors import MemoryFault
from emu.elf import constants as c
from emu.elf.demangle import demangle
from emu.elf.relocations import iter_rela
from emu.rtld.lookup import CLASS_PLT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from emu.analysis.bindings import Bindings
    from emu.rtld.link_map import LinkMap

_SHOWN = 4
_LEA = re.compile(rb"[\x48\x4c]\x8d[\x05\x0d\x15\x1d\x25\x2d\x35\x3d](....)", re.DOTALL)
_DESTRUCTOR = re.compile(rb"^_ZN.*D[0-5]Ev$")
_MOST_CODE = 1 << 26
"""Bytes of an object's code that are looked through."""


class Addresses:
    """Knows the functions for which a PLT entry of the program stands."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._main: LinkMap | None = None
        self._entries: set[bytes] = set()

    def look(self, bindings: Bindings, new: Sequence[LinkMap]) -> None:
        """Objects were linked: who of them has the address of a function that the program has another of?"""
        rtld = self._notes.process.rtld
        assert rtld is not None
        main = rtld.namespaces[0].main
        if main is not None and main in new:
            self._main = main
            symbols = main.symtab.symbols()
            self._entries = {
                s.name
                for s in symbols
                if _is_entry(s.type, s.defined, s.value) and s.bind != c.STB_WEAK and _is_compared(s.name)
            }
        if self._main is None or not self._entries:
            return
        for map_ in new:
            if map_ is not self._main and map_.ns == self._main.ns:
                names = sorted({*self._bound_past(bindings, map_), *self._taken(bindings, map_)})
                if names:
                    self._tell(map_, names)

    def _bound_past(self, bindings: Bindings, map_: LinkMap) -> Iterator[bytes]:
        """Yield the functions whose address an object looks up and gets another than the program's entry."""
        for index, (name, class_) in bindings.table(map_).references.items():
            entry = map_.symtab.entry(index)
            asked = entry.bind == c.STB_WEAK and not entry.defined
            if name in self._entries and not class_ & CLASS_PLT and not asked:
                found = bindings.bound(map_, index, class_)
                if found is not None and found.map is not self._main:
                    yield name

    def _taken(self, bindings: Bindings, map_: LinkMap) -> Iterator[bytes]:
        """Yield the functions of an object's own whose address its code takes without a look-up."""
        exports = bindings.table(map_).exports
        mine = {
            map_.symtab.entry(exports[name].number).value: name
            for name in self._entries
            if name in exports and exports[name].type == c.STT_FUNC
        }
        if not mine:
            return
        arena = self._notes.process.arena
        got: range | None = None
        for slot, info, addend in iter_rela(map_.table(arena, c.DT_RELA), map_.display_name):
            if info & 0xFFFFFFFF == c.R_X86_64_RELATIVE and addend in mine:
                got = got or self._got(map_)
                if slot in got:
                    yield mine[addend]
        for phdr in map_.phdrs:
            if phdr.type != c.PT_LOAD or not phdr.flags & c.PF_X:
                continue
            try:
                code = arena.read(map_.addr + phdr.vaddr, min(phdr.filesz, _MOST_CODE))
            except MemoryFault:
                continue
            for found in _LEA.finditer(code):
                target = phdr.vaddr + found.end() + int.from_bytes(found[1], "little", signed=True)
                if target in mine:
                    yield mine[target]

    def _got(self, map_: LinkMap) -> range:
        """Return where an object's GOT is: the slots that code takes addresses from, no tables."""
        symbols = self._notes.process.symbols
        path = symbols.file(map_.path, map_.file_id)
        start, *behind = (
            symbols.section_address(path, name) for name in (".got", ".got.plt", ".data", ".bss")
        )
        ends = [end for end in behind if end > start]
        return range(start, min(ends)) if start and ends else range(1)

    def _tell(self, map_: LinkMap, names: list[bytes]) -> None:
        assert self._main is not None
        main, who = base(self._main.display_name), base(map_.display_name)
        shown = ", ".join(demangle(name.decode(errors="replace")) for name in names[:_SHOWN])
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        self._notes.report(
            "address-differs",
            f"the address of {shown}{more} is the PLT entry of {main} for everybody who looks it up, since code of {main} is not position-independent,"
            f" but {who} takes the function's own (-Bsymbolic-functions, -Bsymbolic or protected visibility): pointers to it do not compare equal",
            NOWHERE, [], [self._main.display_name, map_.display_name], key=(map_.serial,),
            remedies=[
                f"compile {main} with -fPIC: it then looks the address up as others do",
                f"link {who} without -Bsymbolic-functions and -Bsymbolic, with default visibility of the function",
            ],
        )  # fmt: skip


def _is_compared(name: bytes) -> bool:
    """Whether a program may compare the address: not a destructor's or one of the C++ library."""
    return not is_standard(name) and not _DESTRUCTOR.search(name)


def _is_entry(kind: int, defined: bool, value: int) -> bool:
    return kind == c.STT_FUNC and not defined and value != 0
