"""Rules about names that several DSOs define: one taken from a library that uses it for itself, a weak
definition before a strong one, a unique symbol shared across RTLD_LOCAL.

Each reference of a new object is asked what it is bound to, and what it would be bound to among its own
dependencies alone (`emu.analysis.bindings`). What is meant to be interposed is only counted
(`emu.analysis.meant`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.analysis.bindings import Bindings, Exported, Use, copies
from emu.analysis.check_notes import NOWHERE, Notes, Occasion, base
from emu.analysis.meant import INLINE, REPLACED, SAME, is_cxx_runtime, is_libc, is_standard, why_meant
from emu.analysis.same_code import Code, other_layout, same_code
from emu.elf import constants as c
from emu.elf.demangle import demangle
from emu.rtld.link_map import LT_LOADED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.core.events import InitStarted, Record
    from emu.rtld.link_map import LinkMap

_SHOWN = 4
_MOST_INLINE = 4000
"""Inline functions whose code is compared, in one run."""
LAYOUT = "layout-differs"
_PRELOADS = ("LD_PRELOAD", "/etc/ld.so.preload")


class Conflicts:
    """Looks through the references of each object once, when it is linked.

    `meant` counts by kind of intention what is interposed as it should be.
    """

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self.bindings: Bindings | None = None
        self.meant: dict[str, set[bytes]] = {}
        self._copied: dict[LinkMap, set[int]] = {}
        self._replaced: list[Use] = []
        self._compared = 0

    def look(self, _record: Record, _event: InitStarted) -> list[LinkMap]:
        """Constructors begin: look through what was linked since the last time, and return it."""
        rtld = self._notes.process.rtld
        assert rtld is not None
        if self.bindings is None:
            self.bindings = Bindings(rtld)
        new = self.bindings.add(self._notes.maps())
        opened = self._notes.here() if any(map_.type == LT_LOADED for map_ in new) else NOWHERE
        for map_ in new:
            if map_.type == 0:
                self._copied[map_] = {map_.symtab.entry(number).value for number in copies(rtld, map_)}
            self._taken(map_, opened)
            self._unique(map_, opened)
        return new

    def forget(self, start: int) -> None:
        """Drop what is known of the object that began there and is going."""
        if self.bindings is not None:
            self.bindings.forget(start)
        self._replaced = [
            use
            for use in self._replaced
            if start not in (use.map.map_start, use.winner.map.map_start, use.own.map.map_start)
        ]

    # -- interposition ---------------------------------------------------------------------------------------

    def _taken(self, map_: LinkMap, opened: Occasion) -> None:
        assert self.bindings is not None
        groups: dict[tuple[str, LinkMap, LinkMap], list[Use]] = {}
        layouts: dict[tuple[LinkMap, LinkMap], list[tuple[Use, tuple[str, str]]]] = {}
        for use in self.bindings.uses(map_):
            winner = use.winner
            copied = winner.map.symtab.entry(winner.number).value in self._copied.get(winner.map, ())
            why = why_meant(use, self.bindings.table(winner.map).exports, copied) or self._same(use)
            if why == INLINE:
                self._layout(use, layouts)
            if why:
                self.meant.setdefault(why, set()).add(use.name)
                if why == REPLACED:
                    self._replaced.append(use)
                continue
            weak = winner.bind == c.STB_WEAK and use.own.bind == c.STB_GLOBAL
            rule = "weak-before-strong" if weak else "name-taken"
            groups.setdefault((rule, winner.map, use.own.map), []).append(use)
        for use in self.bindings.weak_uses(map_):
            if _is_default(use) and not why_meant(use, (), False) and not self._same(use):
                groups.setdefault(("weak-before-strong", use.winner.map, use.own.map), []).append(use)
        for found in layouts.values():
            self._tell_layout(found)
        for (rule, _, _), uses in groups.items():
            self._tell_taken(rule, list(dict.fromkeys(uses)), opened)

    def _layout(
        self, use: Use, found: dict[tuple[LinkMap, LinkMap], list[tuple[Use, tuple[str, str]]]]
    ) -> None:
        """Was the inline function that serves compiled for another layout of its class?"""
        if LAYOUT not in self._notes.rules or use.winner.type != c.STT_FUNC or is_standard(use.name):
            return
        if self._compared >= _MOST_INLINE:
            return
        self._compared += 1
        differs = other_layout(self._notes.process, _code(use.winner), _code(use.own))
        if differs is not None:
            found.setdefault((use.winner.map, use.own.map), []).append((use, differs))

    def _tell_layout(self, found: list[tuple[Use, tuple[str, str]]]) -> None:
        (use, (theirs, mine)), more = found[0], len(found) - 1
        user, winner, own = (base(m.display_name) for m in (use.map, use.winner.map, use.own.map))
        name = _names([use.name])
        others = f" (and {more} more)" if more else ""
        self._notes.report(
            LAYOUT,
            f"{user} uses the inline function {name}{others} of {winner}, which was compiled for another layout of its class than {own}'s own:"
            f" `{theirs}` there, `{mine}` in {own}",
            NOWHERE, [], [use.winner.map.display_name, use.own.map.display_name, use.map.display_name],
            key=(use.map.serial, use.winner.map.serial), remedies=[
                f"compile {winner} and {own} against one definition of the class: the same header, macros and options",
                f"if they are two classes, name them differently, or hide {own}'s (-fvisibility=hidden)",
            ],
        )  # fmt: skip

    def _same(self, use: Use) -> str:
        """Return the kind of intention for a definition that is the same as the other:
        one source in two objects.
        """
        winner, own = use.winner, use.own
        if (winner.type, winner.size, winner.bind) != (own.type, own.size, own.bind):
            return ""
        if winner.type == c.STT_FUNC:
            return SAME if self._same_code(winner, own) else ""
        mine, theirs = self._table(own.map), self._table(winner.map)
        common = (name for name, d in mine.items() if d.type == c.STT_FUNC and name in theirs and d.size)
        return SAME if any(self._same_code(theirs[name], mine[name]) for name in common) else ""

    def _table(self, map_: LinkMap) -> dict[bytes, Exported]:
        assert self.bindings is not None
        return self.bindings.table(map_).exports

    def _same_code(self, one: Exported, other: Exported) -> bool:
        """Whether two functions are the same but for the places that they refer to."""
        return one.type == other.type and same_code(self._notes.process, _code(one), _code(other))

    def _tell_taken(self, rule: str, uses: list[Use], opened: Occasion) -> None:
        user, winner, own = base(uses[0].map.display_name), uses[0].winner.map, uses[0].own.map
        theirs, mine = base(winner.display_name), base(own.display_name)
        uses = sorted(uses, key=lambda use: (use.winner.type == use.own.type, use.name))
        names = _names([use.name for use in uses])
        whose = "its own" if own is uses[0].map else f"{mine}'s"
        kinds = _difference(uses[0].winner, uses[0].own)
        if rule == "weak-before-strong":
            of = "its own weak" if winner is uses[0].map else "the weak"
            where = "" if winner is uses[0].map else f" of {theirs}"
            text = (
                f"{user} is bound to {of} {names}{where}, though {whose} is strong:"
                f" the first in the search order wins ({_why_first(winner)}; {kinds})"
            )
        else:
            text = f"{user} uses {whose} {names}, but {theirs} takes the name{'s' if len(uses) > 1 else ''} over ({_why_first(winner)}; {kinds})"
        self._notes.report(
            rule, text, NOWHERE, [("opened by", opened)], [winner.display_name, own.display_name, uses[0].map.display_name],
            key=(uses[0].map.display_name, winner.display_name, own.display_name), remedies=_remedies(uses[0], theirs, mine),
        )  # fmt: skip

    def died(self, objects: Sequence[str], functions: Sequence[str]) -> None:
        """The run has died, with these objects and functions on the stack:
        a replaced function of libc among them was perhaps no replacement.
        """
        suspects: dict[tuple[LinkMap, LinkMap, LinkMap], list[Use]] = {}
        for use in self._replaced:
            name = demangle(use.name.decode(errors="replace"))
            if name in functions or use.map.display_name in objects[:2]:
                suspects.setdefault((use.map, use.winner.map, use.own.map), []).append(use)
        for uses in suspects.values():
            self._tell_taken("name-taken", uses, NOWHERE)

    # -- unique symbols --------------------------------------------------------------------------------------

    def _unique(self, map_: LinkMap, opened: Occasion) -> None:
        """Symbols that the object defines as unique, and that another,
        which it could not see otherwise, had before.
        """
        rtld = self._notes.process.rtld
        assert rtld is not None and self.bindings is not None
        visible = {listed.real for scope in map_.scopes for listed in scope.maps}
        table = self.bindings.table(map_)
        used = {name for name, _ in table.references.values()}
        found: dict[LinkMap, list[bytes]] = {}
        for name, definition in table.exports.items():
            if definition.bind != c.STB_GNU_UNIQUE or name not in used:
                continue
            known = rtld.namespaces[map_.ns].unique.get(name)
            if known is None or known[0] is map_ or known[0] in visible:
                continue
            if is_standard(name):
                self.meant.setdefault(INLINE, set()).add(name)
            else:
                found.setdefault(known[0], []).append(name)
        for owner, names in found.items():
            theirs, mine = base(owner.display_name), base(map_.display_name)
            sizes = [
                f"; {_names([name])} has {self.bindings.table(owner).exports[name].size} bytes there and {table.exports[name].size} here"
                for name in names
                if self.bindings.table(owner).exports[name].size != table.exports[name].size
            ]
            self._notes.report(
                "unique-shared",
                f"{mine} shares {_names(sorted(names))} with {theirs}, though neither sees the other (RTLD_LOCAL): STB_GNU_UNIQUE symbols are one for the whole"
                f" namespace, {theirs}'s came first, and so it cannot be unloaded{''.join(sizes[:1])}",
                NOWHERE, [("opened by", opened)], [owner.display_name, map_.display_name], key=(map_.display_name, owner.display_name),
                remedies=[
                    f"hide them in {theirs} and {mine} (-fvisibility=hidden): each has its own then",
                    f"if they are to be shared, open {theirs} with RTLD_GLOBAL",
                ],
            )  # fmt: skip


def _code(one: Exported) -> Code:
    return Code(one.map, one.map.symtab.entry(one.number).value, one.size)


def _is_default(use: Use) -> bool:
    """Whether a weak definition is one to be replaced: a library's, and not libc's,
    which has weak names for what C does not reserve.
    """
    winner = use.winner.map
    return winner.type != 0 and not is_libc(winner) and not is_cxx_runtime(winner)


def _difference(winner: Exported, own: Exported) -> str:
    kinds = {
        c.STT_FUNC: "a function",
        c.STT_OBJECT: "an object",
        c.STT_TLS: "a thread-local object",
        c.STT_COMMON: "an object",
    }
    if winner.type != own.type and winner.type in kinds and own.type in kinds:
        return f"{kinds[winner.type]} of {winner.size} bytes in the place of {kinds[own.type]} of {own.size}"
    return f"{winner.size} bytes in the place of {own.size}"


def _why_first(winner: LinkMap) -> str:
    if winner.type == 0:
        return "the program comes first"
    if winner.found_by in _PRELOADS:
        return f"{winner.found_by}: it comes right behind the program"
    if winner.type == LT_LOADED:
        return "it was opened before, or with RTLD_GLOBAL"
    return "it comes first in the search order"


def _remedies(use: Use, theirs: str, mine: str) -> list[str]:
    name = _names([use.name])
    if use.winner.map is use.map and use.winner.bind == c.STB_WEAK:
        return [
            f"let {mine} come before {theirs} in the search: first on the link command, or LD_PRELOAD={mine}",
            f"do not define {name} in {theirs}: only declare it, weakly if it may be missing",
            "set LD_DYNAMIC_WEAK: a weak definition then waits for a strong one",
        ]
    remedies = [
        f"do not export {name} from {theirs}: make it static, or hide it (-fvisibility=hidden, a version script, without -rdynamic)"
    ]
    if use.own.map is use.map:
        remedies.append(f"link {mine} with -Bsymbolic, or hide the names that it uses for itself")
    return remedies


def _names(names: Sequence[bytes]) -> str:
    shown = [demangle(name.decode(errors="replace")) for name in names[:_SHOWN]]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(shown) + more
