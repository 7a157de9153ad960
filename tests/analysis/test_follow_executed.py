"""A program that executes another: what is asked of a run goes on in the program that comes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import jsonschema
import pytest

from emu.analysis.check_data import ConflictReport
from emu.analysis.data import schema
from tests.support import emu
from tools import fixtures

SOURCES = Path(__file__).parent / "programs"
NAMES = fixtures.CACHE / "check-name-taken"
PRELOADED = ("/usr/bin/env", f"LD_PRELOAD={NAMES}/preload.so", f"{NAMES}/main-static")
TAKEN = "uses its own hash_init, but preload.so takes the name over"

pytestmark = pytest.mark.usefixtures("built_fixtures")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("executed")
    subprocess.run(["gcc", "-g", "-o", f"{path}/executes", f"{SOURCES}/executes.c"], check=True)
    subprocess.run(["gcc", "-g", "-pthread", "-o", f"{path}/threads", f"{SOURCES}/two_threads.c"], check=True)
    return path


def _native(folder: Path, *words: str) -> tuple[int, bytes]:
    done = subprocess.run(words, cwd=folder, capture_output=True, check=False)
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    "command", [("check",), ("check", "--follow", "none"), ("conflicts", "--follow", "none")]
)
def test_the_program_that_comes_runs_as_it_does(folder: Path, command: tuple[str, ...]) -> None:
    words = ("./executes", "here", "/usr/bin/stat", "--version")
    done = emu(*command, *words, cwd=folder)
    assert (done.exit, done.stdout) == _native(folder, *words)
    assert "no findings" in done.stderr.decode()


def test_conflicts_of_the_program_that_comes_are_the_programs(folder: Path) -> None:
    words = ("./executes", "here", *PRELOADED)
    done = emu("conflicts", *words, cwd=folder)
    assert (done.exit, done.stdout) == (1, _native(folder, *words)[1])
    text = done.stderr.decode()
    assert TAKEN in text and "process" not in text
    assert "emu conflicts: ./executes: 1 finding (1 warning); it ended with 0; meant to be" in text


def test_conflicts_of_a_child_stand_in_a_section(folder: Path) -> None:
    words = ("./executes", "child", *PRELOADED)
    done = emu("conflicts", *words, cwd=folder)
    assert (done.exit, done.stdout) == (1, _native(folder, *words)[1])
    section, _, rest = done.stderr.decode().partition("which ended with 0:\n")
    assert section.endswith(
        f"emu conflicts: process 1001 ({NAMES}/main-static), child of 1000 (./executes), "
    )
    assert rest.startswith("emu conflicts: warning [name-taken]: ") and TAKEN in rest
    assert "1 finding (1 warning); it ended with 0; 1 more process checked; meant to be interposed: " in rest


def test_conflicts_as_json_have_the_process(folder: Path) -> None:
    done = emu("conflicts", "--quiet-program", "--json", "./executes", "child", *PRELOADED, cwd=folder)
    report = json.loads(done.stdout)
    jsonschema.validate(report, schema(ConflictReport, "report"))
    assert [(found["rule"], found["process"]) for found in report["findings"]] == [("name-taken", 1001)]
    assert {end["process"] for end in report["processes"]} == {1001}
    assert any(kind["kind"] == "libc's own aliases" for kind in report["meant"])


def test_conflicts_of_a_program_by_its_name(folder: Path) -> None:
    words = ("./executes", "child", *PRELOADED)
    assert emu("conflicts", "--follow", "main-static", *words, cwd=folder).exit == 1
    assert emu("conflicts", "--follow", "executes", *words, cwd=folder).exit == 0
    assert emu("conflicts", "--follow", "none", *words, cwd=folder).exit == 0


@pytest.mark.parametrize(
    "words",
    [
        ("./executes", "here", "./executes"),
        ("./executes", "child", "./threads"),
        ("./executes", "vfork", "./threads"),
        ("./executes", "here", "/usr/bin/stat", "--version"),
        ("/usr/bin/stat", "--version"),  # closes its standard error before it ends
    ],
)
def test_both_loaders_do_the_same_in_programs_that_come(folder: Path, words: tuple[str, ...]) -> None:
    said = emu("diff", "--ldso", "real", *words, cwd=folder)
    assert (said.exit, said.stderr) == (0, b""), said.stdout.decode()
    assert "the same: output, errors, ending, loads, bindings, init, fini, unloads" in said.stdout.decode()


def test_threads_of_the_program_that_comes_are_explored(folder: Path) -> None:
    done = emu("explore", "--races", "./executes", "here", "./threads", cwd=folder)
    text = done.stdout.decode()
    assert done.exit == 1, text
    assert "data race on number in ./threads, which nothing orders:" in text
    again = emu(
        "run", "--schedule", "replay:executes.schedule", "./executes", "here", "./threads", cwd=folder
    )
    assert again.exit == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("./threads", "/usr/bin/true"), "./threads: unsupported exploration of a program that executes another beside its threads"),
        (("./executes", "vfork", "./threads"), "./threads: unsupported exploration of threads beside or behind other processes"),
        (("./executes", "child", "./threads"), "./executes: unsupported exploration of a program that makes processes"),
    ],
)  # fmt: skip
def test_what_cannot_be_explored_is_named(folder: Path, words: tuple[str, ...], told: str) -> None:
    done = emu("explore", *words, cwd=folder)
    assert (done.exit, done.stdout, done.stderr.decode()) == (125, b"", f"emu: {told}\n")


def test_what_has_no_threads_is_explored_in_its_one_order(folder: Path) -> None:
    done = emu("explore", "./executes", "here", "/usr/bin/stat", "--version", cwd=folder)
    assert (done.exit, done.stderr) == (0, b"")
    assert "1 run, 1 to their end; 0 threads" in done.stdout.decode()
