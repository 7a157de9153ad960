"""The memory of an object that is being relocated, and what is written there in bulk: RELR and RELATIVE.

Source: glibc elf/dynamic-link.h:ELF_DYNAMIC_DO_RELR, sysdeps/x86_64/dl-machine.h:elf_machine_rela_relative.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from emu.core.errors import ElfError
from emu.elf import constants as c
from emu.elf.relocations import iter_relative, relr_addresses

if TYPE_CHECKING:
    from emu.core.types import Memory
    from emu.rtld.link_map import LinkMap

_PUT64 = struct.Struct("<Q").pack_into
_GET64 = struct.Struct("<Q").unpack_from
_M64 = (1 << 64) - 1
_PAGE = 4096


def _writable(map_: LinkMap) -> tuple[int, int]:
    """Return the link-time range of one segment that may be written,
    which is where relocations lie in a sound object.
    """
    for phdr in map_.phdrs:
        if phdr.type == c.PT_LOAD and phdr.flags & c.PF_W:
            return phdr.vaddr, phdr.vaddr + phdr.memsz
    return 0, 0


class RelocatedView:
    """One object's memory.

    - `bytes`: a writable window on it, which begins at the link-time address `first`
    - `base`: the load bias
    - `low`, `high`: the link-time range of a segment that may be written
    """

    def __init__(self, memory: Memory, map_: LinkMap) -> None:
        self._map = map_
        self.base = map_.addr
        self.first = map_.map_start - map_.addr
        self.low, self.high = _writable(map_)
        size = -(-map_.map_end // _PAGE) * _PAGE - map_.map_start
        self.bytes = memory.span(map_.map_start, size)

    def at(self, vaddr: int) -> int:
        """Return where a link-time address is in `bytes`.

        Raises ElfError for one at which ld.so would fault.
        """
        if self.low <= vaddr < self.high:
            return vaddr - self.first
        for phdr in self._map.phdrs:
            # The rest of the last page is there, too.
            if (
                phdr.type == c.PT_LOAD
                and phdr.vaddr & -_PAGE <= vaddr < -(-(phdr.vaddr + phdr.memsz) // _PAGE) * _PAGE
            ):
                if phdr.flags & c.PF_W or self._map.dynamic.flags & c.DF_TEXTREL:
                    return vaddr - self.first
                raise ElfError(
                    self._map.display_name, f"relocation offset {vaddr:#x} lies in a read-only segment"
                )
        raise ElfError(self._map.display_name, f"relocation offset {vaddr:#x} lies outside the object")

    def add_base(self, table: bytes) -> int:
        """Add the base to each word that a DT_RELR table names; return how many these are.

        Raises ElfError.
        """
        base, view = self.base, self.bytes
        vaddrs = relr_addresses(table, self._map.display_name)
        for vaddr in vaddrs:
            at = self.at(vaddr)
            _PUT64(view, at, (_GET64(view, at)[0] + base) & _M64)
        return len(vaddrs)

    def put_relative(self, table: bytes) -> None:
        """Apply entries that all are RELATIVE. Raises ElfError."""
        base, first, view, low, high = self.base, self.first, self.bytes, self.low, self.high
        name = self._map.display_name
        if any(byte & 7 for byte in set(table[::24])):
            for offset, addend in iter_relative(table, name):
                _PUT64(view, self.at(offset), (base + addend) & _M64)
            return
        words = view.cast("Q")  # whole words, as always; there may be hundreds of thousands
        for offset, addend in iter_relative(table, name):
            if not low <= offset < high:
                self.at(offset)
            words[offset - first >> 3] = (base + addend) & _M64
