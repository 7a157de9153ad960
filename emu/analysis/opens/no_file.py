"""Why no file was found: every place that was searched, those that were not and by
which rule, and what would lead to a file.

One piece: a place that was passed over and its cure are told from the same search.

Source: glibc elf/dl-load.c:_dl_map_object; ld.so(8).
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from emu.analysis.opens.data import Cure, SearchedPlace, Trial, Tried
from emu.analysis.opens.files import listing, read_object
from emu.analysis.opens.looking import As, Looking, base
from emu.elf.constants import DF_1_NODEFLIB, DT_RPATH
from emu.elf.edit import Edit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.rtld.failure import NoFile
    from emu.rtld.link_map import LinkMap

_STEM = re.compile(r"^(.*?\.so)(\.[\w.]*)?$")
_SET_ID = "the program has set-id bits: AT_SECURE"
_CONF = "/etc/ld.so.conf"
_NEAR = 6
_BELOW = 400
"""Names beside an object that are looked at for directories."""


class NoFileStory:
    """One search that found nothing (or nothing that could be loaded), told again."""

    def __init__(self, looking: Looking, fact: NoFile) -> None:
        self.looking, self.fact, self.name = looking, fact, fact.name
        self.rtld = looking.rtld
        self.main = looking.main
        self.loader = fact.loader or self.main
        self.look = looking.look(self.name, self.loader)
        self._candidates: dict[str, str] = {}

    @property
    def is_path(self) -> bool:
        """Whether the name is a path, for which no search is made."""
        return "/" in self.name

    def chain(self) -> list[LinkMap]:
        """Return the object that needs the file and those by whose need that was loaded, itself first."""
        found = []
        map_ = self.loader
        while map_ is not None:
            found.append(map_)
            map_ = map_.loader
        return found

    # -- places ----------------------------------------------------------------------------------------------

    def places(self) -> tuple[SearchedPlace, ...]:
        """Return every place that was searched, in order, then those that were not
        though they might have been meant.
        """
        if self.is_path:
            expanded = self.rtld.search.expand(self.name, self.loader, self.main) or self.name
            tried = (self.looking.judge(expanded),)
            return (
                SearchedPlace(
                    "path",
                    True,
                    "the path itself",
                    self.name,
                    "a name with a slash is not searched for",
                    tried,
                ),
                *self._apart(),
            )
        return (*self._searched(), *self._not_searched(), *self._apart())

    def _searched(self) -> Iterator[SearchedPlace]:
        loader = self.loader
        rpaths = self.chain() if loader is None or loader.runpath is None else []
        if self.main is not None and rpaths and self.main not in rpaths:
            rpaths.append(self.main)
        for map_ in rpaths:
            if map_.rpath:
                yield self._listed("rpath", f"RPATH of {map_.display_name}", map_.rpath, map_)
        value = self.rtld.env.get("LD_LIBRARY_PATH", "")
        if not self.rtld.secure:
            yield self._library_path(value)
        if loader is not None:
            text = f"RUNPATH of {loader.display_name}"
            if loader.runpath:
                yield self._listed("runpath", text, loader.runpath, loader)
            else:
                yield SearchedPlace("runpath", True, text, "", "it has none", ())
        cached = next((path for path, rule in self.look.tried if rule == "ld.so.cache"), "")
        no_default = loader is not None and bool(loader.dynamic.flags_1 & DF_1_NODEFLIB)
        tried = (self.looking.judge(cached),) if cached else ()
        yield SearchedPlace(
            "cache",
            True,
            self.rtld.search.system_dirs.cache,
            "",
            "" if cached else "no entry for an x86-64 library of that name",
            tried,
        )
        if no_default:
            note = f"{base(loader.display_name) if loader else ''} is linked with -z nodefaultlib"
            yield SearchedPlace(
                "default", False, "the system's directories", ":".join(self.looking.system_dirs), note, ()
            )
        else:
            yield self._plain(
                "default", "the system's directories", "", [d.rstrip("/") for d in self.looking.system_dirs]
            )

    def _listed(self, rule: str, text: str, value: str, map_: LinkMap) -> SearchedPlace:
        directories = self.looking.directories(value, map_)
        place = self._plain(rule, text, value, directories)
        lost = [e for e in value.split(":") if e and not self.rtld.search.expand(e, map_, self.main)]
        odd = [
            e
            for e in value.split(":")
            if re.search(r"\$(?!\{?(ORIGIN|LIB|PLATFORM)\b)", e) or re.search(r"(^|/)\{?ORIGIN\b", e)
        ]
        why = "cannot be expanded"
        if self.rtld.secure:
            why = f"is passed over in secure mode: $ORIGIN must lead to one of the system's directories ({_SET_ID})"
        notes = [f"{e} {why}" for e in lost]
        notes += [
            f"{e} has no token that ld.so knows: $ORIGIN is meant? (the shell or make may have eaten the $)"
            for e in odd
        ]
        return SearchedPlace(rule, True, text, value, "; ".join(notes), place.tried)

    def _plain(self, rule: str, text: str, value: str, directories: list[str]) -> SearchedPlace:
        note = "" if directories else "it is not set" if rule == "library-path" else "it is empty"
        tried = tuple(self._candidate(directory) for directory in directories)
        return SearchedPlace(rule, True, text, value, note, tried)

    def _library_path(self, value: str) -> SearchedPlace:
        """LD_LIBRARY_PATH as ld.so read it, once; what the program has made of it since is not asked."""
        place = self._plain(
            "library-path", "LD_LIBRARY_PATH", value, value.replace(";", ":").split(":") if value else []
        )
        now = self.looking.variable("LD_LIBRARY_PATH") if self.rtld.started else None
        if now is None or now == value:
            return place
        was = f"it was {value}" if value else "it was not set"
        note = f"{was} when the process started; the program has set it to {now} since, which changes nothing: ld.so reads it once"
        return replace(place, note=note)

    def _candidate(self, directory: str) -> Tried:
        return self.looking.judge(f"{directory.rstrip('/')}/{self.name}" if directory else self.name)

    def _not_searched(self) -> Iterator[SearchedPlace]:
        loader, chain = self.loader, self.chain()
        assert loader is not None
        value = self.looking.process.config.env.get("LD_LIBRARY_PATH", "")
        if self.rtld.secure and value:
            note = f"ignored in secure mode ({_SET_ID})"
            yield self._passed("library-path", "LD_LIBRARY_PATH", value.replace(";", ":"), loader, note)
        own = loader.dynamic.get(DT_RPATH)
        if loader.runpath is not None and own is not None:
            text = loader.symtab.strings.at(own).decode(errors="surrogateescape")
            yield self._passed(
                "rpath",
                f"RPATH of {loader.display_name}",
                text,
                loader,
                "ignored, since it has a RUNPATH as well",
            )
        shown = [*chain, *([self.main] if self.main is not None and self.main not in chain else [])]
        others = [m for ns in self.rtld.namespaces for m in ns.maps if m.real is m and m not in shown]
        for map_ in (*shown, *others):
            if map_ is loader:
                continue
            name = base(map_.display_name)
            if map_.runpath:
                note = f"a RUNPATH serves only what {name} itself needs or opens"
                place = self._passed("runpath", f"RUNPATH of {map_.display_name}", map_.runpath, map_, note)
            elif map_.rpath and (loader.runpath is not None or map_ not in shown):
                note = f"ignored, since {base(loader.display_name)} has a RUNPATH of its own"
                if map_ not in shown:
                    note = f"an RPATH serves {name} and what is loaded for it"
                place = self._passed("rpath", f"RPATH of {map_.display_name}", map_.rpath, map_, note)
            else:
                continue
            if map_ in shown or any(one.outcome == "would-do" for one in place.tried):
                yield place

    def _passed(self, rule: str, text: str, value: str, map_: LinkMap, note: str) -> SearchedPlace:
        tried = []
        for directory in self.looking.directories(value, map_):
            one = self._candidate(directory)
            if one.outcome == "would-do":
                self._candidates.setdefault(self.looking.absolute(one.path), directory)
                tried.append(Tried(self.looking.shown(one.path), one.outcome, "it is there"))
            elif one.outcome != "absent":
                tried.append(one)
        return SearchedPlace(rule, False, text, value, note, tuple(tried))

    def _apart(self) -> Iterator[SearchedPlace]:
        """Directories that no rule leads to, but somebody may have thought so."""
        places: dict[str, str] = {}
        for map_, what in ((self.loader, "the directory of {}"), (self.main, "the program's directory")):
            if map_ is not None and map_.origin is not None:
                places.setdefault(map_.origin, what.format(base(map_.display_name)))
        places.setdefault(self.looking.cwd, "the working directory")
        if self.loader is not None and self.loader.origin is not None:
            below = f"a directory below that of {base(self.loader.display_name)}"
            for name in listing(self.looking.files, self.loader.origin)[:_BELOW]:
                if self.looking.files.is_directory(path := posixpath.join(self.loader.origin, name)):
                    places.setdefault(path, below)
        for directory in self._configured(_CONF):
            places.setdefault(directory, "a directory of ld.so.conf")
        searched = {posixpath.dirname(self.looking.absolute(path)) for path, _ in self.look.tried}
        for directory, what in places.items():
            names = [self.name] if not self.is_path else [self.name.lstrip("/"), base(self.name)]
            for name in dict.fromkeys(names):
                path = posixpath.normpath(posixpath.join(directory, name))
                if (directory in searched and not self.is_path) or path in self._candidates:
                    continue
                one = self.looking.judge(path)
                if one.outcome == "would-do" and path != self.looking.absolute(
                    self.name if self.is_path else ""
                ):
                    self._candidates.setdefault(path, posixpath.dirname(path))
                    note = "ld.so does not look there of itself"
                    if what.startswith("a directory of ld.so.conf"):
                        note = "ld.so.cache does not know it: ldconfig has not run since"
                    shown = Tried(self.looking.shown(path), "would-do", "it is there")
                    yield SearchedPlace(
                        "directory", False, what, self.looking.shown(directory) or ".", note, (shown,)
                    )

    def _configured(self, path: str, depth: int = 0) -> list[str]:
        """Return the directories of /etc/ld.so.conf, with what it includes. Source: ldconfig(8)."""
        try:
            file = self.looking.files.look_at(path)
            text = file.pread(file.size(), 0).decode(errors="surrogateescape")
        except OSError:
            return []
        found: list[str] = []
        for line in text.splitlines():
            words = line.partition("#")[0].replace(",", " ").replace(":", " ").split()
            if words[:1] == ["include"] and depth < 2:
                for pattern in words[1:]:
                    folder, _, form = posixpath.join(posixpath.dirname(path), pattern).rpartition("/")
                    wanted = re.compile(".*".join(map(re.escape, form.split("*"))) + "$")
                    for name in listing(self.looking.files, folder):
                        if wanted.match(name):
                            found += self._configured(f"{folder}/{name}", depth + 1)
            else:
                found += [word for word in words if word.startswith("/")]
        return found

    # -- what is near ----------------------------------------------------------------------------------------

    def near(self) -> list[str]:
        """Return files of nearly the name in the directories that were searched or might have been meant:
        another version, most of all.
        """
        wanted = base(self.name)
        stem = _STEM.match(wanted)
        key = (stem[1] if stem else wanted).lower().removeprefix("lib").removesuffix(".so")
        directories = [posixpath.dirname(self.looking.absolute(path)) for path, _ in self.look.tried]
        directories += [m.origin for m in (self.loader, self.main) if m is not None and m.origin]
        found: list[str] = []
        for directory in dict.fromkeys(directories):
            for name in listing(self.looking.files, directory):
                known = _STEM.match(name)
                if (
                    known
                    and name != wanted
                    and known[1].lower().removeprefix("lib").removesuffix(".so") == key
                ):
                    found.append(self.looking.shown(f"{directory}/{name}"))
        return list({base(path): path for path in reversed(found)}.values())[::-1][:_NEAR]

    def of_musl(self) -> Iterator[str]:
        """Yield what to say of a need for musl's libc, which is another one than glibc."""
        if re.match(r"(libc\.musl-|ld-musl-)", base(self.name)):
            who = base(self.loader.display_name) if self.loader is not None else "who needs it"
            yield (
                f"{self.name} is musl's libc (Alpine Linux): {who} was built for musl, and a process of glibc cannot use it;"
                " take the build for glibc (of Python's wheels: manylinux, not musllinux)"
            )

    # -- cures -----------------------------------------------------------------------------------------------

    def cures(self) -> Iterator[Cure]:
        """Yield the changes that lead to a file that `places` has found:
        each was tried on the linker's own rules.
        """
        loader = self.loader
        assert loader is not None
        if self.is_path:
            yield from self._paths(loader)
            return
        if not self._candidates:
            yield from self._other_interface(loader)
            return
        path = next(iter(self._candidates))
        directory = posixpath.dirname(path)
        yield from self._inherited(loader)
        yield from self._runpath(loader, directory)
        if self.rtld.secure:
            yield from self._without_ids(loader)
        if self.fact.called:
            yield from self._by_path(path)
        else:
            yield from self._first(path)
        earlier = self.rtld.env.get("LD_LIBRARY_PATH", "")
        value = f"{directory}:{earlier}" if earlier else directory
        if found := self.looking.would_do(self.name, loader, LD_LIBRARY_PATH=value):
            trial = Trial(env=(("LD_LIBRARY_PATH", value),))
            yield Cure(
                "library-path",
                base(self.name),
                f"LD_LIBRARY_PATH={value}",
                self.looking.shown(found),
                trial=trial,
            )
        if directory in self._configured(_CONF):
            yield Cure(
                "ldconfig",
                base(self.name),
                "run ldconfig, so that ld.so.cache knows it",
                self.looking.shown(path),
                False,
            )

    def _other_interface(self, loader: LinkMap) -> Iterator[Cure]:
        """A library of the name but for its number:
        another interface, for which who needs it must be built again.
        """
        for shown in self.near():
            object_ = read_object(self.looking.files, self.looking.absolute(shown))
            if object_ is None or object_.soname in ("", self.name) or self.fact.called:
                continue
            name = base(loader.display_name)
            text = f"build {name} anew against {shown}, or install the library of the name {self.name}"
            result = f"its SONAME is {object_.soname}: another number is another interface"
            yield Cure("rebuild", loader.display_name, text, result, False)
            return

    def _without_ids(self, loader: LinkMap) -> Iterator[Cure]:
        """Secure mode: without set-id bits the search goes where the user says."""
        env = self.looking.process.config.env
        if found := self.looking.would_do_insecurely(self.name, loader, env):
            program = base(self.main.display_name) if self.main is not None else "the program"
            text = f"take the set-id bits from {program} (chmod ug-s), where it can do without: the user's paths and $ORIGIN count then"
            trial = Trial(without_ids=True)
            yield Cure("no-set-id", program, text, self.looking.shown(found), trial=trial)
        text = f"install {base(self.name)} in one of the system's directories, and run ldconfig"
        yield Cure("install", base(self.name), text, "it is found by ld.so.cache", False)

    def _inherited(self, loader: LinkMap) -> Iterator[Cure]:
        """DT_RPATH in place of DT_RUNPATH of whoever's list leads there:
        it is inherited, unless the object has a RUNPATH itself.
        """
        if loader.runpath is not None:
            if found := self.looking.would_do(self.name, As(loader, None, None, loader.loader)):
                text = f"link {base(loader.display_name)} without a RUNPATH: the RPATH of what loads it serves it then"
                trial = self.looking.relinking(loader, Edit(without_runpath=True))
                yield Cure("no-runpath", loader.display_name, text, self.looking.shown(found), trial=trial)
            return
        for map_ in dict.fromkeys((*self.chain()[1:], *([self.main] if self.main else []))):
            if not map_.runpath or map_ is loader:
                continue
            changed, main = self._with_rpath(loader, map_)
            if found := self.looking.would_do(self.name, changed, main):
                text = f"link {base(map_.display_name)} with -Wl,--disable-new-dtags: DT_RPATH serves what is loaded for it, too"
                trial = self.looking.relinking(map_, Edit(inherited=True))
                yield Cure("rpath", map_.display_name, text, self.looking.shown(found), trial=trial)

    def _with_rpath(self, loader: LinkMap, changed: LinkMap) -> tuple[As, As | None]:
        """Return the loader and the program as they would be seen if one
        object had its DT_RUNPATH as DT_RPATH.
        """
        made: dict[LinkMap, As] = {}

        def seen(map_: LinkMap) -> As:
            if map_ not in made:
                above = seen(map_.loader) if map_.loader is not None else None
                mine = map_ is changed
                made[map_] = As(
                    map_, map_.runpath if mine else map_.rpath, None if mine else map_.runpath, above
                )
            return made[map_]

        first = seen(loader)
        return first, seen(self.main) if self.main is not None else None

    def _runpath(self, loader: LinkMap, directory: str) -> Iterator[Cure]:
        written = self.looking.from_origin(directory, loader)
        if self.rtld.secure:
            written = self.looking.absolute(directory)  # $ORIGIN is not for it
        value = f"{loader.runpath}:{written}" if loader.runpath else written
        seen = As(loader, None, value, loader.loader)
        if found := self.looking.would_do(self.name, seen):
            text = f"give {base(loader.display_name)} the RUNPATH {value} (-Wl,-rpath,'{written}' when it is linked, or patchelf --add-rpath)"
            trial = self.looking.relinking(loader, Edit(runpath=value))
            yield Cure("runpath", loader.display_name, text, self.looking.shown(found), trial=trial)

    def _by_path(self, path: str) -> Iterator[Cure]:
        shown = self.looking.shown(path)
        name = shown if "/" in shown else f"./{shown}"
        if found := self.looking.would_do(name, self.loader):
            text = f'open it by a path: dlopen("{name}")'
            trial = Trial(file=name)
            yield Cure("path", base(self.name), text, self.looking.shown(found), trial=trial)

    def _first(self, path: str) -> Iterator[Cure]:
        """Have it loaded before: what is there under the name serves every DT_NEEDED of it."""
        for map_ in dict.fromkeys((*([self.main] if self.main else []), *self.chain())):
            if map_ is not self.loader and (found := self.looking.would_do(self.name, map_)):
                text = f'let {base(map_.display_name)} open {self.name} first: dlopen("{self.name}") by its code finds it by its RUNPATH'
                if map_ is self.main:
                    text += f", as linking {base(map_.display_name)} with it would"
                trial = self._opened_first(map_)
                yield Cure("open-first", map_.display_name, text, self.looking.shown(found), trial=trial)
                break
        object_ = read_object(self.looking.files, path)
        if object_ is not None and object_.soname == self.name and not self.fact.namespace:
            shown = self.looking.shown(path)
            written = shown if "/" in shown else f"./{shown}"
            yield Cure(
                "preload",
                base(self.name),
                f"LD_PRELOAD={written}: its SONAME is the name that is needed",
                shown,
                trial=self.looking.preloading(written),
            )

    def _opened_first(self, map_: LinkMap) -> Trial | None:
        """Return the trial of the program's loading the file before:
        by code where something was opened, else by needing it.
        """
        if map_ is not self.main:
            return None
        if self.rtld.started:
            return Trial(first=self.name)
        return self.looking.relinking(map_, Edit(needed=(self.name,)))

    def _paths(self, loader: LinkMap) -> Iterator[Cure]:
        bare = base(self.name)
        if self.fact.called and (found := self.looking.would_do(bare, loader)):
            yield Cure(
                "bare-name",
                loader.display_name,
                f'dlopen("{bare}"), without a slash: then it is searched for',
                self.looking.shown(found),
                trial=Trial(file=bare),
            )
        for path in self._candidates:
            written = self.looking.from_origin(path, loader)
            name = written if self.fact.called and written.startswith("$ORIGIN") else path
            if found := self.looking.would_do(name, loader):
                of = f", from the directory of {base(loader.display_name)}" if name.startswith("$") else ""
                text = (
                    f'dlopen("{name}"){of}'
                    if self.fact.called
                    else f"DT_NEEDED as {base(self.name)}, with a RUNPATH"
                )
                trial = Trial(file=name) if self.fact.called else self._by_name(loader, path)
                yield Cure("path", loader.display_name, text, self.looking.shown(found), trial=trial)

    def _by_name(self, loader: LinkMap, path: str) -> Trial:
        """Return the trial of a DT_NEEDED that is a name, with a RUNPATH to where the file is."""
        directory = self.looking.from_origin(posixpath.dirname(path), loader)
        value = f"{loader.runpath}:{directory}" if loader.runpath else directory
        return self.looking.relinking(loader, Edit(renamed=((self.name, base(path)),), runpath=value))
