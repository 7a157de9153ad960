"""What st_info, st_other and st_shndx say, for every kind of symbol. Source: gABI, "Symbol Table"."""

from __future__ import annotations

from typing import Protocol

from emu.elf import constants as c


class _Given(Protocol):
    @property
    def info(self) -> int: ...

    @property
    def other(self) -> int: ...

    @property
    def shndx(self) -> int: ...


class SymbolFields:
    """Properties over the fields `info`, `other` and `shndx` of a named tuple."""

    __slots__ = ()

    @property
    def bind(self: _Given) -> int:
        """STB_*: the high half of st_info."""
        return self.info >> 4

    @property
    def type(self: _Given) -> int:
        """STT_*: the low half of st_info."""
        return self.info & 15

    @property
    def visibility(self: _Given) -> int:
        """STV_*: the low two bits of st_other."""
        return self.other & 3

    @property
    def defined(self: _Given) -> bool:
        """Whether the object itself defines the symbol."""
        return self.shndx != c.SHN_UNDEF
