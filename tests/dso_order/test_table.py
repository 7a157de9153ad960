"""The tables of graphs: the real ld.so prints what is written down, and the
emulator prints what ld.so does.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from tools.dso_graph.build import build
from tools.dso_graph.run import SORTS, Outcome, run_emu, run_native
from tools.dso_graph.table import Entry, load

ENTRIES = [entry for path in sorted(Path(__file__).parent.glob("*.toml")) for entry in load(path)]
RUNS = [pytest.param(entry, sort, id=f"{entry.name}-{sort}") for entry in ENTRIES for sort in SORTS]


@cache
def _native(name: str, sort: int) -> Outcome:
    (entry,) = (entry for entry in ENTRIES if entry.name == name)
    return run_native(build(entry.graph), entry.graph, sort)


def test_names_are_unique() -> None:
    names = [entry.name for entry in ENTRIES]
    assert sorted(names) == sorted(set(names))
    assert len(names) >= 60


@pytest.mark.parametrize(("entry", "sort"), RUNS)
def test_native_is_what_is_written_down(entry: Entry, sort: int) -> None:
    assert str(_native(entry.name, sort)) == entry.outputs[sort]


@pytest.mark.parametrize(("entry", "sort"), RUNS)
def test_emu_equals_native(entry: Entry, sort: int) -> None:
    graph = entry.graph
    assert run_emu(build(graph), graph, sort) == _native(entry.name, sort)


@pytest.mark.parametrize("entry", [entry for entry in ENTRIES if "@" in entry.text], ids=lambda e: e.name)
def test_libc_runs_thread_local_destructors_alike(entry: Entry) -> None:
    graph = entry.graph
    assert run_emu(build(graph), graph, 2, "--tls-dtors", "guest") == _native(entry.name, 2)
