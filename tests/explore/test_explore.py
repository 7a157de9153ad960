"""`emu explore` on programs with a known fault, and on the same ones mended."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from tests.support import emu
from tools import fixtures

if TYPE_CHECKING:
    from tools.fixtures import Outcome

pytest_plugins = ["pytester"]
_PROGRAMS = Path(__file__).parent / "programs"
_FAULTS = {
    "abba": ("deadlock", "held by thread 1002"),
    "lost_wakeup": ("deadlock", "pthread_cond_wait"),
    "loader_lock": ("deadlock", "the dynamic loader's lock"),
    "key_destructor": ("signal", "which was ./plugin.so"),
    "use_after_close": ("signal", "#0 twice ("),
    "exit_code": ("exit", "exit code 1"),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each program as PROGRAM/buggy and PROGRAM/fixed, beside its plugin."""
    folder = tmp_path_factory.mktemp("explored")
    for source in _PROGRAMS.glob("*.c*"):
        if source.stem.endswith("_plugin"):
            continue
        here = folder / source.stem
        here.mkdir()
        main = f"main{source.suffix}"
        (here / main).write_text(source.read_text())
        command = [
            "gcc" if source.suffix == ".c" else "g++",
            "-g",
            "-O1",
            "-pthread",
            "-rdynamic",
            main,
            "-o",
        ]
        subprocess.run([*command, "buggy"], cwd=here, check=True)
        subprocess.run([*command, "fixed", "-DFIXED"], cwd=here, check=True)
        plugin = source.with_name(f"{source.stem}_plugin.c")
        if plugin.exists():
            (here / "plugin.c").write_text(plugin.read_text())
            subprocess.run(
                ["gcc", "-g", "-O1", "-shared", "-fPIC", "-o", "plugin.so", "plugin.c"], cwd=here, check=True
            )
    return folder


def _explore(folder: Path, *words: str) -> tuple[Outcome, dict[str, Any]]:
    done = emu("explore", "--json", *words, cwd=folder)
    assert done.stderr == b""
    return done, json.loads(done.stdout)


@pytest.mark.parametrize("name", _FAULTS)
def test_a_fault_is_found_made_short_and_replayed(built: Path, name: str) -> None:
    kind, words = _FAULTS[name]
    done, answer = _explore(built / name, "./buggy")
    assert (done.exit, answer["ended"]) == (1, "found")
    (failure,) = answer["failures"]
    assert failure["kind"] == kind
    assert words in failure["text"]
    assert failure["replayed"]
    assert len(failure["preemptions"]) <= 2
    assert all("main.c" in p["place"] or "plugin.c" in p["place"] for p in failure["preemptions"])
    again = emu("run", "--schedule", "replay:buggy.schedule", "./buggy", cwd=built / name)
    assert again.exit == failure["status"]


def test_objects_that_come_to_lie_anew_in_each_run_make_no_difference(built: Path) -> None:
    """IFUNCs of a library run before its constructors, in the first run as in those that know its place."""
    words = ("--bound", "runs=60", "./fixed")
    done, answer = _explore(built / "loader_lock", *words)
    assert (done.exit, answer["ended"], answer["failures"]) == (0, "runs", [])


@pytest.mark.parametrize("name", [name for name in _FAULTS if name != "loader_lock"])
def test_the_mended_program_comes_out_clean(built: Path, name: str) -> None:
    options = ("--bound", "preemptions=1") if name == "lost_wakeup" else ()
    done, answer = _explore(built / name, *options, "./fixed")
    assert (done.exit, answer["ended"], answer["failures"]) == (0, "exhausted", [])
    assert not (built / name / "fixed.schedule").exists()


@pytest.mark.parametrize(("name", "variable"), [("double_checked", "instance"), ("message_passing", "flag")])
def test_a_data_race_is_told_with_both_places(built: Path, name: str, variable: str) -> None:
    done, answer = _explore(built / name, "--races", "./buggy")
    (failure,) = answer["failures"]
    assert (done.exit, failure["kind"], failure["replayed"]) == (1, "race", True)
    first, *lines = failure["text"].splitlines()
    assert first == f"data race on {variable} in ./buggy, which nothing orders:"
    assert sum(line.startswith("  thread 100") for line in lines) == 2
    assert sum("#0 " in line and "main.c" in line for line in lines) == 2


