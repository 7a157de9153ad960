"""Structured mutation of ELF files: each knows a table of the format, and puts a
value there that somebody might.

Nothing here reads by `emu`'s own code: a fault in a reader must not steer what is tried.
Source: gABI chapters 4 and 5; psABI 4.4.
"""

from __future__ import annotations

import copy
import struct
from collections.abc import Callable, Iterator
from functools import lru_cache
from random import Random
from typing import NamedTuple

_EHDR_FIELDS = (
    ("ei_class", 4, 1), ("ei_data", 5, 1), ("ei_version", 6, 1), ("ei_osabi", 7, 1), ("ei_abiversion", 8, 1), ("ei_pad", 9, 1),
    ("e_type", 16, 2), ("e_machine", 18, 2), ("e_version", 20, 4), ("e_entry", 24, 8), ("e_phoff", 32, 8), ("e_shoff", 40, 8),
    ("e_flags", 48, 4), ("e_ehsize", 52, 2), ("e_phentsize", 54, 2), ("e_phnum", 56, 2), ("e_shentsize", 58, 2), ("e_shnum", 60, 2),
    ("e_shstrndx", 62, 2),
)  # fmt: skip
_PHDR_FIELDS = (
    ("p_type", 0, 4), ("p_flags", 4, 4), ("p_offset", 8, 8), ("p_vaddr", 16, 8), ("p_paddr", 24, 8), ("p_filesz", 32, 8),
    ("p_memsz", 40, 8), ("p_align", 48, 8),
)  # fmt: skip
_SHDR_FIELDS = (
    ("sh_name", 0, 4), ("sh_type", 4, 4), ("sh_flags", 8, 8), ("sh_addr", 16, 8), ("sh_offset", 24, 8), ("sh_size", 32, 8),
    ("sh_link", 40, 4), ("sh_info", 44, 4), ("sh_addralign", 48, 8), ("sh_entsize", 56, 8),
)  # fmt: skip
_PT_TYPES = (0, 1, 2, 3, 4, 5, 6, 7, 0x6474E550, 0x6474E551, 0x6474E552, 0x6474E553, 0x65A3DBE6, 0x70000000)
_DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_RELA, _DT_JMPREL, _DT_RELR = 4, 5, 6, 7, 23, 36
_DT_GNU_HASH, _DT_VERSYM, _DT_VERDEF, _DT_VERNEED = 0x6FFFFEF5, 0x6FFFFFF0, 0x6FFFFFFC, 0x6FFFFFFE
_SIZES = {_DT_STRTAB: 10, _DT_RELA: 8, _DT_JMPREL: 2, _DT_RELR: 35}
_ALL_TAGS = (
    *range(39),
    0x6FFFFEF5,
    *range(0x6FFFFFF0, 0x70000000),
    0x6FFFFDF8,
    0x6FFFFEFA,
    0x7FFFFFFD,
    0x7FFFFFFF,
)
_EDGES = (
    0, 1, 2, 3, 7, 8, 15, 16, 23, 24, 0x40, 0xFF, 0xFFF, 0x1000, 0x1001, 0x2000, 0xFFFF, 0x10000, 0x100000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF,
    1 << 32, 1 << 40, (1 << 47) - 4096, 1 << 47, (1 << 63) - 1, 1 << 63, (1 << 64) - 4096, (1 << 64) - 24, (1 << 64) - 8, (1 << 64) - 1,
)  # fmt: skip


class Section(NamedTuple):
    """A section header: where it lies in the file, its name, and where its content lies."""

    at: int
    name: str
    offset: int
    size: int


