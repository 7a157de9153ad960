"""The segments of one object in memory: their protection, the zero-filled tail.

Source: glibc elf/dl-map-segments.h:_dl_map_segments.
"""

from __future__ import annotations

import errno
from itertools import pairwise
from typing import TYPE_CHECKING

from emu.core.errors import LoaderError, MemoryFault
from emu.core.record import NamedTuple
from emu.elf import constants as c

if TYPE_CHECKING:
    from emu.core.files import Backing
    from emu.elf.header import Phdr
    from emu.rtld.rtld import Rtld

_PAGE = 4096
_M64 = (1 << 64) - 1
_PROT = (0, 4, 2, 6, 1, 5, 3, 7)
"""mmap's protection for each value of p_flags: the two number read, write and execute in opposite order."""


class _Command(NamedTuple):
    """One PT_LOAD in whole pages, as linked: its file pages from `start` to `end`, data to `data_end`, zeros
    from there to `alloc_end`.
    """

    start: int
    end: int
    data_end: int
    alloc_end: int
    offset: int
    prot: int


def map_segments(rtld: Rtld, backing: Backing, phdrs: list[Phdr], name: str) -> int:
    """Map the PT_LOAD segments of a DSO where there is room; return the load bias. Raises LoaderError.

    The first mapping covers the whole object, so that the others go over it: they may overlap, and pass the
    end of the file, as whoever touches that will find out. Differs: a segment outside of the object, for
    which ld.so unmaps what is there, is refused.
    """
    commands = [_command(phdr) for phdr in phdrs if phdr.type == c.PT_LOAD]
    first, last = commands[0], commands[-1]
    length = _page_up((last.alloc_end - first.start) & _M64)
    holes = any(before.end != after.start for before, after in pairwise(commands))
    align = 0
    if rtld.rules.alignment_kept:
        align = max((p.align for p in phdrs if p.type == c.PT_LOAD and not p.align & p.align - 1), default=0)
    mappings = rtld.mappings
    base = 0
    try:
        base = mappings.find_gap(length, align=max(align, _PAGE))
        _map_file(rtld, backing, base, length, first)
        if holes:
            if last.start < first.end:
                raise LoaderError(name, "ELF load command address/offset not page-aligned")
            mappings.mprotect(base + first.end - first.start, last.start - first.end, 0)
        for number, command in enumerate(commands):
            where = base + (command.start - first.start)
            if not base <= where <= where + max(command.end - command.start, 0) <= base + length:
                raise OSError(errno.ENOMEM, "segment outside of the object")
            if number and command.end > command.start:
                _map_file(rtld, backing, where, command.end - command.start, command)
            if where + _page_up(command.alloc_end - command.start) > base + length:
                raise LoaderError(name, "cannot map zero-fill pages")
            _zero_fill(rtld, base - first.start, command)
    except OSError:
        if base and length:
            mappings.munmap(base, length)
        raise LoaderError(name, "failed to map segment from shared object") from None
    except LoaderError:
        mappings.munmap(base, length)
        raise
    return base - first.start


def _command(load: Phdr) -> _Command:
    data_end = (load.vaddr + load.filesz) & _M64
    alloc_end = (load.vaddr + load.memsz) & _M64
    return _Command(
        load.vaddr & -_PAGE,
        _page_up(data_end),
        data_end,
        alloc_end,
        load.offset & -_PAGE,
        _PROT[load.flags & 7],
    )


def _map_file(rtld: Rtld, backing: Backing, where: int, length: int, command: _Command) -> None:
    rtld.mappings.mmap(
        where, length, command.prot, fixed=True, backing=backing, offset=command.offset, name=backing.path
    )


def _page_up(value: int) -> int:
    return -(-value // _PAGE) * _PAGE


def _zero_fill(rtld: Rtld, bias: int, command: _Command) -> None:
    """Clear the rest of the last file page and map zero pages for what follows it. Raises OSError."""
    if command.alloc_end <= command.data_end:
        return
    zero, end = bias + command.data_end, bias + command.alloc_end
    zero_page = min(_page_up(zero), end)
    if zero_page > zero:
        try:
            rtld.memory.write(zero, bytes(zero_page - zero))
        except MemoryFault:
            raise OSError(errno.EFAULT, "the last page of a segment lies past the end of the file") from None
    if end > zero_page:
        rtld.mappings.mmap(zero_page, _page_up(end) - zero_page, command.prot, fixed=True)
