"""Watched memory: which bytes, which accesses count, and what they held when somebody last looked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.errors import MemoryFault
from emu.core.record import NamedTuple
from emu.machine.arena import PAGE_SIZE

if TYPE_CHECKING:
    from emu.machine.arena import Arena

WRITE, ACCESS = "watch", "awatch"


class Watch(NamedTuple):
    """`size` bytes at `address`; `kind` is the word of the remote protocol for it."""

    kind: str
    address: int
    size: int

    def touches(self, address: int, size: int) -> bool:
        """Whether an access of `size` bytes at `address` overlaps it."""
        return address < self.address + self.size and self.address < address + size


class Watches:
    """The watched places of one guest."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._held: dict[Watch, bytes] = {}

    def __bool__(self) -> bool:
        return bool(self._held)

    def add(self, watch: Watch) -> None:
        """Watch a place."""
        self._held[watch] = self._read(watch)

    def remove(self, watch: Watch) -> None:
        """Watch it no more; nothing happens if it was not watched."""
        self._held.pop(watch, None)

    def pages(self) -> dict[int, bool]:
        """Return the pages that they lie in, and whether reads count there, too."""
        found: dict[int, bool] = {}
        for watch in self._held:
            first = watch.address & -PAGE_SIZE
            for page in range(first, watch.address + watch.size, PAGE_SIZE):
                found[page] = found.get(page, False) or watch.kind != WRITE
        return found

    def look(self) -> None:
        """Take what the places hold now for known."""
        for watch in self._held:
            self._held[watch] = self._read(watch)

    def changed(self) -> Watch | None:
        """Return a watched place that holds something else than when somebody looked."""
        found = None
        for watch, known in self._held.items():
            now = self._read(watch)
            if now != known:
                self._held[watch], found = now, watch
        return found

    def touched(self, accesses: list[tuple[int, int]]) -> Watch | None:
        """Return a place that is watched for accesses among which these are."""
        for watch in self._held:
            if watch.kind != WRITE and any(watch.touches(*access) for access in accesses):
                return watch
        return None

    def _read(self, watch: Watch) -> bytes:
        try:
            return self._arena.read(watch.address, watch.size)
        except MemoryFault:
            return b""
