"""Notes: what the build says about an object (build ID, ABI tag, GNU properties)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from emu.core.errors import ElfError
from emu.core.record import NamedTuple
from emu.elf import constants as c

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from emu.elf.image import Image

_NHDR = struct.Struct("<III")
_PROPERTY = struct.Struct("<II")
_ABI_TAG_HEAD = struct.pack("<III4s", 4, 16, c.NT_GNU_ABI_TAG, b"GNU")
_ABI_TAG_SIZE = len(_ABI_TAG_HEAD) + 16


class Note(NamedTuple):
    """One note: `owner` without its NUL, `type` NT_*, `desc` the content without padding."""

    owner: bytes
    type: int
    desc: bytes


class AbiTag(NamedTuple):
    """NT_GNU_ABI_TAG: the operating system (0 is Linux) and the oldest kernel
    version that the object runs on.
    """

    os: int
    major: int
    minor: int
    patch: int


class GnuProperties(NamedTuple):
    """NT_GNU_PROPERTY_TYPE_0: the bits of GNU_PROPERTY_X86_ISA_1_* and
    GNU_PROPERTY_X86_FEATURE_1_*, 0 where absent.
    """

    isa_1_needed: int = 0
    isa_1_used: int = 0
    feature_1: int = 0
    needed_1: int = 0
    stack_size: int = 0
    no_copy_on_protected: bool = False


def parse_notes(data: bytes, align: int, name: str) -> Iterator[Note]:
    """Yield the notes of one PT_NOTE or PT_GNU_PROPERTY segment;
    `align` is its p_align (8 pads to 8, all else to 4).

    Raises `ElfError` for a note that passes the segment's end.
    Source: gABI chapter 5 "Note Section"; Linux ABI extensions (8-byte alignment of property notes).
    """
    unit = 8 if align == 8 else 4
    at = 0
    while at < len(data):
        if at + _NHDR.size > len(data):
            raise ElfError(name, f"note header at offset {at:#x} passes the end of its segment")
        owner_size, desc_size, type_ = _NHDR.unpack_from(data, at)
        owner_at = at + _NHDR.size
        desc_at = _align(owner_at + owner_size, unit)
        if desc_at + desc_size > len(data):
            raise ElfError(name, f"note at offset {at:#x} passes the end of its segment")
        owner = data[owner_at : owner_at + owner_size].rstrip(b"\0")
        yield Note(owner, type_, data[desc_at : desc_at + desc_size])
        at = _align(desc_at + desc_size, unit)


def build_id(notes: Iterable[Note]) -> bytes | None:
    """Return the content of NT_GNU_BUILD_ID, or None."""
    for note in notes:
        if note.owner == b"GNU" and note.type == c.NT_GNU_BUILD_ID:
            return note.desc
    return None


def abi_tag(notes: Iterable[Note], name: str) -> AbiTag | None:
    """Return NT_GNU_ABI_TAG, or None. Raises `ElfError` when its content is too short."""
    for note in notes:
        if note.owner == b"GNU" and note.type == c.NT_GNU_ABI_TAG:
            if len(note.desc) < 16:
                raise ElfError(name, f"NT_GNU_ABI_TAG has {len(note.desc)} bytes, not 16")
            return AbiTag._make(struct.unpack_from("<IIII", note.desc))
    return None


def wanted_system(data: bytes, align: int) -> AbiTag | None:
    """Return the ABI tag that ld.so finds in a PT_NOTE segment: the first of exactly 16 bytes.

    `align` is p_align, 4 or 8.

    None where there is none up to the end of the segment, or up to a note that passes it.
    Source: glibc elf/dl-load.c:open_verify, to 2.35.
    """
    at = 0
    while at + _ABI_TAG_SIZE <= len(data):
        if data.startswith(_ABI_TAG_HEAD, at):
            return AbiTag._make(struct.unpack_from("<IIII", data, at + len(_ABI_TAG_HEAD)))
        owner_size, desc_size, _ = _NHDR.unpack_from(data, at)
        at = _align(_align(at + _NHDR.size + owner_size, align) + desc_size, align)
    return None


def gnu_properties(notes: Iterable[Note], name: str) -> GnuProperties | None:
    """Return the properties of the first NT_GNU_PROPERTY_TYPE_0, or None when there is no such note.

    Unknown properties are skipped, as the ABI asks of a loader. Raises `ElfError` for one that passes the
    note's end or has another size than its type.
    Source: Linux ABI extensions "Program Property"; psABI 5.1.
    """
    for note in notes:
        if note.owner == b"GNU" and note.type == c.NT_GNU_PROPERTY_TYPE_0:
            return _properties(note.desc, name)
    return None


def loaded_properties(image: Image, vaddr: int, size: int, name: str) -> GnuProperties:
    """Return what ld.so takes from a note segment that is mapped and aligned to 8,
    leaving out what makes no sense, as it does.

    It passes over the notes as far as `size` (p_memsz) says. Nothing counts where the properties are out of
    order, pass their note, have another size than theirs, or come in two notes. Raises `ElfError` where that
    leads out of what is mapped.
    Source: glibc sysdeps/x86/dl-prop.h:_dl_process_property_note.
    """
    found: GnuProperties | None = None
    for content, desc_size in _property_notes(image, vaddr, size, name):
        if found is not None or desc_size < 8 or desc_size % 8:
            return GnuProperties()
        found = _leading_properties(image, content, desc_size)
        if found is None:
            return GnuProperties()
    return found or GnuProperties()


def first_properties(image: Image, vaddr: int, size: int, name: str) -> GnuProperties:
    """Return what ld.so takes from a mapped PT_GNU_PROPERTY: the properties of its first such note.

    Raises `ElfError` where that leads out of what is mapped.
    Source: glibc elf/dl-load.c:_dl_process_pt_gnu_property.
    """
    content, size = next(_property_notes(image, vaddr, size, name), (0, 0))
    found = _leading_properties(image, content, size) if size else None
    return found or GnuProperties()


def _property_notes(image: Image, vaddr: int, size: int, name: str) -> Iterator[tuple[int, int]]:
    """Yield address and size of the content of each NT_GNU_PROPERTY_TYPE_0."""
    at = 0
    for _ in range(_NOTES_LIMIT):
        if at + _NHDR.size >= size:
            return
        owner_size, desc_size, type_ = _NHDR.unpack(image.read(vaddr + at, _NHDR.size))
        is_ours = owner_size == 4 and type_ == c.NT_GNU_PROPERTY_TYPE_0
        if is_ours and image.read(vaddr + at + _NHDR.size, 4) == b"GNU\0":
            yield vaddr + at + _NHDR.size + 4, desc_size
        at = _align(_align(at + _NHDR.size + owner_size, 8) + desc_size, 8)
    raise ElfError(name, f"a note segment has more than {_NOTES_LIMIT} notes")


def _leading_properties(image: Image, vaddr: int, size: int) -> GnuProperties | None:
    """Return the three properties that are looked for, None where one makes no sense;
    what comes behind the last of them is not read.
    """
    found: dict[int, int] = {}
    at = last = 0
    while size - at >= _PROPERTY.size and last != c.GNU_PROPERTY_X86_ISA_1_NEEDED:
        type_, length = _PROPERTY.unpack(image.read(vaddr + at, _PROPERTY.size))
        at += _PROPERTY.size
        if type_ < last or at + length > size or type_ in _LOADED and length != 4:
            return None
        if type_ > c.GNU_PROPERTY_X86_ISA_1_NEEDED:
            break
        if type_ in _LOADED:
            found[type_] = int.from_bytes(image.read(vaddr + at, 4), "little")
        last = type_
        at = _align(at + length, 8)
    return GnuProperties(
        isa_1_needed=found.get(c.GNU_PROPERTY_X86_ISA_1_NEEDED, 0),
        feature_1=found.get(c.GNU_PROPERTY_X86_FEATURE_1_AND, 0),
        needed_1=found.get(c.GNU_PROPERTY_1_NEEDED, 0),
    )


_NOTES_LIMIT = 1 << 12
_LOADED = (c.GNU_PROPERTY_X86_ISA_1_NEEDED, c.GNU_PROPERTY_X86_FEATURE_1_AND, c.GNU_PROPERTY_1_NEEDED)


def _properties(desc: bytes, name: str) -> GnuProperties:
    found: dict[int, int] = {}
    at = 0
    while at < len(desc):
        if at + _PROPERTY.size > len(desc):
            raise ElfError(name, "GNU property passes the end of its note")
        type_, size = _PROPERTY.unpack_from(desc, at)
        at += _PROPERTY.size
        if at + size > len(desc):
            raise ElfError(name, f"GNU property {type_:#x} passes the end of its note")
        expected = _PROPERTY_SIZES.get(type_)
        if expected is not None:
            if size != expected:
                raise ElfError(name, f"GNU property {type_:#x} has {size} bytes, not {expected}")
            found[type_] = int.from_bytes(desc[at : at + size], "little")
        at = _align(at + size, 8)
    return GnuProperties(
        isa_1_needed=found.get(c.GNU_PROPERTY_X86_ISA_1_NEEDED, 0),
        isa_1_used=found.get(c.GNU_PROPERTY_X86_ISA_1_USED, 0),
        feature_1=found.get(c.GNU_PROPERTY_X86_FEATURE_1_AND, 0),
        needed_1=found.get(c.GNU_PROPERTY_1_NEEDED, 0),
        stack_size=found.get(c.GNU_PROPERTY_STACK_SIZE, 0),
        no_copy_on_protected=c.GNU_PROPERTY_NO_COPY_ON_PROTECTED in found,
    )


_PROPERTY_SIZES = {
    c.GNU_PROPERTY_STACK_SIZE: 8,
    c.GNU_PROPERTY_NO_COPY_ON_PROTECTED: 0,
    c.GNU_PROPERTY_1_NEEDED: 4,
    c.GNU_PROPERTY_X86_FEATURE_1_AND: 4,
    c.GNU_PROPERTY_X86_ISA_1_NEEDED: 4,
    c.GNU_PROPERTY_X86_ISA_1_USED: 4,
}


def _align(value: int, unit: int) -> int:
    return (value + unit - 1) & -unit
