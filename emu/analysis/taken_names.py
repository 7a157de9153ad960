"""Findings about names that another object takes over, in words: one for all objects of one kind, and one for
two versions of a library that are loaded side by side.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeAlias

from emu.analysis.check_notes import base
from emu.analysis.meant import PRELOADS
from emu.core.record import NamedTuple
from emu.elf import constants as c
from emu.elf.demangle import demangle
from emu.rtld.link_map import LT_LOADED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from emu.analysis.bindings import Exported, Use
    from emu.rtld.link_map import LinkMap

NAME_TAKEN, WEAK_FIRST, SAME_CODE = "name-taken", "weak-before-strong", ""
"""The rules; SAME_CODE marks uses that count only beside others of the same two versions."""
_SHOWN = 4
_NUMBER = re.compile(r"^(.+?)[-_.]?\d[\d.]*\.so$|^(.+?)\.so(?:\.\d[\w.]*)?$")
_KINDS = {
    c.STT_FUNC: "a function", c.STT_OBJECT: "an object", c.STT_TLS: "a thread-local object", c.STT_COMMON: "an object",
}  # fmt: skip


Uses: TypeAlias = "dict[tuple[str, LinkMap, LinkMap, LinkMap], list[Use]]"
"""Uses by rule, user, winner, and whose definition was meant."""


class Taken(NamedTuple):
    """One finding: its rule, text, objects, what makes it one with others, and what would help."""

    rule: str
    text: str
    objects: tuple[str, ...]
    key: tuple[object, ...]
    remedies: tuple[str, ...]


def taken(found: Uses, accidents: Mapping[tuple[LinkMap, bytes], str]) -> list[Taken]:
    """Return the findings: of each kind one, however many objects and openings it is of; `accidents` say how
    a function is another than libc's, by who has it and its name.
    """
    versions: dict[tuple[LinkMap, LinkMap], list[Use]] = {}
    kinds: dict[tuple[object, ...], list[list[Use]]] = {}
    for (rule, user, winner, own), every in found.items():
        uses = list(dict.fromkeys(every))
        if rule == NAME_TAKEN and are_versions(winner, own):
            versions.setdefault((winner, own), []).extend(uses)
        if not rule or (winner, own) in versions:
            continue
        names = tuple(sorted({use.name for use in uses}))
        kinds.setdefault((rule, None if own is user else own, winner is user, names), []).append(uses)
    for (rule, _, winner, own), same in found.items():
        if not rule and (winner, own) in versions:
            versions[winner, own] += same
    told = [_versions(winner, own, uses) for (winner, own), uses in versions.items()]
    return [*told, *(_of_kind(str(kind[0]), groups, accidents) for kind, groups in kinds.items())]


def are_versions(one: LinkMap, other: LinkMap) -> bool:
    """Whether two objects are two versions of one library: their SONAMEs differ in numbers alone."""
    first, second = (base(m.soname or m.display_name) for m in (one, other))
    return first != second and bool(one.soname and other.soname) and _stem(first) == _stem(second)


def _stem(name: str) -> str:
    found = _NUMBER.match(re.sub(r"(\.so)\.\d[\w.]*$", r"\1", name))
    return (found[1] or found[2]) if found else name


def _versions(winner: LinkMap, own: LinkMap, uses: list[Use]) -> Taken:
    theirs, mine = base(winner.display_name), base(own.display_name)
    users = list(dict.fromkeys(use.map for use in uses))
    names, one = sorted({use.name for use in uses}), len(users) == 1
    text = (
        f"{theirs} and {mine} are two versions of one library, both loaded ({_brought(winner)}; {_brought(own)}), and names of both are the same:"
        f" {_listed(users)} {'asks' if one else 'ask'} for {names_of(names)} of {mine} and {'gets' if one else 'get'} {theirs}'s ({why_first(winner)})"
    )
    remedies = (
        f"build what needs {theirs} and what needs {mine} against one version of the library",
        "give the library symbol versions (a version script with another name in each version): each reference then finds its own",
    )
    objects = [m.display_name for m in (winner, own, *users)]
    return Taken(NAME_TAKEN, text, tuple(dict.fromkeys(objects)), (theirs, mine), remedies)


def _brought(map_: LinkMap) -> str:
    loader = map_.loader
    if loader is None:
        return (
            f"{base(map_.display_name)} opened"
            if map_.type == LT_LOADED
            else f"{base(map_.display_name)} there at start-up"
        )
    return f"{base(map_.display_name)} by {base(loader.display_name)}"


def _of_kind(rule: str, groups: list[list[Use]], accidents: Mapping[tuple[LinkMap, bytes], str]) -> Taken:
    """Return the finding of objects that use the same names of their own (or of one other object)."""
    first = sorted(groups[0], key=lambda use: (use.winner.type == use.own.type, use.name))
    users = [uses[0].map for uses in groups]
    winners = list(dict.fromkeys(uses[0].winner.map for uses in groups))
    use, names = first[0], names_of([one.name for one in first])
    user, own = use.map, use.own.map
    theirs, mine = _listed(winners), base(own.display_name)
    several = len({base(m.display_name) for m in users}) > 1
    whose = ("their own" if several else "its own") if own is user else f"{mine}'s"
    differs = accidents.get((use.winner.map, use.name)) or _difference(use.winner, use.own)
    kinds = f"({why_first(winners[0])}; {differs})"
    if rule == WEAK_FIRST:
        of = "its own weak" if winners[0] is user else "the weak"
        where = "" if winners[0] is user else f" of {theirs}"
        text = (
            f"{_listed(users)} {'are' if several else 'is'} bound to {of} {names}{where}, though {whose} is strong:"
            f" the first in the search order wins {kinds}"
        )
    else:
        takes = f"take{'' if len(winners) > 1 else 's'} the name{'s' if len(first) > 1 else ''} over"
        text = f"{_listed(users)} use{'' if several else 's'} {whose} {names}, but {theirs} {takes} {kinds}"
    objects = [winners[0].display_name, own.display_name, *(m.display_name for m in (*users, *winners))]
    key = (tuple(one.name for one in first), "" if own is user else mine, winners[0] is user)
    return Taken(
        rule, text, tuple(dict.fromkeys(objects)), key, tuple(_remedies(use, theirs, mine, several=several))
    )


def _remedies(use: Use, theirs: str, mine: str, *, several: bool) -> list[str]:
    name = names_of([use.name])
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
        who, it = ("each of the others", "it uses") if several else (mine, "it uses")
        remedies.append(f"link {who} with -Bsymbolic, or hide the names that {it} for itself")
    return remedies


def why_first(winner: LinkMap) -> str:
    """Return why an object comes first in the search."""
    if winner.type == 0:
        return "the program comes first"
    if winner.found_by in PRELOADS:
        return f"{winner.found_by}: it comes right behind the program"
    if winner.type == LT_LOADED:
        return "it was opened before, or with RTLD_GLOBAL"
    return "it comes first in the search order"


def _difference(winner: Exported, own: Exported) -> str:
    if winner.type != own.type and winner.type in _KINDS and own.type in _KINDS:
        return (
            f"{_KINDS[winner.type]} of {winner.size} bytes in the place of {_KINDS[own.type]} of {own.size}"
        )
    return f"{winner.size} bytes in the place of {own.size}"


def names_of(names: Sequence[bytes]) -> str:
    """Return the first of some symbols, demangled, and how many more there are."""
    return _some([demangle(name.decode(errors="replace")) for name in names])


def _listed(maps: Iterable[LinkMap]) -> str:
    return _some(list(dict.fromkeys(base(m.display_name) for m in maps)))


def _some(words: Sequence[str]) -> str:
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + more
