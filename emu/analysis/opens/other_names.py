"""Names of what is loaded: an open that finds an object by another name than its first, or does not know it.

Source: glibc elf/dl-load.c:_dl_map_object (names and SONAMEs of what is there), _dl_map_object_from_fd (the
file's device and inode).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from emu.analysis.opens.data import Cure, Trial
from emu.analysis.opens.looking import base

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.rtld.failure import NoFile
    from emu.rtld.link_map import LinkMap
    from emu.rtld.rtld import Rtld


def only_asked(rtld: Rtld, fact: NoFile) -> tuple[str, list[Cure]]:
    """Return what to say of an open with RTLD_NOLOAD that failed, and what would find the object."""
    story = (
        f"RTLD_NOLOAD only asks whether it is loaded: no loaded object is called {fact.name}, and a search for a file of that name found none to"
        " compare with those that are"
    )
    for map_ in rtld.namespaces[fact.namespace].maps:
        if map_.real is not map_ or not map_.path or base(map_.path) != base(fact.name):
            continue
        name = map_.display_name
        soname = f"its SONAME is {map_.soname}" if map_.soname else "it has no SONAME"
        text = f'ask by the name that it was opened by: dlopen("{name}")'
        cures = [Cure("same-name", name, text, name, trial=Trial(file=name))]
        if not map_.soname:
            text = f"link it with -Wl,-soname,{base(fact.name)}: it then has that name, too"
            cures.append(Cure("soname", name, text, name, False))
        return f"{story}; {name} is loaded, but {soname}, so {fact.name} is no name of it", cures
    return story, []


def other_name(file: str, path: str, target: str, map_: LinkMap, absolute: Callable[[str], str]) -> str:
    """Return by what other name than its first `file` has found an object; empty where it is that one.

    `path` is where the name leads, `target` that without links; `absolute` makes a path absolute.
    """
    if "/" not in file:
        if file != map_.soname or map_.found_by not in ("", "path"):
            return ""
        return "that is its SONAME, and what is there is taken without a search"
    asked = absolute(path)
    if asked in (absolute(map_.path), absolute(map_.display_name)):
        return ""
    linked = os.path.basename(target) != os.path.basename(asked)
    link = "a symbolic link to its file" if linked else "a hard link or another path to its file"
    return f"the path is {link}, and a file (by device and inode) is loaded once in a namespace"
