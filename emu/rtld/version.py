"""Symbol versions: what each version index of an object means, and whether what it needs is there.

Source: glibc elf/dl-version.c:_dl_check_map_versions.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from emu.core.errors import LoaderError
from emu.core.ldso_events import ErrorSignalled, VersionChecked
from emu.elf import constants as c
from emu.elf.versions import VersionDef, VersionNeed, version_defs, version_needs
from emu.rtld.link_map import LinkMap, MappedImage

if TYPE_CHECKING:
    from emu.core.events import EventBus
    from emu.core.types import Memory

_OCCASION = "version lookup error"


class Version(NamedTuple):
    """A version as a reference or a definition names it; `file` is empty for one that the object defines."""

    name: bytes
    hash: int
    hidden: bool
    file: bytes


class VersionWarning(LoaderError):
    """Something that ld.so says about versions at start-up and then goes on: no errors, and nothing is said at dlopen."""


def check_map_versions(
    map_: LinkMap,
    memory: Memory,
    find: Callable[[str], LinkMap | None],
    program: str | None = None,
    bus: EventBus | None = None,
    report: Callable[[LoaderError], None] | None = None,
) -> None:
    """Fill `map_.versions`; a weak version may be missing, and a library without any has all.

    `find` gives the loaded object for a needed file name. At start-up `program` is argv[0] (the main map's name in messages), and
    `report` is told of everything that is missing, what may be missing as VersionWarning. Raises LoaderError for a record
    of an unknown format, and without `report` for the first version that is missing and must not be.
    """
    dynamic, name = map_.dynamic, map_.name or program or map_.display_name
    image = MappedImage(memory, map_.addr, name)
    strings = map_.symtab.strings
    table: dict[int, Version] = {}
    has_relr_version = False
    if dynamic.get(c.DT_VERNEED) is not None:
        for need in version_needs(image, map_.phdrs, dynamic, strings, name):
            table[need.ndx & 0x7FFF] = Version(need.name, need.hash, bool(need.ndx & 0x8000), need.file)
            has_relr_version |= need.name == b"GLIBC_ABI_DT_RELR"
            provider = find(need.file.decode(errors="surrogateescape"))
            if provider is None or provider.faked:
                continue
            provider = provider.real
            listener = bus if bus is not None and bus.ldso else None
            if listener is not None:
                version = need.name.decode(errors="replace")
                checked = VersionChecked(
                    version, provider.display_name, provider.ns, map_.display_name, map_.ns
                )
                listener.emit(checked)
            error = _match(
                need, _definitions(provider, memory), provider.name or program or provider.path, name
            )
            if error is not None and (report is not None or not isinstance(error, VersionWarning)):
                if listener is not None:
                    listener.emit(
                        ErrorSignalled(provider.display_name, _OCCASION, error.text, report is not None)
                    )
                if report is None:
                    raise error
                report(error)
    for definition in _definitions(map_, memory):
        if not definition.flags & c.VER_FLG_BASE:
            table[definition.ndx & 0x7FFF] = Version(definition.name, definition.hash, False, b"")
    if map_.dynamic.get(c.DT_RELR) is not None and not has_relr_version and _needs_libc(map_):
        raise LoaderError(name, "DT_RELR without GLIBC_ABI_DT_RELR dependency", occasion="")
    if table:
        map_.versions = [table.get(index) for index in range(max(table) + 1)]


def _match(need: VersionNeed, defined: list[VersionDef], provider: str, name: str) -> LoaderError | None:
    """Return what ld.so would say of one needed version, if anything. Source: glibc elf/dl-version.c:match_symbol."""
    if not defined:
        text = f"no version information available (required by {name})"
        return VersionWarning(provider, text, occasion=_OCCASION)
    if any(d.hash == need.hash and d.name == need.name for d in defined):
        return None
    text = f"version `{os.fsdecode(need.name)}' not found (required by {name})"
    if need.weak:
        return VersionWarning(provider, f"weak {text}", occasion=_OCCASION)
    return LoaderError(provider, text, occasion=_OCCASION)


def _needs_libc(map_: LinkMap) -> bool:
    """Whether a version of libc is needed at all: only then does the marker for DT_RELR have to be there."""
    return any(need.startswith("libc.so.") for need in map_.needed_names())


def _definitions(map_: LinkMap, memory: Memory) -> list[VersionDef]:
    if map_.dynamic.get(c.DT_VERDEF) is None:
        return []
    known = map_.version_definitions
    if known is None:
        image = MappedImage(memory, map_.addr, map_.display_name)
        known = version_defs(image, map_.phdrs, map_.dynamic, map_.symtab.strings, map_.display_name)
        map_.version_definitions = known
    return known
