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
