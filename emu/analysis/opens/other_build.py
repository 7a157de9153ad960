"""A symbol whose version is there but which is not: the file that stands for its library is another build of
it than the one that was linked with.

Source: glibc elf/dl-version.c (only versions are checked when an object is loaded, not the symbols in them).
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from emu.analysis.opens.files import listing, os_text
from emu.analysis.opens.looking import base

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.analysis.opens.looking import Looking
    from emu.rtld.failure import Undefined
    from emu.rtld.link_map import LinkMap

_BELOW = 400
"""Names in a directory that are looked at for directories."""


def stands_for(looking: Looking, fact: Undefined) -> LinkMap | None:
    """Return the object that stands for the library which the reference asks a version of."""
    file = os_text(fact.version.file) if fact.version is not None else ""
    maps = looking.rtld.namespaces[fact.map.ns].maps
    return next((m for m in maps if file and file in (m.soname, *m.lib_names)), None)


def story(looking: Looking, fact: Undefined) -> Iterator[str]:
    """Yield which file was taken, and by which rule."""
    provider = stands_for(looking, fact)
    if provider is None or fact.version is None:
        return
    file, version, name = os_text(fact.version.file), os_text(fact.version.name), base(fact.map.display_name)
    yield (
        f"that version is of {file}, which is {looking.shown(provider.path)} here (found by {provider.found_by or 'path'}):"
        f" it has the version {version} and not the symbol, so it is another build of {file} than the one that {name} was linked with"
    )


def namesakes(looking: Looking, fact: Undefined) -> Iterator[str]:
    """Yield files of that library's name near the objects: beside, below, and beside their directories."""
    provider = stands_for(looking, fact)
    if provider is None or fact.version is None:
        return
    wanted = os_text(fact.version.file)
    origins = [m.origin for m in (fact.map, looking.main, provider) if m is not None and m.origin]
    for origin in dict.fromkeys((*origins, posixpath.dirname(provider.origin or "/"))):
        names = ["", *listing(looking.files, origin)[:_BELOW]]
        for path in (posixpath.join(origin, name, wanted) for name in names):
            if looking.judge(path).outcome == "would-do":
                yield path
