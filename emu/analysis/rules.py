"""Which rules made a look-up end where it did."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.analysis.answer import AppliedRule
from emu.analysis.retell import Question, Retelling, ask, is_deepbind
from emu.elf import constants as c
from emu.elf.relocations import iter_rela
from emu.rtld.found import Found, symbol_of
from emu.rtld.link_map import LT_EXECUTABLE, LT_LOADED, LinkMap
from emu.rtld.lookup import CLASS_COPY, CLASS_PLT
from emu.rtld.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.analysis.facts import Facts

_PRELOADS = ("LD_PRELOAD", "/etc/ld.so.preload")


def rules(facts: Facts, question: Question, retelling: Retelling, late: list[Found]) -> Iterator[AppliedRule]:
    """Yield the rules, the most particular first. `late` are the definitions that came too late."""
    found = retelling.found
    if found is None:
        yield _nothing(question, retelling)
        return
    map_ = found.map
    name = map_.display_name
    stop = retelling.told[max(retelling.told)][-1][1] if retelling.told else Verdict.PROTECTED
    if retelling.place is None and stop is not Verdict.UNIQUE:
        text = f"the reference is by {name}'s own protected definition: it stays at home, whatever was found"
        yield AppliedRule("protected", text)
        return
    if stop is Verdict.UNIQUE:
        text = f"STB_GNU_UNIQUE: {name}'s was the first that was found in the namespace, and so it is everybody's"
        yield AppliedRule("unique", text)
    elif stop is Verdict.FIRST_UNIQUE:
        yield AppliedRule(
            "first-unique", "STB_GNU_UNIQUE: the first one found, which becomes everybody's in the namespace"
        )
    if retelling.place is not None:
        scope = question.scopes[retelling.place[0]]
        if scope.symbolic:
            yield AppliedRule("symbolic", f"{name} is linked with -Bsymbolic: it looks into itself first")
        elif scope in question.map.scopes and is_deepbind(
            facts, question.map, question.map.scopes.index(scope)
        ):
            yield AppliedRule(
                "deepbind",
                "RTLD_DEEPBIND: the opened object and what it needs come before the global scope",
            )
    yield from _of_executable(facts, question, found)
    if map_.found_by in _PRELOADS:
        yield AppliedRule(
            "preload", f"{name} is preloaded ({map_.found_by}): it comes right behind the program itself"
        )
    yield from _of_version(facts, question, retelling, found, late)
    yield from _of_binding(facts, question, found, late)
    if retelling.place is not None and stop is not Verdict.UNIQUE:
        count = len(late) + 1
        text = (
            f"it is the first of {count} definitions in scope order"
            if late
            else "it is the only definition in scope"
        )
        yield AppliedRule("scope-order" if count > 1 else "only-definition", text)


def _nothing(question: Question, retelling: Retelling) -> AppliedRule:
    if retelling.fatal:
        return AppliedRule("fatal", f"ld.so ends the process in the middle of the look-up: {retelling.fatal}")
    if question.skip is not None:
        text = f"nothing behind {question.skip.display_name} in that list has a definition that would do: dlsym gives NULL"
        return AppliedRule("not-found", text)
    if not question.reference:
        return AppliedRule("not-found", "no object in scope has a definition that would do: dlsym fails")
    if symbol_of(question.map, question.reference).bind == c.STB_WEAK:
        return AppliedRule(
            "undefined-weak",
            "no object in scope has a definition that would do; the reference is weak, so it is 0",
        )
    ends = (
        "dlopen gives NULL, or, if the call is bound when it is made (RTLD_LAZY, without BIND_NOW), the process ends then"
        if question.map.type == LT_LOADED
        else "the process ends, at the latest when it is used"
    )
    return AppliedRule(
        "undefined",
        f"no object in scope has a definition that would do: ld.so says `undefined symbol', and {ends}",
    )


def _version(question: Question) -> str:
    return question.version.name.decode(errors="replace") if question.version is not None else ""


def _of_executable(facts: Facts, question: Question, found: Found) -> Iterator[AppliedRule]:
    """Data that the executable has a copy of; functions that it has a PLT
    entry for in place of the address.
    """
    map_, index = found.map, found.number
    if map_.type != LT_EXECUTABLE:
        return
    if found.shndx == c.SHN_UNDEF:
        target = ask(facts, question._replace(type_class=CLASS_PLT))
        calls = f"; calls end in {target.map.display_name}" if target is not None else ""
        yield AppliedRule(
            "canonical-plt",
            f"code of the program that is not position-independent takes the function's address: its PLT entry is the address for everybody{calls}",
        )
    elif has_copy(facts, map_, index):
        original = ask(
            facts, question._replace(map=map_, reference=index, scopes=map_.scopes, type_class=CLASS_COPY)
        )
        of = f" of {original.map.display_name}'s" if original is not None else ""
        yield AppliedRule(
            "copy",
            f"R_X86_64_COPY: the program has a copy{of}, and all references go to the copy",
        )


def has_copy(facts: Facts, map_: LinkMap, index: int) -> bool:
    """Whether an executable's definition is a copy of somebody else's."""
    entries = iter_rela(map_.table(facts.rtld.memory, c.DT_RELA), map_.display_name)
    return any(info >> 32 == index and info & 0xFFFFFFFF == c.R_X86_64_COPY for _, info, _ in entries)


def _of_version(
    facts: Facts, question: Question, retelling: Retelling, found: Found, late: list[Found]
) -> Iterator[AppliedRule]:
    name, version = found.map.display_name, _version(question)
    told = retelling.told.get(retelling.place, []) if retelling.place is not None else []
    verdicts = {verdict for index, verdict in told if index == found.number}
    if Verdict.SAME_VERSION in verdicts:
        yield AppliedRule("version", f"it has the version that is asked for, {version}")
    elif Verdict.NO_VERSIONS in verdicts and version:
        yield AppliedRule(
            "no-versions", f"{name} has no versions at all: any reference will do, also one to {version}"
        )
    elif Verdict.UNVERSIONED in verdicts:
        yield AppliedRule(
            "unversioned", f"this definition of {name} has no version: it will do for {version}"
        )
    elif Verdict.BASE_VERSION in verdicts:
        own = facts.version(found.map, found.number)[0]
        text = f"{name}'s oldest version, {own}, is meant" if own else "the definition without one is meant"
        if own or any(facts.version(one.map, one.number)[0] for one in late):
            yield AppliedRule("base-version", f"no version is asked for: {text}")
    elif Verdict.ONLY_DEFAULT in verdicts:
        own = facts.version(found.map, found.number)[0]
        yield AppliedRule(
            "default-version", f"no version is asked for: {name}'s only default one, {own}, is meant"
        )


def _of_binding(facts: Facts, question: Question, found: Found, late: list[Found]) -> Iterator[AppliedRule]:
    def weak(one: Found) -> bool:
        return one.bind == c.STB_WEAK

    if facts.rtld.dynamic_weak and not weak(found) and any(map(weak, late)):
        yield AppliedRule(
            "dynamic-weak", "LD_DYNAMIC_WEAK is set: a strong definition goes before a weak one"
        )
    elif weak(found) and not all(map(weak, late)):
        yield AppliedRule(
            "weak-first", "a weak definition that comes first beats a strong one that comes later"
        )
