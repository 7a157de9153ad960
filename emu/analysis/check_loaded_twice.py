"""The rule about one library that is loaded twice, from two files with the same content.

Source: glibc elf/dl-load.c:_dl_map_object_from_fd (a file that is loaded is known by device and inode).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.analysis.check_notes import NOWHERE, Notes, base
from emu.rtld.link_map import LT_LOADED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.rtld.link_map import LinkMap

RULE = "loaded-twice"
_MOST = 64 << 20
"""Bytes of a file that are compared at most."""


class LoadedTwice:
    """Compares the files of objects that share a name, when the second of them is linked."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes

    def look(self, new: Sequence[LinkMap]) -> None:
        """Objects were linked: is one of them a copy of what was there?"""
        if RULE not in self._notes.rules:
            return
        maps = [m for m in self._notes.maps() if m.path]
        for map_ in new:
            name = _name(map_)
            earlier = (m for m in maps if m.serial < map_.serial and m.ns == map_.ns and _name(m) == name)
            first = next((m for m in earlier if m.file_id != map_.file_id and self._same_file(m, map_)), None)
            if first is not None:
                self._tell(first, map_)

    def _same_file(self, one: LinkMap, other: LinkMap) -> bool:
        files = self._notes.process.kernel.fs
        try:
            first, second = (files.look_at(m.path) for m in (one, other))
        except OSError:
            return False
        size = first.size()
        return size == second.size() and size <= _MOST and first.pread(size, 0) == second.pread(size, 0)

    def _tell(self, first: LinkMap, second: LinkMap) -> None:
        notes = self._notes
        here = notes.here() if second.type == LT_LOADED else NOWHERE
        soname = second.soname
        by_name = (
            [f"open it by its SONAME, {soname}: what is loaded under that name is taken"] if soname else []
        )
        notes.report(
            RULE,
            f"{second.display_name} is a copy of {first.display_name}, which is loaded already: ld.so knows a file by its inode and not by its content, so"
            f" each variable of {base(second.display_name)} is there twice, and each constructor runs twice",
            NOWHERE, [("opened by", here)], [second.display_name, first.display_name], key=(first.serial, second.serial),
            remedies=[f"make {second.display_name} a link to {first.display_name}, or open one path everywhere", *by_name],
        )  # fmt: skip


def _name(map_: LinkMap) -> str:
    return map_.soname or base(map_.path)
