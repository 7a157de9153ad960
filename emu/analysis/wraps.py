"""Objects that take a function over to call it in turn: they ask dlsym for what they stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.errors import MemoryFault
from emu.elf import constants as c

if TYPE_CHECKING:
    from emu.process import Process
    from emu.rtld.link_map import LinkMap

_ASK = (b"dlsym", b"dlvsym", b"__libc_dlsym")


def wraps(process: Process, map_: LinkMap, name: bytes) -> bool:
    """Whether an object asks dlsym for names, and has this one among the texts in its read-only segments."""
    if not any(not s.defined and s.name in _ASK for s in map_.symtab.symbols()):
        return False
    strings, size = map_.dynamic.table(c.DT_STRTAB)
    wanted = b"\0" + name + b"\0"
    for segment in map_.phdrs:
        if segment.type != c.PT_LOAD or segment.flags & c.PF_W:
            continue
        start = map_.addr + segment.vaddr
        try:
            data = process.arena.read(start, segment.filesz)
        except MemoryFault:
            continue
        first = strings - segment.vaddr
        if 0 <= first < len(data):
            data = data[:first] + bytes(size) + data[first + size :]
        if wanted in data or data.startswith(wanted[1:]):
            return True
    return False
