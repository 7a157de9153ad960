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
from emu.analysis.libc_taken import accident
from emu.analysis.meant import (
    INLINE,
    REPLACED,
    SAME,
    WEAK,
    WRAPPER,
    is_cxx_runtime,
    is_libc,
    is_standard,
    why_meant,
)
from emu.analysis.same_code import Code, other_layout, same_code, same_source
from emu.analysis.taken_names import NAME_TAKEN, SAME_CODE, WEAK_FIRST, Uses, are_versions, names_of, taken
from emu.analysis.wraps import wraps
from emu.elf import constants as c
from emu.elf.demangle import demangle
from emu.rtld.link_map import LT_LOADED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.core.events import InitStarted, Record
    from emu.rtld.link_map import LinkMap

_MOST_INLINE = 4000
"""Inline functions whose code is compared, in one run."""
LAYOUT = "layout-differs"


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
        self._accidents: dict[tuple[LinkMap, bytes], str] = {}
        self._compared = 0
        self._found: Uses = {}
        self._opened: dict[tuple[object, ...], Occasion] = {}

    def look(self, _record: Record, _event: InitStarted) -> list[LinkMap]:
        """Constructors begin: look through what was linked since the last time, and return it."""
        rtld = self._notes.process.rtld
        assert rtld is not None
        if self.bindings is None:
            self.bindings = Bindings(rtld)
        new = self.bindings.add(self._notes.maps())
        opened = self._notes.here() if any(map_.type == LT_LOADED for map_ in new) else NOWHERE
        groups: Uses = {}
        for map_ in new:
            if map_.type == 0:
                self._copied[map_] = {map_.symtab.entry(number).value for number in copies(rtld, map_)}
            self._taken(map_, groups)
            self._unique(map_, opened)
        self._tell_taken(groups, opened)
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

    def _taken(self, map_: LinkMap, groups: Uses) -> None:
        assert self.bindings is not None
        layouts: dict[tuple[LinkMap, LinkMap], list[tuple[Use, tuple[str, str]]]] = {}
        for use in self.bindings.uses(map_):
            winner = use.winner
            copied = winner.map.symtab.entry(winner.number).value in self._copied.get(winner.map, ())
            why = why_meant(use, self.bindings.table(winner.map).exports, copied) or self._same(use)
            if why == INLINE:
                self._layout(use, layouts)
            if why in (REPLACED, WEAK) and self._accident(use):
                groups.setdefault((NAME_TAKEN, map_, winner.map, use.own.map), []).append(use)
                continue
            if why:
                self.meant.setdefault(why, set()).add(use.name)
                if why == SAME and are_versions(winner.map, use.own.map):
                    groups.setdefault((SAME_CODE, map_, winner.map, use.own.map), []).append(use)
                if why == REPLACED and not wraps(self._notes.process, winner.map, use.name):
                    self._replaced.append(use)
                continue
            weak = winner.bind == c.STB_WEAK and use.own.bind == c.STB_GLOBAL
            if wraps(self._notes.process, winner.map, use.name):
                self.meant.setdefault(WRAPPER, set()).add(use.name)
                continue
            rule = WEAK_FIRST if weak else NAME_TAKEN
            groups.setdefault((rule, map_, winner.map, use.own.map), []).append(use)
        for use in self.bindings.weak_uses(map_):
            if _is_default(use) and not why_meant(use, (), False) and not self._same(use):
                groups.setdefault((WEAK_FIRST, map_, use.winner.map, use.own.map), []).append(use)
        for found in layouts.values():
            self._tell_layout(found)

    def _accident(self, use: Use) -> bool:
        """Whether the name of a function of libc was taken by accident: how is noted."""
        assert self.bindings is not None
        winner, process = use.winner.map, self._notes.process
        if not is_libc(use.own.map) or is_libc(winner) or wraps(process, winner, use.name):
            return False
        key = winner, use.name
        if key not in self._accidents:
            self._accidents[key] = accident(process, self.bindings, use)
        return bool(self._accidents[key])

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
        name = names_of([use.name])
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
        if (winner.type, winner.bind) != (own.type, own.bind):
            return ""
        if winner.type == c.STT_FUNC:
            if self._same_code(winner, own):
                return SAME
            like = same_source(self._notes.process, _code(winner), _code(own))
            return SAME if like and self._share_code(winner.map, own.map) else ""
        if self._of_libc(use) or winner.size == own.size and self._share_code(winner.map, own.map):
            return SAME
        return ""

    def _share_code(self, winner: LinkMap, own: LinkMap) -> bool:
        """Whether two objects have a function in common: one archive is in both."""
        mine, theirs = self._table(own), self._table(winner)
        common = (name for name, d in mine.items() if d.type == c.STT_FUNC and name in theirs and d.size)
        return any(self._same_code(theirs[name], mine[name]) for name in common)

    def _of_libc(self, use: Use) -> bool:
        """Whether an object is one of those of libc's that a program sets, in a library that has a copy of
        libc's code.
        """
        assert self.bindings is not None
        known = self.bindings.definitions(use.map.ns, use.name)
        return any(
            is_libc(one.map)
            and (one.type, one.size) == (use.winner.type, use.winner.size) == (use.own.type, use.own.size)
            for one in known
        )

    def _table(self, map_: LinkMap) -> dict[bytes, Exported]:
        assert self.bindings is not None
        return self.bindings.table(map_).exports

    def _same_code(self, one: Exported, other: Exported) -> bool:
        """Whether two functions are the same but for the places that they refer to."""
        return one.type == other.type and same_code(self._notes.process, _code(one), _code(other))

    def _tell_taken(self, found: Uses, opened: Occasion) -> None:
        """Tell of what is new, as part of the finding of its kind if there is one."""
        if not found:
            return
        for key, uses in found.items():
            self._found.setdefault(key, []).extend(uses)
        for one in taken(self._found, self._accidents):
            first = self._opened.setdefault((one.rule, *one.key), opened)
            self._notes.report(
                one.rule, one.text, NOWHERE, [("opened by", first)], one.objects, key=one.key, remedies=one.remedies
            )  # fmt: skip

    def died(self, objects: Sequence[str], functions: Sequence[str]) -> None:
        """The run has died, with these objects and functions on the stack:
        a replaced function of libc among them was perhaps no replacement.
        """
        suspects: Uses = {}
        for use in self._replaced:
            name = demangle(use.name.decode(errors="replace"))
            if name in functions or use.map.display_name in objects[:2]:
                suspects.setdefault((NAME_TAKEN, use.map, use.winner.map, use.own.map), []).append(use)
        self._tell_taken(suspects, NOWHERE)

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
                f"; {names_of([name])} has {self.bindings.table(owner).exports[name].size} bytes there and {table.exports[name].size} here"
                for name in names
                if self.bindings.table(owner).exports[name].size != table.exports[name].size
            ]
            self._notes.report(
                "unique-shared",
                f"{mine} shares {names_of(sorted(names))} with {theirs}, though neither sees the other (RTLD_LOCAL): STB_GNU_UNIQUE symbols are one for the"
                f" whole namespace, {theirs}'s came first, and so it cannot be unloaded{''.join(sizes[:1])}",
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
