"""Which of an object's symbols of a name a reference may bind to.

That depends on versions: a reference with version v takes a definition with version name v (an executable that holds a COPY
defines it under the name of a version it *needs*), or any definition of an object without versions; one without takes the
base definition or the only default one.

Source: glibc elf/dl-lookup.c:check_match.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING

from emu.core.errors import ElfError, LinkError
from emu.elf import constants as c
from emu.rtld.dependency import RETURN_NEWEST
from emu.rtld.verdict import Verdict

if TYPE_CHECKING:
    from emu.rtld.link_map import LinkMap
    from emu.rtld.verdict import Watch
    from emu.rtld.version import Version

_LOST_VERSION = (
    "Inconsistency detected by ld.so: dl-lookup.c: 107: check_match: Assertion "
    "`version->filename == NULL || ! _dl_name_match_p (version->filename, map)' failed!"
)
"""What ld.so says, and dies of, when an object that was linked against a versioned library meets one without versions."""

_SYM = struct.Struct("<IBBHQQ").unpack_from
_TYPES = frozenset((c.STT_NOTYPE, c.STT_OBJECT, c.STT_FUNC, c.STT_COMMON, c.STT_TLS, c.STT_GNU_IFUNC))
_ANY = 3


def match(
    map_: LinkMap,
    candidates: Iterable[int],
    terminated: bytes,
    version: Version | None,
    type_class: int,
    flags: int,
    watch: Watch | None,
) -> int:
    """Return the index of the acceptable definition of `map_` among the candidates, or -1."""
    table = map_.symtab
    data, strings, versym = table.data, table.strings.data, table.versym
    only_versioned, versioned = -1, 0
    for index in candidates:
        if index >= table.count:
            raise ElfError(map_.display_name, f"hash table leads to symbol {index} of {table.count}")
        st_name, info, _, shndx, st_value, _ = _SYM(data, index * 24)
        kind = info & 15
        if (
            st_value == 0
            and shndx != c.SHN_ABS
            and kind != c.STT_TLS
            or (type_class & 1 and shndx == c.SHN_UNDEF)
        ):
            if watch is not None and strings.startswith(terminated, st_name):
                watch(map_, index, Verdict.CANONICAL_PLT if st_value else Verdict.UNDEFINED)
            continue
        if kind not in _TYPES or not strings.startswith(terminated, st_name):
            if watch is not None and kind not in _TYPES and strings.startswith(terminated, st_name):
                watch(map_, index, Verdict.WRONG_TYPE)
            continue
        if versym is None:
            if version is not None and version.file and map_.matches_name(os.fsdecode(version.file)):
                if watch is not None:
                    watch(map_, index, Verdict.LOST_VERSION)
                raise LinkError(_LOST_VERSION)
            if watch is not None:
                watch(map_, index, Verdict.NO_VERSIONS)
            return index
        number = versym[index]
        if version is not None:
            at = number & 0x7FFF
            mine = map_.versions[at] if at < len(map_.versions) else None
            if mine is not None:
                if mine.hash == version.hash and mine.name == version.name:
                    if watch is not None:
                        watch(map_, index, Verdict.SAME_VERSION)
                    return index
            elif not version.hidden and not number & 0x8000:
                if watch is not None:
                    watch(map_, index, Verdict.UNVERSIONED)
                return index
            if watch is not None:
                watch(map_, index, Verdict.OTHER_VERSION)
            continue
        if number & 0x7FFF < (2 if flags & RETURN_NEWEST else _ANY):
            if watch is not None:
                watch(map_, index, Verdict.BASE_VERSION)
            return index
        if not number & 0x8000:
            versioned += 1
            if versioned == 1:
                only_versioned = index
            elif watch is not None:
                watch(map_, index, Verdict.NOT_THE_ONLY_DEFAULT)
        elif watch is not None:
            watch(map_, index, Verdict.HIDDEN_VERSION)
    if watch is not None and versioned:
        watch(map_, only_versioned, Verdict.ONLY_DEFAULT if versioned == 1 else Verdict.NOT_THE_ONLY_DEFAULT)
    return only_versioned if versioned == 1 else -1
