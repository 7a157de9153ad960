"""Where glibc keeps what: offsets of structure members, from tables
generated from DWARF (see make_layout.py).

A table serves every build whose structures are laid out alike. Which one serves a given ld.so shows in the
sizes of its two big structures, which a stripped file tells too; the release's number alone promises nothing,
as distributions carry changes back.
"""

from __future__ import annotations

import json
import os
from typing import Any

from emu.core.record import NamedTuple

_FOLDER = os.path.join(os.path.dirname(__file__), "layouts")


class Layout:
    """The structures of one build of glibc. All offsets and sizes are bytes."""

    def __init__(self, version: str, table: dict[str, Any]) -> None:
        self.version = version
        self._structures: dict[str, Any] = table["structures"]

    def has(self, structure: str, member: str) -> bool:
        """Tell whether this build has a member: releases differ in many."""
        return structure in self._structures and member in self._structures[structure]["members"]

    def size(self, structure: str) -> int:
        """Return sizeof the structure."""
        size: int = self._structures[structure]["size"]
        return size

    def offset(self, structure: str, member: str) -> int:
        """Return offsetof the member; nested members have dotted names.

        Raises KeyError for one that does not exist.
        """
        offset: int = self._structures[structure]["members"][member][0]
        return offset

    def member_size(self, structure: str, member: str) -> int:
        """Return sizeof the member. Raises KeyError for one that does not exist."""
        size: int = self._structures[structure]["members"][member][1]
        return size

    def offsets(self, structure: str) -> dict[str, int]:
        """Return every member's offset by name."""
        return {name: place[0] for name, place in self._structures[structure]["members"].items()}

    def bits(self, structure: str, member: str) -> tuple[int, int]:
        """Return (byte offset, bit offset within it) of a bit-field."""
        place = self._structures[structure]["members"][member]
        return place[0], place[2]


class Build(NamedTuple):
    """What an ld.so shows of its build: the release ("" before 2.33, which does not say), and the sizes of
    `_rtld_global` and `_rtld_global_ro`.
    """

    release: str
    global_size: int
    ro_size: int


def shipped(build: Build) -> Layout | None:
    """Return the table that comes with emu for a build, None where there is none."""
    ending = f"-{build.global_size}-{build.ro_size}.json"
    for name in sorted(os.listdir(_FOLDER)):
        if name.endswith(ending) and build.release in ("", name.removesuffix(ending)):
            return read_layout(os.path.join(_FOLDER, name))
    return None


def newest() -> Layout:
    """Return the table of the newest release that comes with emu."""
    names = os.listdir(_FOLDER)
    return read_layout(os.path.join(_FOLDER, max(names, key=lambda name: int(name[2:].partition("-")[0]))))


def releases() -> list[str]:
    """Return the releases that there are tables for, oldest first."""
    found = {name.partition("-")[0] for name in os.listdir(_FOLDER)}
    return sorted(found, key=lambda release: int(release[2:]))


def read_layout(path: str) -> Layout:
    """Read a table. Raises OSError, ValueError."""
    with open(path, "rb") as stream:
        table = json.load(stream)
    return Layout(table["version"], table)


def table_text(table: dict[str, Any]) -> str:
    """Return a table as it is kept: JSON with a line for each member."""
    structures = []
    for name, body in sorted(table["structures"].items()):
        members = ",\n".join(f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in body["members"].items())
        structures.append(f'  "{name}": {{"size": {body["size"]}, "members": {{\n{members}}}}}')
    head = f' "version": {json.dumps(table["version"])},\n "structures": {{\n'
    return "{\n" + head + ",\n".join(structures) + "\n }\n}\n"
