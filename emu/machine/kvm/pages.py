"""The guest's page tables: a cache of the arena's permission bytes, filled two
mebibytes at a time when the CPU misses an entry.

An entry that allows more than before is found by the CPU when it misses. One that allows less must be
forgotten by everybody who may know it: the CPU (a reload of CR3 before the guest goes on), and a host that
shadows page tables, which does not see what we store in them. Such a host forgets a page when the mapping
under it changes, so its protection is taken away and given back; or everything, when the tables' memory goes
and comes back. A table once tied to an address stays tied to it for the same reason.

Code with hooks is seen through a copy of its page that holds an INT3 at each; the arena never does.

Source: Intel SDM volume 3, 4.5 (4-level paging); Linux Documentation/virt/kvm/x86/mmu.rst.
"""

from __future__ import annotations

import ctypes
import struct

from emu.machine.arena import BUS, PAGE_SIZE, PROT_EXEC, PROT_READ, PROT_WRITE, Arena, physical
from emu.machine.kvm.ring0 import ARENA_AT, DIRECTORY, FIRST_FREE, PRIVATE_SIZE, ROOT, Ring0
from emu.machine.kvm.vm import Vm, host_address

_CHUNK = 256 << 20
"""Arena memory that enters the machine at a time."""
_BLOCK = 2 << 20
_RIGHTS = PROT_READ | PROT_WRITE | PROT_EXEC
_MANY = 8
"""Ranges to be forgotten from which on it is cheaper to forget everything."""
_INT3 = 0xCC
_held = ctypes.PyDLL(None, use_errno=True)
"""The host's libc, called with Python's lock held: no other thread finds the arena read-only."""
_held.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def _low(perm: int) -> int:
    """Present, user, accessed; writable and dirty."""
    return 0 if not perm & _RIGHTS or perm & BUS else 0x25 | (0x42 if perm & PROT_WRITE else 0)


_LOW = bytes(_low(perm) for perm in range(256))
_TOP = bytes(0 if perm & PROT_EXEC else 0x80 for perm in range(256))
_MASK = bytes((0, *(255,) * 255))
_FIRST = 16
"""Pages that are let in at the first miss of a block."""
_BYTE1 = bytes((i & 15) << 4 for i in range(512))
_BYTE2 = [bytes(i >> 4 | high << 5 for i in range(512)) for high in range(8)]


class Watched:
    """A page that the guest does not see as the arena has it:
    without the right to execute, without any, or through a copy with hooks.
    """

    __slots__ = ("copy", "hidden", "hooks", "no_exec")

    def __init__(self) -> None:
        self.no_exec = self.hidden = 0
        self.hooks: set[int] = set()
        self.copy = 0