class Elf:
    """A file under mutation, well-made or a mutant already.

    `data` is changed in place, where things were stays known.
    """

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        self.length = len(data)
        phoff, shoff = struct.unpack_from("<QQ", data, 32)
        phnum, _, shnum, shstrndx = struct.unpack_from("<HHHH", data, 56)
        self.phdrs = [phoff + 56 * i for i in range(phnum)]
        self.fields: list[tuple[int, ...]] = [struct.unpack_from("<IIQQQQQQ", data, at) for at in self.phdrs]
        self.dynamic: list[int] = []
        for type_, _, offset, _, _, size, *_ in self.fields:
            if type_ == 2:
                self.dynamic = list(range(offset, min(offset + size, len(data) - 15), 16))
        self.tags: dict[int, int] = {}
        for at in self.dynamic:
            tag, value = struct.unpack_from("<QQ", data, at)
            if tag == 0:
                self.dynamic = [found for found in self.dynamic if found <= at]
                break
            self.tags.setdefault(tag, value)
        self.sections = list(self._sections(shoff, shnum, shstrndx)) if shoff else []

    def another(self) -> Elf:
        """Return the same file with bytes of its own, to be changed; where things were is shared."""
        other = copy.copy(self)
        other.data = bytearray(self.data)
        return other

    def _sections(self, shoff: int, shnum: int, shstrndx: int) -> Iterator[Section]:
        names = struct.unpack_from("<Q", self.data, shoff + 64 * shstrndx + 24)[0]
        for at in range(shoff, shoff + 64 * shnum, 64):
            name, type_ = struct.unpack_from("<II", self.data, at)
            offset, size = struct.unpack_from("<QQ", self.data, at + 24)
            end = self.data.index(0, names + name)
            text = self.data[names + name : end].decode()
            yield Section(at, text, offset, 0 if type_ == 8 else size)

    def offset(self, vaddr: int) -> int | None:
        """Return the file offset of a link-time address, None where no segment has it in the file."""
        for type_, _, offset, start, _, filesz, *_ in self.fields:
            if type_ == 1 and start <= vaddr < start + filesz:
                return int(offset + vaddr - start)
        return None

    def table(self, tag: int) -> tuple[int, int] | None:
        """Return (file offset, size) of a table that the dynamic section names;
        its size is a guess where the format has none.
        """
        at = self.offset(self.tags[tag]) if tag in self.tags else None
        if at is None:
            return None
        ends = [
            self.tags[other] for other in self.tags if other in _TABLES and self.tags[other] > self.tags[tag]
        ]
        size = self.tags.get(_SIZES.get(tag, -1), min(ends, default=self.tags[tag] + 64) - self.tags[tag])
        return at, min(size, self.length - at)

    def put(self, at: int, width: int, value: int) -> None:
        """Store a number, if the file is still long enough."""
        if at + width <= len(self.data):
            self.data[at : at + width] = (value & ((1 << 8 * width) - 1)).to_bytes(width, "little")

    def get(self, at: int, width: int) -> int:
        """Return a number; 0 behind the end."""
        return int.from_bytes(self.data[at : at + width], "little")


_TABLES = (
    _DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_RELA, _DT_JMPREL, _DT_RELR, _DT_GNU_HASH, _DT_VERSYM, _DT_VERDEF, _DT_VERNEED,
)  # fmt: skip


def value(random: Random, elf: Elf, old: int) -> int:
    """Return a number that is near the old one, an edge of something, an address or
    size of this very file, or any.
    """
    match random.randrange(8):
        case 0 | 1:
            return old + random.choice((-4096, -64, -24, -16, -8, -4, -1, 1, 4, 8, 16, 24, 64, 4096))
        case 2:
            return old ^ 1 << random.randrange(64)
        case 3:
            return random.choice(_EDGES) + random.choice((0, 0, 0, -1, 1, 8))
        case 4:
            return random.choice([f[i] for f in elf.fields for i in (2, 3, 5, 6)] + [elf.length])
        case 5:
            return random.choice(list(elf.tags.values()) or [0])
        case 6:
            return random.randrange(elf.length * 2)
        case _:
            return random.getrandbits(random.choice((8, 16, 32, 48, 64)))


def _field(elf: Elf, random: Random, base: int, field: tuple[str, int, int]) -> str:
    name, at, width = field
    new = value(random, elf, elf.get(base + at, width))
    elf.put(base + at, width, new)
    return f"{name}={new & ((1 << 8 * width) - 1):#x}"


def ehdr(elf: Elf, random: Random) -> str:
    """One field of the ELF header."""
    return _field(elf, random, 0, random.choice(_EHDR_FIELDS))


def phdr(elf: Elf, random: Random) -> str:
    """One field of a program header."""
    number = random.randrange(len(elf.phdrs))
    field = random.choice(_PHDR_FIELDS)
    base = elf.phdrs[number]
    if field[0] == "p_type":
        new = random.choice(_PT_TYPES)
        elf.put(base, 4, new)
        return f"phdr[{number}].p_type={new:#x}"
    if field[0] == "p_flags":
        elf.put(base + 4, 4, random.randrange(8))
        return f"phdr[{number}].p_flags"
    return f"phdr[{number}]." + _field(elf, random, base, field)


