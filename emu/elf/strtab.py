"""String tables."""

from __future__ import annotations

from emu.core.errors import ElfError


class StringTable:
    """A string table, copied to the host. `data` is its content, for searches in place.

    Source: gABI chapter 4 "String Table".
    """

    __slots__ = ("data", "name")

    def __init__(self, data: bytes, name: str) -> None:
        self.data = data
        self.name = name

    def at(self, offset: int) -> bytes:
        """Return the string at `offset` without its NUL. Raises `ElfError` outside the table or without a NUL."""
        end = self.data.find(b"\0", offset) if 0 <= offset < len(self.data) else -1
        if end < 0:
            raise ElfError(
                self.name, f"string table of {len(self.data)} bytes has no string at offset {offset:#x}"
            )
        return self.data[offset:end]

    def holds(self, terminated: bytes, offset: int) -> bool:
        """Whether the string at `offset` equals `terminated`, which ends with its NUL: a comparison without a copy."""
        return self.data.startswith(terminated, offset)
