"""Questions to one object alone, before there is a loader to ask: what it defines."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emu.elf.symtab import Entry
    from emu.rtld.link_map import LinkMap


def find_own(map_: LinkMap, name: bytes) -> Entry | None:
    """Return the symbol that an object itself defines under `name`, or None."""
    table = map_.symtab.gnu_hash or map_.symtab.sysv_hash
    for index in table.candidates(name) if table is not None else ():
        if map_.symtab.symbol_name(index) == name:
            return map_.symtab.entry(index)
    return None
