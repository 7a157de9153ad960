"""`emu diff`: the same program run in several ways; where the runs first differ, and by which rule.

A difference is explained by trying: the first side is run again with one rule changed to what the other side
has. What then is no longer different is that rule's doing. A side that its own ld.so links is tried with
emu's loader. Where nothing can be tried (a change of glibc that is no rule of the linker), the changes
between the two releases that concern such a difference are named as what may be behind it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from emu.analysis.diff_data import (
    EMU,
    FACETS,
    REAL,
    Cause,
    Comparison,
    Diff,
    Difference,
    Unseen,
)
from emu.analysis.diff_observe import Item, Observation, observe
from emu.core.errors import EmuError
from emu.glibc.release import changed_between, rules_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from emu.glibc.release import RuleChange
    from emu.kernel.run.policy import Policy
    from emu.process import RunConfig

_ONLY_ADDRESSES = "only addresses differ: objects of another size lie at other places"
_NOT_STARTED = "one side's ld.so refuses the program, in these words"
_SYSTEM_S_OWN = "these are the system's own objects, which differ as files"
_ERROR_OF_EMU = "emu's loader and the real ld.so of the same glibc do not agree: an error of emu, or of what it sees of the other"
_ADDRESS = re.compile(r"0x[0-9a-f]{6,}")


class Ways:
    """The ways to run a program: a configuration for each side, with its name;
    what each run reads from standard input, and its own scheduler.
    """

    def __init__(
        self, configs: Sequence[RunConfig], names: Sequence[str], stdin: bytes, policy: Callable[[], Policy]
    ) -> None:
        self.configs, self.names, self.stdin, self._policy = configs, names, stdin, policy

    def run(self, index: int, rules: tuple[tuple[str, bool], ...] = ()) -> Observation:
        """Run one side; with rules of its release changed by emu's loader.

        Raises EmuError that names the side.
        """
        config = self.configs[index]
        if rules:
            config = config._replace(rules=(*config.rules, *rules), ldso=EMU)
        try:
            return observe(config, self._policy, self.stdin, self.names[index])
        except EmuError as error:
            named = EmuError(f"{self.names[index]}: {error}")
            named.exit_code = error.exit_code
            raise named from None


def diff(ways: Ways) -> Diff:
    """Run every side and compare the first with each other. Raises EmuError for a side that cannot be run."""
    seen = [ways.run(index) for index in range(len(ways.configs))]
    comparisons = tuple(compare(ways, seen[0], seen[other], other) for other in range(1, len(seen)))
    return Diff(ways.configs[0].program, tuple(observation.side for observation in seen), comparisons)


def compare(ways: Ways, left: Observation, right: Observation, other: int) -> Comparison:
    """Compare the first side with side number `other`, and explain.

    Raises EmuError where it cannot be tried.
    """
    found: list[Difference] = []
    same: list[str] = []
    unseen: list[Unseen] = []
    for facet in FACETS:
        if not (left.started and right.started) and facet not in ("errors", "ending"):
            unseen.append(Unseen(facet, "a side's ld.so refuses the program"))
        elif facet in left.facts and facet in right.facts:
            difference = first_difference(facet, left, right)
            found += [difference] if difference is not None else []
            same += [facet] if difference is None else []
        else:
            unseen.append(Unseen(facet, left.unseen.get(facet) or right.unseen.get(facet, "")))
    if found:
        found = _explain(ways, left, right, found)
    return Comparison(0, other, tuple(found), tuple(same), tuple(unseen))


def first_difference(facet: str, left: Observation, right: Observation) -> Difference | None:
    """Return where two runs first differ in one respect, not yet explained; None if they do not."""
    ours, theirs = left.facts[facet], right.facts[facet]
    if facet in ("bindings", "tls") and (left.side.sysroot, left.side.release) != (
        right.side.sysroot,
        right.side.release,
    ):
        ours, theirs = ([item for item in facts if _is_own(item)] for facts in (ours, theirs))
    if facet == "bindings":
        return _first_binding(ours, theirs)
    if facet == "findings":
        ours, theirs = sorted(ours), sorted(theirs)
    for place in range(max(len(ours), len(theirs))):
        one, two = (facts[place] if place < len(facts) else Item("", "") for facts in (ours, theirs))
        if one.key != two.key:
            before = ours[place - 1].text if place else ""
            return Difference(facet, place, before, one.text, two.text, ())
    return None


def _is_own(item: Item) -> bool:
    """Whether a fact is about an object that is not the system's own:
    those of another libc differ as files.
    """
    return "/" in item.key.partition(": ")[0] or item.key.startswith("the program")


def _first_binding(ours: list[Item], theirs: list[Item]) -> Difference | None:
    """Compare what references bind to, whenever that happened."""
    one, two = (dict(reversed(facts)) for facts in (ours, theirs))
    for place, reference in enumerate(dict.fromkeys(key for key, _ in (*ours, *theirs))):
        if one.get(reference) != two.get(reference):
            left, right = (
                f"{reference} -> {bound[reference]}" if reference in bound else "" for bound in (one, two)
            )
            return Difference("bindings", place, "", left, right, ())
    return None


# -- why -----------------------------------------------------------------------------------------------------


def _explain(ways: Ways, left: Observation, right: Observation, found: list[Difference]) -> list[Difference]:
    one, two = left.side, right.side
    changes = changed_between(one.release, two.release) if one.release and two.release else []
    rules = [change for change in changes if change.rule]
    tried = {}
    if rules:
        tried = _try(ways, right, found, rules)
    return [
        replace(
            difference, explanations=_reasons(difference, tried.get(difference.facet), changes, left, right)
        )
        for difference in found
    ]


def _try(
    ways: Ways, right: Observation, found: list[Difference], rules: list[RuleChange]
) -> dict[str, list[RuleChange]]:
    """Return by facet the changes that make the first difference vanish:
    one alone, else all of them together.
    """
    wanted = rules_of(right.side.release)
    explained: dict[str, list[RuleChange]] = {}
    attempts = [[change] for change in rules] + ([rules] if len(rules) > 1 else [])
    for attempt in attempts:
        open_ = [difference for difference in found if difference.facet not in explained]
        if not open_:
            break
        changed = tuple((change.rule, bool(getattr(wanted, change.rule))) for change in attempt)
        changed_left = ways.run(0, changed)
        for difference in open_:
            now = first_difference(difference.facet, changed_left, right)
            if now is None or now.place > difference.place:
                explained[difference.facet] = attempt
    return explained


def _reasons(
    difference: Difference,
    tried: list[RuleChange] | None,
    changes: list[RuleChange],
    left: Observation,
    right: Observation,
) -> tuple[Cause, ...]:
    if tried is not None:
        return tuple(_explanation(change, tried=True) for change in tried)
    if left.started != right.started:
        return (Cause(_NOT_STARTED, "", "", tried=False),)
    if _ADDRESS.sub("", difference.left) == _ADDRESS.sub("", difference.right):
        return (Cause(_ONLY_ADDRESSES, "", "", tried=False),)
    if difference.facet in ("loads", "init", "fini", "unloads", "tls") and not any(
        "/" in text or text.startswith("the program") for text in (difference.left, difference.right)
    ):
        return (Cause(_SYSTEM_S_OWN, "", "", tried=False),)
    if (left.side.release, left.side.sysroot) == (right.side.release, right.side.sysroot):
        both = {left.side.ldso, right.side.ldso} == {EMU, REAL}
        return (Cause(_ERROR_OF_EMU, "", "", tried=False),) if both else ()
    shown = f"{difference.left}\n{difference.right}"
    fitting = [
        change for change in changes if difference.facet in change.concerns and re.search(change.sign, shown)
    ]
    # What a sign points to leaves nothing for those that could be behind any difference.
    pointed_to = [change for change in fitting if change.sign]
    return tuple(_explanation(change, tried=False) for change in pointed_to or fitting)


def _explanation(change: RuleChange, *, tried: bool) -> Cause:
    release = f"{change.release[0]}.{change.release[1]}"
    return Cause(change.what, release, change.source, tried)
