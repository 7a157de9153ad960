"""What would let a reference bind elsewhere:
each change is tried, by a look-up over scopes as they would then be.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from emu.analysis.answer import Change
from emu.analysis.retell import Question, Retelling, ask, is_deepbind, is_first_of_namespace, own_definition
from emu.analysis.rules import has_copy
from emu.elf import constants as c
from emu.elf.hash import sysv_hash
from emu.glibc.release import otherwise
from emu.rtld.found import symbol_of
from emu.rtld.link_map import LT_EXECUTABLE, LT_LOADED, LinkMap
from emu.rtld.lookup import CLASS_PLT, DYNAMIC_WEAK
from emu.rtld.scope import Scope
from emu.rtld.version import Version

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from emu.analysis.answer import Definition
    from emu.analysis.facts import Facts


_RULES = ("named_version_first", "lost_versions_accepted")
"""Members of `Rules` that decide which definition a reference takes."""


class Changes:
    """The changes for one reference. Only those that would let it bind elsewhere are yielded."""

    def __init__(self, facts: Facts, question: Question, retelling: Retelling) -> None:
        self.facts, self.question, self.found = facts, question, retelling.found
        self.map, self.place = question.map, retelling.place
        self.offered = [
            symbol_of(map_, index)
            for map_ in facts.objects()
            if map_.ns == self.map.ns and (index := own_definition(facts, question, map_)[0]) >= 0
        ]

    def all(self) -> Iterator[Change]:
        """Yield them, those that need no new build first."""
        yield from self._preload()
        yield from self._modes()
        yield from self._exports()
        yield from self._needed()
        yield from self._dynamic_weak()
        yield from self._versions()
        yield from self._own()
        yield from self._unique()
        yield from self._executable()
        yield from self._without_winner()
        yield from self._releases()

    def _try(self, code: str, object_: LinkMap | None, text: str, question: Question) -> Iterator[Change]:
        found = ask(self.facts, question)
        if found != self.found:
            winner = self.facts.definition(found) if found is not None and found.number else None
            yield Change(code, object_.display_name if object_ is not None else "", text, winner)

    def _preload(self) -> Iterator[Change]:
        main = self.facts.rtld.namespaces[0].main
        if self.map.ns or main is None:
            return
        for map_ in (found.map for found in self.offered):
            if map_ in (main, self.question.skip):
                continue
            order = [main, map_, *(m for m in main.searchlist if m not in (main, map_))]
            skip = self.question.skip
            if skip is not None and skip in main.searchlist and skip is not main:
                rest = [m for m in main.searchlist if m is not map_]
                rest.insert(rest.index(skip) + 1, map_)
                text = f"{map_.display_name} preloaded behind it (LD_PRELOAD={self._written(skip)}:{self._written(map_)})"
                yield from self._try("preload", map_, text, self._with_global(rest))
                continue
            yield from self._try(
                "preload",
                map_,
                f"LD_PRELOAD={self._written(map_)}",
                self._with_global(order),
            )

    def _written(self, map_: LinkMap) -> str:
        """Return an object as LD_PRELOAD takes it: without a slash it would be searched for."""
        path, cwd = map_.display_name, self.facts.process.config.cwd
        inside = os.path.relpath(path, cwd) if os.path.isabs(path) and cwd != "/" else path
        if inside.startswith("../"):
            inside = path
        return inside if inside.startswith(("/", "./")) else f"./{inside}"

    def _with_global(self, order: list[LinkMap]) -> Question:
        """Return the question with another order of the global scope."""
        scopes = [
            Scope(order, scope.owner) if is_first_of_namespace(self.facts, scope) else scope
            for scope in self.question.scopes
        ]
        return self.question._replace(scopes=scopes)

    def _modes(self) -> Iterator[Change]:
        """RTLD_DEEPBIND for the object that refers, RTLD_GLOBAL for those that define."""
        scopes = list(self.question.scopes)
        main = self.facts.rtld.namespaces[self.map.ns].main
        at = next((n for n, scope in enumerate(scopes) if is_first_of_namespace(self.facts, scope)), None)
        if self.map.type == LT_LOADED and at is not None and scopes == self.map.scopes:
            opened = next((s for s in scopes if not s.symbolic and s is not scopes[at]), None)
            if opened is not None and opened.owner is not None:
                rest = [s for s in scopes if s is not opened and not s.symbolic]
                name = opened.owner.display_name
                if is_deepbind(self.facts, self.map, scopes.index(opened)):
                    normal = [*rest[:1], opened, *rest[1:]]
                    if self.map.symbolic:
                        normal.insert(0, Scope([self.map], self.map, symbolic=True))
                    text = f"{name} opened without RTLD_DEEPBIND"
                    yield from self._try(
                        "no-deepbind", opened.owner, text, self.question._replace(scopes=normal)
                    )
                else:
                    question = self.question._replace(scopes=[opened, *rest])
                    yield from self._try(
                        "deepbind", opened.owner, f"{name} opened with RTLD_DEEPBIND", question
                    )
        if main is None:
            return
        for map_ in (found.map for found in self.offered):
            if map_.type != LT_LOADED:
                continue
            if map_.global_:
                order = [m for m in main.searchlist if m is not map_]
                text = f"{map_.display_name} opened without RTLD_GLOBAL"
                yield from self._try("no-global", map_, text, self._with_global(order))
            else:
                bringer = _opener(self.facts, map_)
                brings = f", which brings {map_.display_name}," if bringer is not map_ else ""
                text = f"{bringer.display_name}{brings} opened with RTLD_GLOBAL, before this was bound"
                added = [m for m in (bringer.searchlist or [map_]) if m not in main.searchlist]
                yield from self._try("global", map_, text, self._with_global([*main.searchlist, *added]))

    def _exports(self) -> Iterator[Change]:
        """Definitions that an object keeps to itself, exported:
        by a place in the scopes before what is found now.
        """
        place = self.place if self.found is not None else (len(self.question.scopes), 0)
        if place is None:
            return
        seen: set[LinkMap] = set()
        for number, scope in enumerate(self.question.scopes):
            for at, listed in enumerate(scope.maps):
                map_ = listed.real
                if map_ in seen or (number, at) >= place:
                    continue
                seen.add(map_)
                if any(map_.symtab.entry(i).defined for i in self.facts.indexes(map_)):
                    continue
                definition = self.facts.unexported(map_)
                if definition is None:
                    continue
                text = _exported(self.facts, map_, definition)
                yield Change("export", map_.display_name, text, definition)

    def _needed(self) -> Iterator[Change]:
        """A reference that nothing satisfies, in an object that does not need one that would."""
        if self.found is not None:
            return
        inside = {map_.real for scope in self.question.scopes for map_ in scope.maps}
        for map_ in (found.map for found in self.offered):
            if map_ not in inside:
                scopes = [*self.question.scopes, Scope([map_], map_)]
                text = f"{self.map.display_name} linked with {map_.soname or map_.display_name} (DT_NEEDED)"
                yield from self._try("needed", map_, text, self.question._replace(scopes=scopes))

    def _dynamic_weak(self) -> Iterator[Change]:
        question = self.question._replace(flags=self.question.flags ^ DYNAMIC_WEAK)
        text = "LD_DYNAMIC_WEAK " + ("not set" if self.question.flags & DYNAMIC_WEAK else "set")
        yield from self._try("dynamic-weak", None, text, question)

    def _versions(self) -> Iterator[Change]:
        """Every version that somebody defines, and none."""
        asked = self.question.version
        names: dict[bytes, None] = {}
        for map_ in self.facts.objects():
            if map_.ns != self.map.ns:
                continue
            for index in self.facts.indexes(map_):
                fields = map_.symtab.entry(index)
                if fields.defined and (own := self.facts.version(map_, index)[0]):
                    names[own.encode()] = None
        for name in names:
            if asked is None or name != asked.name:
                version = Version(name, sysv_hash(name), False, b"")
                text = f"the reference asking for version {name.decode()}"
                yield from self._try("version", self.map, text, self.question._replace(version=version))
        if asked is not None:
            question = self.question._replace(version=None)
            yield from self._try("no-version", self.map, "the reference asking for no version", question)

    def _own(self) -> Iterator[Change]:
        """The referring object's own definition, preferred or not."""
        own = next((found for found in self.offered if found.map is self.map), None)
        if own is None or not self.question.reference:
            return
        name = self.map.display_name
        scopes = list(self.question.scopes)
        if own != self.found and self.map.type != LT_EXECUTABLE:
            question = self.question._replace(scopes=[Scope([self.map], self.map, symbolic=True), *scopes])
            yield from self._try("symbolic", self.map, f"{name} linked with -Bsymbolic", question)
            text = f"{name}'s own definition hidden or protected (-fvisibility)"
            yield Change("visibility", name, text, self.facts.definition(own))
        if own == self.found:
            if scopes and scopes[0].symbolic:
                question = self.question._replace(scopes=scopes[1:])
                yield from self._try("no-symbolic", self.map, f"{name} linked without -Bsymbolic", question)
            if own.visibility == c.STV_PROTECTED:
                question = self.question._replace(reference=0)
                text = f"{name}'s definition with default visibility"
                yield from self._try("default-visibility", self.map, text, question)

    def _unique(self) -> Iterator[Change]:
        with self._forgotten(None):
            text = "all compiled with -fno-gnu-unique"
            yield from self._try("no-unique", None, text, self.question)

    @contextmanager
    def _forgotten(self, owner: LinkMap | None) -> Iterator[None]:
        """Let the namespace not know who has the unique symbol (if it is
        `owner`'s, or anybody's), for a look-up or two.
        """
        unique, name = self.facts.rtld.namespaces[self.map.ns].unique, self.facts.name
        known = unique.get(name)
        if known is None or owner not in (None, known.map):
            yield
            return
        del unique[name]
        try:
            yield
        finally:
            unique[name] = known

    def _executable(self) -> Iterator[Change]:
        """What stands in the executable for a definition elsewhere."""
        if self.found is None or self.found.map.type != LT_EXECUTABLE:
            return
        main, index = self.found.map, self.found.number
        if self.found.shndx == c.SHN_UNDEF:
            text = f"{main.display_name} compiled as position-independent code (-fPIE)"
            yield from self._try("pic", main, text, self.question._replace(type_class=CLASS_PLT))
        elif has_copy(self.facts, main, index):
            text = f"{main.display_name} compiled without copy relocations (-fPIC, -mno-direct-extern-access)"
            yield from self._try("no-copy", main, text, self._without(main))

    def _without_winner(self) -> Iterator[Change]:
        if self.found is None:
            return
        winner = self.found.map
        with self._forgotten(winner):
            how = "not defining it" if winner is self.map else "not there, or not exporting it"
            text = f"{winner.display_name} {how}"
            yield from self._try("without-winner", winner, text, self._without(winner))

    def _releases(self) -> Iterator[Change]:
        """The rules that another release of glibc has for a look-up."""
        rtld = self.facts.rtld
        for rule in _RULES:
            value = bool(getattr(rtld.rules, rule))
            other: dict[str, Any] = {rule: not value}
            with rtld.as_if(replace(rtld.rules, **other)):
                yield from self._try("release", None, otherwise(rule, value), self.question)

    def _without(self, gone: LinkMap) -> Question:
        """Return the question with an object taken out of every scope, and with its
        own reference if it is that object's.
        """
        scopes: Sequence[Scope] = [
            Scope([m for m in scope.maps if m.real is not gone], scope.owner, symbolic=scope.symbolic)
            for scope in self.question.scopes
        ]
        reference = 0 if gone is self.map else self.question.reference
        return self.question._replace(scopes=scopes, reference=reference)