class PageTables:
    """The tables of one machine.

    `stale` tells that entries may say more than the arena allows: `refresh` before the guest goes on.
    """

    def __init__(self, vm: Vm, ring0: Ring0, arena: Arena) -> None:
        self._vm, self._ring0, self._arena = vm, ring0, arena
        self._memory = ring0.memory
        self._memory_at = host_address(ring0.memory)
        self._slots: dict[int, int] = {}
        self._tables: dict[int, int] = {}
        self._directories: dict[tuple[int, int], int] = {}
        self._next = FIRST_FREE
        self._free: list[int] = []
        self._stale: set[int] = set()
        self._drop: list[tuple[int, int]] = []
        self.stale = self.flush = False
        self.watched: dict[int, Watched] = {}
        self._by_block: dict[int, set[int]] = {}
        self._lent: set[int] = set()
        self._open = -1
        """The hook whose instruction is let through."""
        self._around: dict[int, int] = {}
        self.filled = 0

    # -- filling ---------------------------------------------------------------------------------------------

    def enter(self, address: int) -> bool:
        """Let the guest reach a page that it may access, and some that follow;
        false if there is no memory left for it.

        What the guest reaches counts as touched. How much is let in at once doubles with each miss of a
        block.
        """
        arena, at = self._arena, physical(address) >> 12
        block = address >> 21
        around = self._around.get(block, _FIRST)
        self._around[block] = min(2 * around, 512)
        first = at - ((address >> 12) & around - 1)
        room = arena.budget.room() >> 12
        arena.settle(first, first + around)
        fresh = [
            page
            for page in range(first, first + around)
            if _LOW[arena.perms[page]] and not arena.touched[page]
        ]
        if len(fresh) > room:
            fresh = [at] if not arena.touched[at] else []
        if len(fresh) > room:
            return False
        arena.touch_pages(fresh)
        self.fill(address)
        return True

    def fill(self, address: int) -> None:
        """Make the table for the two mebibytes around a guest address, which is in the arena, anew."""
        block = address >> 21
        start = block << 21
        at = physical(start)
        if (
            at < 0
            or at & (_BLOCK - 1)
            or physical(start + _BLOCK - PAGE_SIZE) not in (-1, at + _BLOCK - PAGE_SIZE)
        ):
            table = self._page_by_page(start)
        else:
            table = self._at_once(at)
        for page in self._by_block.get(block, ()):
            self._show_watched(table, page)
        number = self._tables.get(block)
        if number is None:
            if self._next + 4 > PRIVATE_SIZE >> 12 and len(self._free) < 4:
                self.reset()
                return self.fill(address)
            number = self._tables[block] = self._take()
            self._memory[4096 * number : 4096 * number + 4096] = table
            directory = self._directory(1, block >> 9)
            struct.pack_into(
                "<Q", self._memory, 4096 * directory + 8 * (block & 511), number << 12 | DIRECTORY
            )
        else:
            self._memory[4096 * number : 4096 * number + 4096] = table
        self.filled += 1
        return None

    def _at_once(self, at: int) -> bytearray:
        self._need(at)
        where = at + ARENA_AT >> 21
        page = at >> 12
        self._arena.settle(page, page + 512)
        perms = bytes(self._arena.perms[page : page + 512]).ljust(512, b"\0")
        touched = bytes(self._arena.touched[page : page + 512]).ljust(512, b"\0").translate(_MASK)
        low = int.from_bytes(perms.translate(_LOW), "little") & int.from_bytes(touched, "little")
        table = bytearray(4096)
        table[0::8] = low.to_bytes(512, "little")
        table[1::8] = _BYTE1
        table[2::8] = _BYTE2[where & 7]
        for byte in range(3):
            table[3 + byte :: 8] = bytes((where >> 3 + 8 * byte & 255,)) * 512
        table[7::8] = perms.translate(_TOP)
        return table

    def _page_by_page(self, start: int) -> bytearray:
        table = bytearray(4096)
        for page in range(start, start + _BLOCK, PAGE_SIZE):
            at = physical(page)
            if at >= 0:
                self._need(at)
                self._put(table, page, at + ARENA_AT, self._arena.perm(at >> 12))
        return table

    def _put(self, table: bytearray, page: int, where: int, perm: int) -> None:
        touched = self._arena.touched[physical(page) >> 12]
        entry = where | (_LOW[perm] if touched else 0) | _TOP[perm] << 56
        struct.pack_into("<Q", table, 8 * (page >> 12 & 511), entry)

    def _show_watched(self, table: bytearray, page: int) -> None:
        if page in self._lent:
            return
        watched, at = self.watched[page], physical(page)
        perm = self._arena.perm(at >> 12)
        if watched.hidden:
            perm = 0
        elif watched.no_exec:
            perm &= ~PROT_EXEC
        if watched.hooks and perm & PROT_EXEC:
            self._refresh_copy(watched, at)
            self._put(table, page, watched.copy << 12, perm & ~PROT_WRITE)
        else:
            self._put(table, page, at + ARENA_AT, perm)

    def _refresh_copy(self, watched: Watched, at: int) -> None:
        if not watched.copy:
            watched.copy = self._take()
        place = 4096 * watched.copy
        self._memory[place : place + PAGE_SIZE] = self._arena.mapping[at : at + PAGE_SIZE]
        for address in watched.hooks:
            if address != self._open:
                self._memory[place + (address & 4095)] = _INT3

    def _need(self, at: int) -> None:
        """Put the chunk of the arena that holds an offset into the machine."""
        chunk = at // _CHUNK
        if chunk not in self._slots:
            slot = self._slots[chunk] = len(self._slots) + 1
            self._vm.put_memory(
                slot, ARENA_AT + chunk * _CHUNK, _CHUNK, self._arena.host_base + chunk * _CHUNK
            )

    def _directory(self, level: int, key: int) -> int:
        """Return the private page with the directory of a level (1: of page tables)
        that covers the addresses of `key`.
        """
        number = self._directories.get((level, key))
        if number is None:
            number = self._directories[level, key] = self._take()
            self._memory[4096 * number : 4096 * number + 4096] = bytes(4096)
            parent = self._directory(level + 1, key >> 9) if level < 2 else ROOT
            struct.pack_into("<Q", self._memory, 4096 * parent + 8 * (key & 511), number << 12 | DIRECTORY)
        return number

    def _take(self) -> int:
        if self._free:
            return self._free.pop()
        self._next += 1
        return self._next - 1

    # -- changes ---------------------------------------------------------------------------------------------

    def range_changes(self, start: int, end: int) -> None:
        """What a range of guest addresses allows, or holds, is about to change."""
        first, last = start >> 21, end - 1 >> 21
        blocks = self._tables if last - first > len(self._tables) else range(first, last + 1)
        found = [block for block in blocks if first <= block <= last and block in self._tables]
        if found:
            self._stale.update(found)
            self._drop.append((self._arena.host_base + physical(start), end - start))
            self.stale = True

    def code_changes(self, start: int, end: int) -> None:
        """The host has written over code: copies of its pages are not what they should be."""
        for page in range(start & -PAGE_SIZE, end, PAGE_SIZE):
            watched = self.watched.get(page)
            if watched is not None and watched.copy:
                self._refresh_copy(watched, physical(page))

    def refresh(self) -> None:
        """Make stale entries true, and let the host and the CPU forget them."""
        self.stale = False
        for block in self._stale:
            self.fill(block << 21)
        self._stale.clear()
        if len(self._drop) > _MANY:
            self._ring0.forget_shadows()
        else:
            for address, size in self._drop:
                _held.mprotect(address, size, 1)
                _held.mprotect(address, size, 3)
        self._drop.clear()
        self.flush = True

    def reset(self) -> None:
        """Begin with empty tables."""
        self._memory[4096 * ROOT : 4096 * ROOT + 2048] = bytes(2048)
        self._tables.clear()
        self._directories.clear()
        self._stale.clear()
        self._drop.clear()
        self._free.clear()
        self._next = FIRST_FREE
        for watched in self.watched.values():
            watched.copy = 0
        self._ring0.forget_shadows()
        self.stale, self.flush = False, True

    # -- watched pages ---------------------------------------------------------------------------------------

    def watch(self, page: int) -> Watched:
        """Return what is watched of a page, to be changed; the guest sees it before it goes on."""
        watched = self.watched.get(page)
        if watched is None:
            watched = self.watched[page] = Watched()
            self._by_block.setdefault(page >> 21, set()).add(page)
        self._page_changes(page)
        return watched

    def lend(self, page: int) -> None:
        """Let the guest see a watched page as the arena has it, until `take_back`."""
        self._lent.add(page)
        self._page_changes(page)

    def take_back(self) -> None:
        """End what is lent."""
        for page in self._lent:
            self._page_changes(page)
        self._lent.clear()

    def is_lent(self, page: int) -> bool:
        """Whether a page is lent."""
        return page in self._lent

    def poke(self, address: int, *, hook: bool) -> None:
        """Put the INT3 of a hook into its page's copy, or the instruction's own byte."""
        watched, at = self.watched[address & -PAGE_SIZE], physical(address)
        self._open = -1 if hook else address
        if watched.copy:
            self._memory[4096 * watched.copy + (address & 4095)] = _INT3 if hook else self._arena.mapping[at]

    def _page_changes(self, page: int) -> None:
        block = page >> 21
        if block not in self._tables:
            return
        self._stale.add(block)
        watched, at = self.watched[page], physical(page)
        if at >= 0:
            self._drop.append((self._arena.host_base + at, PAGE_SIZE))
        if watched.copy:
            self._drop.append((self._memory_at + 4096 * watched.copy, PAGE_SIZE))
        self.stale = True
