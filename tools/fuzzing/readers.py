"""Readers under fuzzing: whatever bytes they get, they answer or raise EmuError, soon, and hold no more than
a file of that size is worth.

Each reader is a function of one file's bytes. It runs in this process, a few thousand times a second.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from emu.core.errors import ElfError, EmuError, MemoryFault
from emu.core.inputs import parse_toml
from emu.elf import constants as c
from emu.elf.cfi import UnwindTable
from emu.elf.dynamic import Dynamic, read_dynamic
from emu.elf.header import check_complete, check_executable, check_loadable, parse_ehdr, parse_phdrs
from emu.elf.image import FileImage, read_table
from emu.elf.notes import (
    abi_tag,
    build_id,
    first_properties,
    gnu_properties,
    loaded_properties,
    parse_notes,
)
from emu.elf.relocations import iter_rela, relr_addresses
from emu.elf.symtab import SymbolTable
from emu.elf.versions import version_defs, version_needs
from emu.kernel.run.policy import Replay
from emu.rtld.cache import LdSoCache
from tools.fuzzing import elf
from tools.fuzzing.texts import mutate_bytes, mutate_text, seed_cache, seed_schedule, seed_suppressions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.elf.header import Phdr

SEED = Path(__file__).resolve().parent.parent.parent / ".cache" / "fixtures" / "fuzz-seed"
_NAMES = (b"scale", b"count", b"no such name", b"", b"\xff\x1b[31m")


class Reader(NamedTuple):
    """What is fuzzed: how bytes are read, the good files that mutants come from, and how mutants are made."""

    name: str
    read: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    mutate: Callable[[bytes, Random], bytes]


def read_loaded(data: bytes) -> None:
    """Read all that a loader reads of an object."""
    with suppress(EmuError):
        check_executable(data, "F")
    ehdr = parse_ehdr(data, "F")
    phdrs = parse_phdrs(data, ehdr, "F")
    with suppress(ElfError):
        check_loadable(ehdr, phdrs, "F")
    with suppress(ElfError):
        check_complete(phdrs, len(data), "F")
    image = FileImage(data, phdrs, "F")
    _read_notes(image, phdrs, len(data))
    segment = next((p for p in reversed(phdrs) if p.type == c.PT_DYNAMIC), None)
    if segment is None:
        return
    dynamic = Dynamic(read_dynamic(image, segment.vaddr, "F"), "F")
    table = SymbolTable(image, phdrs, dynamic, "F")
    for name in _NAMES:
        for hashes in (table.gnu_hash, table.sysv_hash):
            with suppress(EmuError):
                for index in hashes.candidates(name) if hashes is not None else ():
                    table.symbol(index)
    with suppress(EmuError):
        list(table.symbols())
    for read in (version_needs, version_defs):
        with suppress(EmuError):
            list(read(image, dynamic, table.strings, "F"))
    _read_relocations(image, phdrs, dynamic)


def _read_notes(image: FileImage, phdrs: list[Phdr], size: int) -> None:
    for phdr in phdrs:
        if phdr.type not in (c.PT_NOTE, c.PT_GNU_PROPERTY):
            continue
        with suppress(EmuError):
            notes = list(parse_notes(image.read(phdr.vaddr, min(phdr.filesz, size)), phdr.align, "F"))
            build_id(notes), abi_tag(notes, "F"), gnu_properties(notes, "F")
        for read in (loaded_properties, first_properties):
            with suppress(EmuError):
                read(image, phdr.vaddr, phdr.memsz, "F")


def _read_relocations(image: FileImage, phdrs: list[Phdr], dynamic: Dynamic) -> None:
    for tag in (c.DT_RELA, c.DT_JMPREL, c.DT_RELR, c.DT_INIT_ARRAY):
        with suppress(EmuError):
            vaddr, size = dynamic.table(tag)
            data = read_table(image, phdrs, vaddr, size, "table", "F")
            if tag == c.DT_RELR:
                relr_addresses(data, "F")
            elif tag != c.DT_INIT_ARRAY:
                list(iter_rela(data, "F"))


class _Memory:
    """A file's bytes as memory from 0 on, for unwind information."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, address: int, size: int) -> bytes:
        if not 0 <= address <= address + size <= len(self._data):
            raise MemoryFault(address, "read")
        return self._data[address : address + size]


def read_frames(data: bytes) -> None:
    """Unwind at some addresses by what the object's .eh_frame_hdr says."""
    phdrs = parse_phdrs(data, parse_ehdr(data, "F"), "F")
    for phdr in phdrs:
        if phdr.type == c.PT_GNU_EH_FRAME:
            table = UnwindTable(_Memory(data), phdr.vaddr, phdr.memsz, "F")
            for pc in (0x1000, 0x1040, 0x1135, 0x1150, 0x11A0, 0x3000):
                with suppress(EmuError):
                    table.row(pc)


def read_debug(data: bytes) -> None:
    """Ask for names and lines, with the debugging information that the object has."""
    from emu.elf.dwarf import DebugInfo

    with _file(data) as path:
        info = DebugInfo(path, root=os.path.dirname(path))
        for vaddr in (0x1135, 0x1150, 0x11A0, 0x4010):
            for ask in (info.function, info.line, info.inlined, info.section):
                with suppress(EmuError):
                    ask(vaddr)
        for word in (b"count", b"no such name"):
            with suppress(EmuError):
                info.static_symbols(word)
        with suppress(EmuError):
            info.tls_symbol(0)
        with suppress(EmuError):
            info.section_address(".eh_frame")


@contextmanager
def _file(data: bytes) -> Iterator[str]:
    """Give the bytes as a file, by a path that needs no disk."""
    folder = os.path.join(tempfile.gettempdir(), f"emu-fuzz-{os.getpid()}")
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "object")
    with open(path, "wb") as file:
        file.write(data)
    try:
        yield path
    finally:
        os.unlink(path)
        os.rmdir(folder)


def read_cache(data: bytes) -> None:
    """Look names up in an ld.so.cache."""
    cache = LdSoCache(data, ("x86-64-v2",))
    for name in (b"libc.so.6", b"libseed.so", b"libz.so.1", b"", b"lib10.so", b"\xff"):
        cache.lookup(name)


def read_schedule(data: bytes) -> None:
    """Read a schedule and follow it."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return  # told before the reader sees it
    policy = Replay(text.splitlines(), "F")
    for _ in range(50):
        policy.choose((1000, 1001, 1002))


def read_suppressions(data: bytes) -> None:
    """Read a file of suppressions."""
    from emu.analysis.check_suppress import SuppressionError, parse

    try:
        table = parse_toml(data)
    except ValueError:
        return  # told before the reader sees it
    with suppress(SuppressionError):
        parse(table, "F")


def _elf_seeds(*names: str) -> Callable[[], list[bytes]]:
    return lambda: [(SEED / name).read_bytes() for name in names]


READERS = (
    Reader("load", read_loaded, _elf_seeds("main", "main-fixed", "libseed.so"), lambda d, r: elf.mutate(d, r)[0]),
    Reader("frames", read_frames, _elf_seeds("libseed.so"), lambda d, r: elf.mutate(d, r, elf.FRAMES)[0]),
    Reader("debug", read_debug, _elf_seeds("libseed.so", "compressed.so"), lambda d, r: elf.mutate(d, r, elf.DEBUGGED)[0]),
    Reader("cache", read_cache, seed_cache, mutate_bytes),
    Reader("schedule", read_schedule, seed_schedule, mutate_text),
    Reader("suppressions", read_suppressions, seed_suppressions, mutate_text),
)  # fmt: skip
"""Every reader of files that are not our own."""
