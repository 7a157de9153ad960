"""Why a symbol was not found: the failed look-up with its scopes, why it was made already, who has nearly
what was wanted, and what would help.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

from emu.analysis.explain import explain_reference
from emu.analysis.facts import Facts
from emu.analysis.frames import readable
from emu.analysis.names import without_parameters
from emu.analysis.opens import other_build
from emu.analysis.opens.data import Cure, Trial
from emu.analysis.opens.files import listing, os_text, read_object
from emu.analysis.opens.looking import base
from emu.elf import constants as c
from emu.elf.demangle import demangle
from emu.elf.edit import Edit
from emu.elf.relocations import iter_rela
from emu.rtld.link_map import LT_EXECUTABLE, LT_LOADED
from emu.rtld.lookup import Query, peek_symbol
from emu.rtld.references import type_class
from emu.rtld.runtime import reference_version, scopes_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.analysis.answer import Explanation
    from emu.analysis.opens.looking import Looking
    from emu.rtld.failure import Failing, Undefined
    from emu.rtld.link_map import LinkMap

_RTLD_LAZY, _RTLD_NOW, _RTLD_DEEPBIND = 1, 2, 8
_LISTED = 6
_FILES = 6
_LIBRARY = re.compile(r"\.so(\.[0-9.]*)?$")
_ABI_TAG = re.compile(r"\[abi:[^]]*\]")
_COMES_WITH = {
    "vtable for ": "a class's vtable is where its first virtual function is defined that is neither inline nor pure: that definition is missing",
    "typeinfo for ": "typeinfo comes with the class's vtable (a definition of its first virtual function), and not at all with -fno-rtti",
    "VTT for ": "the VTT comes with the class's vtable: the definition of its first virtual function is missing",
}  # fmt: skip
"""What the compiler makes for a class, and where. Source: Itanium C++ ABI 5.2.3."""


class UndefinedStory:
    """One look-up that found nothing, for a reference of an object that is being
    opened (or of the program, at start-up).
    """

    def __init__(self, looking: Looking, fact: Undefined, failing: Failing | None) -> None:
        self.looking, self.fact, self.failing = looking, fact, failing
        self.rtld, self.map = looking.rtld, fact.map
        self.symbol = os_text(fact.name)
        self.readable = demangle(self.symbol)
        self.explanations: tuple[Explanation, ...] = ()
        if fact.symbol:
            told = explain_reference(looking.process, self.rtld, fact.map, fact.symbol)
            self.explanations = tuple(one for one in told if one.winner is None)

    def story(self) -> Iterator[str]:
        """Yield what happened, in sentences."""
        name = base(self.map.display_name)
        asked = f" with the version {os_text(self.fact.version.name)}" if self.fact.version else ""
        yield f"{name} refers to {self.readable}{asked}, and no object in its scopes has a definition that would do"
        yield from other_build.story(self.looking, self.fact)
        yield from self._why_now(name)
        yield from self._elsewhere()
        if not any(cure.code != "lazy" for cure in self._found()):
            yield "nothing that is loaded defines it, and no library in the directories of the object, of the program and of the system does"
        others = [n for n in self._all_missing() if n != self.symbol]
        if others:
            listed = ", ".join(map(demangle, others[:_LISTED])) + (
                f" and {len(others) - _LISTED} more" if len(others) > _LISTED else ""
            )
            yield f"it would fail next for want of: {listed}"
        yield from self._kind_of_name()
        yield from self.near()

    def _why_now(self, name: str) -> Iterator[str]:
        kinds = self._kinds(self.fact.symbol)
        if not kinds:
            return
        if any(kind != c.R_X86_64_JUMP_SLOT for kind in kinds):
            yield "the reference is to its address (data or a pointer), which is filled in when the object is loaded: RTLD_LAZY makes no difference"
            return
        dynamic = self.map.dynamic
        flags = [
            text
            for set_, text in (
                (dynamic.flags & c.DF_BIND_NOW, "DF_BIND_NOW" if dynamic.flags & c.DF_BIND_NOW else ""),
                (dynamic.flags_1 & c.DF_1_NOW, "DF_1_NOW"),
            )
            if set_
        ]
        if flags:
            effect = "RTLD_LAZY has no effect" if self._lazy() else "RTLD_LAZY would have no effect"
            yield f"{name} is marked BIND_NOW ({', '.join(flags)}: linked with -z now): {effect}"
        elif self.rtld.bind_now:
            yield "LD_BIND_NOW is set: every call is bound when the object is loaded, RTLD_LAZY or not"
        elif self.failing is not None and not self._lazy():
            yield "it is only called, but RTLD_NOW binds every call when the object is loaded"

    def _elsewhere(self) -> Iterator[str]:
        """Who has it where no look-up of the object comes: another namespace; or that nobody has."""
        for namespace in self.rtld.namespaces:
            for map_ in namespace.maps:
                if map_.ns == self.map.ns or map_.real is not map_ or map_.faked:
                    continue
                facts = Facts(self.looking.process, self.rtld, self.fact.name)
                if any(map_.symtab.entry(i).defined for i in facts.indexes(map_)):
                    yield (
                        f"{base(map_.display_name)} defines it in namespace {map_.ns}: what dlmopen opens in namespace {self.map.ns} "
                        "sees what is loaded there, and nothing else"
                    )
                    return

    def _lazy(self) -> bool:
        return self.failing is not None and bool(self.failing.mode & _RTLD_LAZY)

    def _kinds(self, symbol: int) -> set[int]:
        memory = self.rtld.memory
        tables = (self.map.table(memory, tag) for tag in (c.DT_RELA, c.DT_JMPREL))
        return {
            info & 0xFFFFFFFF for table in tables for _, info, _ in iter_rela(table, self.map.display_name) if info >> 32 == symbol
        } if symbol else set()  # fmt: skip

    def _all_missing(self) -> list[str]:
        """Return the symbols of the object that nothing in scope defines, though something must."""
        found: dict[str, None] = {}
        memory, map_ = self.rtld.memory, self.map
        asked: set[tuple[int, int]] = set()
        for tag in (c.DT_RELA, c.DT_JMPREL):
            for _, info, _ in iter_rela(map_.table(memory, tag), map_.display_name):
                symbol, class_ = info >> 32, type_class(info & 0xFFFFFFFF)
                if not symbol or (symbol, class_) in asked:
                    continue
                asked.add((symbol, class_))
                fields = map_.symtab.entry(symbol)
                if fields.bind == c.STB_WEAK or fields.defined:
                    continue
                name = map_.symtab.symbol_name(symbol)
                query = Query(name, map_, symbol, reference_version(map_, symbol), class_)
                if peek_symbol(self.rtld, query, scopes_of(self.rtld, map_)) is None:
                    found[os_text(name)] = None
        return list(found)

    def _kind_of_name(self) -> Iterator[str]:
        missing = [self.readable, *map(demangle, self._all_missing())]
        for prefix, text in _COMES_WITH.items():
            if any(name.startswith(prefix) for name in missing):
                yield text
                return

    # -- who has nearly that ---------------------------------------------------------------------------------

    def near(self) -> Iterator[str]:
        """Yield definitions of nearly the name: with or without C++ mangling, with
        other parameters, of the other string ABI.
        """
        told: set[str] = set()
        plain = without_parameters(self.readable)
        mangled = self.symbol.startswith("_Z")
        for object_, name in self._definitions(plain):
            other = demangle(name)
            if name == self.symbol:
                continue
            text = ""
            if mangled and name == plain:
                text = (
                    f'{object_} defines {name} without C++ mangling: declare it extern "C" where it is used'
                )
            elif not mangled and name.startswith("_Z") and without_parameters(other) == self.symbol:
                text = f'{object_} defines {other}, mangled as C++ ({name}): declare it extern "C" where it is defined'
            elif mangled and other != self.readable and _either_abi(other) == _either_abi(self.readable):
                text = f"{object_} defines {other}, of the other std::string ABI: compile both with the same _GLIBCXX_USE_CXX11_ABI"
            elif mangled and without_parameters(other) == plain:
                text = f"{object_} defines {other}: its parameters are others"
            if text and text not in told:
                yield text
                told.add(text)
                if len(told) >= _LISTED:
                    return

    def _definitions(self, plain: str) -> Iterator[tuple[str, str]]:
        """Yield (object, name) of exported definitions in which the last part of the wanted name occurs."""
        word = re.split(r"::|<", plain)[-1].strip() or plain
        key = os_bytes(word.removeprefix("~"))
        for namespace in self.rtld.namespaces:
            for map_ in namespace.maps:
                if map_.real is not map_ or key not in map_.symtab.strings.data:
                    continue
                for symbol in map_.symtab.symbols():
                    if symbol.defined and symbol.bind != c.STB_LOCAL and key in symbol.name:
                        yield base(map_.display_name), os_text(symbol.name)
        absolute = self.looking.absolute
        loaded = {absolute(m.path) for namespace in self.rtld.namespaces for m in namespace.maps if m.path}
        for path in self._files(system=False):
            object_ = read_object(self.looking.files, path) if absolute(path) not in loaded else None
            if object_ is not None and key in object_.symtab.strings.data:
                yield from ((self.looking.shown(path), name) for name in object_.exported() if word in name)

    # -- cures -----------------------------------------------------------------------------------------------

    def cures(self) -> Iterator[Cure]:
        """Yield what would make the reference bind; where nobody has a definition,
        that it must be linked in.
        """
        found = list(self._found())
        yield from found
        if all(cure.code == "lazy" for cure in found):
            text = f"link {base(self.map.display_name)} with the object file or library that defines {self.readable}"
            result = "with -Wl,-z,defs the link fails as long as it is missing"
            yield Cure("define", self.map.display_name, text, result, False)

    def _found(self) -> Iterator[Cure]:
        """Yield the changes of the look-up that help, libraries that define the name, a later binding."""
        for one in self.explanations:
            for change in one.changes:
                if change.winner is not None and change.code not in ("dynamic-weak", "no-unique", "preload"):
                    version = f" @{change.winner.version}" if change.winner.version else ""
                    result = f"{base(change.winner.object)}{version}"
                    trial = self.trial(change.code, change.object)
                    yield Cure(change.code, change.object, change.text, result, trial=trial)
        yield from self._libraries()
        if self.failing is None or not self.fact.symbol:
            return
        if self.map.ns and any("in namespace" in text for text in self._elsewhere()):
            text = "open it with dlopen, in the base namespace, or give it the function as an argument"
            yield Cure(
                "base-namespace", self.map.display_name, text, "it is found", trial=Trial(base_namespace=True)
            )
        kinds = self._kinds(self.fact.symbol)
        if kinds == {c.R_X86_64_JUMP_SLOT} and self._only_calls_missing():
            name = base(self.map.display_name)
            now = self.map.dynamic.flags & c.DF_BIND_NOW or self.map.dynamic.flags_1 & c.DF_1_NOW
            steps = [f"link {name} with -Wl,-z,lazy"] if now else []
            steps += ["unset LD_BIND_NOW"] if self.rtld.bind_now else []
            steps += [] if self._lazy() else ["open it with RTLD_LAZY"]
            text = " and ".join(steps) + ", where the function is never called"
            edits = ((self.looking.absolute(self.map.path), Edit(lazy=True)),) if now else ()
            trial = Trial(unset=("LD_BIND_NOW",), edits=edits, set_flags=_RTLD_LAZY, clear_flags=_RTLD_NOW)
            result = f"opens; a call of {self.readable} ends the process"
            yield Cure("lazy", self.map.display_name, text, result, trial=trial)

    def trial(self, code: str, object_: str) -> Trial | None:
        """Return how another run makes a change of the look-up, None for one that it cannot make."""
        maps = (m for ns in self.rtld.namespaces for m in ns.maps)
        map_ = next((m for m in maps if m.display_name == object_), None)
        if map_ is None:
            return None
        match code:
            case "export":
                facts = Facts(self.looking.process, self.rtld, self.fact.name)
                wanted = (self.symbol, *self._all_missing())
                named = [n for n in dict.fromkeys(wanted) if n == self.symbol or _has_own(facts, map_, n)]
                return self.looking.relinking(map_, Edit(exported=tuple(named)))
            case "global" if not self.map.ns and self.rtld.started:
                return Trial(first=self.looking.absolute(map_.path))
            case "needed":
                path = self.looking.absolute(map_.path)
                return self.looking.relinking(self.map, Edit(needed=(path,)))
            case "deepbind":
                return Trial(set_flags=_RTLD_DEEPBIND)
            case "no-deepbind":
                return Trial(clear_flags=_RTLD_DEEPBIND)
        return None

    def _only_calls_missing(self) -> bool:
        missing = {name.encode(errors="surrogateescape") for name in self._all_missing()}
        table, memory = self.map.symtab, self.rtld.memory
        return not any(
            table.symbol_name(info >> 32) in missing
            for _, info, _ in iter_rela(self.map.table(memory, c.DT_RELA), self.map.display_name)
            if info >> 32 and info & 0xFFFFFFFF != c.R_X86_64_JUMP_SLOT
        )

    def _libraries(self) -> Iterator[Cure]:
        """Libraries that are not loaded and define the name:
        beside the object first, then those of the system.
        """
        loaded = {m.path for ns in self.rtld.namespaces for m in ns.maps}
        maps, shown = self.rtld.namespaces[self.map.ns].maps, 0
        real: set[str] = set()
        for path in self._files():
            try:
                target = self.looking.files.realpath(path)
            except OSError:
                continue
            if target in real or target in loaded or self.looking.absolute(path) in loaded:
                continue
            real.add(target)
            object_ = read_object(self.looking.files, path)
            if object_ is None or not object_.defines(self.fact.name):
                continue
            needed = object_.soname or base(path)
            asked = self.fact.version
            if asked is not None and object_.versions() and os_text(asked.name) not in object_.versions():
                continue
            there = next((m for m in maps if needed in (m.soname, *m.lib_names)), None)
            yield from self._instead(path, needed, there) if there else self._added(path, needed)
            shown += 1
            if shown >= _FILES:
                return

    def _added(self, path: str, needed: str) -> Iterator[Cure]:
        """A library that nobody has loaded yet: needed by who refers to the name, or opened before."""
        name, found = base(self.map.display_name), self.looking.would_do(needed, self.map)
        directory = self.looking.from_origin(posixpath.dirname(path), self.map)
        listed = self.map.runpath or self.map.rpath
        runpath = None if found else f"{listed}:{directory}" if listed else directory
        where = "" if found else f", and a RUNPATH to {directory}"
        text = f"link {name} with {needed} (DT_NEEDED{where}), which defines it and is not loaded"
        if self.map.type == LT_EXECUTABLE:
            text = f"link {name} with {needed}{where}, which defines it"
        shown = self.looking.shown(found or path)
        trial = self.looking.relinking(self.map, Edit(needed=(needed,), runpath=runpath))
        yield Cure("library", self.looking.shown(path), text, shown, trial=trial)
        if self.map.type == LT_LOADED and not self.map.ns:
            text = f"open {needed} with RTLD_GLOBAL before"
            trial = Trial(first=self.looking.absolute(path))
            yield Cure("global", self.looking.shown(path), text, shown, trial=trial)

    def _instead(self, path: str, needed: str, there: LinkMap) -> Iterator[Cure]:
        """Another file of the name of an object that is there:
        what is there is taken for every need of that name.
        """
        shown, taken = self.looking.shown(path), self.looking.shown(there.path)
        directory, earlier = posixpath.dirname(path), self.rtld.env.get("LD_LIBRARY_PATH", "")
        value = f"{directory}:{earlier}" if earlier else directory
        found = self.looking.would_do(needed, there.loader or self.looking.main, LD_LIBRARY_PATH=value)
        if found and self.looking.absolute(found) == self.looking.absolute(path):
            trial = Trial(env=(("LD_LIBRARY_PATH", value),))
            text = f"LD_LIBRARY_PATH={value}: {needed} is {taken} here, which does not define it"
            yield Cure("library-path", needed, text, shown, trial=trial)
        if not self.map.ns:
            text = f"LD_PRELOAD={shown if '/' in shown else f'./{shown}'}: {needed} is {taken} here, which does not define it"
            trial = self.looking.preloading(self.looking.absolute(path))
            yield Cure("preload", needed, text, shown, trial=trial)

    def _files(self, *, system: bool = True) -> Iterator[str]:
        """Yield the paths of shared objects in the directories of the object, of the program, of their search
        lists, and of the system.
        """
        yield from other_build.namesakes(self.looking, self.fact)
        directories: dict[str, None] = {}
        for map_ in (self.map, self.looking.main):
            if map_ is None:
                continue
            if map_.origin is not None:
                directories[map_.origin] = None
            for text in (map_.runpath, map_.rpath):
                if text:
                    directories.update(
                        dict.fromkeys(map(self.looking.absolute, self.looking.directories(text, map_)))
                    )
        of_system = dict.fromkeys(name.rstrip("/") for name in self.looking.system_dirs)
        if system:
            directories.update(of_system)
        else:
            directories = {name: None for name in directories if name not in of_system}
        for directory in directories:
            for name in listing(self.looking.files, directory):
                if _LIBRARY.search(name):
                    yield f"{directory.rstrip('/')}/{name}"


def _has_own(facts: Facts, map_: LinkMap, name: str) -> bool:
    """Whether an object has a definition of a name that it keeps to itself."""
    return facts.symbols.unexported(map_, os_bytes(name)) is not None


def _either_abi(name: str) -> str:
    """Return a demangled name as it is in both of libstdc++'s ABIs. Source: libstdc++ manual "Dual ABI"."""
    return readable(_ABI_TAG.sub("", name).replace("std::basic_string<", "std::__cxx11::basic_string<"))


def os_bytes(text: str) -> bytes:
    """Return a text as the bytes of a name."""
    return text.encode(errors="surrogateescape")
