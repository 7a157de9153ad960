"""Threads under every policy: the same output, the same trace for a seed, races found
and replayed, deadlocks told.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import run_emu, run_native
from tools import fixtures
from tools.fixtures import Outcome, Run

_PROGRAMS = Path(__file__).parent / "programs"


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the programs of this test, built."""
    folder = tmp_path_factory.mktemp("programs")
    for source in _PROGRAMS.glob("*.c"):
        command = ["gcc", "-O1", "-g", "-pthread", "-o", str(folder / source.stem), str(source)]
        subprocess.run(command, check=True)
    return folder


def _emu(folder: Path, *words: str) -> Outcome:
    done = subprocess.run(
        [sys.executable, "-m", "emu", "run", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(fixtures.ROOT)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.mark.runs(tag="threads")
@pytest.mark.usefixtures("built_fixtures")
def test_random_schedules_change_nothing_that_is_defined(run: Run, tmp_path: Path) -> None:
    native = run_native(run)
    traces = []
    for number, seed in enumerate(("1", "1", "2")):
        trace = tmp_path / f"trace{number}"
        options = ("--schedule", "random", "--seed", seed, "--trace", "all", "--trace-output", str(trace))
        emulated = run_emu(run, *options)
        assert (emulated.exit, emulated.stdout) == (native.exit, native.stdout), emulated.stderr.decode()
        traces.append(trace.read_bytes())
    assert traces[0] == traces[1] != traces[2]


def test_a_race_shows_under_random_and_replays(programs: Path, tmp_path: Path) -> None:
    results = {}
    for seed in range(1, 9):
        record = tmp_path / str(seed)
        options = ("--schedule", "random", "--seed", str(seed), "--record-schedule", str(record))
        results[seed] = _emu(programs, *options, "./race").stdout
    assert len(set(results.values())) > 2, results
    seed = next(seed for seed, said in results.items() if said != b"900 of 900\n")
    again = tmp_path / "again"
    replaying = ("--schedule", f"replay:{tmp_path / str(seed)}", "--record-schedule", str(again))
    replayed = _emu(programs, *replaying, "./race")
    assert (replayed.exit, replayed.stdout) == (0, results[seed])
    assert again.read_bytes() == (tmp_path / str(seed)).read_bytes()


def test_a_race_within_a_basic_block_shows_where_instructions_are_preempted(
    programs: Path, tmp_path: Path
) -> None:
    lost = None
    for seed in range(1, 6):
        options = ("--schedule", "random", "--seed", str(seed))
        record = tmp_path / str(seed)
        said = _emu(programs, *options, "--record-schedule", str(record), "./plain-race").stdout
        lost = lost or (said != b"6000 of 6000\n" and (said, record))
        assert _emu(programs, *options, "--preempt", "blocks", "./plain-race").stdout == b"6000 of 6000\n"
    assert lost, "no seed shows it"
    assert b'"instruction":' in lost[1].read_bytes()
    assert _emu(programs, "--schedule", f"replay:{lost[1]}", "./plain-race").stdout == lost[0]
    assert _emu(programs, "--preempt", "blocks", "./plain-race").exit == 2


def test_a_schedule_that_does_not_fit_is_named(programs: Path, tmp_path: Path) -> None:
    record = tmp_path / "schedule"
    assert _emu(programs, "--record-schedule", str(record), "./race").exit == 0
    done = _emu(programs, "--schedule", f"replay:{record}", "./messages")
    assert done.exit == 125
    assert re.search(rb"^emu: schedule .*schedule, line \d+: ", done.stderr, re.MULTILINE), done.stderr
    taken = _emu(programs, "--record-schedule", str(programs / "race"), "./race")
    assert taken.exit == 125
    assert b"exists and is no schedule" in taken.stderr
    assert _emu(programs, "--schedule", "replay:nothing", "./race").exit == 125
    assert _emu(programs, "--schedule", "fair", "./race").exit == 2


def test_a_deadlock_names_threads_places_and_holders(programs: Path) -> None:
    done = _emu(programs, "./deadlock")
    assert (done.exit, done.stdout) == (125, b"before\n")
    said = done.stderr.decode()
    for pattern in (
        r"^emu: ./deadlock: deadlock: all 4 threads wait",
        r"thread 1000 \(deadlock\) waits on a futex at 0x\w+, for the end of thread 1001 \(backwards\)",
        r"thread 1001 \(backwards\) waits on a futex at 0x\w+ \(first in ./deadlock\), held by thread 1002 \(forwards\)",
        r"#\d backwards \(.*deadlock.c:14\) \[./deadlock\+0x\w+\]",
        r"thread 1002 \(forwards\) waits .*, held by thread 1001 \(backwards\)",
        r"thread 1003 \(robust\) waits .*, held by thread 1002 \(forwards\)",
    ):
        assert re.search(pattern, said, re.MULTILINE), (pattern, said)


def test_events_of_threads(programs: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    options = ("--trace", "threads,sched", "--trace-format", "jsonl", "--trace-output", str(trace))
    assert _emu(programs, *options, "./messages").exit == 0
    records = [json.loads(line) for line in trace.read_text().splitlines()]
    named = [(r["task"], r["thread"], r["name"]) for r in records if r["event"] == "thread_named"]
    assert named == [(1000, 1001, "receiver")]
    assert [r["thread"] for r in records if r["event"] == "thread_created"] == [1001]
    assert [(r["task"], r["status"]) for r in records if r["event"] == "thread_exited"] == [(1001, 0)]
    assert [r["joiner"] for r in records if r["event"] == "thread_joined"] == [1000]
    switches = [r for r in records if r["event"] == "switch"]
    assert {r["reason"] for r in switches} >= {"blocked", "exited", "yielded"}
    assert all(r["task"] == r["next"] for r in switches)
    running = 1000
    for switch in switches:
        assert switch["previous"] == running
        running = switch["next"]


@pytest.mark.parametrize(
    ("fixture", "argument", "words"),
    [
        ("thread-ends", "fault", "killed by SIGSEGV in thread 1001 (main): write to"),
        ("thread-ends", "abort", "killed by SIGABRT in thread 1001 (main): sent by the program itself, at"),
        ("thread-overflow", "", "stack overflow in thread 1001"),
    ],
)
@pytest.mark.usefixtures("built_fixtures")
def test_the_report_names_the_thread(fixture: str, argument: str, words: str) -> None:
    done = _emu(fixtures.CACHE / fixture, "./main", *([argument] if argument else []))
    assert words in done.stderr.decode()


def test_a_timeout_ends_a_wait_for_a_signal(programs: Path) -> None:
    done = _emu(programs, "--timeout", "0.5", "./forever")
    assert (done.exit, done.stdout) == (124, b"waiting\n")
