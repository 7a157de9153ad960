"""The memory of a child: what its parent has, each page shared until one of the two writes it.

Shared mappings go on to be shared. Of private ones, pages that are still a file's are mapped from the file
again; what the parent has written since the last fork goes to a memory file that both map copy-on-write (see
`emu.machine.images`). So a fork costs what was written since the last one, and a child holds what it writes.

Source: fork(2); Linux Documentation/admin-guide/mm/pagemap.rst.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.machine import host
from emu.machine.arena import PAGE_SIZE, Arena, physical
from emu.machine.images import Images, Run
from emu.machine.pages import Pages

if TYPE_CHECKING:
    from emu.machine.address_space import AddressSpace, OnChange
    from emu.machine.vma import Vma

_NEAR, _FAR, _MANY = 8 * PAGE_SIZE, 1 << 20, 2000
"""Written ranges that are nearer to each other than this become one, with what lies between them:
mappings are dearer than pages. Where there are many already, that is done over larger distances.
"""


def fork_space(parent: AddressSpace, arena: Arena, on_change: OnChange) -> AddressSpace:
    """Return the address space of a child, over an arena in which nothing is mapped;
    `on_change` is its CPU's `before_change`.

    Raises EmuError, OSError.
    """
    near = _NEAR if len(parent.images) < _MANY else _FAR
    child = parent.twin(arena, on_change)
    runs: list[Run] = []
    with Pages(parent.arena.host_base) as pages:
        for area in parent.placed():
            if not child.reachable(area.start, area.end - area.start):
                raise OSError(errno.ENOMEM, "no room for another process of that size")
            first = physical(area.start) >> 12
            last = first + (area.end - area.start >> 12)
            arena.permissions.load(parent.arena.permissions.save(first, last))
            if not area.shared:
                _save_written(parent, area, pages, near, runs)
    parent.images.put(runs)
    child.images = parent.images.copy()
    for area in child.placed():
        child.refill(area)
    for start, end in parent.fork_advice.lacking():
        child.munmap(start, end - start)
    for start, end in parent.fork_advice.wiped():
        child.discard(start, end - start)
    return child


def _save_written(space: AddressSpace, area: Vma, pages: Pages, near: int, runs: list[Run]) -> None:
    """Let what was written of a private area lie in the store, at both ends of it the same bytes."""
    first = physical(area.start)
    last = first + area.end - area.start
    base, memory, store = space.arena.host_base, space.arena.bytes, space.shared_files.pages
    written = pages.of(space.arena, first, last)
    if area.host_mapped and area.backing is not None and area.backing.host_fd() is None:
        written = iter(((first, last),))  # its file is gone, or is another one now
    found: list[tuple[int, int]] = []
    for start, end in written:
        if found and start - found[-1][1] < near:
            found[-1] = found[-1][0], end
        else:
            found.append((start, end))
    for start, end in found:
        extent = store.save(memory[start:end])
        host.map_file(base + start, end - start, store.fd, extent.offset)
        runs.append(Run(start, end, extent, extent.offset))
        area.host_mapped = True


def own_pages(space: AddressSpace) -> None:
    """Let the pages that a process has had in common with children be its own again, for a snapshot.

    It costs what was written before the forks. Raises OSError.
    """
    arena = space.arena
    nothing = bytes(PAGE_SIZE)
    areas = [area for area in space.placed() if not area.shared]
    runs = space.images.clear()
    for area in areas:
        first = physical(area.start)
        for run in Images(runs).within(first, first + area.end - area.start):
            data = bytes(arena.mapping[run.start : run.end])
            host.map_anonymous(arena.host_base + run.start, run.end - run.start)
            for at in range(0, len(data), PAGE_SIZE):
                page = data[at : at + PAGE_SIZE]
                if area.backing is not None or page != nothing:
                    arena.bytes[run.start + at : run.start + at + PAGE_SIZE] = page
