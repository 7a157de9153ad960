"""What the host's kernel knows of the pages of an arena.

Source: Linux Documentation/admin-guide/mm/pagemap.rst.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from emu.core.errors import EmuError
from emu.machine.arena import PAGE_SIZE, Arena

_PAGEMAP = "/proc/self/pagemap"
_PRESENT, _SWAPPED, _OF_FILE = 1 << 7, 1 << 6, 1 << 5
"""In the highest byte of a page's entry, of eight."""
_OURS = bytes(bool(top & (_PRESENT | _SWAPPED) and not top & _OF_FILE) for top in range(256))
_RUNS = re.compile(b"\1+")
_AT_ONCE = 4096
"""Pages whose entries are looked at together, without a step of Python for each."""


class Pages:
    """The pages of the arena whose first byte is at the host address `base`.

    Raises EmuError if the host does not tell.
    """

    def __init__(self, base: int) -> None:
        self._base = base

    def __enter__(self) -> Pages:
        try:
            self._file = open(_PAGEMAP, "rb", buffering=0)
        except OSError as error:
            raise EmuError(f"{_PAGEMAP}: {error.strerror}: snapshots and fork need it") from None
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()

    def of(self, arena: Arena, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield the same of an arena, without a look at what nobody can have touched."""
        for start, end in arena.permissions.written(first // PAGE_SIZE, last // PAGE_SIZE):
            yield from self.written(start * PAGE_SIZE, end * PAGE_SIZE)

    def written(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges in [first, last), offsets in the arena, of pages that are
        private copies, or exist in anonymous memory.
        """
        begin = end = first
        for at in range(first, last, _AT_ONCE * PAGE_SIZE):
            count = min(_AT_ONCE, last - at >> 12)
            raw = os.pread(self._file.fileno(), 8 * count, (self._base + at >> 12) * 8)
            if len(raw) != 8 * count:
                raise EmuError(f"{_PAGEMAP}: too short: snapshots and fork need it")
            for run in _RUNS.finditer(raw[7::8].translate(_OURS)):
                start = at + run.start() * PAGE_SIZE
                if start != end:
                    if end > begin:
                        yield begin, end
                    begin = start
                end = at + run.end() * PAGE_SIZE
        if end > begin:
            yield begin, end
