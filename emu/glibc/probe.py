"""Questions to one object alone, before there is a loader to ask: what it defines, which glibc it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.errors import UnsupportedError
from emu.elf import constants as c

if TYPE_CHECKING:
    from emu.machine.arena import Arena
    from emu.rtld.link_map import LinkMap


def find_own(map_: LinkMap, name: bytes) -> tuple[int, int, int, int, int, int] | None:
    """Return the symbol that an object itself defines under `name` (see `SymbolTable.fields`), or None."""
    table = map_.symtab.gnu_hash or map_.symtab.sysv_hash
    for index in table.candidates(name) if table is not None else ():
        if map_.symtab.symbol_name(index) == name:
            return map_.symtab.fields(index)
    return None


def glibc_version(ld_so: LinkMap, arena: Arena) -> str:
    """Return the newest GLIBC_2.x that ld.so's sibling libc defines, as ld.so's read-only data name it."""
    for phdr in ld_so.phdrs:
        if phdr.type == c.PT_LOAD:
            data = arena.read(ld_so.addr + phdr.vaddr, phdr.filesz)
            at = data.find(b"stable release version 2.")
            if at >= 0:
                text = data[at + 23 : at + 32]
                return (
                    text[: next(i for i, b in enumerate(text) if b not in b"0123456789.")]
                    .rstrip(b".")
                    .decode()
                )
    raise UnsupportedError("interpreter: not glibc's ld.so", ld_so.display_name)
