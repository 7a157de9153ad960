"""A look-up, told again: `emu.rtld.lookup` decides, and is watched while it does.

What comes behind the winner is asked one object at a time, so that each definition that lost is known too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from emu.analysis.answer import Candidate, ScopeSearched, SearchStep
from emu.core.errors import LinkError
from emu.core.record import NamedTuple
from emu.rtld.found import Found, symbol_of
from emu.rtld.link_map import LinkMap
from emu.rtld.lookup import DYNAMIC_WEAK, Query, lookup_symbol
from emu.rtld.scope import Scope
from emu.rtld.verdict import Telling, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.analysis.facts import Facts
    from emu.rtld.version import Version

_ACCEPTED = frozenset(
    (
        Verdict.SAME_VERSION, Verdict.NO_VERSIONS, Verdict.UNVERSIONED, Verdict.BASE_VERSION, Verdict.ONLY_DEFAULT, Verdict.UNIQUE,
        Verdict.FIRST_UNIQUE, Verdict.WEAK_FOR_NOW,
    )
)  # fmt: skip
_BY_NAME = frozenset((Verdict.BLOOM, Verdict.NO_NAME, Verdict.NO_HASH_TABLE))


class Question(NamedTuple):
    """A look-up: on whose behalf, by which symbol of its table (0: none), where, for which version,
    as which type class, with which flags.

    With `skip` (RTLD_NEXT) it begins behind that object in the first scope.
    """

    map: LinkMap
    reference: int
    scopes: Sequence[Scope]
    version: Version | None
    type_class: int
    flags: int
    skip: LinkMap | None = None

    def query(self, name: bytes) -> Query:
        """Return what the linker is asked."""
        return Query(name, self.map, self.reference, self.version, self.type_class, self.flags, self.skip)


class _Listed(list[LinkMap]):
    """A search list that notes how far it has been searched."""

    number = first = 0
    position: tuple[int, int]

    def __iter__(self) -> Iterator[LinkMap]:
        for place in range(len(self)):
            self.owner.position = (self.number, self.first + place)
            yield self[place]

    owner: _Watcher

    def __getitem__(self, part):  # type: ignore[no-untyped-def]
        """Return an object, or (RTLD_NEXT takes the rest of the list) a list that knows where it begins."""
        found = super().__getitem__(part)
        if not isinstance(part, slice):
            return found
        rest = _Listed(found)
        rest.owner, rest.number, rest.first = self.owner, self.number, self.first + (part.start or 0)
        return rest


class _Watcher:
    """Keeps what a look-up tells, by the place (scope, object in it) where it was at the time."""

    def __init__(self) -> None:
        self.position = (0, 0)
        self.told: dict[tuple[int, int], list[Telling]] = {}

    def listed(self, number: int, scope: Scope) -> Scope:
        maps = _Listed(scope.maps)
        maps.owner, maps.number = self, number
        return Scope(maps)

    def __call__(self, map_: LinkMap, index: int, verdict: Verdict) -> None:
        if verdict is not Verdict.PROTECTED:  # not of the object where the search is, but of its outcome
            self.told.setdefault(self.position, []).append((index, verdict))


class Retelling(NamedTuple):
    """The outcome: what was found, at which place of which scope (None: not by the search), what was said at
    each place that was searched.

    `fatal` is what ld.so would die of in the middle of it.
    """

    found: Found | None
    place: tuple[int, int] | None
    told: dict[tuple[int, int], list[Telling]]
    fatal: str


def retell(facts: Facts, question: Question) -> Retelling:
    """Ask, and return all that was told. Nothing changes by it."""
    watcher = _Watcher()
    scopes = [watcher.listed(number, scope) for number, scope in enumerate(question.scopes)]
    try:
        found = lookup_symbol(facts.rtld, question.query(facts.name), scopes, watcher)
    except LinkError as error:
        return Retelling(None, None, watcher.told, str(error))
    place = None
    for at, told in watcher.told.items():
        if (
            found is not None
            and _chosen(told) == found.number
            and scopes[at[0]].maps[at[1]].real is found.map
        ):
            place = at
            break
    return Retelling(found, place, watcher.told, "")


def ask(facts: Facts, question: Question) -> Found | None:
    """Return what a look-up would find, without the story; None also where ld.so would end the process."""
    return retell(facts, question).found


def own_definition(facts: Facts, question: Question, map_: LinkMap) -> tuple[int, list[Telling]]:
    """Return the symbol that the look-up would take from one object (-1: none) and what it says of it."""
    told = retell(facts, question._replace(reference=0, scopes=[Scope([map_])], skip=None)).told.get(
        (0, 0), []
    )
    return _chosen(told), told


def _chosen(told: list[Telling]) -> int:
    """Return the symbol that was accepted at one place, -1 if none was."""
    return told[-1][0] if told and told[-1][1] in _ACCEPTED else -1


def scopes_searched(
    facts: Facts, question: Question, retelling: Retelling
) -> tuple[tuple[ScopeSearched, ...], list[Found]]:
    """Return the story by scope and object, and the definitions that came too late, in scope order."""
    seen: set[LinkMap] = set()
    late: list[Found] = []
    searched = []
    winner = retelling.found
    for number, scope in enumerate(question.scopes):
        steps = []
        for place, listed in enumerate(scope.maps):
            map_ = listed.real
            told = retelling.told.get((number, place))
            if number == 0 and question.skip in scope.maps[place + 1 :]:
                seen.add(map_)
                steps.append(SearchStep(listed.display_name, listed.ns, "passed-over", "skipped", (), ""))
                continue
            if map_ in seen:
                steps.append(SearchStep(listed.display_name, listed.ns, "repeated", "repeated", (), ""))
                continue
            seen.add(map_)
            asked = told is not None
            if told is None:
                index, told = own_definition(facts, question, map_)
            else:
                index = _chosen(told)
            own = symbol_of(map_, index) if index >= 0 else None
            if own is not None and own == winner:
                outcome = "won"
            elif own is not None:
                outcome = "interposed"
                late.append(own)
            else:
                outcome = "passed-over" if asked else "not-asked"
            steps.append(_step(facts, listed, outcome, told))
        kind, owner, text = _describe(facts, question, number)
        searched.append(ScopeSearched(kind, owner, text, tuple(steps)))
    return tuple(searched), late


def _step(facts: Facts, listed: LinkMap, outcome: str, told: list[Telling]) -> SearchStep:
    map_ = listed.real
    last: dict[int, Verdict] = {index: verdict for index, verdict in told if index >= 0}
    candidates = tuple(
        Candidate(verdict.value, facts.definition(symbol_of(map_, index))) for index, verdict in last.items()
    )
    verdict = told[-1][1] if told else Verdict.NO_NAME
    if verdict is Verdict.NO_NAME and last:
        verdict = list(last.values())[-1]
    remark = facts.remark(map_) if not candidates and verdict in _BY_NAME else ""
    return SearchStep(listed.display_name, listed.ns, outcome, verdict.value, candidates, remark)


def _describe(facts: Facts, question: Question, number: int) -> tuple[str, str, str]:
    """Return what a scope is: kind, owner, text."""
    scope = question.scopes[number]
    owner = scope.owner.display_name if scope.owner is not None else ""
    if scope.symbolic:
        return "symbolic", owner, f"{owner} itself first: it is linked with -Bsymbolic"
    main = facts.rtld.namespaces[0].main
    if question.skip is not None and number == 0:
        text = f"RTLD_NEXT: what comes behind {question.skip.display_name} in the search list of {owner}"
        return "next", owner, text
    if main is not None and scope.owner is main:
        return (
            "global",
            owner,
            "the global scope: the program, preloads, what they need, what RTLD_GLOBAL added",
        )
    if scope.owner is not None and is_first_of_namespace(facts, scope):
        text = f"the search list of {owner}, the first object of namespace {question.map.ns}: the global scope there"
        return "namespace", owner, text
    if is_deepbind(facts, question.map, number):
        return "deepbind", owner, f"the search list of {owner} first: it was opened with RTLD_DEEPBIND"
    return "local", owner, f"the search list of {owner}: itself and what it needs"


def is_first_of_namespace(facts: Facts, scope: Scope) -> bool:
    """Whether a scope serves as the global one of its namespace."""
    owner = scope.owner
    if owner is None or scope.symbolic:
        return False
    namespace = facts.rtld.namespaces[owner.ns]
    first = namespace.main or (namespace.maps[0] if namespace.maps else None)
    return owner is first


def is_deepbind(facts: Facts, map_: LinkMap, number: int) -> bool:
    """Whether scope `number` of an object comes before the global one by RTLD_DEEPBIND."""
    return not map_.scopes[number].symbolic and any(
        is_first_of_namespace(facts, scope) for scope in map_.scopes[number + 1 :]
    )


def look_up_flags(facts: Facts) -> int:
    """Return the flags that every look-up of the process has."""
    return DYNAMIC_WEAK if facts.rtld.dynamic_weak else 0