def _opener(facts: Facts, map_: LinkMap) -> LinkMap:
    """Return the object whose dlopen brought another one:
    itself where it was opened, or where nobody is known.
    """
    if map_.direct_opencount:
        return map_
    found = (
        m for m in facts.objects() if m.direct_opencount and m.type == LT_LOADED and map_ in m.searchlist
    )
    return next(found, map_)


def _exported(facts: Facts, map_: LinkMap, definition: Definition) -> str:
    """Return what to do so that an object exports what it keeps to itself."""
    symbol, object_ = facts.name.decode(errors="replace"), map_.display_name
    if definition.visibility != "DEFAULT":
        return f"{object_} with default visibility for it (-fvisibility, or its attribute)"
    external = facts.external(map_) if definition.binding == "LOCAL" else None
    if external:
        return f"{object_} built so that it exports it: default visibility (no -fvisibility=hidden), global in its version script, and no --exclude-libs"
    if definition.binding == "LOCAL":
        how = "not static" + ("" if external is False else ", and global in its version script if it has one")
        return f"{object_} exporting it: {how}"
    if map_.type == LT_EXECUTABLE:
        return f"{object_} linked with -rdynamic (or a --dynamic-list, or --export-dynamic-symbol={symbol})"
    return f"{object_} linked so that it exports it (no --exclude-libs, no local: in its version script)"


def changes(facts: Facts, question: Question, retelling: Retelling) -> tuple[Change, ...]:
    """Return what would change the outcome of a look-up, with who would win."""
    return tuple(Changes(facts, question, retelling).all())
