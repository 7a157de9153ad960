"""Why a version was not found: which file was taken, who brought it, what leads to
another one, and which file would do.

Source: glibc elf/dl-version.c:_dl_check_map_versions; elf/dl-load.c:_dl_map_object (an object that is there
serves every DT_NEEDED of its names).
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

from emu.analysis.opens.data import Cure, SearchedPlace, Trial, Tried
from emu.analysis.opens.files import os_text, read_object
from emu.analysis.opens.looking import As, base
from emu.elf.edit import Edit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.analysis.opens.looking import Looking
    from emu.rtld.failure import NoVersion
    from emu.rtld.link_map import LinkMap

_LISTED = 6
_NUMBERED = re.compile(r"^(.*?)_?(\d+(?:\.\d+)*)$")


class NoVersionStory:
    """One needed version that the object which stands for the file does not define."""

    def __init__(self, looking: Looking, fact: NoVersion) -> None:
        self.looking, self.fact = looking, fact
        self.rtld, self.map, self.provider = looking.rtld, fact.map, fact.provider
        self.version, self.file = os_text(fact.need.name), os_text(fact.need.file)
        self.own = looking.look(self.file, self.map)
        self.others = self._others()

    def story(self) -> Iterator[str]:
        """Yield what happened, in sentences."""
        name, provider = base(self.map.display_name), self.provider
        yield f"{name} needs the version {self.version} of {self.file} (DT_VERNEED), for {self._users()}"
        by = f", needed by {provider.loader.display_name}" if provider.loader is not None else ""
        yield f"{self.file} is {self._shown(provider)} here: found by {provider.found_by or 'path'}{by}"
        defined = self._defined()
        yield f"it defines {self._listed(defined)}" if defined else "it defines no version of that kind"
        if self._came_before() and self.own.path and not self._same(self.own.path):
            how = "its SONAME" if provider.soname == self.file else "a name that it is known by"
            yield f"it was there when {name} came: {self.file} is {how}, and what is there is taken, wherever the paths of {name} lead"
        path = self.own.path
        if path and not self._same(path):
            does = "defines it" if self._has(path) else "does not define it either"
            yield f"the paths of {name} itself lead to {self.looking.shown(path)} ({self.own.rule}), which {does}"
        if self.provider is self._libc():
            yield f"{self._libc_version()}; {name} was linked against a newer one"

    def _users(self) -> str:
        """Return the symbols that ask for the version."""
        table = self.map.symtab
        number = self.fact.need.ndx & 0x7FFF
        names = []
        if table.versym is not None:
            names = [
                os_text(table.symbol_name(i))
                for i in range(1, table.count)
                if table.versym[i] & 0x7FFF == number
            ]
        from emu.elf.demangle import demangle

        shown = ", ".join(map(demangle, names[:_LISTED]))
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        return f"{shown}{more}" if names else "no symbol in particular"

    def _defined(self) -> list[str]:
        """Return the versions that the provider defines, of the wanted one's family if there are any."""
        object_ = read_object(self.looking.files, self.provider.path)
        names = object_.versions() if object_ is not None else []
        family = _NUMBERED.match(self.version)
        near = [n for n in names if family and (found := _NUMBERED.match(n)) and found[1] == family[1]]
        return sorted(near or names, key=_order)

    def _listed(self, names: list[str]) -> str:
        if len(names) <= _LISTED:
            return ", ".join(names)
        return f"{names[0]} to {names[-1]}, {len(names)} versions, the newest being {names[-1]}"

    def _shown(self, map_: LinkMap) -> str:
        return self.looking.shown(map_.path) if map_.path.startswith("/") else map_.display_name

    def _came_before(self) -> bool:
        return self.provider.serial < self.map.serial

    def _same(self, path: str) -> bool:
        try:
            return self.looking.files.realpath(path) == self.looking.files.realpath(self.provider.path)
        except OSError:
            return False

    def _has(self, path: str) -> bool:
        object_ = read_object(self.looking.files, path)
        return object_ is not None and self.version in object_.versions()

    def _libc(self) -> LinkMap | None:
        return self.rtld.namespaces[self.provider.ns].libc_map

    def _libc_version(self) -> str:
        newest = self._defined()
        return (
            f"the C library here is glibc {newest[-1].removeprefix('GLIBC_')}"
            if newest
            else "the C library here is older"
        )

    def _others(self) -> list[str]:
        """Return the other files of that name that some list leads to, absolute, each once."""
        found: dict[str, str] = {}
        maps = [m for ns in self.rtld.namespaces for m in ns.maps if m.real is m and not m.faked]
        candidates = [self.own.path] if self.own.path else []
        for map_ in maps:
            for text in (map_.runpath, map_.rpath):
                if text:
                    candidates += [f"{d or '.'}/{self.file}" for d in self.looking.directories(text, map_)]
        origins = [m.origin for m in (self.map, self.looking.main) if m is not None and m.origin is not None]
        candidates += [f"{origin}/{self.file}" for origin in origins]
        value = self.rtld.env.get("LD_LIBRARY_PATH", "").replace(";", ":")
        candidates += [f"{d or '.'}/{self.file}" for d in value.split(":") if value]
        candidates += [f"{d}{self.file}" for d in self.looking.system_dirs]
        for path in map(self.looking.absolute, candidates):
            try:
                real = self.looking.files.realpath(path)
            except OSError:
                continue
            if not self._same(path):
                found.setdefault(real, path)
        return list(found.values())

    def places(self) -> tuple[SearchedPlace, ...]:
        """Return the other files of the name, and whether they have the version."""
        tried = tuple(
            Tried(self.looking.shown(path), "would-do", f"defines {self.version}")
            if self._has(path)
            else Tried(self.looking.shown(path), "bad", f"does not define {self.version}")
            for path in self.others
        )
        return (
            (SearchedPlace("directory", False, f"other files named {self.file}", "", "not taken", tried),)
            if tried
            else ()
        )

    def cures(self) -> Iterator[Cure]:
        """Yield what makes a file that has the version the one that is taken: each was tried."""
        good = next((path for path in self.others if self._has(path)), "")
        if not good:
            name = base(self.map.display_name)
            text = f"build {name} against {base(self.provider.path)} as it is here, or run it where {self.file} has {self.version}"
            result = f"no file named {self.file} with {self.version} was found here"
            yield Cure("rebuild", self.map.display_name, text, result, False)
            return
        directory, shown = posixpath.dirname(good), self.looking.shown(good)
        bringer = self.provider.loader or self.looking.main
        earlier = self.rtld.env.get("LD_LIBRARY_PATH", "")
        value = f"{directory}:{earlier}" if earlier else directory
        if bringer is not None and self._leads(
            self.looking.would_do(self.file, bringer, LD_LIBRARY_PATH=value), good
        ):
            trial = Trial(env=(("LD_LIBRARY_PATH", value),))
            yield Cure("library-path", self.file, f"LD_LIBRARY_PATH={value}", shown, trial=trial)
        object_ = read_object(self.looking.files, good)
        if object_ is not None and object_.soname == self.file and not self.map.ns:
            yield Cure("preload", self.file, f"LD_PRELOAD={good}", shown, trial=self.looking.preloading(good))
        if (
            bringer is not None
            and bringer.runpath is None
            and bringer.rpath is None
            or bringer is self.looking.main
        ):
            assert bringer is not None
            written = self.looking.from_origin(directory, bringer)
            runpath = f"{written}:{bringer.runpath}" if bringer.runpath else written
            seen = As(bringer, None, runpath, bringer.loader)
            if self._leads(self.looking.would_do(self.file, seen), good):
                text = f"give {base(bringer.display_name)}, which brings {self.file}, the RUNPATH {runpath}"
                trial = self.looking.relinking(bringer, Edit(runpath=runpath))
                yield Cure("runpath", bringer.display_name, text, shown, trial=trial)
        if self._came_before() and self._leads(self.looking.would_do(self.file, self.map), good):
            name = base(self.map.display_name)
            yield Cure(
                "order",
                self.map.display_name,
                f"let {name} be loaded before {self._shown(self.provider)} is",
                shown,
            )

    def _leads(self, path: str, good: str) -> bool:
        try:
            return bool(path) and self.looking.files.realpath(path) == self.looking.files.realpath(good)
        except OSError:
            return False


def _order(version: str) -> tuple[str, list[int]]:
    """Return the sorting key of a version: by its numbers."""
    found = _NUMBERED.match(version)
    return (found[1], [int(part) for part in found[2].split(".")]) if found else (version, [])
