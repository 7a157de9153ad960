"""Symbol versions: what each version index of an object means, and whether what it needs is there.

Source: glibc elf/dl-version.c:_dl_check_map_versions.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from emu.core.errors import ElfError, Inconsistency, LoaderError
from emu.core.ldso_events import ErrorSignalled, VersionChecked
from emu.core.record import NamedTuple
from emu.elf import constants as c
from emu.elf.hash import sysv_hash
from emu.elf.versions import VersionDef, VersionNeed, version_defs, version_needs
from emu.rtld.failure import NoVersion
from emu.rtld.link_map import LinkMap, MappedImage

if TYPE_CHECKING:
    from emu.core.events import EventBus
    from emu.core.types import Memory

_RELR_VERSION = b"GLIBC_ABI_DT_RELR"
_RELR_HASH = sysv_hash(_RELR_VERSION)
_OCCASION = "version lookup error"


class Version(NamedTuple):
    """A version as a reference or a definition names it; `file` is empty for one that the object defines."""

    name: bytes
    hash: int
    hidden: bool
    file: bytes


class VersionWarning(LoaderError):
    """Something that ld.so says about versions at start-up and then goes on:
    no errors, and nothing is said at dlopen.
    """


def check_map_versions(
    map_: LinkMap,
    memory: Memory,
    find: Callable[[str], LinkMap | None],
    program: str | None = None,
    bus: EventBus | None = None,
    report: Callable[[LoaderError], None] | None = None,
    *,
    relr: bool = True,
) -> None:
    """Fill `map_.versions`; a weak version may be missing, and a library without any has all.

    `find` gives the loaded object for a needed file name. At start-up `program` is argv[0] (the main map's
    name in messages), and `report` is told of everything that is missing, what may be missing as
    VersionWarning. `relr` tells that DT_RELR is known, and so must be asked for. Raises LoaderError for a
    record of an unknown format, and without `report` for the first version that is missing and must not be.
    """
    dynamic, name = map_.dynamic, map_.name or program or map_.display_name
    image = MappedImage(memory, map_.addr, name)
    strings = map_.symtab.strings
    table: dict[int, Version] = {}
    has_relr_version = False
    if dynamic.get(c.DT_VERNEED) is not None:
        for need in version_needs(image, dynamic, strings, name):
            provider = find(need.file.decode(errors="surrogateescape"))
            if provider is None:
                raise Inconsistency("dl-version.c", 204, "_dl_check_map_versions", "needed != NULL")
            table[need.ndx & 0x7FFF] = Version(_name_of(need), need.hash, bool(need.ndx & 0x8000), need.file)
            has_relr_version |= need.hash == _RELR_HASH and need.name == _RELR_VERSION
            if provider.faked:
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
            if error is not None:
                error.fact = NoVersion(map_, need, provider)
            if error is not None and (report is not None or not isinstance(error, VersionWarning)):
                if listener is not None:
                    listener.emit(
                        ErrorSignalled(provider.display_name, _OCCASION, error.text, report is not None)
                    )
                if report is None:
                    raise error
                report(error)
    for definition in _definitions(map_, memory) or ():
        if not definition.flags & c.VER_FLG_BASE:
            table[definition.ndx & 0x7FFF] = Version(_name_of(definition), definition.hash, False, b"")
    wants_relr = relr and dynamic.get(c.DT_RELR) is not None and dynamic.get(c.DT_VERNEED) is not None
    if wants_relr and not has_relr_version and _needs_libc(map_):
        raise LoaderError(name, "DT_RELR without GLIBC_ABI_DT_RELR dependency", occasion="")
    if table and max(table) and dynamic.get(c.DT_VERSYM) is None:
        raise ElfError(name, "versions without DT_VERSYM")
    if table:
        map_.versions = [table.get(index) for index in range(max(table) + 1)]


def _name_of(record: VersionNeed | VersionDef) -> bytes:
    """Return a version's name.

    One that lies nowhere (ld.so dies when it compares it) gets a name that no other has.
    """
    try:
        return record.name
    except ElfError as error:
        return error.reason.encode()


class VersionDefinitions:
    """What an object defines, in file order, as far as its records are in the object.

    Ld.so looks no further than the version that it wants.
    """

    __slots__ = ("_error", "_known")

    def __init__(self, found: Iterable[VersionDef]) -> None:
        self._known: list[VersionDef] = []
        self._error: ElfError | None = None
        try:
            self._known.extend(found)
        except ElfError as error:
            self._error = error

    def __iter__(self) -> Iterator[VersionDef]:
        """Yield the definitions.

        Raises ElfError behind the last one where the next would lie outside of the object.
        """
        yield from self._known
        if self._error is not None:
            raise ElfError(self._error.object_name, self._error.reason)


def _match(
    need: VersionNeed, defined: VersionDefinitions | None, provider: str, name: str
) -> LoaderError | None:
    """Return what ld.so would say of one needed version, if anything.

    Source: glibc elf/dl-version.c:match_symbol.
    """
    if defined is None:
        text = f"no version information available (required by {name})"
        return VersionWarning(provider, text, occasion=_OCCASION)
    for definition in defined:
        if definition.format != c.VER_DEF_CURRENT:
            text = f"unsupported version {definition.format} of Verdef record"
            return LoaderError(provider, text, occasion=_OCCASION)
        if definition.hash == need.hash and definition.name == need.name:
            return None
    text = f"version `{os.fsdecode(need.name)}' not found (required by {name})"
    if need.weak:
        return VersionWarning(provider, f"weak {text}", occasion=_OCCASION)
    return LoaderError(provider, text, occasion=_OCCASION)


def _needs_libc(map_: LinkMap) -> bool:
    """Whether a version of libc is needed at all: only then does the marker for DT_RELR have to be there."""
    return any(need.startswith("libc.so.") for need in map_.needed_names())


def _definitions(map_: LinkMap, memory: Memory) -> VersionDefinitions | None:
    if map_.dynamic.get(c.DT_VERDEF) is None:
        return None
    known = map_.version_definitions
    if known is None:
        image = MappedImage(memory, map_.addr, map_.display_name)
        known = VersionDefinitions(version_defs(image, map_.dynamic, map_.symtab.strings, map_.display_name))
        map_.version_definitions = known
    return known
