"""String tables."""

from __future__ import annotations

from collections.abc import Callable

from emu.core.errors import ElfError

_LONGEST = 1 << 20
_PIECE = 256


class StringTable:
    """A string table, copied to the host. `data` is its content, for searches in place.

    `beyond(offset, size)`, if any, reads what lies behind: ld.so knows of no end of the table that it uses.
    Source: gABI chapter 4 "String Table".
    """

    __slots__ = ("beyond", "data", "name")

    def __init__(self, data: bytes, name: str, beyond: Callable[[int, int], bytes] | None = None) -> None:
        self.data = data
        self.name = name
        self.beyond = beyond

    def at(self, offset: int) -> bytes:
        """Return the string at `offset` without its NUL. Raises `ElfError` outside the table (and what lies
        behind it) or without a NUL.
        """
        end = self.data.find(b"\0", offset) if 0 <= offset < len(self.data) else -1
        if end < 0:
            return self._read(offset)
        return self.data[offset:end]

    def _read(self, offset: int) -> bytes:
        """Return a string that is not in `data`, read piece by piece up to page ends."""
        found = b""
        while self.beyond is not None and len(found) < _LONGEST:
            piece = self.beyond(offset + len(found), _PIECE)
            if not piece:
                break
            head, nul, _ = piece.partition(b"\0")
            found += head
            if nul:
                return found
        raise ElfError(
            self.name, f"string table of {len(self.data)} bytes has no string at offset {offset:#x}"
        )

    def holds(self, terminated: bytes, offset: int) -> bool:
        """Whether the string at `offset` equals `terminated`,
        which ends with its NUL: a comparison without a copy.
        """
        return self.data.startswith(terminated, offset)
