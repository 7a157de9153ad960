"""Symbol versions: what an object defines (DT_VERDEF) and what it needs of others (DT_VERNEED)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from emu.core.errors import ElfError
from emu.elf import constants as c
from emu.elf.image import read_table

if TYPE_CHECKING:
    from emu.elf.dynamic import Dynamic
    from emu.elf.header import Phdr
    from emu.elf.image import Image
    from emu.elf.strtab import StringTable

_VERDEF = struct.Struct("<HHHHIII")
_VERDAUX = struct.Struct("<II")
_VERNEED = struct.Struct("<HHIII")
_VERNAUX = struct.Struct("<IHHII")


class VersionDef(NamedTuple):
    """A version that the object defines: `ndx` is vd_ndx as .gnu.version refers to it, `parents` the versions it inherits."""

    ndx: int
    flags: int
    name: bytes
    hash: int
    parents: tuple[bytes, ...]


class VersionNeed(NamedTuple):
    """A version that the object needs of `file`: `ndx` is vna_other, which may carry VERSYM_HIDDEN."""

    file: bytes
    hash: int
    flags: int
    ndx: int
    name: bytes

    @property
    def weak(self) -> bool:
        """Whether the version may be missing (VER_FLG_WEAK)."""
        return bool(self.flags & c.VER_FLG_WEAK)


def version_defs(
    image: Image, phdrs: list[Phdr], dynamic: Dynamic, strings: StringTable, name: str
) -> list[VersionDef]:
    """Return the object's version definitions in file order; the first is usually VER_FLG_BASE, the object's own name.

    Raises `ElfError`, with ld.so's words for a record of another format version.
    Source: LSB "Symbol Versioning"; glibc elf/dl-version.c:_dl_check_map_versions.
    """
    data = _read(image, phdrs, dynamic, c.DT_VERDEF, "DT_VERDEF")
    found: list[VersionDef] = []
    budget = len(data) // _VERDAUX.size
    at = 0
    while data:
        version, flags, index, count, hash_, aux, step = _unpack(_VERDEF, data, at, "DT_VERDEF", name)
        if version != c.VER_DEF_CURRENT:
            raise ElfError(name, f"unsupported version {version} of Verdef record")
        if count == 0:
            raise ElfError(name, f"DT_VERDEF record {len(found)} has no name")
        budget = _spend(budget, count, "DT_VERDEF", name)
        names: list[bytes] = []
        aux_at = at + aux
        for _ in range(count):
            name_offset, aux_step = _unpack(_VERDAUX, data, aux_at, "DT_VERDEF", name)
            names.append(strings.at(name_offset))
            aux_at += aux_step
            if aux_step == 0:
                break
        found.append(VersionDef(index, flags, names[0], hash_, tuple(names[1:])))
        if step == 0:
            break
        at += step
    return found


def version_needs(
    image: Image, phdrs: list[Phdr], dynamic: Dynamic, strings: StringTable, name: str
) -> list[VersionNeed]:
    """Return the versions that the object needs, in file order.

    Raises `ElfError`, with ld.so's words for a record of another format version.
    Source: LSB "Symbol Versioning"; glibc elf/dl-version.c:_dl_check_map_versions.
    """
    data = _read(image, phdrs, dynamic, c.DT_VERNEED, "DT_VERNEED")
    found: list[VersionNeed] = []
    budget = len(data) // _VERNAUX.size
    at = 0
    while data:
        version, count, file_offset, aux, step = _unpack(_VERNEED, data, at, "DT_VERNEED", name)
        if version != c.VER_NEED_CURRENT:
            raise ElfError(name, f"unsupported version {version} of Verneed record")
        budget = _spend(budget, count, "DT_VERNEED", name)
        file = strings.at(file_offset)
        aux_at = at + aux
        for _ in range(count):
            hash_, flags, index, name_offset, aux_step = _unpack(_VERNAUX, data, aux_at, "DT_VERNEED", name)
            found.append(VersionNeed(file, hash_, flags, index, strings.at(name_offset)))
            aux_at += aux_step
            if aux_step == 0:
                break
        if step == 0:
            break
        at += step
    return found


def _read(image: Image, phdrs: list[Phdr], dynamic: Dynamic, tag: int, field: str) -> bytes:
    vaddr = dynamic.get(tag)
    if vaddr is None:
        return b""
    size = dynamic.table_end(phdrs, vaddr) - vaddr
    if size == 0:
        raise ElfError(dynamic.name, f"{field} table {vaddr:#x} is not inside one segment of the file")
    return read_table(image, phdrs, vaddr, size, field, dynamic.name)


def _unpack(record: struct.Struct, data: bytes, at: int, field: str, name: str) -> tuple[int, ...]:
    """Offsets are unsigned and are added up, so a walk only goes forward: it ends at a zero step or leaves the table."""
    if at + record.size > len(data):
        raise ElfError(name, f"{field} record at offset {at:#x} passes the end of the table")
    return record.unpack_from(data, at)


def _spend(budget: int, count: int, field: str, name: str) -> int:
    """Count auxiliary records against the room that the table has: overlapping chains must not multiply the work."""
    if count > budget:
        raise ElfError(name, f"{field} has more auxiliary records than the table has room for")
    return budget - count
