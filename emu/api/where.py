"""What a user means by a place in code: a function by its name, exported or not, or a line of a source file.

Source: gdb manual, "Linespec Locations".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from emu.analysis.names import means, without_parameters
from emu.api.library import symbols_of
from emu.elf import constants as c
from emu.elf.demangle import demangle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.api.process import Process
    from emu.rtld.link_map import LinkMap

_LINE = re.compile(r"(?P<file>[^:]+):(?P<line>[1-9][0-9]*)")
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")


def find_code(process: Process, where: str, among: list[LinkMap]) -> list[int]:
    """Return the addresses of the code that `where` names in some objects, in their order;
    empty where there is none.
    """
    line = _LINE.fullmatch(where)
    if line is not None:
        return [
            address for map_ in among for address in _of_line(process, map_, line["file"], int(line["line"]))
        ]
    return [address for map_ in among for address in _of_name(process, map_, where)]


def _means(word: str, name: str) -> bool:
    """Whether `word` is a function's name, or the end of its qualified name, as a debugger takes it."""
    return means(word, name) or without_parameters(demangle(name)).endswith(f"::{word}")


def _of_line(process: Process, map_: LinkMap, file: str, line: int) -> list[int]:
    found = process.inner.symbols.code_of_line(map_, file, line)
    return [map_.addr + vaddr for vaddr in found]


def _of_name(process: Process, map_: LinkMap, word: str) -> Iterator[int]:
    """Yield the entry points of functions, exported or only in the static symbol table;
    `word` may be mangled or not, without parameters.
    """
    parts = _IDENTIFIER.findall(without_parameters(word) if word.endswith(")") else word)
    if not parts:
        return
    seen = set()
    for known in symbols_of(map_):
        if known.kind == "function" and not known.ifunc and _means(word, known.name):
            seen.add(known.address - map_.addr)
            yield known.address
    for raw, symbol in process.inner.symbols.unexported_like(map_, parts[-1].encode()):
        name = raw.partition(b"@")[0].decode("utf-8", "surrogateescape")
        if symbol.type == c.STT_FUNC and symbol.value not in seen and _means(word, name):
            seen.add(symbol.value)
            yield map_.addr + symbol.value
