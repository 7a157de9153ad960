"""An answer of `emu explain` as text for people:
aligned, in the width of the terminal, with colour if asked for.
"""

from __future__ import annotations

import os
import textwrap
from collections import Counter
from typing import TYPE_CHECKING

from emu.core.text import printable, printable_in_colour, widths

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from emu.analysis.answer import Answer, Definition, Explanation, SearchStep

VERDICTS = {
    "undefined": "undefined there",
    "canonical-plt": "undefined there: its PLT entry is an address for pointers, not for calls",
    "wrong-type": "a section or file symbol",
    "other-version": "other version",
    "hidden-version": "not a default version: only for those that ask for it",
    "lost-version": "no versions at all, where the reference was linked with some: ld.so ends here",
    "several-defaults": "one of several default versions: none is taken",
    "hidden": "its visibility hides it",
    "local": "local",
    "weak-for-now": "weak: only if there is no strong one",
    "same-version": "the version that is asked for",
    "no-versions": "its object has no versions",
    "unversioned": "it has no version",
    "base-version": "the base version",
    "only-default": "the default version",
    "bloom-filter": "not in its Bloom filter",
    "no-such-name": "no such name in its hash table",
    "no-hash-table": "it has no hash table",
    "skipped": "the search begins behind it",
    "removed": "being unloaded",
    "executable": "the program: not asked for its own COPY",
    "unique": "STB_GNU_UNIQUE: the namespace's table of unique symbols decides",
    "first-unique": "STB_GNU_UNIQUE: the first one found",
    "repeated": "asked before",
}
"""What each verdict means to people."""

_OUTCOMES = {
    "won": "WINS",
    "interposed": "too late",
    "passed-over": "-",
    "not-asked": "not asked",
    "repeated": "-",
}
_KINDS = {
    "call": "calls it",
    "data": "takes its address",
    "copy": "has a copy of it",
    "tls": "uses it in TLS",
    "home": "binds to its own",
}
_BOLD, _GREEN, _YELLOW, _DIM, _PLAIN = "1", "32", "33", "2", "0"
_LISTED = 6
_TELLING = frozenset(VERDICTS) - {
    "same-version", "no-versions", "base-version", "only-default", "unversioned", "unique", "first-unique",
}  # fmt: skip
"""Verdicts that say something of a definition which came too late."""


