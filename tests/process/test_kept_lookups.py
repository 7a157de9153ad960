"""Look-ups that are kept from one start to the next: nothing of a run shows whether they were."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests import support
from tools import fixtures

if TYPE_CHECKING:
    from pathlib import Path

    from tools.fixtures import Outcome, Run

_FIXTURES = (
    "hello-iostream", "copy-protected", "ifunc-order", "link-symbolic", "preload-interposition", "tls-data-relocations",
    "unique-symbols", "versions-unversioned-too", "weak-undefined",
)  # fmt: skip
_RUNS = [run for run in support.all_runs() if run.fixture in _FIXTURES]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that look-ups are kept in, where there is one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("EMU_NO_CACHE", raising=False)
    return tmp_path / "emu/lookups"


def _traced(run: Run, *options: str) -> Outcome:
    return support.run_emu(run, "--trace", "all", *options)


@pytest.mark.parametrize("run", _RUNS, ids=lambda run: run.id)
def test_a_trace_is_the_same_with_and_without(run: Run, cache: Path) -> None:
    without = _traced(run, "--no-cache")
    assert not cache.exists()
    assert _traced(run) == without
    assert list(cache.iterdir())
    assert _traced(run) == without


def test_a_file_that_lies_is_no_use(cache: Path) -> None:
    run = _RUNS[0]
    without = _traced(run, "--no-cache")
    _traced(run)
    (kept,) = cache.iterdir()
    for content in (kept.read_bytes()[:-8], b"", os.urandom(4096)):
        kept.write_bytes(content)
        assert _traced(run) == without


def test_other_objects_in_the_search_list_are_another_start(cache: Path) -> None:
    plain, one = (run for run in _RUNS if run.id in ("preload-interposition", "preload-interposition:one"))
    first = support.run_emu(plain)
    assert support.run_emu(one) != first
    assert len(list(cache.iterdir())) == 2
    assert support.run_emu(plain) == first


def test_who_wants_to_hear_of_look_ups_hears_of_all(cache: Path) -> None:
    run = _RUNS[0]
    support.run_emu(run)
    told = [
        support.run_emu(run, "--trace", "lookups,symbols", *more).stderr for more in ((), ("--no-cache",))
    ]
    assert told[0] == told[1] and told[0].count(b"\n") > 100


def test_the_command_lists_and_clears_them(cache: Path) -> None:
    support.run_emu(_RUNS[0])
    env = os.environ | {"PYTHONPATH": str(fixtures.ROOT)}

    def said(*words: str) -> str:
        command = [sys.executable, "-m", "emu", "cache", *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout

    assert said("list").startswith("lookups        1 files")
    assert said("clear") == "layouts: 0 files removed\nlookups: 1 files removed\n"
    assert (
        said("list") == "lookups        0 files          0 bytes  what references are bound to at start-up\n"
    )
