"""Every reference of a program with libstdc++: a look-up told again ends where the
binding did, and changes nothing.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.analysis.explain import explain, question_of
from emu.analysis.facts import Facts
from emu.analysis.retell import Question, retell, scopes_searched
from emu.analysis.slots import uses
from emu.core.events import Binding, EventBus, Record
from emu.process import Process, RunConfig
from emu.rtld.references import type_class
from tools import fixtures

if TYPE_CHECKING:
    from emu.rtld.link_map import LinkMap
    from emu.rtld.rtld import Rtld

pytestmark = pytest.mark.usefixtures("built_fixtures")


@cache
def _linked() -> tuple[Process, Rtld, list[Binding]]:
    """hello-iostream, linked with every PLT slot bound, and every binding that this made."""
    bindings: list[Binding] = []

    def keep(record: Record) -> None:
        if record.event.slot:  # what ld.so looks up for itself goes into no slot
            bindings.append(record.event)

    bus = EventBus()
    bus.subscribe(keep, ("bindings",))
    directory = fixtures.build("hello-iostream")
    env = fixtures.BASE_ENV | {"LD_BIND_NOW": "1"}
    process = Process(RunConfig("./main", env=env, cwd=str(directory), argv0="./main"), bus)
    process.start()
    assert process.rtld is not None
    return process, process.rtld, bindings


class _FactsWithoutRemarks(Facts):
    """Remarks need the static symbol tables, and decide nothing."""

    def remark(self, map_: LinkMap) -> str:
        return ""


def _winner(facts: Facts, question: Question) -> tuple[str, int]:
    retelling = retell(facts, question)
    if retelling.found is None:
        return "", 0
    won = [
        step.object
        for scope in scopes_searched(facts, question, retelling)[0]
        for step in scope.steps
        if step.outcome == "won"
    ]
    assert won == [retelling.found.map.display_name]
    return retelling.found.map.display_name, retelling.found.address


def test_every_binding_is_told_as_it_happened() -> None:
    process, rtld, bindings = _linked()
    assert len(bindings) > 1000
    unique = {name for namespace in rtld.namespaces for name in namespace.unique}
    state = [
        (m.display_name, list(m.lib_names), list(m.reldeps or ()), m.nodelete_active)
        for m in rtld.namespaces[0].maps
    ]
    by_symbol: dict[str, list[Binding]] = {}
    for event in bindings:
        by_symbol.setdefault(event.symbol, []).append(event)
    for symbol, events in by_symbol.items():
        facts = _FactsWithoutRemarks(process, rtld, symbol.encode())
        slots = {
            map_.addr + use.offset: question_of(facts, map_, use.symbol, type_class(use.kind))
            for map_ in {rtld.find_map(event.slot) for event in events}
            if map_ is not None
            for use in uses(facts, map_)
        }
        for event in events:
            assert _winner(facts, slots[event.slot]) == (event.target, event.address), event
    assert unique == {name for namespace in rtld.namespaces for name in namespace.unique}
    assert state == [
        (m.display_name, list(m.lib_names), list(m.reldeps or ()), m.nodelete_active)
        for m in rtld.namespaces[0].maps
    ]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.data())
def test_the_whole_answer_agrees(data: st.DataObject) -> None:
    process, rtld, bindings = _linked()
    event = data.draw(st.sampled_from(bindings))
    answer = explain(process, rtld, event.symbol, from_object=event.origin, bindings=bindings)
    told = [one for one in answer.explanations if event.relocation in one.reference.relocations]
    told = [one for one in told if one.reference.version == event.version]
    assert told
    for one in told:
        assert (one.winner.object if one.winner else "") == event.target
        assert event.target in one.bound_to
        assert not [remark for remark in one.remarks if "at the time" in remark]
        assert all(change.winner != one.winner for change in one.changes)
    assert {slot.state for slot in answer.slots if slot.object == event.origin} <= {"bound", "null"}