class Renderer:
    """Makes lines of an answer. `width` is in columns, 0 for as long as they get."""

    def __init__(self, answer: Answer, *, width: int = 0, colour: bool = False) -> None:
        self.answer, self.width, self.colour = answer, width, colour
        names = {(o.name, o.namespace) for o in answer.objects}
        self._basenames = Counter(os.path.basename(name) for name, _ in names)
        self._namespaces = len({o.namespace for o in answer.objects}) > 1

    def lines(self) -> Iterator[str]:
        """Yield the lines, without newlines."""
        answer = self.answer
        readable = (
            f"{answer.demangled}  ({answer.symbol})" if answer.demangled != answer.symbol else answer.symbol
        )
        yield self._painted(readable, _BOLD)
        for alias in answer.aliases:
            yield from self._wrapped(
                f"{alias} is an alias: the same definition, with references of its own", "  "
            )
        if answer.moment:
            yield from self._wrapped(answer.moment, "  ")
        if answer.failure:
            yield from self._wrapped(answer.failure, "  ")
        for group in _alike(answer.explanations):
            yield ""
            yield from self._explanation(group)
        yield from self._kept()
        yield from self._slots()
        if answer.gone:
            yield ""
            yield self._painted("Gone", _BOLD)
            for gone in answer.gone:
                text = f"{gone.name}, unloaded by {gone.by}: {', '.join(gone.bound)}"
                yield from self._wrapped(text, "  ")

    def _kept(self) -> Iterator[str]:
        """Yield the definitions that objects keep to themselves, and what follows of there being several."""
        kept = self.answer.kept
        if not kept:
            return
        yield ""
        yield self._painted(
            "Not exported: found by no look-up, and used by the object that has it alone", _BOLD
        )
        rows = []
        for one in kept:
            how = one.visibility if one.visibility != "DEFAULT" else one.binding
            name = self._name(one.object, one.namespace)
            rows.append((name, how, f"{one.type}, {one.size} bytes at +{one.offset:#x}"))
        yield from self._table(rows, "  ")
        exported = {one.winner.object for one in self.answer.explanations if one.winner is not None}
        for remark in kept_remarks(self.answer.symbol, self.answer.demangled, len(kept) + len(exported)):
            yield from self._wrapped(f"! {remark}", "    ", hang="  ", colour=_YELLOW)

    def _explanation(self, group: list[Explanation]) -> Iterator[str]:
        first = group[0]
        for one in group:
            yield from self._wrapped(self._reference(one), "", bold=True)
        if first.then:
            yield from self._wrapped(first.then, "  ")
        for number, scope in enumerate(first.scopes, 1):
            label = f"scope {number}" if len(first.scopes) > 1 else "scope"
            yield from self._wrapped(f"{label}: {self._short_in(scope.text, scope.owner)}", "  ")
            asked = bool(first.reference.version)
            rows = [row for step in _gathered(scope.steps) for row in self._step(step, asked)]
            yield from self._table(rows, "    ")
        if first.winner is None:
            yield self._painted("  binds to nothing", _YELLOW)
        else:
            yield from self._wrapped(f"binds to {self._definition(first.winner)}", "  ", colour=_GREEN)
        for rule in first.rules:
            yield from self._wrapped(f"- {self._short_all(rule.text)}", "    ", hang="  ")
        for remark in first.remarks:
            yield from self._wrapped(f"! {self._short_all(remark)}", "    ", hang="  ", colour=_YELLOW)
        yield from self._changes(group)

    def _changes(self, group: list[Explanation]) -> Iterator[str]:
        """Yield what would change it; of references that are told of together, a
        change may hold for some only.
        """
        holds: dict[tuple[str, str], list[str]] = {}
        for one in group:
            name = self._name(one.reference.object, one.reference.namespace)
            for change in one.changes:
                then = "nothing" if change.winner is None else self._short_definition(change.winner)
                holds.setdefault((self._short_all(change.text), then), []).append(name)
        if holds:
            yield "  what would change it:"
        rows = []
        for (text, then), names in holds.items():
            only = f" (for {' and '.join(names)})" if len(names) < len(group) else ""
            rows.append((text, f"-> {then}{only}"))
        yield from self._table(rows, "    ")

    def _reference(self, one: Explanation) -> str:
        reference = one.reference
        name = self._name(reference.object, reference.namespace)
        if reference.handle:
            called = "dlvsym" if reference.version else "dlsym"
            handle = (
                reference.handle
                if reference.handle.startswith("RTLD_")
                else f"handle of {self._name(reference.handle, reference.namespace)}"
            )
            version = f', "{reference.version}"' if reference.version else ""
            place = f" at {reference.caller}" if reference.caller else ""
            by = f" by {name}" if reference.handle.startswith("RTLD_") else ""
            return f'{called}({handle}, "{reference.asked}"{version}){by}{place}'
        if reference.kind == "dlsym":
            if reference.version:
                return f"no reference to {reference.version}: what dlvsym(RTLD_DEFAULT, ...) gives that {name} calls"
            return f"no reference: what dlsym(RTLD_DEFAULT, ...) gives that {name} calls"
        asks = f"asks for {reference.version}" if reference.version else "asks for no version"
        if reference.file:
            asks += f" of {reference.file}"
        weak = "weakly, " if reference.binding == "WEAK" else ""
        used = (
            f" ({', '.join(reference.relocations)})" if reference.relocations else " (no relocation uses it)"
        )
        return f"{name} {_KINDS[reference.kind]}{used}: {weak}{asks}"

    def _step(
        self, step: tuple[tuple[str, ...], SearchStep], version_asked: bool
    ) -> Iterator[tuple[str, ...]]:
        names, first = step
        shown = [self._name(name, first.namespace) for name in names[:_LISTED]]
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        who = ", ".join(shown) + more
        outcome = _OUTCOMES[first.outcome]
        text = VERDICTS[first.verdict] + (f"; {first.remark}" if first.remark else "")
        if not first.candidates:
            yield who, outcome, text
        for number, candidate in enumerate(first.candidates):
            one, verdict = candidate.definition, candidate.verdict
            what = _what(one)
            plain = (
                verdict == "base-version"
                and not one.version
                or verdict == "no-versions"
                and not version_asked
            )
            if not plain and (first.outcome != "interposed" or verdict in _TELLING):
                what += f": {VERDICTS[verdict]}"
            yield who if number == 0 else "", outcome if number == 0 else "", what

    def _slots(self) -> Iterator[str]:
        if not self.answer.slots:
            return
        yield ""
        yield self._painted("Slots", _BOLD)
        rows = []
        several = len({slot.version for slot in self.answer.slots}) > 1
        for slot in self.answer.slots:
            place = f"{self._name(slot.object, slot.namespace)}+{slot.offset:#x}"
            section = f"{slot.section} ({slot.kind})" if slot.section else slot.kind
            by = f"{slot.relocation} {slot.version}".rstrip() if several else slot.relocation
            rows.append((place, section, by, slot.state, self._short_all(slot.target)))
        yield from self._table(rows, "  ")

    def _definition(self, one: Definition) -> str:
        name = self._name(one.object, one.namespace)
        return f"{name}+{one.offset:#x}, {_what(one)}" + (f" at {one.source}" if one.source else "")

    def _short_definition(self, one: Definition) -> str:
        version = f" {_version(one)}" if one.version else ""
        return self._name(one.object, one.namespace) + version

    # -- names -----------------------------------------------------------------------------------------------

    def _name(self, name: str, namespace: int) -> str:
        base = os.path.basename(name)
        short = base if self._basenames[base] <= 1 else name
        return f"{short} [namespace {namespace}]" if self._namespaces and namespace else short

    def _short_in(self, text: str, name: str) -> str:
        base = os.path.basename(name)
        return text.replace(name, base) if name and self._basenames[base] <= 1 else text

    def _short_all(self, text: str) -> str:
        """Shorten the names of objects, but for what is to be pasted."""
        text, preload, pasted = text.partition("LD_PRELOAD=")
        for object_ in sorted(self.answer.objects, key=lambda o: -len(o.name)):
            text = self._short_in(text, object_.name)
        return text + preload + pasted

    # -- layout ----------------------------------------------------------------------------------------------

    def _table(self, rows: Sequence[tuple[str, ...]], indent: str) -> Iterator[str]:
        """Yield aligned rows; where a row is too long, its last column goes on below itself."""
        if not rows:
            return
        columns = widths(rows)[:-1]
        aligned = not self.width or len(indent) + sum(columns) + 2 * len(columns) <= self.width * 2 // 3
        for row in rows:
            padded = (
                cell.ljust(width if aligned else 0) for cell, width in zip(row[:-1], columns, strict=True)
            )
            head = indent + "".join(f"{cell}  " for cell in padded)
            lines = (
                self._filled(row[-1], head, " " * len(head))
                if aligned
                else self._filled(head.strip() + "  " + row[-1], indent, indent + "    ")
            )
            colour = _GREEN if "WINS" in row else _YELLOW if "too late" in row else _DIM if "-" in row else ""
            yield from (self._painted(line.rstrip(), colour) for line in lines)

    def _wrapped(
        self, text: str, indent: str, *, hang: str = "  ", bold: bool = False, colour: str = ""
    ) -> Iterator[str]:
        for line in self._filled(text, indent, indent + hang):
            yield self._painted(line, _BOLD if bold else colour)

    def _filled(self, text: str, first: str, rest: str) -> list[str]:
        if not self.width:
            return [first + text]
        return textwrap.wrap(
            text, max(self.width, 40), initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False,
            drop_whitespace=True,
        ) or [first]  # fmt: skip

    def _painted(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[{_PLAIN}m" if self.colour and colour and text else text


def render(answer: Answer, *, width: int = 0, colour: bool = False) -> str:
    """Return the answer as text."""
    shown = printable_in_colour if colour else printable
    return "".join(shown(line) + "\n" for line in Renderer(answer, width=width, colour=colour).lines())


def _version(one: Definition) -> str:
    return {"default": "@@", "hidden": "@"}.get(one.version_kind, "") + one.version


def _what(one: Definition) -> str:
    """Return binding, type, size, visibility and version of a definition."""
    visibility = "" if one.visibility == "DEFAULT" else f" {one.visibility}"
    version = f", {_version(one)}" if one.version else ""
    size = f", {one.size} bytes" if one.size else ""
    return f"{one.binding}{visibility} {one.type}{size}{version}"


def _gathered(steps: Sequence[SearchStep]) -> Iterator[tuple[tuple[str, ...], SearchStep]]:
    """Put objects together that follow each other and were passed over for the same plain reason."""
    names: list[str] = []
    known: SearchStep | None = None
    for step in steps:
        alike = (
            known is not None
            and not step.candidates
            and not known.candidates
            and (
                (step.outcome, step.verdict, step.remark, step.namespace)
                == (known.outcome, known.verdict, known.remark, known.namespace)
            )
        )
        if not alike and known is not None:
            yield tuple(names), known
            names = []
        if not alike:
            known = step
        names.append(step.object)
    if known is not None:
        yield tuple(names), known


def kept_remarks(symbol: str, demangled: str, count: int) -> Iterator[str]:
    """Yield what it means that a symbol is there `count` times and never becomes one.

    Source: Itanium C++ ABI 2.9.1.
    """
    if count < 2:
        return
    if symbol.startswith("_ZTI"):
        name = demangled.removeprefix("typeinfo for ")
        yield (
            f"{count} objects for one type: libc++ compares their addresses, so that dynamic_cast and catch fail across them; libstdc++ compares names"
        )
        yield f'what makes them one: __attribute__((visibility("default"))) on {name} in all objects, or a key function of it that one library exports'
    elif symbol.startswith(("_ZN", "_ZZ")):
        yield f"{count} of their own: what one object stores in its, the others do not see"


def _alike(explanations: Sequence[Explanation]) -> list[list[Explanation]]:
    """Put references together whose stories are the same in all but the reference."""
    groups: list[list[Explanation]] = []
    for one in explanations:
        for group in groups:
            if _story(group[0]) == _story(one):
                group.append(one)
                break
        else:
            groups.append([one])
    return groups


def _story(one: Explanation) -> tuple[object, ...]:
    return one.then, one.scopes, one.winner, one.rules, one.remarks, bool(one.reference.version)
