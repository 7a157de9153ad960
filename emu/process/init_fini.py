"""Constructors and destructors that another linker calls: seen by hooks on their first instructions.

Which functions these are says the object's file: DT_INIT, DT_FINI, and the arrays, whose words are made by
relocation. Since a linker may show an object before it has relocated it, the words are taken from the
relocations and not from memory. A function that the program calls by itself, too, is told of each time.

Source: gABI chapter 5 "Initialization and Termination Functions"; psABI 4.4.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from emu.core.errors import ElfError
from emu.core.events import Finalizer, FiniStarted, Initializer, InitStarted
from emu.core.record import NamedTuple
from emu.elf import constants as c
from emu.elf.dynamic import Dynamic
from emu.elf.relocations import iter_rela

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from emu.core.files import Backing
    from emu.elf.header import Phdr
    from emu.process.process import Process
    from emu.process.rendezvous import SeenObject

_ARRAYS = (
    ("preinit_array", c.DT_PREINIT_ARRAY, c.DT_PREINIT_ARRAYSZ),
    ("init_array", c.DT_INIT_ARRAY, c.DT_INIT_ARRAYSZ),
    ("fini_array", c.DT_FINI_ARRAY, c.DT_FINI_ARRAYSZ),
)
_FINAL = ("fini_array", "DT_FINI")


class _Function(NamedTuple):
    """Whose function it is, and of which kind: preinit_array, DT_INIT, init_array, fini_array or DT_FINI."""

    owner: SeenObject
    kind: str


class InitFini:
    """Tells of each call of a constructor or destructor of the objects that have come."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._functions: dict[int, _Function] = {}
        self._hooked: set[int] = set()
        self._begun: set[tuple[SeenObject, bool]] = set()

    def come(self, seen: SeenObject, file: Backing, phdrs: Sequence[Phdr]) -> None:
        """An object is there, and none of its constructors has run."""
        for kind, vaddr in functions_of(file, phdrs):
            address = seen.bias + vaddr
            self._functions.setdefault(address, _Function(seen, kind))
            if address not in self._hooked:
                self._hooked.add(address)
                self._process.cpu.watch(address, lambda address=address: self._entered(address))  # type: ignore[misc]

    def gone(self, seen: SeenObject) -> None:
        """Forget the functions of an object that is unloaded."""
        self._functions = {at: known for at, known in self._functions.items() if known.owner is not seen}
        self._begun -= {(seen, False), (seen, True)}

    def _entered(self, address: int) -> None:
        known = self._functions.get(address)
        if known is None:
            return
        bus, (owner, kind) = self._process.bus, known
        final = kind in _FINAL
        if not (bus.fini if final else bus.init):
            return
        if (owner, final) not in self._begun:
            self._begun.add((owner, final))
            bus.emit((FiniStarted if final else InitStarted)(owner.name, owner.namespace))
        event = Finalizer if final else Initializer
        bus.emit(event(owner.name, kind, address, self._process.symbols.describe(address)))


def functions_of(file: Backing, phdrs: Sequence[Phdr]) -> Iterator[tuple[str, int]]:
    """Yield the kind and the link-time address of each constructor and destructor of the object in a file;
    nothing for a damaged one.
    """
    section = next((phdr for phdr in phdrs if phdr.type == c.PT_DYNAMIC), None)
    if section is None:
        return
    try:
        dynamic = Dynamic(file.pread(section.filesz, section.offset), file.path)
        relocated = _words(file, phdrs, dynamic)
    except ElfError:
        return
    for kind, tag in (("DT_INIT", c.DT_INIT), ("DT_FINI", c.DT_FINI)):
        if function := dynamic.get(tag):
            yield kind, function
    for kind, tag, size_tag in _ARRAYS:
        start = dynamic.get(tag) or 0
        for place in range(start, start + (dynamic.get(size_tag) or 0) // 8 * 8, 8):
            (word,) = struct.unpack("<Q", _read(file, phdrs, place, 8).ljust(8, b"\0"))
            function = relocated.get(place, word)
            if function and function != (1 << 64) - 1:
                yield kind, function


def _words(file: Backing, phdrs: Sequence[Phdr], dynamic: Dynamic) -> dict[int, int]:
    """Return what relocation puts into the words of an object, less its bias, by
    RELATIVE or a symbol of its own. Raises ElfError.
    """
    table = _read(file, phdrs, dynamic.get(c.DT_RELA) or 0, dynamic.get(c.DT_RELASZ) or 0)
    symbols = dynamic.get(c.DT_SYMTAB) or 0
    words = {}
    for place, info, addend in iter_rela(table, file.path):
        if info & 0xFFFFFFFF == c.R_X86_64_RELATIVE:
            words[place] = addend
        elif info & 0xFFFFFFFF == c.R_X86_64_64:
            symbol = _read(file, phdrs, symbols + (info >> 32) * c.SYM_SIZE, c.SYM_SIZE)
            if len(symbol) == c.SYM_SIZE and any(symbol[6:8]):  # st_shndx: it is defined here
                words[place] = int.from_bytes(symbol[8:16], "little") + addend
    return words


def _read(file: Backing, phdrs: Sequence[Phdr], vaddr: int, size: int) -> bytes:
    """Read from a file by link-time address; what no segment has is not there."""
    for load in phdrs:
        if load.type == c.PT_LOAD and load.vaddr <= vaddr < load.vaddr + load.filesz:
            return file.pread(size, load.offset + vaddr - load.vaddr)
    return b""
