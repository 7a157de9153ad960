"""A failed open for people: what failed, where, why, what was searched, and what would help."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from emu.analysis.answer import Explanation
    from emu.analysis.frames import CallFrame
    from emu.analysis.opens.data import FailedOpen, SearchedPlace, Tried
    from emu.analysis.stamp import Stamp

_OUTCOMES = {
    "absent": "not there", "no-directory": "no such directory", "would-do": "it is there", "wrong-class": "", "wrong-machine": "", "other-kernel": "",
    "denied": "", "bad": "",
}  # fmt: skip
_PASSED = 6


def failure_lines(
    one: FailedOpen, when: Callable[[Stamp], str], stack: Callable[[Sequence[CallFrame]], Iterator[str]]
) -> Iterator[str]:
    """Yield the lines of a failure, the first being its headline;
    `when` and `stack` say a stamp and its backtrace.
    """
    place = f" {when(one.at)}" if one.at is not None else ""
    flags = f", {one.flags}" if one.flags else ""
    inside = f" in namespace {one.namespace}" if one.namespace else ""
    match one.call:
        case "start-up":
            yield f"start-up of {one.file} FAILED: the program could not be linked"
        case "preload" if one.flags == "LD_AUDIT":
            yield f"auditor {one.file} ({one.flags}) REFUSED: the program runs without it"
        case "preload":
            yield f"preload of {one.file} ({one.flags}) FAILED: the program runs without it"
        case "first-call":
            yield f"first call of {one.symbol} by {one.file}{place} FAILED: the process ends"
        case "dlsym":
            yield f'dlsym({one.flags}, "{one.symbol}"){place} FAILED'
        case "left":
            yield f'dlopen("{one.file}"{flags}){inside}{place} NEVER RETURNED'
        case _:
            yield f'{one.call}("{one.file}"{flags}){inside}{place} FAILED'
    yield f"  {one.error}"
    if one.at is not None:
        yield from stack(one.at.backtrace)
    if len(one.chain) > 1:
        yield f"  needed by way of: {' -> '.join(map(os.path.basename, one.chain))}"
    yield from (f"  - {sentence}" for sentence in one.story)
    if one.call == "left" and one.backtrace:
        yield "  where it ended:"
        yield from stack(one.backtrace)
    searched = [place for place in one.places if place.searched]
    others = [place for place in one.places if not place.searched]
    if searched:
        yield "  looked in, in this order:"
        for number in searched:
            yield from place_lines(number)
    if others:
        yield "  not looked in:"
        for number in others:
            yield from place_lines(number)
    for told in one.look_ups:
        yield from _look_up(told)
    yield from _cures(one)


def _cures(one: FailedOpen) -> Iterator[str]:
    """Yield the remedies by what became of them."""
    again = "the program is run again with each"
    kinds = (
        (f"what helps ({again}, and it opens)", ("opens",)),
        (f"what helps ({again}, and it starts)", ("starts",)),
        (f"what helps ({again}, and it is found)", ("binds",)),
        (f"what helps with this, and then something else fails ({again})", ("next",)),
        ("what would help (the search or look-up alone was asked again)", ("asked",)),
        ("what should help (it needs another build or setting: not tried)", ("untried",)),
        (f"what does not help, though it looks so ({again})", ("fails",)),
    )
    for title, codes in kinds:
        chosen = [
            cure for cure in one.cures if (cure.outcome or ("asked" if cure.tried else "untried")) in codes
        ]
        if chosen:
            yield f"  {title}:"
        for cure in chosen:
            yield f"    * {cure.text}  -> {cure.result}" + (f"; then: {cure.then}" if cure.then else "")


def place_lines(place: SearchedPlace) -> Iterator[str]:
    """Yield what is told of one place where files are looked for, or are not."""
    value = f" ({place.value})" if place.value else ""
    note = f": {place.note}" if place.note else ""
    found = [one for one in place.tried if one.outcome != "absent"]
    absent = [one for one in place.tried if one.outcome == "absent"]
    if not found and absent and not note:
        shown = ", ".join(os.path.dirname(one.path) or "." for one in absent[:_PASSED])
        yield (
            f"    {place.text}{value}: not in {shown}" if not value else f"    {place.text}{value}: not there"
        )
        return
    yield f"    {place.text}{value}{note}"
    yield from (f"      {_tried(one)}" for one in found)


def _tried(one: Tried) -> str:
    return f"{one.path}: {one.text or _OUTCOMES[one.outcome]}"


def _look_up(told: Explanation) -> Iterator[str]:
    """Yield a failed look-up in short: scope by scope, who was asked, and who has
    something that does not count.
    """
    from emu.analysis.text import VERDICTS

    reference = told.reference
    relocations = f" ({', '.join(reference.relocations)})" if reference.relocations else ""
    yield f"  the look-up for {os.path.basename(reference.object)}{relocations}:"
    for number, scope in enumerate(told.scopes, 1):
        yield f"    scope {number}: {scope.text}"
        plain = [
            step
            for step in scope.steps
            if not step.candidates and not step.remark and step.outcome != "repeated"
        ]
        if plain:
            names = [os.path.basename(step.object) for step in plain]
            more = f" and {len(names) - _PASSED} more" if len(names) > _PASSED else ""
            yield f"      {', '.join(names[:_PASSED])}{more}: nothing of that name"
        for step in scope.steps:
            if step.remark:
                yield f"      {os.path.basename(step.object)}: {step.remark}"
            for candidate in step.candidates:
                one = candidate.definition
                version = f" @{one.version}" if one.version else ""
                yield f"      {os.path.basename(step.object)}: {one.binding} {one.type}{version}: {VERDICTS[candidate.verdict]}"
    yield from (f"    ! {remark}" for remark in told.remarks)
