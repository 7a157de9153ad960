"""Relocation records: RELA entries and packed RELR. What they mean is the dynamic linker's business."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from emu.core.errors import ElfError
from emu.elf.constants import R_X86_64_NAMES, R_X86_64_RELATIVE, R_X86_64_RELATIVE64, RELA_SIZE, RELR_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

_RELA, _RELATIVE = struct.Struct("<QQq"), struct.Struct("<Q8xq")
_MASK64 = (1 << 64) - 1


def iter_rela(data: bytes, name: str) -> Iterator[tuple[int, int, int]]:
    """Yield (r_offset, r_info, r_addend); the type is `info & 0xffffffff`, the symbol index `info >> 32`.

    Raises `ElfError` when `data` is not a whole number of entries.
    Source: gABI chapter 4 "Relocation"; psABI 4.4.
    """
    if len(data) % RELA_SIZE:
        raise ElfError(name, f"RELA table of {len(data)} bytes is not a multiple of {RELA_SIZE}")
    return _RELA.iter_unpack(data)


def iter_relative(data: bytes, name: str) -> Iterator[tuple[int, int]]:
    """Yield (r_offset, r_addend) of entries that are `all_relative`. Raises `ElfError` as `iter_rela`."""
    if len(data) % RELA_SIZE:
        raise ElfError(name, f"RELA table of {len(data)} bytes is not a multiple of {RELA_SIZE}")
    return _RELATIVE.iter_unpack(data)


def all_relative(data: bytes) -> bool:
    """Whether all entries are R_X86_64_RELATIVE or R_X86_64_RELATIVE64;
    a look at a few bytes of each at once.
    """
    types = set(data[8::RELA_SIZE])
    rest = set(data[9::RELA_SIZE]) | set(data[10::RELA_SIZE]) | set(data[11::RELA_SIZE])
    return types <= {R_X86_64_RELATIVE, R_X86_64_RELATIVE64} and rest <= {0}


def relr_addresses(data: bytes, name: str) -> list[int]:
    """Return the link-time addresses of the words to which a packed DT_RELR table
    adds the load address, in table order.

    An even entry is an address and sets the position behind it; an odd entry is a map of the 63 words from
    there: bit n + 1 stands for the n-th, and the position moves on by 63 words.

    Raises `ElfError` for a table that starts with a map or is not a whole number of words.
    Source: gABI "Relative Relocation Table"; glibc elf/dynamic-link.h (ELF_DYNAMIC_DO_RELR).
    """
    if len(data) % RELR_SIZE:
        raise ElfError(name, f"RELR table of {len(data)} bytes is not a multiple of {RELR_SIZE}")
    addresses: list[int] = []
    position: int | None = None
    for entry in memoryview(data).cast("Q"):
        if not entry & 1:
            addresses.append(entry)
            position = entry + 8
            continue
        if position is None:
            raise ElfError(name, "RELR table starts with a bitmap")
        address, bits = position, entry >> 1
        while bits:
            if bits & 1:
                addresses.append(address & _MASK64)
            bits >>= 1
            address += 8
        position += 63 * 8
    return addresses


def reloc_name(type_: int) -> str:
    """Return the psABI name of a relocation type, or "relocation type N" for one that it does not have."""
    return R_X86_64_NAMES.get(type_, f"relocation type {type_}")
