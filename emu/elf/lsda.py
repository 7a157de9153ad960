"""The language-specific data area of a C++ function: which exceptions the calls in it are in a try block for.

Source: Itanium C++ ABI: Exception Handling, "The C++ language-specific data area"; LSB "DWARF Exception
Header Encoding".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from emu.core.errors import ElfError

if TYPE_CHECKING:
    from emu.core.types import ReadableMemory

_OMIT, _INDIRECT, _PCREL = 0xFF, 0x80, 0x10
_ULEB, _SLEB = 1, 9
_FIXED = {0: "Q", 2: "H", 3: "I", 4: "Q", 10: "h", 11: "i", 12: "q"}
_M64 = (1 << 64) - 1
_MOST = 4096
"""Call sites, and actions of one, that are gone through: the guest's memory says how many there are."""

CATCH_ALL = 0


class _LsdaReader:
    """Reads values in order from guest memory."""

    def __init__(self, memory: ReadableMemory, at: int) -> None:
        self.memory, self.at = memory, at

    def byte(self) -> int:
        self.at += 1
        return self.memory.read(self.at - 1, 1)[0]

    def leb(self, *, signed: bool = False) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80 or shift > 63:
                break
        return value - (1 << shift) if signed and byte & 0x40 else value

    def number(self, encoding: int) -> int:
        """Return a value in the form that the low half of an encoding says."""
        form = encoding & 0xF
        if form in (_ULEB, _SLEB):
            return self.leb(signed=form == _SLEB)
        if form not in _FIXED:
            raise ElfError("exception table", f"pointer encoding {encoding:#x}")
        size = struct.calcsize(_FIXED[form])
        self.at += size
        return int(struct.unpack(f"<{_FIXED[form]}", self.memory.read(self.at - size, size))[0])

    def pointer(self, encoding: int) -> int:
        """Return a pointer, 0 for none.

        Raises ElfError for an encoding that is relative to something else than its own place.
        """
        if encoding & 0x70 not in (0, _PCREL):
            raise ElfError("exception table", f"pointer encoding {encoding:#x}")
        place = self.at
        value = self.number(encoding)
        if not value:
            return 0
        value = value + (place if encoding & _PCREL else 0) & _M64
        return int.from_bytes(self.memory.read(value, 8), "little") if encoding & _INDIRECT else value


def caught_types(memory: ReadableMemory, lsda: int, start: int, pc: int) -> list[int] | None:
    """Return the typeinfo addresses of the handlers around a call, innermost first;
    CATCH_ALL for one that takes everything.

    `lsda` is the data area of the function that begins at `start`, `pc` an address in the call. Empty where
    it is in no try block; None where an exception must not come from there (std::terminate). Raises
    MemoryFault, ElfError for what is malformed.
    """
    reader = _LsdaReader(memory, lsda)
    if (encoding := reader.byte()) != _OMIT:
        reader.pointer(encoding)
    type_encoding, types = reader.byte(), 0
    if type_encoding != _OMIT:
        distance = reader.leb()
        types = reader.at + distance
    encoding = reader.byte()
    length = reader.leb()
    actions = reader.at + length
    for _ in range(_MOST):
        if reader.at >= actions:
            break
        begin, size, landing = (reader.number(encoding) for _ in range(3))
        action = reader.leb()
        if start + begin <= pc < start + begin + size:
            if not landing or not action:
                return []
            return _chain(memory, actions + action - 1, types, type_encoding)
    return None


def _chain(memory: ReadableMemory, at: int, types: int, encoding: int) -> list[int]:
    found: list[int] = []
    for _ in range(_MOST):
        reader = _LsdaReader(memory, at)
        filter_ = reader.leb(signed=True)
        place = reader.at
        step = reader.leb(signed=True)
        if filter_ > 0:
            size = struct.calcsize(_FIXED.get(encoding & 0xF, "Q"))
            found.append(_LsdaReader(memory, types - filter_ * size).pointer(encoding))
        if not step:
            break
        at = place + step
    return found
