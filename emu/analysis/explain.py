"""Why does a symbol bind where it does?

The look-up of each reference, told again with evidence, and what would change it.

Nothing is decided here: `emu.rtld.lookup` is asked, and watched (`retell.py`).

Source: glibc elf/dl-lookup.c, elf/dl-sym.c:do_sym; psABI 4.4.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from emu.analysis import changes as changing
from emu.analysis import slots as slotting
from emu.analysis.answer import Answer, AppliedRule, Explanation, GoneObject, LoadedObject, Reference
from emu.analysis.facts import Facts, binding_name, type_name, visibility_name
from emu.analysis.names import NotFoundError, aliases, find_kept, find_objects, find_symbol, parse
from emu.analysis.retell import Question, Retelling, look_up_flags, own_definition, retell, scopes_searched
from emu.analysis.rules import rules
from emu.core.events import AuditorChoseAddress, Binding
from emu.core.record import NamedTuple
from emu.elf import constants as c
from emu.elf.demangle import demangle
from emu.elf.hash import sysv_hash
from emu.elf.relocations import reloc_name
from emu.rtld.dependency import RETURN_NEWEST
from emu.rtld.found import symbol_of
from emu.rtld.link_map import LT_EXECUTABLE, LT_LOADED, LinkMap
from emu.rtld.lookup import CLASS_COPY, CLASS_PLT
from emu.rtld.references import type_class
from emu.rtld.runtime import reference_version, scopes_of
from emu.rtld.version import Version

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from emu.analysis.answer import Definition, SlotAnswer
    from emu.process import Process
    from emu.rtld.asked import SymbolAsked
    from emu.rtld.rtld import Rtld


class ToldLookUp(NamedTuple):
    """Look-ups of one symbol that were told when they were made."""

    symbol: str
    explanations: tuple[Explanation, ...]


_TYPEINFO = "typeinfo for "
_LOADED = {LT_EXECUTABLE: "program", LT_LOADED: "dlopen"}
_DATA = frozenset(("OBJECT", "COMMON", "TLS"))


def explain(
    process: Process,
    rtld: Rtld,
    symbol: str,
    *,
    from_object: str | None = None,
    version: str | None = None,
    moment: str = "",
    failure: str = "",
    bindings: Sequence[Binding | AuditorChoseAddress] = (),
    then: ToldLookUp | None = None,
) -> Answer:
    """Return why `symbol` binds where it does, for every reference to it or only
    those of `from_object`, or by `version`.

    `bindings` are the events of the category `bindings` seen so far, `then` the look-ups that were told when
    they were made. Raises NotFoundError.
    """
    word, in_word = (symbol, None) if version is not None else parse(symbol)
    told = then.explanations if then is not None else ()
    try:
        referring = find_objects(rtld, from_object) if from_object is not None else None
        name = find_symbol(rtld, word, process.symbols.unexported_like)
    except NotFoundError as error:
        kept = find_kept(rtld, word, process.symbols.unexported_like)
        if kept is None and not told and not word.startswith(_TYPEINFO):
            with suppress(NotFoundError):  # a class was named: what is to be known of it is its typeinfo
                return explain(
                    process, rtld, _TYPEINFO + word, from_object=from_object, version=version, moment=moment, failure=failure, bindings=bindings
                )  # fmt: skip
        if told and then is not None:
            kept = then.symbol.encode(errors="surrogateescape")
        elif kept is None or from_object is not None:
            raise error from None
        referring, name = [], kept
    return _Explainer(Facts(process, rtld, name), bindings, told).answer(
        referring, version if version is not None else in_word, moment, failure
    )


def explain_reference(process: Process, rtld: Rtld, map_: LinkMap, index: int) -> tuple[Explanation, ...]:
    """Return the look-ups of one symbol of an object's table, as things are now:
    for an open that fails, before it is undone.
    """
    facts = Facts(process, rtld, map_.symtab.symbol_name(index))
    return tuple(_Explainer(facts, ()).references(map_, index, True))


def explain_asked(process: Process, rtld: Rtld, asked: SymbolAsked, then: str) -> Explanation:
    """Return the look-up of a dlsym that is being told of, as things are at that moment;
    `then` says which it is.
    """
    facts = Facts(process, rtld, asked.name)
    flags = look_up_flags(facts) | asked.flags & RETURN_NEWEST
    question = Question(asked.map, 0, list(asked.scopes), asked.version, 0, flags, asked.skip)
    version = asked.version.name.decode(errors="replace") if asked.version is not None else ""
    caller = rtld.describe_caller(asked.caller) if asked.caller else ""
    reference = Reference(
        asked.map.display_name, asked.map.ns, "dlsym", version, "", "", "", "", (), asked.handle, caller,
        asked.name.decode(errors="replace"),
    )  # fmt: skip
    told = _Explainer(facts, ()).explain(reference, question, retell(facts, question), [])
    remarks = told.remarks
    if asked.skip is not None:
        text = (
            f"the caller decides what RTLD_NEXT means: it is the object whose code calls dlsym, {asked.skip.display_name}; "
            "a wrapper around dlsym makes itself the caller"
        )
        remarks = (*remarks, text)
    return replace(told, then=then, remarks=remarks)


def question_of(facts: Facts, map_: LinkMap, index: int, type_class: int) -> Question:
    """Return the look-up for a reference by symbol `index` of an object,
    as `emu.rtld.runtime.resolve` asks it.
    """
    version = reference_version(map_, index)
    return Question(map_, index, scopes_of(facts.rtld, map_), version, type_class, look_up_flags(facts))


class _Explainer:
    """One question, one symbol."""

    def __init__(
        self,
        facts: Facts,
        bindings: Sequence[Binding | AuditorChoseAddress],
        then: Sequence[Explanation] = (),
    ) -> None:
        self.facts, self.rtld, self.then = facts, facts.rtld, then
        name = facts.name.decode(errors="replace")
        mine = [event for event in bindings if event.symbol == name]
        self.bindings = [event for event in mine if isinstance(event, Binding)]
        self.audited = [event for event in mine if isinstance(event, AuditorChoseAddress)]
        self.slots: list[SlotAnswer] = []

    def answer(
        self, referring: list[LinkMap] | None, version: str | None, moment: str, failure: str
    ) -> Answer:
        """Return the answer; `referring` and `version` narrow the references down."""
        explanations: list[Explanation] = []
        for map_ in self.facts.objects():
            if referring is not None and map_ not in referring:
                continue
            for index in self.facts.indexes(map_):
                asked = reference_version(map_, index)
                named = asked.name.decode(errors="replace") if asked is not None else ""
                explanations += self.references(map_, index, version in (None, named))
        explanations += self.then
        kept = tuple(self._kept())
        if not explanations and not (kept and referring == []):
            main = self.rtld.namespaces[0].main
            assert main is not None
            explanations = [self._dlsym(map_, version) for map_ in (referring or [main])]
        symbol = self.facts.name.decode(errors="replace")
        return Answer(
            self.rtld.program, symbol, demangle(symbol), moment, failure, tuple(self._objects()), tuple(explanations),
            tuple(self.slots), tuple(self._gone()), tuple(raw.decode(errors="replace") for raw in aliases(self.rtld, self.facts.name)), kept,
        )  # fmt: skip

    def _kept(self) -> Iterator[Definition]:
        """Yield the definitions that objects have for themselves alone."""
        for map_ in self.facts.objects():
            exported = any(map_.symtab.entry(index).defined for index in self.facts.indexes(map_))
            if not exported and (one := self.facts.unexported(map_)) is not None:
                yield one

    def references(self, map_: LinkMap, index: int, wanted: bool) -> list[Explanation]:
        """Return the explanations of one symbol of an object's table, one for each outcome;
        add its slots, whatever the version.
        """
        uses = [use for use in slotting.uses(self.facts, map_) if use.symbol == index]
        _, info, other, shndx, _, _ = map_.symtab.entry(index)
        classes = list(dict.fromkeys(type_class(use.kind) for use in uses))
        if not classes and shndx == c.SHN_UNDEF:
            classes = [0]
        told: list[Explanation] = []
        for class_ in classes:
            mine = [use for use in uses if type_class(use.kind) == class_]
            at_home = info >> 4 == c.STB_LOCAL or other & 3 in (c.STV_HIDDEN, c.STV_INTERNAL)
            question = question_of(self.facts, map_, index, class_)
            asked = question.version
            kind = "home" if at_home else "copy" if class_ == CLASS_COPY else "data"
            if class_ == CLASS_PLT and not at_home:
                kind = "call" if all(use.kind == c.R_X86_64_JUMP_SLOT for use in mine) else "tls"
            reference = Reference(
                map_.display_name, map_.ns, kind,
                asked.name.decode(errors="replace") if asked is not None else "",
                asked.file.decode(errors="replace") if asked is not None else "",
                binding_name(info), type_name(info), visibility_name(other),
                tuple(dict.fromkeys(reloc_name(use.kind) for use in mine)),
            )  # fmt: skip
            retelling = (
                Retelling(symbol_of(map_, index), None, {}, "") if at_home else retell(self.facts, question)
            )
            slots = [slotting.describe(self.facts, map_, use, retelling.found) for use in mine]
            self.slots += slots
            if wanted:
                told.append(self.explain(reference, question, retelling, slots))
        return _merged(told)

    def _dlsym(self, map_: LinkMap, version: str | None) -> Explanation:
        """Explain what dlsym(RTLD_DEFAULT, name), or dlvsym with a version, called by an object gives.

        Source: elf/dl-sym.c:do_sym.
        """
        asked = None
        if version is not None:
            name = version.encode()
            asked = Version(name, sysv_hash(name), True, b"")
        flags = look_up_flags(self.facts) | (0 if asked is not None else RETURN_NEWEST)
        question = Question(map_, 0, map_.scopes, asked, 0, flags)
        reference = Reference(map_.display_name, map_.ns, "dlsym", version or "", "", "", "", "", ())
        return self.explain(reference, question, retell(self.facts, question), [])

    def explain(
        self, reference: Reference, question: Question, retelling: Retelling, slots: list[SlotAnswer]
    ) -> Explanation:
        facts, found = self.facts, retelling.found
        winner = facts.definition(found) if found is not None else None
        if reference.kind == "home":
            text = f"the symbol is {'local' if reference.binding == 'LOCAL' else reference.visibility.lower()}: there is no look-up"
            return Explanation(reference, (), winner, (AppliedRule("home", text),), (), (), (), ())
        scopes, late = scopes_searched(facts, question, retelling)
        why = list(rules(facts, question, retelling, late))
        if found is not None and found.is_ifunc:
            picked = list(slotting.implementation(facts, slots))
            text = (
                f"its resolver picked {' and '.join(picked)}"
                if picked
                else "its resolver has not been called yet for this reference"
            )
            why.append(AppliedRule("ifunc", f"IFUNC: {text}"))
        interposed = tuple(facts.definition(one) for one in late)
        bound_to = tuple(dict.fromkeys(self._seen(question.map, reference, slots)))
        remarks = tuple(self._remarks(reference, question, winner, interposed, bound_to))
        offered = changing.changes(facts, question, retelling)
        return Explanation(reference, scopes, winner, tuple(why), interposed, bound_to, remarks, offered)

    def _seen(self, map_: LinkMap, reference: Reference, slots: list[SlotAnswer]) -> Iterator[str]:
        """Yield what was bound to, as it was seen happening."""
        places = {slot.slot for slot in slots}
        for event in self.bindings:
            mine = event.slot in places if reference.kind != "dlsym" else event.relocation == "dlsym"
            if mine and event.origin == map_.display_name and (places or event.version == reference.version):
                yield event.target

    def _remarks(
        self,
        reference: Reference,
        question: Question,
        winner: Definition | None,
        interposed: tuple[Definition, ...],
        bound_to: tuple[str, ...],
    ) -> Iterator[str]:
        if winner is None:
            yield from self._elsewhere(question)
            return
        if reference.kind == "copy":
            size = symbol_of(question.map, question.reference).size
            if size != winner.size:
                yield f"sizes differ: the copy has {size} bytes, the definition {winner.size}: {min(size, winner.size)} are copied"
        for other in interposed:
            if other.size != winner.size and winner.type in _DATA and other.type in _DATA:
                yield f"sizes differ: {winner.size} bytes in {winner.object}, {other.size} in {other.object}"
        if "TLS" in (reference.type, winner.type) and "NOTYPE" not in (reference.type, winner.type):
            if reference.type != winner.type and reference.type:
                yield f"types differ: the reference is to {reference.type}, the definition is {winner.type}: ld.so does not check"
        yield from dict.fromkeys(self._audited(question.map))
        for target in bound_to:
            if target != winner.object:
                yield f"it was bound to {target or 'nothing'} at the time: asked again now, the look-up ends elsewhere"

    def _elsewhere(self, question: Question) -> Iterator[str]:
        """Yield who has a definition that would do, in scopes that this reference does not see."""
        inside = {map_.real for scope in question.scopes for map_ in scope.maps}
        for map_ in self.facts.objects():
            if (
                map_ in inside
                or map_.ns != question.map.ns
                or own_definition(self.facts, question, map_)[0] < 0
            ):
                continue
            roots = [
                m.display_name for m in self.facts.objects() if m.direct_opencount and map_ in m.searchlist
            ]
            where = (
                f"only in the local scope of {' and '.join(roots)}" if roots else "in none of these scopes"
            )
            yield f"{map_.display_name} defines it, and is {where} (RTLD_LOCAL)"

    def _audited(self, map_: LinkMap) -> Iterator[str]:
        """Yield where auditors have sent the references of an object."""
        for event in self.audited:
            if event.origin == map_.display_name:
                place = self.facts.process.symbols.where(event.chosen)
                yield f"the auditor {event.auditor} gave it another address ({event.function}): {place}"

    def _objects(self) -> Iterator[LoadedObject]:
        for map_ in self.facts.objects():
            why = _LOADED.get(map_.type, "start-up")
            yield LoadedObject(
                map_.display_name, map_.ns, map_.path, map_.soname, map_.found_by, why, map_.global_
            )

    def _gone(self) -> Iterator[GoneObject]:
        """Yield the unloaded objects that had to do with the symbol."""
        for gone in self.rtld.index.departed:
            bound = [
                f"bound to {event.target or 'nothing'}"
                for event in self.bindings
                if event.origin == gone.name and gone.start <= event.slot < gone.end
            ]
            bound += [
                f"{'found by dlsym of' if event.relocation == 'dlsym' else 'bound to by'} {event.origin}"
                for event in self.bindings
                if event.target == gone.name and gone.start <= event.address < gone.end
            ]
            if bound:
                yield GoneObject(gone.name, gone.path, gone.time, gone.by, tuple(dict.fromkeys(bound)))


def _merged(told: list[Explanation]) -> list[Explanation]:
    """Put explanations together that differ only in the type class of the reference."""
    merged: list[Explanation] = []
    for one in told:
        for number, known in enumerate(merged):
            same = replace(one, reference=known.reference, bound_to=known.bound_to)
            if same == known:
                kinds = (*known.reference.relocations, *one.reference.relocations)
                kind = (
                    "call" if "call" in (known.reference.kind, one.reference.kind) else known.reference.kind
                )
                merged[number] = replace(
                    known,
                    reference=replace(known.reference, relocations=kinds, kind=kind),
                    bound_to=tuple(dict.fromkeys(known.bound_to + one.bound_to)),
                )
                break
        else:
            merged.append(one)
    return merged
