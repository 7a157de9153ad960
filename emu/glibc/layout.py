"""Where glibc keeps what: offsets of structure members, from a table generated from DWARF (see tools/gen_layout.py)."""

from __future__ import annotations

import json
import os
from typing import Any

from emu.core.errors import UnsupportedError

_FOLDER = os.path.join(os.path.dirname(__file__), "layouts")


class Layout:
    """The structures of one glibc version. All offsets and sizes are bytes."""

    def __init__(self, version: str, table: dict[str, Any]) -> None:
        self.version = version
        self._structures: dict[str, Any] = table["structures"]

    def size(self, structure: str) -> int:
        """Return sizeof the structure."""
        size: int = self._structures[structure]["size"]
        return size

    def offset(self, structure: str, member: str) -> int:
        """Return offsetof the member; nested members have dotted names. Raises KeyError for one that does not exist."""
        offset: int = self._structures[structure]["members"][member][0]
        return offset

    def offsets(self, structure: str) -> dict[str, int]:
        """Return every member's offset by name."""
        return {name: place[0] for name, place in self._structures[structure]["members"].items()}

    def bits(self, structure: str, member: str) -> tuple[int, int]:
        """Return (byte offset, bit offset within it) of a bit-field."""
        place = self._structures[structure]["members"][member]
        return place[0], place[2]


def load_layout(version: str, where: str) -> Layout:
    """Return the table of glibc `version` (such as 2.36), found in the object `where`. Raises UnsupportedError."""
    path = os.path.join(_FOLDER, f"{version}.json")
    if not os.path.exists(path):
        have = ", ".join(sorted(name[:-5] for name in os.listdir(_FOLDER) if name.endswith(".json")))
        raise UnsupportedError(
            f"glibc version {version} (there are layout tables for {have})",
            where,
            f"with that version's debug files installed, make its table with: tools/gen_layout.py -o {_FOLDER}",
        )
    with open(path, "rb") as stream:
        return Layout(version, json.load(stream))
