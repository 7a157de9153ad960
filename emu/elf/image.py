"""Reading an object's bytes by link-time address, wherever they are: in the file, or mapped into a guest.

All pointers in a dynamic section are link-time addresses (the p_vaddr space); readers of tables take an
`Image` and stay ignorant of where the object was mapped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from emu.core.errors import ElfError
from emu.elf.constants import PT_LOAD
from emu.elf.header import file_backed_end

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.elf.header import Data, Phdr


_MOST_ZEROS = 1 << 26
_PAGE = 4096


class Image(Protocol):
    """An object whose segments can be read."""

    def read(self, vaddr: int, size: int) -> bytes:
        """Return `size` bytes at the link-time address `vaddr`.

        Raises `ElfError` outside the object's segments.
        """


class FileImage:
    """An `Image` served from the content of a file; bytes past p_filesz (.bss) read as zero."""

    __slots__ = ("_data", "_loads", "_name")

    def __init__(self, data: Data, phdrs: Sequence[Phdr], name: str) -> None:
        self._data = data
        self._loads = [phdr for phdr in phdrs if phdr.type == PT_LOAD]
        self._name = name

    def read(self, vaddr: int, size: int) -> bytes:
        """Return `size` bytes at `vaddr`. Raises `ElfError` when they are not all in one segment."""
        for phdr in self._loads:
            start = vaddr - phdr.vaddr
            if start >= 0 and start + size <= phdr.memsz:
                in_file = max(0, min(size, phdr.filesz - start))
                content = bytes(self._data[phdr.offset + start : phdr.offset + start + in_file])
                if len(content) != in_file:
                    raise ElfError(self._name, "cannot read file data")
                if size - in_file > _MOST_ZEROS:
                    raise ElfError(self._name, f"address range {vaddr:#x}+{size:#x} is too large")
                return content if in_file == size else content + bytes(size - in_file)
        raise ElfError(self._name, f"address range {vaddr:#x}+{size:#x} is in no segment")


def read_some(image: Image, vaddr: int, size: int) -> bytes:
    """Return up to `size` bytes at an address: fewer near the end of what is there, none behind it."""
    found: list[bytes] = []
    end, step = vaddr + size, size
    while vaddr < end and step:
        step = min(step, end - vaddr)
        try:
            found.append(image.read(vaddr, step))
        except ElfError:
            step = min(step // 2, _PAGE)
        else:
            vaddr += step
    return b"".join(found)


def read_table(image: Image, phdrs: list[Phdr], vaddr: int, size: int, field: str, name: str) -> bytes:
    """Return the `size` bytes of the table that the dynamic entry `field` points to.

    Raises `ElfError` naming `field` when the table is not all in the file-backed part of one segment: the
    size comes from the file, and nothing may be allocated for it before it has proved credible.
    """
    if size and vaddr + size > file_backed_end(phdrs, vaddr):
        raise ElfError(name, f"{field} table {vaddr:#x}+{size:#x} is not inside one segment of the file")
    return image.read(vaddr, size) if size else b""
