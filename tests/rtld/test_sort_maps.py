"""Sorting of link maps: the rules, small graphs worked out by hand; `test_order.py` asks the real ld.so."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.rtld.sort_maps import sort_maps


class Map:
    """A link map as the sort sees it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.initfini: list[Map] | None = [self]
        self.reldeps: list[Map] | None = None
        self.faked = False
        self.main_map = False

    def __repr__(self) -> str:
        return self.name


def graph(text: str) -> dict[str, Map]:
    """Maps from "a:b,c" (needs) and "a>b" (relocation dependency) in breadth-first order of the text."""
    maps = {part[0]: Map(part[0]) for part in text.split() if ":" in part}
    for part in text.split():
        targets = [maps[name] for name in part[2:].split(",") if name]
        if part[1] == ":":
            maps[part[0]].initfini = [maps[part[0]], *targets]
        else:
            maps[part[0]].reldeps = targets
    return maps


def order(text: str, *, first: bool, fini: bool, algorithm: int = 2) -> str:
    maps = list(graph(text).values())
    return "".join(m.name for m in sort_maps(maps, force_first=first, for_fini=fini, algorithm=algorithm))


@pytest.mark.parametrize("algorithm", [1, 2])
@pytest.mark.parametrize(
    ("text", "expected"),
    [("m:a a:b b:", "mab"), ("m:a,b a:c b:c c:", "mabc"), ("m:b,a b: a:b", "mab")],
)
def test_dependencies_come_later(text: str, expected: str, algorithm: int) -> None:
    assert order(text, first=True, fini=False, algorithm=algorithm) in (
        expected,
        expected.replace("ba", "ab"),
    )


def test_cycle_through_the_first_map() -> None:
    assert order("a:b b:a", first=True, fini=False) == "ab"
    assert order("m:a a:b b:m", first=False, fini=False) == "bma"
    assert order("m:a a:b b:m", first=True, fini=False) == "mba"


def test_main_map_is_not_reached_through_a_cycle() -> None:
    maps = graph("m:a a:b b:m")
    maps["m"].main_map = True
    assert [m.name for m in sort_maps(list(maps.values()), force_first=False, for_fini=False)] == list("mab")


def test_relocation_dependencies_count_for_fini_only() -> None:
    assert order("a: b: b>a", first=False, fini=False) == "ab"
    assert order("a: b: b>a", first=False, fini=True) == "ba"
    assert order("a: b: b>a", first=False, fini=True, algorithm=1) == "ba"


@pytest.mark.parametrize("algorithm", [1, 2])
def test_static_dependency_beats_a_relocation_dependency(algorithm: int) -> None:
    assert order("a:b b: b>a", first=False, fini=True, algorithm=algorithm) == "ab"


def test_force_first_is_skipped_once_relocation_dependencies_were_seen() -> None:
    assert order("m:a a:m", first=True, fini=True) == "ma"
    assert order("m:a a:m b: b>a", first=True, fini=True) == "bma"


def test_missing_files_have_no_place_in_the_order() -> None:
    maps = graph("m:a,x a:b x: b:x")
    maps["x"].faked = True
    ordered = sort_maps(list(maps.values()), force_first=True, for_fini=False)
    assert [m.name for m in ordered] == list("mab")


def test_a_chain_may_be_deeper_than_the_python_stack() -> None:
    maps = [Map(str(i)) for i in range(5000)]
    for upper, lower in pairwise(maps):
        upper.initfini = [upper, lower]
    assert sort_maps(maps[:1] + maps[:0:-1], force_first=True, for_fini=False) == maps


@st.composite
def graphs(draw: st.DrawFn) -> list[Map]:
    maps = [Map(chr(97 + i)) for i in range(draw(st.integers(1, 7)))]
    subset = st.lists(st.sampled_from(maps), max_size=3, unique=True)
    for m in maps:
        m.initfini = [m, *draw(subset)]
        m.reldeps = draw(subset) if draw(st.booleans()) else None
    return maps


def _reaches(start: Map, goal: Map) -> bool:
    seen: set[Map] = set()
    work = list(start.initfini or ())
    while work:
        m = work.pop()
        if m is goal and m is not start:
            return True
        if m not in seen:
            seen.add(m)
            work += m.initfini or ()
    return False


def _walk(maps: list[Map], reldeps: bool) -> list[Map]:
    """The definition of the depth-first order, by recursion."""
    done: list[Map] = []
    visited: set[Map] = set()

    def visit(m: Map) -> None:
        if m in visited:
            return
        visited.add(m)
        for dependency in [*(m.initfini or ()), *((m.reldeps or [])[::-1] if reldeps else ())]:
            visit(dependency)
        done.insert(0, m)

    for m in maps[::-1]:
        visit(m)
    return done


@given(graphs(), st.booleans(), st.booleans(), st.sampled_from([1, 2]))
def test_acyclic_static_dependencies_always_hold(
    maps: list[Map], first: bool, fini: bool, algorithm: int
) -> None:
    ordered = sort_maps(maps, force_first=first, for_fini=fini, algorithm=algorithm)
    assert sorted(m.name for m in ordered) == [m.name for m in maps]
    if algorithm == 1 and first:
        assert ordered[0] is maps[0]
    if algorithm == 2 and not first:
        for m in maps:
            for dependency in m.initfini or ():
                if dependency is not m and not _reaches(dependency, m):
                    assert ordered.index(m) < ordered.index(dependency)


@given(graphs(), st.booleans(), st.booleans())
def test_depth_first_sort_is_its_definition(maps: list[Map], first: bool, fini: bool) -> None:
    expected = _walk(maps, fini)
    if fini and any(m.reldeps is not None for m in maps):
        expected = _walk(expected, False)
    elif first:
        expected.remove(maps[0])
        expected.insert(0, maps[0])
    assert sort_maps(maps, force_first=first, for_fini=fini) == expected
