"""The rule about objects bound to the original of a COPY,
which everybody else uses through the program's copy.

It counts only where the two differ in content: a copied pointer that nobody changes does no harm.
Source: psABI 4.4.1 (R_X86_64_COPY); glibc elf/dl-lookup.c (RTLD_DEEPBIND, DT_SYMBOLIC, protected symbols).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.analysis.bindings import Bindings, copies
from emu.analysis.check_notes import NOWHERE, Notes, Occasion, base
from emu.core.errors import MemoryFault
from emu.core.record import NamedTuple
from emu.elf import constants as c
from emu.elf.demangle import demangle
from emu.rtld.link_map import LT_LOADED
from emu.rtld.lookup import CLASS_COPY
from emu.rtld.scope import Scope

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from emu.rtld.link_map import LinkMap

_SHOWN = 4


class _Copy(NamedTuple):
    """A copied object: the program's symbol of it, and where the original is."""

    name: bytes
    number: int
    home: LinkMap
    original: int
    size: int
    other: int


class _Bypass(NamedTuple):
    user: LinkMap
    copy: _Copy
    reason: str
    opened: Occasion


class Copies:
    """Knows what the program has copies of, and who goes past them."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._main: LinkMap | None = None
        self._copies: list[_Copy] = []
        self._bypasses: list[_Bypass] = []

    def look(self, bindings: Bindings, new: Sequence[LinkMap]) -> None:
        """Objects were linked: who of them goes past a copy?"""
        rtld = self._notes.process.rtld
        assert rtld is not None
        main = rtld.namespaces[0].main
        if main is not None and main in new:
            self._main, self._copies = main, list(self._find_copies(bindings, main))
        if self._main is None or not self._copies:
            return
        opened = self._notes.here() if any(map_.type == LT_LOADED for map_ in new) else NOWHERE
        for map_ in new:
            if map_ is not self._main and map_.ns == self._main.ns:
                for copy in self._copies:
                    reason = self._bypass(bindings, map_, copy)
                    if reason:
                        self._bypasses.append(_Bypass(map_, copy, reason, opened))
        self.judge()

    def forget(self, start: int) -> None:
        """Judge for the last time what concerns the object that began there and is going."""
        self.judge()
        self._bypasses = [b for b in self._bypasses if start not in (b.user.map_start, b.copy.home.map_start)]

    def judge(self) -> None:
        """Report the copies that differ from their originals by now."""
        groups: dict[tuple[LinkMap, LinkMap, str], list[_Bypass]] = {}
        for bypass in self._bypasses:
            if self._differs(bypass.copy):
                groups.setdefault((bypass.user, bypass.copy.home, bypass.reason), []).append(bypass)
        for (user, home, reason), found in groups.items():
            self._tell(user, home, reason, found)

    def _find_copies(self, bindings: Bindings, main: LinkMap) -> Iterator[_Copy]:
        rtld = self._notes.process.rtld
        assert rtld is not None
        copied = {main.symtab.entry(number).value for number in copies(rtld, main)}
        exports = bindings.table(main).exports.values()
        for index in [
            d.number
            for d in exports
            if main.symtab.entry(d.number).value in copied and d.type == c.STT_OBJECT
        ]:
            found = bindings.ask(main, index, CLASS_COPY, main.scopes)
            if found is not None:
                _, _, other, _, value, _ = found.map.symtab.entry(found.number)
                size = min(found.size, main.symtab.entry(index).size)
                yield _Copy(
                    main.symtab.symbol_name(index), index, found.map, found.map.addr + value, size, other
                )

    def _bypass(self, bindings: Bindings, map_: LinkMap, copy: _Copy) -> str:
        """Return by what an object goes past a copy; empty if it does not."""
        references = bindings.table(map_).references
        for index, (name, class_) in references.items():
            if name != copy.name:
                continue
            found = bindings.bound(map_, index, class_)
            if found is not None and found.map is copy.home:
                return self._reason(map_, copy)
        if map_ is copy.home:
            if copy.other & 3 == c.STV_PROTECTED:
                return "protected visibility"
            if map_.symbolic:
                return "-Bsymbolic"
        return ""

    def _reason(self, map_: LinkMap, copy: _Copy) -> str:
        if map_ is copy.home and copy.other & 3 == c.STV_PROTECTED:
            return "protected visibility"
        if map_.symbolic:
            return "-Bsymbolic"
        return "RTLD_DEEPBIND" if is_deepbound(map_, self._main) else "by its version"

    def _differs(self, copy: _Copy) -> bool:
        assert self._main is not None
        arena = self._notes.process.arena
        here = self._main.addr + self._main.symtab.entry(copy.number).value
        try:
            return arena.read(here, copy.size) != arena.read(copy.original, copy.size)
        except MemoryFault:
            return False

    def _tell(self, user: LinkMap, home: LinkMap, reason: str, found: list[_Bypass]) -> None:
        assert self._main is not None
        names = [demangle(b.copy.name.decode(errors="replace")) for b in found]
        shown = ", ".join(names[:_SHOWN]) + (
            f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        )
        who, whose, main = base(user.display_name), base(home.display_name), base(self._main.display_name)
        own = "its own" if user is home else f"{whose}'s own"
        it = "it" if len(names) == 1 else "them"
        without = {
            "RTLD_DEEPBIND": f"open {who} without RTLD_DEEPBIND",
            "-Bsymbolic": f"link {who} without -Bsymbolic (-Bsymbolic-functions leaves data alone)",
            "protected visibility": f"give {it} default visibility in {whose}",
        }
        self._notes.report(
            "copy-bypassed",
            f"{who} is bound to {own} {shown}, but {main} has a COPY of {it} that everybody else uses, and only the copy was constructed or changed ({reason})",
            NOWHERE, [("opened by", found[0].opened)], [user.display_name, home.display_name, self._main.display_name],
            key=(user.serial, home.serial, reason),
            remedies=[*([without[reason]] if reason in without else []), f"build {main} without copy relocations: compile it with -fPIC"],
        )  # fmt: skip


def is_deepbound(map_: LinkMap, main: LinkMap | None) -> bool:
    """Whether an object was opened with RTLD_DEEPBIND: a scope of its own comes before the global one."""
    scopes: list[Scope] = [scope for scope in map_.scopes if not scope.symbolic]
    return bool(scopes) and main is not None and map_ is not main and scopes[0].owner is not main
