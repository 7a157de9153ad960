"""Symbol versions: what an object defines (DT_VERDEF) and what it needs of others (DT_VERNEED)."""

from __future__ import annotations

import struct
from itertools import islice
from typing import TYPE_CHECKING

from emu.core.errors import ElfError
from emu.core.record import NamedTuple
from emu.elf import constants as c

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.elf.dynamic import Dynamic
    from emu.elf.image import Image
    from emu.elf.strtab import StringTable

_VERDEF = struct.Struct("<HHHHIII")
_VERDAUX = struct.Struct("<II")
_VERNEED = struct.Struct("<HHIII")
_VERNAUX = struct.Struct("<IHHII")
_LIMIT = 1 << 16
"""The most records that are read: no index can name more."""


class _VersionNames(NamedTuple):
    """Where the names of a definition are: `names` records from an address of the object on."""

    image: Image
    strings: StringTable
    at: int
    names: int
    object: str


class VersionDef(NamedTuple):
    """A version that the object defines: `ndx` is vd_ndx as .gnu.version refers to it, `format` vd_version.

    The names are read when they are asked for, as ld.so does; `name` and `parents` raise `ElfError` where
    they are not in the object.
    """

    ndx: int
    flags: int
    hash: int
    format: int
    place: _VersionNames

    @property
    def name(self) -> bytes:
        """Its own name."""
        return next(self._names())

    @property
    def parents(self) -> tuple[bytes, ...]:
        """The versions that it inherits."""
        return tuple(islice(self._names(), 1, max(self.place.names, 1)))

    def _names(self) -> Iterator[bytes]:
        image, strings, at, _, name = self.place
        for _, (offset, _) in _records(image, at, _VERDAUX, "DT_VERDEF", name):
            yield strings.at(offset)


class VersionNeed(NamedTuple):
    """A version that the object needs of `file`.

    `ndx` is vna_other, which may carry VERSYM_HIDDEN, `at` the offset of its name in `strings`.
    """

    file: bytes
    hash: int
    flags: int
    ndx: int
    at: int
    strings: StringTable

    @property
    def name(self) -> bytes:
        """The version's name. Raises `ElfError` where there is none."""
        return self.strings.at(self.at)

    @property
    def weak(self) -> bool:
        """Whether the version may be missing (VER_FLG_WEAK)."""
        return bool(self.flags & c.VER_FLG_WEAK)


def version_defs(image: Image, dynamic: Dynamic, strings: StringTable, name: str) -> Iterator[VersionDef]:
    """Yield the object's version definitions in file order; the first is usually VER_FLG_BASE, the
    object's own name.

    The format's version is for those who match a name to check. Raises `ElfError` where a record leads out
    of the object, after those before it.
    Source: LSB "Symbol Versioning"; glibc elf/dl-version.c:_dl_check_map_versions.
    """
    for at, fields in _chain(image, dynamic, c.DT_VERDEF, _VERDEF, name):
        version, flags, index, count, hash_, aux, _ = fields
        yield VersionDef(index, flags, hash_, version, _VersionNames(image, strings, at + aux, count, name))


def version_needs(image: Image, dynamic: Dynamic, strings: StringTable, name: str) -> Iterator[VersionNeed]:
    """Yield the versions that the object needs, in file order. The counts in the records are not looked at.

    Raises `ElfError` where a record leads out of the object, after those before it, and with ld.so's words
    for a first record of another format version.
    Source: LSB "Symbol Versioning"; glibc elf/dl-version.c:_dl_check_map_versions.
    """
    count = 0
    for number, (at, fields) in enumerate(_chain(image, dynamic, c.DT_VERNEED, _VERNEED, name)):
        version, _, file_offset, aux, _ = fields
        if version != c.VER_NEED_CURRENT and not number:
            raise ElfError(name, f"unsupported version {version} of Verneed record")
        file = strings.at(file_offset)
        for _, (hash_, flags, index, name_offset, _) in _records(
            image, at + aux, _VERNAUX, "DT_VERNEED", name
        ):
            yield VersionNeed(file, hash_, flags, index, name_offset, strings)
            count += 1
            if count > _LIMIT:
                raise ElfError(name, f"DT_VERNEED has more than {_LIMIT} records")


def _chain(
    image: Image, dynamic: Dynamic, tag: int, record: struct.Struct, name: str
) -> Iterator[tuple[int, tuple[int, ...]]]:
    vaddr = dynamic.get(tag)
    if vaddr is not None:
        yield from _records(image, vaddr, record, "DT_VERDEF" if tag == c.DT_VERDEF else "DT_VERNEED", name)


def _records(
    image: Image, at: int, record: struct.Struct, field: str, name: str
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield (address, fields) of a chain; its last field is the step to the next record, 0 at the end.

    Steps are unsigned, so a chain only goes forward. Raises `ElfError` where it leaves the object or does not
    end.
    """
    for _ in range(_LIMIT):
        try:
            fields = record.unpack(image.read(at, record.size))
        except ElfError:
            raise ElfError(name, f"a {field} record at {at:#x} is not inside the object") from None
        yield at, fields
        if fields[-1] == 0:
            return
        at += fields[-1]
    raise ElfError(name, f"{field} has more than {_LIMIT} records")
