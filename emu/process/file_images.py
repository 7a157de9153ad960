"""Which ELF file lies at an address, told by what is mapped there: for a process whose linker is not ours.

Nothing but the kernel's own knowledge is needed: the file behind a mapping, the offset in it, and the file's
program headers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.errors import ElfError
from emu.core.record import NamedTuple
from emu.elf import constants as c
from emu.elf.header import parse_ehdr, parse_phdrs

if TYPE_CHECKING:
    from emu.core.files import Backing
    from emu.elf.header import Phdr
    from emu.machine.address_space import AddressSpace
    from emu.machine.vma import Vma

_PAGE = 4096
_HEADERS = 1 << 16
"""As much of a file as its program headers may lie in."""


class MappedFile(NamedTuple):
    """A file in memory: `bias` is what was added to its addresses, [start, end) the
    range that its segments span.
    """

    file: Backing
    path: str
    bias: int
    start: int
    end: int
    phdrs: tuple[Phdr, ...]
    file_id: tuple[int, int]


class FileImages:
    """Finds the images of one address space. The program headers of a file are read once."""

    def __init__(self, space: AddressSpace) -> None:
        self._space = space
        self._phdrs: dict[tuple[int, int], tuple[Phdr, ...]] = {}

    def find(self, address: int) -> MappedFile | None:
        """Return the file whose segment lies at `address`;
        None for memory that comes from no file, and for files that are no ELF images.
        """
        area = self._space.find(address)
        if area is None or area.backing is None:
            return None
        phdrs = self._read(area.backing)
        offset = area.offset + address - area.start
        for load in (phdr for phdr in phdrs if phdr.type == c.PT_LOAD):
            if not load.offset & -_PAGE <= offset < load.offset + load.filesz:
                continue
            image = _image(area.backing, phdrs, address - offset + load.offset - load.vaddr)
            if self._begins(image, area):
                return image
        return None

    def _read(self, backing: Backing) -> tuple[Phdr, ...]:
        identity = backing.dev, backing.ino
        if identity not in self._phdrs:
            data = backing.pread(_HEADERS, 0)
            try:
                self._phdrs[identity] = tuple(parse_phdrs(data, parse_ehdr(data, backing.path), backing.path))
            except ElfError:
                self._phdrs[identity] = ()
        return self._phdrs[identity]

    def _begins(self, image: MappedFile, area: Vma) -> bool:
        """Whether the first segment is where it would be:
        a page at a border may belong to either of two segments.
        """
        first = self._space.find(image.start)
        return first is not None and first.backing is not None and first.backing.ino == image.file_id[1]


def _image(backing: Backing, phdrs: tuple[Phdr, ...], bias: int) -> MappedFile:
    loads = [phdr for phdr in phdrs if phdr.type == c.PT_LOAD]
    start = bias + (loads[0].vaddr & -_PAGE)
    end = bias + max(load.vaddr + load.memsz for load in loads)
    return MappedFile(backing, backing.path, bias, start, end, phdrs, (backing.dev, backing.ino))
