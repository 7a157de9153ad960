"""What a listing of a program's objects (`emu ldd`) says of those that were not
found, and of names that something else served.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from emu.analysis.opens.data import Cure, SearchedPlace
from emu.analysis.opens.looking import Looking, base
from emu.analysis.opens.no_file import NoFileStory
from emu.analysis.opens.no_version import NoVersionStory
from emu.analysis.opens.text import place_lines
from emu.core.events import LibraryReused
from emu.rtld.failure import NoFile, NoVersion
from emu.rtld.version import VersionWarning, check_map_versions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from emu.core.errors import LoaderError
    from emu.process import Process


@dataclass(frozen=True, slots=True)
class Listed:
    """A loaded object in load order: who needed it, and the rule that found it;
    null where nobody needed it, or none had to.
    """

    name: str
    path: str
    needed_by: str | None
    rule: str | None


@dataclass(frozen=True, slots=True)
class Absent:
    """A needed name that led to no file: for whom,
    where it was looked for and where not, files of nearly that name, and what would help.
    """

    name: str
    needed_by: str
    places: tuple[SearchedPlace, ...]
    near: tuple[str, ...]
    cures: tuple[Cure, ...]


@dataclass(frozen=True, slots=True)
class LacksVersion:
    """An object that does not define a version which another needs: ld.so's words, what happened, in
    sentences, other files of that name, and what would help.
    """

    object: str
    version: str
    needed_by: str
    message: str
    story: tuple[str, ...]
    places: tuple[SearchedPlace, ...]
    cures: tuple[Cure, ...]


@dataclass(frozen=True, slots=True)
class Served:
    """A needed name that an object which was there served, though the paths of who
    needs it lead to another file (`elsewhere`).
    """

    name: str
    needed_by: str
    path: str
    known_by: str
    elsewhere: str


@dataclass(frozen=True, slots=True)
class Listing:
    """What a program loads; nothing but itself if it is not `dynamic`. `unversioned` is what ld.so says of
    objects without versions that are asked for some, and goes on.
    """

    program: str
    dynamic: bool
    objects: tuple[Listed, ...]
    missing: tuple[Absent, ...]
    missing_versions: tuple[LacksVersion, ...]
    served_by_others: tuple[Served, ...]
    unversioned: tuple[str, ...] = ()


def listed(process: Process, reused: Sequence[LibraryReused]) -> Listing:
    """Return what is loaded in a process, and what is missing there."""
    maps = process.rtld.namespaces[0].maps if process.rtld is not None else []
    objects = (
        Listed(
            m.needed_as or m.display_name,
            m.path,
            m.loader.display_name if m.loader else None,
            m.found_by or None,
        )
        for m in maps
    )
    return Listing(
        process.config.program,
        process.rtld is not None,
        tuple(objects),
        tuple(absent(process)),
        tuple(lost_versions(process)),
        tuple(served(process, reused)),
        tuple(str(error) for error in _version_errors(process) if isinstance(error, VersionWarning)),
    )


def absent(process: Process) -> list[Absent]:
    """Return what was needed and not found, in the order of the search."""
    rtld = process.rtld
    if rtld is None:
        return []
    looking, found = Looking(process, rtld), []
    for name, by in rtld.missing:
        story = NoFileStory(looking, NoFile(name, by, by.ns, False))
        places = story.places()
        found.append(Absent(name, by.display_name, places, tuple(story.near()), tuple(story.cures())))
    return found


def lost_versions(process: Process) -> list[LacksVersion]:
    """Return the versions that keep a program from starting though each file was found."""
    rtld = process.rtld
    if rtld is None:
        return []
    looking, found = Looking(process, rtld), []
    for error in _version_errors(process):
        if isinstance(error.fact, NoVersion) and not isinstance(error, VersionWarning):
            story = NoVersionStory(looking, error.fact)
            found.append(
                LacksVersion(
                    error.fact.provider.display_name,
                    story.version,
                    error.fact.map.display_name,
                    str(error),
                    tuple(story.story()),
                    story.places(),
                    tuple(story.cures()),
                )
            )
    return found


def _version_errors(process: Process) -> list[LoaderError]:
    """Return what is wrong with the versions of what is loaded, in ld.so's order."""
    rtld = process.rtld
    errors: list[LoaderError] = []
    for map_ in rtld.namespaces[0].maps if rtld is not None else ():
        if rtld is not None and not map_.faked and not map_.removed:
            find = partial(rtld.find_loaded, namespace=rtld.namespaces[0])
            check_map_versions(map_, rtld.memory, find, rtld.program, None, errors.append)
    return errors


def served(process: Process, reused: Sequence[LibraryReused]) -> list[Served]:
    """Return those of the names that were met by what was there for which the search
    of who needs them ends elsewhere.
    """
    rtld = process.rtld
    if rtld is None:
        return []
    looking, found = Looking(process, rtld), []
    maps = {(m.display_name, m.ns): m for ns in rtld.namespaces for m in ns.maps}
    for event in reused:
        by = maps.get((event.needed_by, event.namespace))
        if by is None or not (by.runpath or by.rpath):
            continue  # it has no paths of its own
        path = looking.look(event.name, by).path
        if path and not _same(looking, path, event.path):
            found.append(
                Served(
                    event.name,
                    event.needed_by,
                    looking.shown(event.path),
                    event.known_by,
                    looking.shown(path),
                )
            )
    return found


def _same(looking: Looking, one: str, other: str) -> bool:
    try:
        return looking.files.realpath(one) == looking.files.realpath(other)
    except OSError:
        return False


def lines(answer: Listing) -> Iterator[str]:
    """Yield what is told below the table."""
    for one in answer.missing:
        yield ""
        yield f"{one.name}, needed by {one.needed_by}, was not found. Looked in:"
        yield from (line[2:] for place in one.places if place.searched for line in place_lines(place))
        if any(not place.searched for place in one.places):
            yield "  not looked in:"
            yield from (line for place in one.places if not place.searched for line in place_lines(place))
        if one.near:
            yield f"  files of nearly that name: {', '.join(one.near)}"
        yield from _cure_lines(one.cures)
    for lost in answer.missing_versions:
        yield ""
        yield lost.message
        yield from (f"  - {sentence}" for sentence in lost.story)
        yield from (line for place in lost.places for line in place_lines(place))
        yield from _cure_lines(lost.cures)
    for text in answer.unversioned:
        yield ""
        yield f"{text}: every definition that it has will do, of whatever version"
    for served_ in answer.served_by_others:
        yield ""
        how = {"soname": "its SONAME", "needed-as": "needed by that name before"}.get(
            served_.known_by, "a name of it"
        )
        text = f"{served_.name}, needed by {base(served_.needed_by)}, is {served_.path}, which was there already ({how})"
        yield f"{text}; the paths of {base(served_.needed_by)} lead to {served_.elsewhere}"


def _cure_lines(cures: Sequence[Cure]) -> Iterator[str]:
    for title, tried in (
        ("what would help (the search was asked again with each)", True),
        ("what should help (it needs another build or setting: not tried)", False),
    ):
        chosen = [cure for cure in cures if cure.tried is tried]
        if chosen:
            yield f"  {title}:"
        yield from (f"    * {cure.text}  -> {cure.result}" for cure in chosen)
