"""Notes: what the build says about an object (build ID, ABI tag, GNU properties)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from emu.core.errors import ElfError
from emu.elf import constants as c

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_NHDR = struct.Struct("<III")
_PROPERTY = struct.Struct("<II")


class Note(NamedTuple):
    """One note: `owner` without its NUL, `type` NT_*, `desc` the content without padding."""

    owner: bytes
    type: int
    desc: bytes


class AbiTag(NamedTuple):
    """NT_GNU_ABI_TAG: the operating system (0 is Linux) and the oldest kernel version that the object runs on."""

    os: int
    major: int
    minor: int
    patch: int


class GnuProperties(NamedTuple):
    """NT_GNU_PROPERTY_TYPE_0: the bits of GNU_PROPERTY_X86_ISA_1_* and GNU_PROPERTY_X86_FEATURE_1_*, 0 where absent."""

    isa_1_needed: int = 0
    isa_1_used: int = 0
    feature_1: int = 0
    needed_1: int = 0
    stack_size: int = 0
    no_copy_on_protected: bool = False


def parse_notes(data: bytes, align: int, name: str) -> Iterator[Note]:
    """Yield the notes of one PT_NOTE or PT_GNU_PROPERTY segment; `align` is its p_align (8 pads to 8, all else to 4).

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


def gnu_properties(notes: Iterable[Note], name: str) -> GnuProperties | None:
    """Return the properties of the first NT_GNU_PROPERTY_TYPE_0, or None when there is no such note.

    Unknown properties are skipped, as the ABI asks of a loader. Raises `ElfError` for one that passes the note's end or has
    another size than its type.
    Source: Linux ABI extensions "Program Property"; psABI 5.1.
    """
    for note in notes:
        if note.owner == b"GNU" and note.type == c.NT_GNU_PROPERTY_TYPE_0:
            return _properties(note.desc, name)
    return None


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
