"""Code that is written through another mapping of its file,
as just-in-time compilers do that never have memory both writable and executable.

Unicorn knows translated code by its place in the arena, and each mapping has a place of its own. So of two
mappings of one page, one to write and one to execute, the TLB never holds both: who comes to write makes the
code forgotten, and who comes to execute takes the writer's entry.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from emu.machine.arena import PAGE_SIZE, PROT_EXEC, PROT_WRITE
from emu.machine.vma import Vma

if TYPE_CHECKING:
    from emu.machine.address_space import AddressSpace
    from emu.machine.engine import Cpu


class Aliases:
    """Keeps one process's translated code true to what is stored through other
    mappings, by the guest or by the kernel for it.
    """

    def __init__(self, space: AddressSpace, cpu: Cpu) -> None:
        self._space, self._cpu = space, cpu
        cpu.arena.on_code = self._written
        cpu.watch_shared(self._filled)

    def _filled(self, page: int, granted: int) -> None:
        """A page of a shared mapping of a file enters the TLB."""
        if not self._space.shares_code:
            return
        found = False
        for area, address in self._others(page):
            if granted & PROT_WRITE and area.prot & PROT_EXEC:
                self._cpu.flush_code(address, PAGE_SIZE)
                found = True
            found = found or bool(granted & PROT_EXEC and area.prot & PROT_WRITE)
        if found:
            self._cpu.permissions_replaced()

    def _written(self, address: int, size: int) -> None:
        """The kernel has written where there may be code."""
        self._cpu.flush_code(address, size)
        if self._space.shares_code:
            for page in range(address & -PAGE_SIZE, address + size, PAGE_SIZE):
                for area, other in self._others(page):
                    if area.prot & PROT_EXEC:
                        self._cpu.flush_code(other, PAGE_SIZE)

    def stored(self, dev: int, ino: int, data: bytes, offset: int) -> None:
        """Bytes were written to a file: code in mappings that share it is not what it was."""
        if not self._space.shares_code:
            return
        for area in self._space:
            backing = area.backing
            if (
                area.shared
                and area.prot & PROT_EXEC
                and backing is not None
                and (backing.dev, backing.ino) == (dev, ino)
            ):
                start = max(area.start, area.start + offset - area.offset)
                end = min(area.end, area.start + offset + len(data) - area.offset)
                if start < end:
                    self._cpu.flush_code(start, end - start)

    def _others(self, page: int) -> Iterator[tuple[Vma, int]]:
        """Yield the other shared mappings of the page, and where they have it."""
        own = self._space.find(page)
        if own is None or own.backing is None or not own.shared:
            return
        key, offset = (own.backing.dev, own.backing.ino), own.offset + page - own.start
        for area in list(self._space):
            backing = area.backing
            if area.shared and backing is not None and (backing.dev, backing.ino) == key:
                address = area.start + offset - area.offset
                if address != page and area.start <= address < area.end:
                    yield area, address
