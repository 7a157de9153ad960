"""Small programs with one fault each: `emu explore` finds it, and nothing in the mended one."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from emu.exploration.data import ExploredProgram
from emu.exploration.explore import Plan, explore
from emu.exploration.search import Bound, Strategy
from emu.process import RunConfig

if TYPE_CHECKING:
    from emu.exploration.answer import Exploration

_SMALL = Path(__file__).parent / "small"
_FAULTS = {
    "aba": "exit", "barrier_by_hand": "deadlock", "bit_fields": "race", "cancelled_holder": "deadlock", "check_then_act": "exit",
    "hand_made_once": "exit", "if_not_while": "exit", "last_reference": "exit", "list_push": "race", "look_then_set": "exit",
    "loop_variable": "exit", "lost_update": "exit", "not_joined": "exit", "peterson": "exit", "philosophers": "deadlock",
    "pipe_order": "exit", "plain_flag": "race", "rwlocks_abba": "deadlock", "semaphore_of_two": "exit", "signal_before_wait": "deadlock",
    "signal_unlocked": "deadlock", "stack_handed_on": "race", "static_buffer": "race", "ticket_lock": "exit", "trylock_ignored": "exit",
    "trywait": "exit", "two_locks": "race", "unlocked_counter": "race", "unlocked_reader": "race", "unmapped_too_early": "signal",
    "wrong_one_woken": "deadlock", "call_once": "exit", "condition_variable": "deadlock", "promise": "exit",
    "shared_pointer": "race", "static_guard": "race",
}  # fmt: skip
_OUTCOMES = ("hand_made_once", "last_reference", "loop_variable", "lost_update", "not_joined", "trywait")
"""Programs that are small enough for every order within a bound."""


def _build(folder: Path, name: str, *options: str) -> Path:
    program = folder / name
    source = next(_SMALL.glob(f"{name}.c*"))
    words = [
        "g++" if source.suffix == ".cc" else "gcc",
        "-g",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-pthread",
        *options,
        "-o",
        str(program),
        str(source),
    ]
    subprocess.run(words, check=True)
    return program


def _explore(
    program: Path, strategy: str, bound: Bound, *, races: bool = False, keep_going: bool = False
) -> Exploration:
    config = RunConfig(program=str(program), env={}, cwd=str(program.parent))
    plan = Plan(Strategy(strategy), bound, keep_going=keep_going)
    return explore(ExploredProgram(config, races=races), plan, lambda number, text: "found.schedule")


def test_the_table_is_whole() -> None:
    assert {path.stem for path in _SMALL.glob("*.c*")} == set(_FAULTS)
    assert len(_FAULTS) > 30


@pytest.mark.parametrize("name", _FAULTS)
def test_the_fault_is_found_and_replayed(tmp_path: Path, name: str) -> None:
    kind = _FAULTS[name]
    answer = _explore(_build(tmp_path, name), "dpor", Bound(runs=500), races=kind == "race")
    (failure,) = answer.failures
    assert (answer.ended, failure.kind, failure.replayed) == ("found", kind, True), failure.text
    assert failure.status == {"exit": 3, "deadlock": 125, "signal": 139, "race": 0}[kind]
    assert len(failure.preemptions) <= 2


@pytest.mark.parametrize("name", _FAULTS)
def test_the_mended_one_comes_out_clean(tmp_path: Path, name: str) -> None:
    program = _build(tmp_path, name, "-DFIXED")
    assert subprocess.run([program], timeout=60, check=False).returncode == 0
    answer = _explore(program, "dpor", Bound(runs=60, preemptions=2), races=_FAULTS[name] == "race")
    assert answer.failures == ()
    assert answer.ended in ("exhausted", "runs")
    assert {(ending.kind, ending.status) for ending in answer.endings} == {("exit", 0)}


@pytest.mark.parametrize("name", _OUTCOMES)
def test_the_reduction_ends_as_every_order_does(tmp_path: Path, name: str) -> None:
    program, ended = _build(tmp_path, name), {}
    for strategy in ("dpor", "exhaustive"):
        answer = _explore(program, strategy, Bound(preemptions=1), keep_going=True)
        assert answer.ended == "exhausted"
        ended[strategy] = {(one.kind, one.status, one.output) for one in answer.endings}, answer.runs
    assert ended["dpor"][0] == ended["exhaustive"][0]
    assert len(ended["dpor"][0]) > 1
    assert ended["dpor"][1] <= ended["exhaustive"][1]


def test_a_search_leaves_no_files_open(tmp_path: Path) -> None:
    """Neither those of its own, nor those that the guest has mapped."""
    open_: list[int] = []
    for name in ("lost_update", "trywait", "not_joined", "hand_made_once"):
        _explore(_build(tmp_path, name), "dpor", Bound(runs=3))
        open_.append(len(list(Path("/proc/self/fd").iterdir())))
    assert open_[-1] <= open_[0] + 10, open_
