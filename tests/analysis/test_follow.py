"""`--follow`: check, why and report look at every process of a run, or at those that are asked for."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import emu as api
from tests.support import emu

if TYPE_CHECKING:
    from tools.fixtures import Outcome

SOURCES = Path(__file__).parent / "programs"
FIRST = 1000
CRASHES, CLOSES, ABORTS, KILLED, EXECUTES, WITHOUT = range(FIRST + 1, FIRST + 7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("follow")
    subprocess.run(["gcc", "-g", "-w", "-o", f"{path}/host", f"{SOURCES}/follow.c"], check=True)
    plugin = ["g++", "-g", "-shared", "-fPIC", "-o", f"{path}/plugin.so", f"{SOURCES}/follow_plugin.cc"]
    subprocess.run(plugin, check=True)
    return path


def _native(folder: Path, *words: str) -> tuple[int, bytes]:
    done = subprocess.run(["./host", *words], cwd=folder, capture_output=True, check=False)
    return done.returncode, done.stdout


def _check(
    folder: Path, *words: str, program: tuple[str, ...] = ("./host",)
) -> tuple[Outcome, dict[str, Any]]:
    done = emu("check", f"--json={folder / 'check.json'}", "--force", *words, *program, cwd=folder)
    return done, json.loads((folder / "check.json").read_text())


def _rules(report: dict[str, Any]) -> list[tuple[int, str]]:
    return [(found["process"], found["rule"]) for found in report["findings"]]


def test_each_process_has_its_findings_and_the_program_runs_as_it_does(folder: Path) -> None:
    done, report = _check(folder)
    assert done.stdout == _native(folder)[1]
    assert _rules(report) == [
        (CRASHES, "died"), (CLOSES, "handle-closed-twice"), (ABORTS, "died"), (EXECUTES, "dlclose-no-effect"),
    ]  # fmt: skip
    ends = [(end["process"], end["parent"], end["exit_code"]) for end in report["processes"]]
    assert ends == [
        (CRASHES, FIRST, 139), (CLOSES, FIRST, 0), (ABORTS, FIRST, 134), (KILLED, FIRST, 137), (EXECUTES, FIRST, -1),
        (EXECUTES, FIRST, 5), (WITHOUT, FIRST, -1), (WITHOUT, FIRST, 5),
    ]  # fmt: skip


def test_the_text_has_a_section_a_process_and_the_first_may_execute_another_program(folder: Path) -> None:
    done = emu("check", "./host", "goes on", cwd=folder)
    text = done.stderr.decode()
    assert (done.exit, done.stdout) == (1, _native(folder, "goes on")[1])
    first, _, rest = text.partition(
        f"emu check: process {CRASHES} (./host), child of {FIRST} (./host), which ended with 139:\n"
    )
    assert "warning [dlclose-no-effect]" in first and "[handle-closed-twice]" not in first
    assert re.search(r"\[died\]: killed by SIGSEGV: write to 0x8 .*\n    at crash", rest)
    assert "emu: that was process" not in text  # the section says it
    assert text.endswith("it ended with 5; 6 more processes checked\n")


def test_the_first_process_alone(folder: Path) -> None:
    done, report = _check(folder, "--follow", "none")
    assert (done.exit, report["findings"], report["processes"]) == (0, [], [])
    assert f"emu: that was process {CRASHES}, child of {FIRST}" in done.stderr.decode()


def test_programs_of_one_name_below_a_shell(folder: Path) -> None:
    shell = ("/bin/sh", "-c", "true; ./host child; /bin/sh -c 'kill -ABRT $$'; true")
    _, every = _check(folder, program=shell)
    assert {rule for _, rule in _rules(every)} == {"dlclose-no-effect", "died"}
    _, some = _check(folder, "--follow", "host", program=shell)
    assert _rules(some) == [(FIRST + 1, "dlclose-no-effect")]
    assert [end["program"] for end in some["processes"]] == ["./host"]


def test_why_tells_of_the_process_that_has_the_library(folder: Path) -> None:
    answer = folder / "why.json"
    words = ("/bin/sh", "plugin.so", "--", "-c", "true; ./host child; true")
    assert emu("why", f"--json={answer}", *words, cwd=folder).exit == 1
    data = json.loads(answer.read_text())
    assert (data["process"], data["parent"], data["program"], data["others"]) == (
        FIRST + 1,
        FIRST,
        "./host",
        [],
    )
    assert [moment["kind"] for moment in data["generations"][0]["moments"]] == ["dlclose", "program-end"]
    refused = emu("why", "--follow", "none", *words, cwd=folder)
    assert refused.exit != 0 and b"no object plugin.so was ever loaded" in refused.stderr


def test_why_prefers_the_first_process_and_names_the_others(folder: Path) -> None:
    answer = folder / "why.json"
    emu("why", f"--json={answer}", "./host", "plugin.so", cwd=folder)
    data = json.loads(answer.read_text())
    assert data["process"] == 0
    assert data["others"] == [CRASHES, CLOSES, ABORTS, KILLED, EXECUTES, WITHOUT]


def test_a_report_has_a_section_a_process(folder: Path) -> None:
    emu("report", "./host", "-o", "report.html", cwd=folder)
    (text,) = re.findall('id="data">(.*)</script>', (folder / "report.html").read_text())
    rows = json.loads(text)["processes"]["rows"]
    found = [(row["process"], row["ended"], [f["rule"] for f in row["findings"]["rows"]]) for row in rows]
    assert found == [
        (CRASHES, "killed by SIGSEGV (exit code 139)", ["died"]),
        (CLOSES, "exit code 0", ["handle-closed-twice"]),
        (ABORTS, "killed by SIGABRT (exit code 134)", ["died"]),
        (KILLED, "killed by SIGKILL (exit code 137)", []),
        (EXECUTES, "it executed another program", []),
        (EXECUTES, "exit code 5", ["dlclose-no-effect"]),
        (WITHOUT, "it executed another program", []),
        (WITHOUT, "exit code 5", []),
    ]
    opened = next(
        life for life in rows[1]["lives"]["rows"] if rows[1]["objects"][life["object"]][0] == "./plugin.so"
    )
    assert opened["opens"] == 0  # it was opened before the fork, and is closed in the child


def test_a_process_that_python_holds_is_checked_with_its_children(folder: Path) -> None:
    with api.Process(check=True) as process:
        child_crashes = process.dlopen(f"{folder}/plugin.so").child_crashes
        before = process.snapshot()
        assert child_crashes() == 11
        assert [(found.process, found.rule) for found in process.findings()] == [(CRASHES, "died")]
        process.restore(before)
        assert list(process.findings()) == []
        assert child_crashes() == 11
        assert len(process.findings()) == 1