def phdr_swap(elf: Elf, random: Random) -> str:
    """Two program headers change places, or one is there twice."""
    a, b = random.choice(elf.phdrs), random.choice(elf.phdrs)
    first, second = elf.data[a : a + 56], elf.data[b : b + 56]
    elf.data[b : b + len(second)] = first[: len(second)]
    if random.randrange(2):
        elf.data[a : a + len(first)] = second[: len(first)]
        return "program headers change places"
    return "a program header twice"


def dynamic_value(elf: Elf, random: Random) -> str:
    """The value of an entry of the dynamic section."""
    at = random.choice(elf.dynamic)
    return f"dynamic tag {elf.get(at, 8):#x}: " + _field(elf, random, at, ("d_val", 8, 8))


def dynamic_tag(elf: Elf, random: Random) -> str:
    """The tag of an entry: another one, one that nobody knows, or the end."""
    at = random.choice(elf.dynamic)
    old, new = elf.get(at, 8), random.choice((*_ALL_TAGS, 0, 0x12345678, 0x12345678, 1 << 63))
    elf.put(at, 8, new)
    return f"dynamic tag {old:#x} becomes {new:#x}"


def dynamic_swap(elf: Elf, random: Random) -> str:
    """Two entries exchange their values."""
    a, b = random.choice(elf.dynamic), random.choice(elf.dynamic)
    first, second = elf.get(a + 8, 8), elf.get(b + 8, 8)
    elf.put(a + 8, 8, second)
    elf.put(b + 8, 8, first)
    return f"dynamic tags {elf.get(a, 8):#x} and {elf.get(b, 8):#x} exchange values"


