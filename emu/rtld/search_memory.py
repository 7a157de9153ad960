"""What ld.so allocates while it takes a search list of an object apart. See `emu.rtld.owed`.

Source: glibc elf/dl-load.c:decompose_rpath, fillin_rpath, expand_dynamic_string_token;
elf/dl-dst.h:DL_DST_REQUIRED.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from emu.core.errors import LoaderError
from emu.rtld.dst import dst_at

if TYPE_CHECKING:
    from emu.rtld.owed import Owed, Then
    from emu.rtld.search_view import MapView

_ELEMENT = 40
"""sizeof (struct r_search_path_elem) without its array of statuses, of 4 bytes each."""
NEVER = -1
"""What ld.so notes of a list that an object does not have."""


def copy_size(text: str, origin: str | None, lib: str) -> int:
    """Return the size of the block for a path with its tokens replaced, which ld.so reckons before it knows
    the result.
    """
    tokens = sum(dst_at(text, at + 1)[1] > 0 for at, char in enumerate(text) if char == "$")
    longest = max(len(os.fsencode(origin or "")), len(lib))
    return len(os.fsencode(text)) + tokens * max(longest - 4, 0) + 1


def owe_list(
    owed: Owed,
    map_: MapView,
    tag: str,
    text: str,
    directories: Iterable[tuple[str, str | None]],
    lib: str,
    subdirs: int,
) -> None:
    """Owe the calls for a list; `directories` are its elements, each with the name of a directory that was
    not known before it.
    """
    memory: list[int] = []

    def kept(what: str) -> Then:
        def then(block: int) -> None:
            if not block:
                owed.fail(LoaderError("", what, errno.ENOMEM))
            memory.append(block)

        return then

    owed.malloc(len(os.fsencode(text)) + 1, kept("cannot create RUNPATH/RPATH copy"))

    def note(block: int) -> None:
        if not block:
            owed.fail(LoaderError("", "cannot create cache for search path", errno.ENOMEM), memory[0])
        owed.lists[map_, tag] = block

    owed.malloc(8 * (text.count(":") + 2), note)
    for element, name in directories:
        size = copy_size(element, map_.origin, lib) if element else 0
        if size:
            owed.malloc(size, kept("cannot create search path array"))
        if name is not None:
            where = len(os.fsencode(map_.name)) + 1
            length = len(os.fsencode(name or "./"))
            room = _ELEMENT + 4 * subdirs + where + length + 1
            owed.malloc(room, kept("cannot create search path array"))
        if size:
            owed.free_later(partial(_last_but, memory, int(name is not None)))
    owed.free_later(lambda: memory[0])


def _last_but(memory: list[int], number: int) -> int:
    return memory[-1 - number]
