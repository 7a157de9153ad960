"""Which of an object's symbols of a name a reference may bind to.

That depends on versions: a reference with version v takes a definition with version name v (an executable
that holds a COPY defines it under the name of a version it *needs*), one without a version that is the only
such (which of both goes by the release, see `Rules`), or any definition of an object without versions; one
without takes the base definition or the only default one.

Source: glibc elf/dl-lookup.c:check_match.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING

from emu.elf import constants as c
from emu.rtld.dependency import RETURN_NEWEST
from emu.rtld.verdict import Verdict

if TYPE_CHECKING:
    from emu.rtld.link_map import LinkMap
    from emu.rtld.lookup import Query
    from emu.rtld.rules import Rules
    from emu.rtld.verdict import Telling

LOST_VERSION = "version->filename == NULL || ! _dl_name_match_p (version->filename, map)"
"""What does not hold when an object that was linked against a versioned
library meets one without versions.
"""

ZEROED = 4 * 4096 // 24
"""How many of ld.so's records of versions (24 bytes) its heap has room for behind an object's.

Zeros there are no version.
"""
_SYM = struct.Struct("<IBBHQQ").unpack_from
_TYPES = frozenset((c.STT_NOTYPE, c.STT_OBJECT, c.STT_FUNC, c.STT_COMMON, c.STT_TLS, c.STT_GNU_IFUNC))
_ANY = 3
_NO_NAME, _NO_VERSIONS, _OTHER_VERSION, _SAME_VERSION, _BASE_VERSION = (
    Verdict.NO_NAME, Verdict.NO_VERSIONS, Verdict.OTHER_VERSION, Verdict.SAME_VERSION, Verdict.BASE_VERSION,
)  # fmt: skip
"""The most frequent ones: a look-up would spend a tenth of its time on finding them in their class."""


def match(
    map_: LinkMap,
    candidates: Iterable[int],
    terminated: bytes,
    query: Query,
    passed: list[Telling] | None,
    rules: Rules,
) -> tuple[int, Verdict]:
    """Return the index of the acceptable definition of `map_` among the candidates
    (-1: none) and why it is that.

    `terminated` is the name with its NUL. The candidates that will not do are added to `passed`, if that is
    wanted. Where ld.so would die of one (LOST_VERSION) it ends the search.
    """
    table, version = map_.symtab, query.version
    data, strings, versym = table.data, table.strings.data, table.versym
    calls = query.type_class & 1
    only_default, defaults = -1, 0
    for index in candidates:
        if index >= table.count:
            continue  # ld.so looks at what lies there, and finds no symbol of that name
        st_name, info, _, shndx, value, _ = _SYM(data, index * 24)
        if not strings.startswith(terminated, st_name):
            continue
        kind = info & 15
        if value == 0 and shndx != c.SHN_ABS and kind != c.STT_TLS or calls and shndx == c.SHN_UNDEF:
            verdict = Verdict.CANONICAL_PLT if value else Verdict.UNDEFINED
        elif kind not in _TYPES:
            verdict = Verdict.WRONG_TYPE
        elif versym is None:
            if version is not None and version.file and not rules.lost_versions_accepted:
                if map_.matches_name(os.fsdecode(version.file)):
                    return index, Verdict.LOST_VERSION
            return index, _NO_VERSIONS
        else:
            number = versym[index]
            if version is not None:
                at = number & 0x7FFF
                mine = map_.versions[at] if at < len(map_.versions) else None
                if mine is not None:
                    if mine.hash == version.hash and mine.name == version.name:
                        return index, _SAME_VERSION
                elif not version.hidden and not number & 0x8000 and at < len(map_.versions) + ZEROED:
                    if not rules.named_version_first:
                        return index, Verdict.UNVERSIONED
                    defaults += 1
                    if defaults == 1:
                        only_default = index  # taken where none of those that follow has the version
                        continue
                verdict = _OTHER_VERSION
            elif number & 0x7FFF < (2 if query.flags & RETURN_NEWEST else _ANY):
                return index, _BASE_VERSION
            elif number & 0x8000:
                verdict = Verdict.HIDDEN_VERSION
            else:
                defaults += 1
                if defaults == 1:
                    only_default = index  # what is said of it depends on those that follow
                    continue
                verdict = Verdict.NOT_THE_ONLY_DEFAULT
        if passed is not None:
            passed.append((index, verdict))
    if defaults == 1:
        return only_default, Verdict.ONLY_DEFAULT if version is None else Verdict.UNVERSIONED
    if defaults and passed is not None:
        passed.append((only_default, Verdict.NOT_THE_ONLY_DEFAULT if version is None else _OTHER_VERSION))
    return -1, _NO_NAME
