"""The answer of `emu diff` for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.analysis.diff_data import FACETS

if TYPE_CHECKING:
    from emu.analysis.diff_data import Cause, Comparison, Diff, Difference, Side

_NOTHING = "(nothing)"
_UNCOUNTED = ("ending", "bindings", "findings")
"""Respects whose facts have no order."""


def render(answer: Diff) -> str:
    """Return the answer as text that ends with a newline."""
    lines = [f"emu diff: {answer.program}"]
    for number, side in enumerate(answer.sides):
        lines.append(f"  {'-' if number == 0 else '+'} {describe(side)}: exit code {side.exit_code}")
    for comparison in answer.comparisons:
        lines += ["", *_comparison(answer, comparison)]
    return "\n".join(lines) + "\n"


def describe(side: Side) -> str:
    """Name a side: whose libc, by which loader."""
    libc = f"glibc {side.release}" if side.release else "its libc"
    loader = "emu's loader" if side.ldso == "emu" else "its own ld.so"
    return f"{side.name} ({libc})" if side.name == loader else f"{side.name} ({libc}, {loader})"


def _comparison(answer: Diff, comparison: Comparison) -> list[str]:
    left, right = answer.sides[comparison.left], answer.sides[comparison.right]
    count = len(comparison.differences)
    verdict = f"differ in {count} respect{'s' if count != 1 else ''}" if count else "do the same"
    lines = [f"{left.name} and {right.name} {verdict}"]
    reasons: list[str] = []
    for difference in comparison.differences:
        before, reasons = reasons, _reasons(difference)
        lines += _place(difference)
        lines += ["    for the same reason"] if reasons == before else reasons
    if comparison.same:
        lines.append(f"  the same: {', '.join(comparison.same)}")
    lines += [f"  not compared: {unseen.facet}: {unseen.why}" for unseen in comparison.unseen]
    return lines


def _place(difference: Difference) -> list[str]:
    """Where two sides first differ in one respect: what both have before, then what each has."""
    counted = "" if difference.facet in _UNCOUNTED else f", from number {difference.place + 1} on"
    lines = [f"  {difference.facet}: {FACETS[difference.facet]}{counted}"]
    if difference.before:
        lines.append(f"      {difference.before}")
    lines.append(f"    - {difference.left or _NOTHING}")
    lines.append(f"    + {difference.right or _NOTHING}")
    return lines


def _reasons(difference: Difference) -> list[str]:
    if not difference.explanations:
        return ["    no rule that emu knows of explains this"]
    return [f"    {_reason(explanation)}" for explanation in difference.explanations]


def _reason(explanation: Cause) -> str:
    if not explanation.release:
        return f"({explanation.text})"
    since = f"with glibc {explanation.release} and later {explanation.text} ({explanation.source})"
    return (
        f"because {since}; tried: with that alone changed it is the same"
        if explanation.tried
        else f"perhaps because {since}"
    )
