"""Tunables: what GLIBC_TUNABLES and older variables (MALLOC_PERTURB_, MALLOC_ARENA_MAX) set in ld.so's list,
where libc reads them.

Those that concern the loader itself are read where they matter (`rtld/tls.py`, `rtld/rtld.py`).
Source: glibc elf/dl-tunables.c:__tunables_init, elf/dl-tunable-types.h, elf/dl-misc.c:_dl_strtoul.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from emu.core.errors import MemoryFault
from emu.elf import constants as c

if TYPE_CHECKING:
    from emu.glibc.layout import Layout
    from emu.machine.arena import Arena
    from emu.rtld.heap import Heap
    from emu.rtld.link_map import LinkMap

_INT_32, _STRING = 0, 3
"""tunable_type_code_t: the type that is compared with its sign, and the one that is not compared."""
_PREFIX = b"glibc."
_KNOWN = b"glibc.rtld.nns\0"
_POINTER = 8
_U64 = (1 << 64) - 1
_NUMBER = re.compile(r"[ \t]*([+-]?)(?:0[xX]([0-9a-fA-F]*)|(0[0-7]*)|([0-9]+))")


def set_tunables(layout: Layout, arena: Arena, heap: Heap, ld_so: LinkMap, env: Mapping[str, str]) -> None:
    """Write the values that `env` has for tunables into `ld_so`'s list.

    One that is unknown or out of bounds counts for nothing.
    """
    settings = [part.partition("=") for part in env.get("GLIBC_TUNABLES", "").split(":")]
    wanted = {name: value for name, equals, value in settings if equals}
    if not wanted and not any(name.startswith(("MALLOC_", "LD_HWCAP_MASK")) for name in env):
        return
    at = layout.offsets("tunable_t")
    pointed = tunables_are_pointers(layout)
    entries = _pointed_entries if pointed else _entries
    for entry in entries(arena, ld_so, layout.size("tunable_t")):
        name, alias = (_text(arena, entry + at[member], pointed) for member in ("name", "env_alias"))
        for value in (env.get(alias) if alias else None, wanted.get(name)):
            if value is not None:
                _initialize(arena, heap, entry, at, value)


def tunables_are_pointers(layout: Layout) -> bool:
    """Whether the list's names are pointers, which ld.so must have relocated (up to 2.32)."""
    at = layout.offsets("tunable_t")
    return at["type.type_code"] - at["name"] == _POINTER


def _text(arena: Arena, at: int, pointed: bool) -> str:
    """Return a text of an entry: in it, or where it points to (nowhere: none)."""
    place = arena.read_u64(at) if pointed else at
    return arena.read_cstr(place).decode() if place else ""


def _pointed_entries(arena: Arena, ld_so: LinkMap, size: int) -> Iterator[int]:
    """As `_entries`, for a list whose elements begin with the address of their name."""
    loads = [load for load in ld_so.phdrs if load.type == c.PT_LOAD]
    contents = [(ld_so.addr + load.vaddr, arena.read(ld_so.addr + load.vaddr, load.filesz)) for load in loads]
    names = (start + data.find(_KNOWN) for start, data in contents if _KNOWN in data)
    name = next(names, 0).to_bytes(8, "little")
    for load, (start, data) in zip(loads, contents, strict=True):
        place = data.find(name)
        if not load.flags & c.PF_W or place < 0:
            continue
        while place >= size and _is_name(arena, data, place - size):
            place -= size
        while _is_name(arena, data, place):
            yield start + place
            place += size


def _is_name(arena: Arena, data: bytes, place: int) -> bool:
    """Whether a word of a list leads to a tunable's name."""
    try:
        return arena.read(int.from_bytes(data[place : place + 8], "little"), len(_PREFIX)) == _PREFIX
    except MemoryFault:
        return False


def _entries(arena: Arena, ld_so: LinkMap, size: int) -> Iterator[int]:
    """Yield the addresses of `tunable_list`'s elements.

    It has no dynamic symbol, but each begins with its name.
    """
    for load in ld_so.phdrs:
        if load.type != c.PT_LOAD or not load.flags & c.PF_W:
            continue
        start = ld_so.addr + load.vaddr
        data = arena.read(start, load.filesz)
        place = data.find(_KNOWN)
        if place < 0:
            continue
        while place >= size and data.startswith(_PREFIX, place - size):
            place -= size
        while data.startswith(_PREFIX, place):
            yield start + place
            place += size


def _initialize(arena: Arena, heap: Heap, entry: int, at: Mapping[str, int], text: str) -> None:
    kind = arena.read_u32(entry + at["type.type_code"])
    if kind == _STRING:
        number = heap.string(text.encode("utf-8", "surrogateescape"))
    else:
        number = strtoul(text)
        bounds = [arena.read_u64(entry + at[f"type.{member}"]) for member in ("min", "max")]
        if kind == _INT_32:
            least, value, most = (_signed(word) for word in (bounds[0], number, bounds[1]))
        else:
            least, value, most = bounds[0], number, bounds[1]
        if not least <= value <= most:
            return
    arena.write_u64(entry + at["val"], number)
    if kind == _STRING and "val.strval.len" in at:
        arena.write_u64(entry + at["val.strval.len"], len(text.encode("utf-8", "surrogateescape")))
    arena.write(entry + at["initialized"], b"\1")


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


_MOST_DIGITS = 100
"""More of them make no other number than too large; Python converts some thousands at most."""


def strtoul(text: str) -> int:
    """Return the number at the beginning of `text`, 0 without one:
    decimal, octal or hexadecimal, modulo 2**64 after its sign.
    """
    match = _NUMBER.match(text)
    if match is None:
        return 0
    sign, hexadecimal, octal, decimal = match.groups()
    if hexadecimal is not None:
        number = int(hexadecimal or "0", 16)
    else:
        number = int(octal, 8) if octal is not None else int(decimal.lstrip("0")[:_MOST_DIGITS] or "0")
    if number > _U64:
        return _U64
    return -number & _U64 if sign == "-" else number
