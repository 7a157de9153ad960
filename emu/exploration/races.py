"""Data races by happens-before: two threads use the same bytes, one of them writes, and nothing that
synchronises lies between.

What synchronises: instructions that lock memory, system calls (by the things that they have in common), the
making and the end of a thread, and plain loads and stores that are meant to: those of libc, of the linker and
of the C++ library, and those of the program that its debugging information or its source line calls atomic. A
load takes up what the last stores there have released, as x86's loads and stores do.

Source: Flanagan, Freund, "FastTrack: Efficient and Precise Dynamic Race Detection", 2009; Intel SDM volume 3,
9.2 (memory ordering).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.record import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from emu.process.visible import Operation, Thing

Clock = dict[int, int]


class Access(NamedTuple):
    """The `number`-th access to memory of thread `tid`, by the instruction at `pc`:
    `size` bytes at `address`.
    """

    tid: int
    number: int
    pc: int
    address: int
    size: int
    write: bool


class DataRace(NamedTuple):
    """Two accesses that nothing orders; `first` came first."""

    first: Access
    second: Access


class _Last(NamedTuple):
    access: Access
    clock: int
    mask: int


class Detector:
    """Watches one run, for so many accesses at `most`.

    `kind(pc)` says of an instruction whether it is "plain", or "atomic": one that synchronises. `found` is
    told of a race before its second access is made, and returns whether to go on; `reached` of the access
    that is the `number`-th of its thread, if it comes; `met` of two that synchronise, with nothing else that
    orders them.
    """

    def __init__(
        self,
        kind: Callable[[int], str],
        found: Callable[[DataRace], bool],
        number: tuple[int, int] = (0, 0),
        reached: Callable[[], None] = lambda: None,
        most: int = 1 << 62,
        met: Callable[[DataRace], None] | None = None,
    ) -> None:
        self._kind, self._found, self._left = kind, found, most
        self._number, self._reached, self._met = number, reached, met
        self._over = False
        self._clocks: dict[int, Clock] = {}
        self._born: dict[int, Clock] = {}
        self._released: dict[Thing, Clock] = {}
        self._reads: dict[int, dict[tuple[int, int], _Last]] = {}
        self._writes: dict[int, dict[tuple[int, int], _Last]] = {}
        self._counts: dict[int, int] = {}
        self._locked: dict[int, int] = {}

    # -- what synchronises -----------------------------------------------------------------------------------

    def operation(self, tid: int, operation: Operation) -> None:
        """A thread makes a visible operation, or one that is libc's own affair."""
        mine = self._clock(tid)
        for thing in (*operation.reads, *operation.writes):
            self._take(mine, thing)
        for thing in operation.writes:
            self._give(mine, thing)
        self._tick(tid)

    def locked(self, tid: int, pc: int, address: int, size: int) -> None:
        """A thread locks memory: its accesses by that instruction are part of this."""
        self._locked[tid] = pc
        mine = self._clock(tid)
        access = Access(tid, self._count(tid), pc, address, size, True)
        if self._met is not None:
            self._meet(access, mine, self._met)
        first, last = address >> 3, address + size - 1 >> 3
        for granule in range(first, last + 1):
            self._take(mine, granule)
            self._give(mine, granule)
        self._note(access, mine, atomic=True)
        self._tick(tid)

    def born(self, tid: int, by: int) -> None:
        """Thread `by` makes thread `tid`."""
        self._born[tid] = dict(self._clock(by))
        self._tick(by)

    def count(self, tid: int) -> int:
        """Return how many accesses a thread has made."""
        return self._counts.get(tid, 0)

    # -- accesses --------------------------------------------------------------------------------------------

    def access(self, tid: int, pc: int, address: int, size: int, write: bool) -> None:
        """A thread reads or writes memory."""
        if self._over or self._locked.get(tid) == pc:
            return
        self._locked.pop(tid, None)
        self._left -= 1
        self._over = self._left <= 0
        access = Access(tid, self._count(tid), pc, address, size, write)
        if (tid, access.number) == self._number:
            self._reached()
        mine = self._clock(tid)
        atomic = self._kind(pc) == "atomic"
        if atomic and self._met is not None:
            self._meet(access, mine, self._met)
        if atomic:
            for granule in range(address >> 3, (address + size - 1 >> 3) + 1):
                if write:
                    self._give(mine, granule)
                else:
                    self._take(mine, granule)
        self._note(access, mine, atomic)
        if atomic and write:
            self._tick(tid)

    def _note(self, access: Access, mine: Clock, atomic: bool) -> None:
        tid = access.tid
        for granule, mask in _parts(access):
            writes = self._writes.get(granule)
            if writes:
                self._look(writes, access, mine, mask, atomic)
            if access.write:
                reads = self._reads.get(granule)
                if reads:
                    self._look(reads, access, mine, mask, atomic)
                if writes is None:
                    writes = self._writes[granule] = {}
                writes[tid, mask] = _Last(access, mine[tid], mask)
            else:
                self._reads.setdefault(granule, {})[tid, mask] = _Last(access, mine[tid], mask)

    def _meet(self, access: Access, mine: Clock, met: Callable[[DataRace], None]) -> None:
        """Tell of accesses that this one meets, before it takes up what they have released."""
        for granule, mask in _parts(access):
            for lasts in (self._writes, self._reads) if access.write else (self._writes,):
                for (tid, _), last in lasts.get(granule, {}).items():
                    if tid != access.tid and last.mask & mask and mine.get(tid, 0) < last.clock:
                        met(DataRace(last.access, access))

    def _look(
        self, lasts: dict[tuple[int, int], _Last], access: Access, mine: Clock, mask: int, atomic: bool
    ) -> None:
        for (tid, _), last in lasts.items():
            if tid != access.tid and last.mask & mask and mine.get(tid, 0) < last.clock:
                if not self._over and not (atomic and self._kind(last.access.pc) == "atomic"):
                    self._over = not self._found(DataRace(last.access, access))

    # -- clocks ----------------------------------------------------------------------------------------------

    def _clock(self, tid: int) -> Clock:
        clock = self._clocks.get(tid)
        if clock is None:
            clock = self._clocks[tid] = self._born.pop(tid, {})
            clock[tid] = clock.get(tid, 0) + 1
        return clock

    def _count(self, tid: int) -> int:
        count = self._counts[tid] = self._counts.get(tid, 0) + 1
        return count

    def _tick(self, tid: int) -> None:
        self._clocks[tid][tid] += 1

    def _take(self, mine: Clock, thing: Thing) -> None:
        released = self._released.get(thing)
        if released is not None:
            _join(mine, released)

    def _give(self, mine: Clock, thing: Thing) -> None:
        released = self._released.get(thing)
        if released is None:
            self._released[thing] = dict(mine)
        else:
            _join(released, mine)


def _parts(access: Access) -> Iterator[tuple[int, int]]:
    """Yield the words that an access uses, with a mask of the bytes in each."""
    address, end = access.address, access.address + access.size
    while address < end:
        offset = address & 7
        size = min(end - address, 8 - offset)
        yield address >> 3, ((1 << size) - 1) << offset
        address += size


def _join(clock: Clock, other: Clock) -> None:
    for tid, count in other.items():
        if clock.get(tid, 0) < count:
            clock[tid] = count
