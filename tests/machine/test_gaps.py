"""The place of a new mapping is the highest that fits, whatever was mapped, unmapped and moved before."""

from __future__ import annotations

import random

import pytest

from emu.machine.address_space import MMAP_BASE, MREMAP_MAYMOVE, AddressSpace
from emu.machine.arena import PAGE_SIZE, Arena


def _highest(space: AddressSpace, length: int, align: int) -> int:
    end = MMAP_BASE
    for area in sorted(space, key=lambda area: area.start, reverse=True):
        if area.start >= MMAP_BASE:
            continue
        if (place := (end - length) & -align) >= area.end:
            return place
        end = min(end, area.start)
    return (end - length) & -align


@pytest.mark.parametrize("seed", range(8))
def test_the_highest_gap_that_fits(seed: int) -> None:
    draw, space = random.Random(seed), AddressSpace(Arena())
    mapped: list[tuple[int, int]] = []
    for _ in range(300):
        length = PAGE_SIZE * draw.choice((1, 1, 1, 2, 3, 8, 64))
        chance = draw.random()
        if chance < 0.6 or not mapped:
            align = draw.choice((PAGE_SIZE, PAGE_SIZE, PAGE_SIZE, 1 << 16))
            place = space.find_gap(length, align=align)
            assert place == _highest(space, length, align)
            mapped.append((space.mmap(place, length, draw.choice((0, 1, 3)), fixed=True), length))
        elif chance < 0.9:
            start, size = mapped.pop(draw.randrange(len(mapped)))
            kept = PAGE_SIZE * draw.randrange(size // PAGE_SIZE)
            space.munmap(start + kept, size - kept)
            if kept:
                mapped.append((start, kept))
        else:
            start, size = mapped.pop()
            mapped.append((space.mremap(start, size, length, MREMAP_MAYMOVE), length))


def test_areas_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emu.machine.address_space.MAX_AREAS", 5)
    space = AddressSpace(Arena())
    base = space.mmap(0x10000000, 16 * PAGE_SIZE, 1, fixed=True)
    for page in (1, 3):
        space.mprotect(base + page * PAGE_SIZE, PAGE_SIZE, 0)
    with pytest.raises(OSError, match="max_map_count"):
        space.mprotect(base + 5 * PAGE_SIZE, PAGE_SIZE, 0)
    with pytest.raises(OSError, match="max_map_count"):
        space.munmap(base + 5 * PAGE_SIZE, PAGE_SIZE)
    with pytest.raises(OSError, match="max_map_count"):
        space.mremap(base, PAGE_SIZE, 2 * PAGE_SIZE, MREMAP_MAYMOVE)
    space.mprotect(base + 2 * PAGE_SIZE, PAGE_SIZE, 0)  # joins its neighbours
    assert len(list(space)) == 3
    for address in (0x20000000, 0x30000000, 0x40000000):  # as Linux does, mmap makes one more than others may
        space.mmap(address, PAGE_SIZE, 1, fixed=True)
    with pytest.raises(OSError, match="max_map_count"):
        space.mmap(0x50000000, PAGE_SIZE, 1, fixed=True)
    space.munmap(base, 16 * PAGE_SIZE)
    space.mmap(0x50000000, PAGE_SIZE, 1, fixed=True)