def _words(elf: Elf, random: Random, tag: int, width: int, name: str) -> str:
    place = elf.table(tag)
    if place is None or place[1] < width:
        return f"no {name}"
    at = place[0] + random.randrange(place[1] // width) * width
    return f"{name}+{at - place[0]:#x}: " + _field(elf, random, at, ("", 0, width))


def symbol(elf: Elf, random: Random) -> str:
    """One field of a dynamic symbol."""
    place = elf.table(_DT_SYMTAB)
    if place is None or place[1] < 24:
        return "no symbols"
    at = place[0] + random.randrange(place[1] // 24) * 24
    field = random.choice(
        (
            ("st_name", 0, 4),
            ("st_info", 4, 1),
            ("st_other", 5, 1),
            ("st_shndx", 6, 2),
            ("st_value", 8, 8),
            ("st_size", 16, 8),
        )
    )
    return f"symbol {(at - place[0]) // 24}: " + _field(elf, random, at, field)


def relocation(elf: Elf, random: Random) -> str:
    """One field of a RELA entry."""
    tag = random.choice((_DT_RELA, _DT_JMPREL))
    place = elf.table(tag)
    if place is None or place[1] < 24:
        return "no relocations"
    at = place[0] + random.randrange(place[1] // 24) * 24
    field = random.choice((("r_offset", 0, 8), ("r_type", 8, 4), ("r_sym", 12, 4), ("r_addend", 16, 8)))
    if field[0] == "r_type" and random.randrange(2):
        new = random.randrange(44)
        elf.put(at + 8, 4, new)
        return f"relocation {(at - place[0]) // 24}: type {new}"
    return f"relocation {(at - place[0]) // 24}: " + _field(elf, random, at, field)


def relr(elf: Elf, random: Random) -> str:
    """A word of the packed relocations."""
    return _words(elf, random, _DT_RELR, 8, "relr")


def gnu_hash(elf: Elf, random: Random) -> str:
    """A word of DT_GNU_HASH."""
    return _words(elf, random, _DT_GNU_HASH, 4, "gnu_hash")


def sysv_hash(elf: Elf, random: Random) -> str:
    """A word of DT_HASH."""
    return _words(elf, random, _DT_HASH, 4, "hash")


def versions(elf: Elf, random: Random) -> str:
    """A word of the version tables."""
    tag, width = random.choice(
        ((_DT_VERSYM, 2), (_DT_VERDEF, 2), (_DT_VERDEF, 4), (_DT_VERNEED, 2), (_DT_VERNEED, 4))
    )
    return _words(elf, random, tag, width, f"versions {tag:#x}")


def strings(elf: Elf, random: Random) -> str:
    """A byte of the dynamic strings: a NUL, an escape, a byte above ASCII, a slash, any."""
    place = elf.table(_DT_STRTAB)
    if place is None:
        return "no strings"
    at = place[0] + random.randrange(max(place[1], 1))
    elf.put(at, 1, random.choice((0, 10, 27, 0x80, 0xFF, 47, 58, 36, random.randrange(256))))
    return f"string byte {at - place[0]:#x}"


def notes(elf: Elf, random: Random) -> str:
    """A word of a note."""
    found = [fields for fields in elf.fields if fields[0] in (4, 0x6474E553) and fields[5] >= 4]
    if not found:
        return "no notes"
    fields = random.choice(found)
    at = fields[2] + random.randrange(fields[5] // 4) * 4
    return f"note word {at - fields[2]:#x}: " + _field(elf, random, at, ("", 0, 4))


def section_header(elf: Elf, random: Random) -> str:
    """One field of a section header."""
    if not elf.sections:
        return "no sections"
    found = random.choice(elf.sections)
    return f"{found.name}: " + _field(elf, random, found.at, random.choice(_SHDR_FIELDS))


def debug_content(elf: Elf, random: Random) -> str:
    """A few bytes of a section that only debuggers read, unwind information included."""
    return _content(elf, random, (".debug", ".eh_frame", ".gnu_debug", ".symtab", ".strtab", ".note"))


def frames(elf: Elf, random: Random) -> str:
    """A few bytes of unwind information."""
    return _content(elf, random, (".eh_frame",))


def _content(elf: Elf, random: Random, names: tuple[str, ...]) -> str:
    found = [section for section in elf.sections if section.size and section.name.startswith(names)]
    if not found:
        return "no such sections"
    chosen = random.choice(found)
    for _ in range(random.choice((1, 1, 2, 8))):
        at = chosen.offset + random.randrange(chosen.size)
        width = random.choice((1, 1, 1, 2, 4, 8))
        elf.put(at, width, value(random, elf, elf.get(at, width)))
    return f"content of {chosen.name}"


def truncate(elf: Elf, random: Random) -> str:
    """The file ends early."""
    size = random.choice(
        (
            random.randrange(elf.length),
            random.randrange(min(elf.length, 0x1000)),
            random.choice((0, 1, 63, 64, 65, 4096)),
        )
    )
    del elf.data[size:]
    return f"cut to {size}"


def wipe(elf: Elf, random: Random) -> str:
    """A stretch of zeros, ones or noise."""
    at, size = random.randrange(elf.length), random.choice((1, 8, 64, 512, 4096))
    fill = random.choice((b"\0", b"\xff", None))
    end = min(at + size, len(elf.data))
    if at < end:
        elf.data[at:end] = fill * (end - at) if fill is not None else random.randbytes(end - at)
    return f"wiped {at:#x}+{size:#x}"


def bits(elf: Elf, random: Random) -> str:
    """One bit anywhere."""
    at = random.randrange(elf.length)
    if at < len(elf.data):
        elf.data[at] ^= 1 << random.randrange(8)
    return f"bit at {at:#x}"


Mutation = Callable[[Elf, Random], str]
LOADED: tuple[Mutation, ...] = (
    ehdr, phdr, phdr, phdr, phdr_swap, dynamic_value, dynamic_value, dynamic_value, dynamic_tag, dynamic_tag, dynamic_swap, symbol, symbol, relocation,
    relocation, relr, gnu_hash, sysv_hash, versions, versions, strings, notes, truncate, wipe, bits, section_header,
)  # fmt: skip
"""What concerns those who load a file."""
DEBUGGED: tuple[Mutation, ...] = (
    section_header,
    section_header,
    debug_content,
    debug_content,
    debug_content,
    debug_content,
    debug_content,
    truncate,
    wipe,
)
"""What concerns those who read its debugging information."""


FRAMES: tuple[Mutation, ...] = (frames, frames, frames, frames, phdr, truncate, wipe)
"""What concerns those who unwind."""


@lru_cache(maxsize=16)
def _good(data: bytes) -> Elf:
    """Return a file that many mutants come from: its tables are looked for once."""
    return Elf(data)


def mutate(data: bytes, random: Random, kinds: tuple[Mutation, ...] = LOADED) -> tuple[bytes, str]:
    """Return the file with one to three things wrong in it, and what they are."""
    elf = _good(data).another()
    told = [random.choice(kinds)(elf, random) for _ in range(random.choice((1, 1, 1, 2, 3)))]
    return bytes(elf.data), "; ".join(told)
