"""Guarded pages: the first look at code that should not run yet, and each access to
data that should not be used any more.

Nothing but the guarded pages pays for it. The TLB asks for a page when it does not know it; for guarded code
that moment is told, before the first instruction runs. A guarded page of data is given to the CPU as a
device's, so that each access to it, and to nothing else, comes here.

Source: Unicorn 2.1.4, UC_HOOK_TLB_FILL and uc_mmio_map.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.record import NamedTuple
from emu.machine import regs
from emu.machine.arena import PAGE_SIZE, PROT_EXEC, physical
from emu.machine.binding import UC_MEM_FETCH

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.machine import engine
    from emu.machine.binding import TlbEntry
    from emu.machine.cpu import UnicornCpu
    from emu.machine.engine import Copy

WINDOW = 1 << 47
"""Physical address at which guarded pages of data appear: far beyond the arena."""


class _Code(NamedTuple):
    start: int
    end: int
    callback: Callable[[int], None]


class PageGuards:
    """The guarded pages of one CPU."""

    HOST_SIDE = frozenset(("_mapped",))  # what Unicorn has mapped stays when a snapshot is restored

    def __init__(self, cpu: UnicornCpu) -> None:
        self._cpu = cpu
        self._code: list[_Code] = []
        self._data: dict[int, Callable[[int, int, bool], None]] = {}
        self._virtual: dict[int, int] = {}
        self._mapped = False
        cpu.on_fill = self._fill

    def guard_code(self, start: int, end: int, callback: Callable[[int], None]) -> None:
        """Call `callback` with the program counter whenever a page of [start, end) is fetched from that the
        CPU has no translation of.

        That is so at the first call of any function in it. `watch_again` makes the CPU forget what was
        fetched since.
        """
        self._code.append(_Code(start, end, callback))
        self._cpu.engine.flush_tlb()

    def release_code(self, start: int) -> None:
        """Guard the code that begins there no more."""
        self._code = [guard for guard in self._code if guard.start != start]

    def watch_again(self) -> None:
        """Ask for every page again."""
        if self._code:
            self._cpu.engine.flush_tlb()

    def guard_data(self, page: int, callback: Callable[[int, int, bool], None]) -> None:
        """Call `callback` with address, size and whether it is a write before each access of the guest to a
        page that holds no code.

        Registers are those before the instruction, but the program counter may be that of its block. A wide
        access comes in parts.
        """
        if not self._mapped:
            self._mapped = True
            self._cpu.engine.map_device(WINDOW, len(self._cpu.arena.mapping), self._read, self._write)
        self._data[page] = callback
        self._virtual[physical(page)] = page
        self._cpu.engine.flush_tlb()

    def release_data(self, page: int) -> None:
        """Guard a page of data no more."""
        if self._data.pop(page, None) is not None:
            self._cpu.engine.flush_tlb()

    def repeat(self, into: engine.PageGuards, copy: Copy) -> None:
        """Guard the same pages of a child's CPU, `into` being its guards; `copy` gives the child's
        callbacks.
        """
        for start, end, callback in self._code:
            into.guard_code(start, end, copy(callback))
        for page, told in self._data.items():
            into.guard_data(page, copy(told))

    def _fill(self, page: int, kind: int, entry: TlbEntry) -> None:
        """A page is about to enter the TLB."""
        for start, end, callback in self._code:
            if start <= page < end or page <= start < page + PAGE_SIZE:
                if kind == UC_MEM_FETCH:
                    callback(self._cpu.get(regs.RIP))
                else:
                    entry.perms &= ~PROT_EXEC
                return
        if page in self._data and not entry.perms & PROT_EXEC:
            entry.paddr = WINDOW + physical(page)

    def _address(self, offset: int) -> int:
        return self._virtual[offset & -PAGE_SIZE] + offset % PAGE_SIZE

    def _read(self, _uc: int, offset: int, size: int, _data: int) -> int:
        address = self._address(offset)
        self._tell(address, size, write=False)
        return int.from_bytes(self._cpu.arena.read(address, size), "little")

    def _write(self, _uc: int, offset: int, size: int, value: int, _data: int) -> None:
        address = self._address(offset)
        self._tell(address, size, write=True)
        self._cpu.arena.write(address, (value & (1 << 8 * size) - 1).to_bytes(size, "little"))

    def _tell(self, address: int, size: int, *, write: bool) -> None:
        callback = self._data.get(address & -PAGE_SIZE)
        if callback is not None:
            try:
                callback(address, size, write)
            except BaseException as error:  # a Python exception cannot cross Unicorn's C frames
                self._cpu.abandon(error)
