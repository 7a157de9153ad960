"""Whether two functions are one source that was compiled into two objects: the same instructions, but for
places, and the same texts.

Source: Intel SDM 2, 2.2.1.6 (RIP-relative addressing).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from emu.core.errors import MemoryFault
from emu.core.record import NamedTuple
from emu.elf import constants as c

if TYPE_CHECKING:
    from emu.process import Process
    from emu.rtld.link_map import LinkMap

_LONGEST = 4096
"""Bytes of a function that are compared; longer ones of one size count as the same."""
_PLACES = re.compile(r"rip [+-] 0x[0-9a-f]+|0x[0-9a-f]{4,}")
"""What differs in one function at two places: displacements and targets."""
_LAYOUT = 512
"""Bytes of an inline function that is looked at for the layout of its class."""
_MEMBER = re.compile(r"\[r(?!sp|bp|ip)[a-z0-9]+(?: [+-] (?:0x[0-9a-f]+|[0-9]+))?\]")
"""A member of what a register points to; what rsp and rbp point to are the function's own variables."""
_TEXT_AT = re.compile(r"\[rip ([+-] 0x[0-9a-f]+)\]")
_TEXT = re.compile(rb"([\t\n\r\x1b -~]{1,79})\0")
_READ = 80
_NUMBER = re.compile(r", (-?(?:0x)?[0-9a-f]+)$")
_ENOUGH = 2
"""Constants that two functions must have in common to be taken for one."""


class Code(NamedTuple):
    """A function by the object that it is in, its link-time address and its size in bytes."""

    map: LinkMap
    vaddr: int
    size: int


def same_code(process: Process, one: Code, other: Code) -> bool:
    """Whether two functions are the same but for the places that they refer to; texts that lie there must be
    the same.
    """
    if one.size != other.size or not one.size or one.size > _LONGEST:
        return one.size == other.size and one.size > _LONGEST
    mine, theirs = _instructions(process, one), _instructions(process, other)
    if [text for text, _ in mine] != [text for text, _ in theirs]:
        return False
    texts = ((a, b) for (_, a), (_, b) in zip(mine, theirs, strict=True) if a is not None and b is not None)
    return all(a == b for a, b in texts)


def same_source(process: Process, one: Code, other: Code) -> bool:
    """Whether two functions of about one size may be one source that was compiled in two ways (with and
    without -fPIC, say): they have the same constants, and use the same texts.
    """
    if not one.size or not other.size or max(one.size, other.size) > _LONGEST:
        return False
    if 4 * abs(one.size - other.size) > max(one.size, other.size):
        return False
    mine, theirs = _constants(process, one), _constants(process, other)
    return mine == theirs and len(mine) >= _ENOUGH


def _constants(process: Process, code: Code) -> set[str | bytes]:
    """Return what is done with which number (not with those of its stack), and the texts."""
    found: set[str | bytes] = set()
    for text, used in _instructions(process, code):
        mnemonic, _, operands = text.partition(" ")
        if used is not None:
            found.add(used)
        number = _NUMBER.search(operands)
        if number is not None and "rsp" not in operands and not mnemonic.startswith(("j", "call", "nop")):
            found.add(f"{mnemonic} {number[1]}")
    return found


def other_layout(process: Process, one: Code, other: Code) -> tuple[str, str] | None:
    """Return the first place where two functions, otherwise the same, reach for members of an object at
    different offsets; None if they are the same, or differ in more than that (another compiler, other
    options).
    """
    if (
        not 0 < one.size <= _LAYOUT
        or not 0 < other.size <= _LAYOUT
        or abs(one.size - other.size) > _LAYOUT // 8
    ):
        return None
    mine, theirs = ([text for text, _ in _instructions(process, code)] for code in (one, other))
    if mine == theirs or len(mine) != len(theirs):
        return None
    if [_MEMBER.sub("member", text) for text in mine] != [_MEMBER.sub("member", text) for text in theirs]:
        return None
    return next((a, b) for a, b in zip(mine, theirs, strict=True) if a != b)


def _instructions(process: Process, code: Code) -> list[tuple[str, bytes | None]]:
    """Return each instruction without its places, with the text whose address it takes."""
    import capstone  # only where two functions have one name and one size

    data = process.arena.read(code.map.addr + code.vaddr, code.size)
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    found: list[tuple[str, bytes | None]] = []
    for at, size, mnemonic, operands in decoder.disasm_lite(data, code.vaddr):
        place = _TEXT_AT.search(operands) if mnemonic == "lea" else None
        target = at + size + int(place[1].replace(" ", ""), 16) if place else 0
        text = _text(process, code.map, target) if place else None
        found.append((f"{mnemonic} {_PLACES.sub('place', operands)}", text))
    return found


def _text(process: Process, map_: LinkMap, vaddr: int) -> bytes | None:
    """Return the text at a link-time address that cannot be written; None without one, or for a long one."""
    for phdr in map_.phdrs:
        if phdr.type == c.PT_LOAD and phdr.vaddr <= vaddr < phdr.vaddr + phdr.filesz:
            if phdr.flags & c.PF_W:
                return None
            try:
                length = min(_READ, phdr.vaddr + phdr.filesz - vaddr)
                text = _TEXT.match(process.arena.read(map_.addr + vaddr, length))
            except MemoryFault:
                return None
            return text[1] if text else None
    return None
