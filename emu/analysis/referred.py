"""What of its own variables an object uses without asking the linker: by its code, or by a pointer.

With -Bsymbolic, and in a program, such a use leaves no relocation with a symbol. An operand relative to the
instruction pointer is known by its ModRM byte, wherever such a byte is: code is not decoded, so other bytes
may by chance seem to use a variable. An absolute address in code is looked for where the object is mapped
at 0 (a program that is not PIE).

Source: Intel SDM volume 2, 2.1.5 (ModRM), 2.2.1.6 (RIP-relative addressing), appendix A (immediates).
"""

from __future__ import annotations

import re
from bisect import bisect_left
from typing import TYPE_CHECKING

from emu.core.errors import MemoryFault
from emu.elf import constants as c

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.core.types import Memory
    from emu.rtld.link_map import LinkMap

_RELATIVE = re.compile(rb"[\x05\x0d\x15\x1d\x25\x2d\x35\x3d](?=(.{4}))", re.DOTALL)
"""A ModRM byte for RIP and a displacement, and that."""
_BYTES = frozenset(b"\x80\x83\xc0\xc1\xc6\x6b")
_WORDS = frozenset(b"\x81\xc7\x69")
"""Opcodes with an immediate behind the operand: of one byte; of four, or two behind a prefix 66."""
_WIDEST = 64
"""Bytes of a variable of which absolute addresses are looked for."""


class Referred:
    """The variables of one object that its code, or a word of its data, has the address of."""

    def __init__(self, memory: Memory, map_: LinkMap) -> None:
        self._absolute: list[bytes] = []
        spans = [(p.vaddr, p.vaddr + p.memsz) for p in map_.phdrs if p.type == c.PT_LOAD and p.flags & c.PF_W]
        low, high = min((s for s, _ in spans), default=0), max((e for _, e in spans), default=0)
        found: set[int] = set()
        for phdr in map_.phdrs:
            if phdr.type != c.PT_LOAD or not phdr.flags & (c.PF_X | c.PF_W):
                continue
            try:
                data = memory.read(map_.addr + phdr.vaddr, phdr.filesz) if phdr.filesz else b""
            except MemoryFault:
                continue  # the guest has unmapped it: nothing there uses anything
            if phdr.flags & c.PF_X:
                found.update(at for at in _operands(data, phdr.vaddr) if low <= at < high)
                if map_.addr == 0:
                    self._absolute.append(data)
            if phdr.flags & c.PF_W:
                start = -phdr.vaddr % 8
                words = memoryview(data)[start : start + (len(data) - start) // 8 * 8].cast("Q")
                first, last = map_.addr + low, map_.addr + high
                found.update(word - map_.addr for word in words if first <= word < last)
        self._addresses = sorted(found)

    def uses(self, value: int, size: int) -> bool:
        """Whether anything refers to the variable at a link-time address."""
        at = bisect_left(self._addresses, value)
        if at < len(self._addresses) and self._addresses[at] < value + max(size, 1):
            return True
        known = range(value, value + min(max(size, 1), _WIDEST))
        return any(address.to_bytes(4, "little") in code for code in self._absolute for address in known)


def _operands(code: bytes, vaddr: int) -> Iterator[int]:
    """Yield what operands relative to the instruction pointer may mean, as link-time addresses."""
    for found in _RELATIVE.finditer(code):
        at = found.end()
        target = vaddr + at + 4 + int.from_bytes(found[1], "little", signed=True)
        opcode = code[at - 2] if at > 1 else 0
        tested = code[at - 1] in b"\x05\x0d"
        if opcode in _BYTES or (opcode == 0xF6 and tested):
            yield target + 1
        elif opcode in _WORDS or (opcode == 0xF7 and tested):
            yield target + 4
            if 0x66 in code[max(at - 4, 0) : at - 2]:
                yield target + 2
        else:
            yield target