def test_a_schedule_is_replayed_by_a_process_the_marker_and_gdb(
    built: Path, pytester: pytest.Pytester
) -> None:
    here = built / "exit_code"
    _explore(here, "--schedule-output", "found.schedule", "./buggy")
    schedule = f"replay:{here / 'found.schedule'}"
    pytester.makepyfile(
        f"""
        import emu, pytest

        @pytest.mark.emu(schedule={schedule!r}, cwd={str(here)!r})
        def test_found(emu_program):
            assert emu_program("./buggy").run() == 1

        def test_otherwise(emu_program):
            assert emu_program("./buggy", cwd={str(here)!r}).run() == 0

        def test_process(capfd):
            process = emu.Process("./buggy", cwd={str(here)!r}, schedule={schedule!r})
            assert process.run() == 1
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=3)
    if shutil.which("gdb") is not None:
        words = ("--batch", "--schedule", schedule, "--ex", "continue", "./buggy")
        assert b"exited with code 01" in emu("gdb", *words, cwd=here).stdout


def test_a_race_on_the_heap_is_told_with_the_allocation_and_can_be_suppressed(built: Path) -> None:
    here = built / "heap_race"
    _, answer = _explore(here, "--races", "--gen-suppressions=known.toml", "./buggy")
    (failure,) = answer["failures"]
    assert failure["replayed"]
    block = failure["text"].partition("  8 bytes into a block of 56 bytes, allocated by thread 1000\n")[2]
    assert block.index("#0 malloc (") < block.index("operator new") < block.index(" main (")
    known = (here / "known.toml").read_text()
    assert known == failure["suppression"]
    assert 'rule = "data-race"' in known and 'symbol = "bump(void*)"' in known
    done, answer = _explore(here, "--races", "--suppressions", "known.toml", "./buggy")
    assert (done.exit, answer["ended"], answer["failures"]) == (0, "exhausted", [])
    (here / "other.toml").write_text('[[suppression]]\nrule = "data-race"\nsymbol = "read*"\n')
    assert _explore(here, "--races", "--suppressions", "other.toml", "./buggy")[0].exit == 1
    assert _explore(here, "--races", "./fixed")[0].exit == 0


def test_findings_are_suppressed_by_rule(tmp_path: Path) -> None:
    folder, known = fixtures.build("check-no-effect"), tmp_path / "known.toml"
    words = ("--schedule-output", "-", "./main", "./libunique.so")
    found = emu("explore", f"--gen-suppressions={known}", *words, cwd=folder)
    assert (found.exit, b"dlclose-no-effect" in found.stdout) == (1, True)
    assert 'rule = "dlclose-no-effect"' in known.read_text()
    hidden = emu("explore", "--suppressions", str(known), *words, cwd=folder)
    assert (hidden.exit, b"no failure" in hidden.stdout) == (0, True)


def test_atomics_of_the_program_are_no_races_and_are_seen(built: Path) -> None:
    done, answer = _explore(built / "message_passing", "--races", "./fixed")
    assert (done.exit, answer["ended"]) == (0, "exhausted")
    assert {ending["output"] for ending in answer["endings"]} == {"7\n", "not yet\n"}
    done, answer = _explore(
        built / "double_checked", "--races", "--bound", "preemptions=1", "--bound", "runs=40", "./fixed"
    )
    assert (done.exit, answer["failures"]) == (0, [])


def test_a_store_buffer_does_not_show(built: Path) -> None:
    _, answer = _explore(built / "store_buffering", "--races", "./buggy")
    assert answer["ended"] == "exhausted"
    assert {ending["output"] for ending in answer["endings"]} == {"01\n", "10\n", "11\n"}


def test_dpor_sees_each_outcome_that_exhaustive_search_does(built: Path) -> None:
    seen = {}
    for strategy in ("dpor", "exhaustive"):
        _, answer = _explore(built / "turns", "--strategy", strategy, "--bound", "preemptions=1", "./buggy")
        assert answer["ended"] == "exhausted"
        seen[strategy] = {ending["output"] for ending in answer["endings"]}, answer["runs"]
    assert seen["dpor"][0] == seen["exhaustive"][0]
    assert seen["dpor"][1] < seen["exhaustive"][1]
    _, answer = _explore(built / "turns", "./buggy")
    outputs = {"aabb", "abab", "abba", "baab", "baba", "bbaa"}
    assert {ending["output"] for ending in answer["endings"]} == outputs


def test_other_output_is_a_failure_if_asked_for(built: Path) -> None:
    done, answer = _explore(built / "turns", "--same-output", "./buggy")
    assert (done.exit, answer["failures"][0]["kind"]) == (1, "output")
    assert _explore(built / "turns", "./buggy")[0].exit == 0


def test_all_workers_compare_with_the_same_output(built: Path) -> None:
    options = ("--same-output", "--keep-going", "--bound", "preemptions=1")
    one, two = (_explore(built / "turns", *options, "--jobs", jobs, "./buggy") for jobs in "12")
    assert one == two
    assert {failure["kind"] for failure in one[1]["failures"]} == {"output"}


def test_who_waits_in_a_loop_does_not_wait_for_ever(built: Path) -> None:
    done, answer = _explore(built / "spinning", "--bound", "preemptions=1", "./buggy")
    assert (done.exit, answer["ended"]) == (0, "exhausted")
    assert {ending["output"] for ending in answer["endings"]} == {"done\n"}


@pytest.mark.parametrize("strategy", ["random", "pct"])
def test_draws_find_it_too_and_are_the_same_each_time(built: Path, strategy: str) -> None:
    words = ("--strategy", strategy, "--seed", "5", "--bound", "runs=300", "./buggy")
    first, second = (_explore(built / "abba", *words) for _ in range(2))
    assert first[0].exit == 1
    assert first == second


def test_the_number_of_jobs_changes_nothing(built: Path) -> None:
    one, two = (
        _explore(built / "abba", "--keep-going", "--bound", "runs=60", "--jobs", jobs, "./buggy")
        for jobs in "12"
    )
    assert one == two


@pytest.mark.needs("distributed")
def test_a_cluster_makes_the_same_runs(built: Path) -> None:
    """A real scheduler and two workers."""
    import distributed

    made: Any = distributed.LocalCluster
    with made(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        address = cluster.scheduler_address.replace("tcp://", "dask://")
        options = ("--keep-going", "--bound", "runs=60", "./buggy")
        there = _explore(built / "abba", "--executor", address, "--jobs", "2", *options)
    assert there == _explore(built / "abba", *options)


@pytest.mark.needs("distributed")
def test_no_cluster_is_one_line(built: Path) -> None:
    done = emu("explore", "--executor", "dask://127.0.0.1:1", "./buggy", cwd=built / "abba")
    assert done.exit not in (0, 1)
    assert b"no dask scheduler answers" in done.stderr
    assert b"Traceback" not in done.stderr


def test_the_answer_keeps_to_its_schema_and_the_text_has_the_next_step(built: Path) -> None:
    schema = json.loads(emu("explore", "--schema", cwd=built).stdout)
    jsonschema.validate(_explore(built / "abba", "./buggy")[1], schema)
    text = emu("explore", "./buggy", cwd=built / "abba").stdout.decode()
    assert re.search(
        r"is preempted in \w+ \(.*main.c:\d+\), before pthread_mutex_lock: lock cmpxchg of [ab];", text
    )
    assert "emu run --schedule replay:buggy.schedule ./buggy" in text


def test_a_program_without_threads_is_one_run(built: Path, tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text("int main(void) { return 0; }")
    subprocess.run(["gcc", "-o", "main", "main.c"], cwd=tmp_path, check=True)
    done, answer = _explore(tmp_path, "./main")
    assert (done.exit, answer["runs"], answer["ended"]) == (0, 1, "exhausted")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--bound", "runs=0", "./buggy"), "'runs=0'"),
        (("--bound", "miles=3", "./buggy"), "no bound: choose from"),
        (("--strategy", "pct", "./buggy"), "has no end of its own"),
        (("--schedule-output", "main.c", "./buggy"), "main.c"),
        (("./nothing",), "./nothing"),
    ],
)
def test_what_cannot_be_done_is_one_line(built: Path, words: tuple[str, ...], complaint: str) -> None:
    done = emu("explore", *words, cwd=built / "abba")
    assert done.exit not in (0, 1)
    assert complaint in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


def test_plain_loads_of_atomics_are_seen_without_looking_for_races(built: Path) -> None:
    done, answer = _explore(built / "expired", "./buggy")
    assert (done.exit, answer["failures"][0]["kind"]) == (1, "exit")
    assert _explore(built / "expired", "./fixed")[0].exit == 0


def test_the_end_of_the_process_meets_what_threads_would_have_done(built: Path) -> None:
    _, answer = _explore(built / "detached", "./buggy")
    assert {ending["output"] for ending in answer["endings"]} == {"", "worker\n"}
    _, answer = _explore(built / "detached", "./fixed")
    assert {ending["output"] for ending in answer["endings"]} == {"worker\n"}
