"""How an object has a definition that does not become one with others': the words for it.

Source: gABI, "Symbol Table" (STB_LOCAL, STV_HIDDEN); dlopen(3), RTLD_LOCAL and RTLD_DEEPBIND.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.analysis.check_copies import is_deepbound
from emu.elf import constants as c
from emu.rtld.link_map import LT_LOADED

if TYPE_CHECKING:
    from emu.process import Process
    from emu.process.symbols import Symbols
    from emu.rtld.link_map import LinkMap

_KEPT = {c.STV_HIDDEN: "hidden", c.STV_INTERNAL: "internal"}


def how_kept(symbols: Symbols, map_: LinkMap, name: bytes) -> str:
    """Return how an object keeps a definition to itself, as its .symtab has it (`readelf -s`):
    hidden or local; `not exported` for any other that .dynsym lacks, and where there is no .symtab.
    """
    found = symbols.unexported(map_, name)
    if found is None:
        return "not exported"
    local = "local" if found.bind == c.STB_LOCAL else "not exported"
    return _KEPT.get(found.visibility, local)


def why_own(process: Process, map_: LinkMap, name: bytes) -> str:
    """Return why an object's exported definition does not become one with those of others."""
    assert process.rtld is not None
    if map_.symbolic:
        return "-Bsymbolic"
    for symbol in map_.symtab.symbols():
        if symbol.name == name and symbol.defined and symbol.other & 3 == c.STV_PROTECTED:
            return "protected"
    if is_deepbound(map_, process.rtld.namespaces[0].main):
        return "RTLD_DEEPBIND"
    return "RTLD_LOCAL" if map_.type == LT_LOADED and not map_.global_ else "exported"
