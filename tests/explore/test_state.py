"""`emu explore --state`: a search that ended, or was killed, goes on where it was."""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
import time
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from emu.exploration.journal import BEGINNING
from tests.support import compile_c, emu
from tools import fixtures

if TYPE_CHECKING:
    from pathlib import Path

_PROGRAM = fixtures.ROOT / "tests" / "explore" / "programs" / "turns.c"
_SEARCH = ("--json", "--strategy", "exhaustive", "--bound", "preemptions=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("state")
    (place / "main.c").write_text(_PROGRAM.read_text())
    compile_c(place, "-g", "-O1", "-DTURNS=8", "-pthread", "-o", "turns", "main.c")
    compile_c(place, "-g", "-O2", "-DTURNS=8", "-pthread", "-o", "other", "main.c")
    return place


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict[str, Any]:
    """What the search comes to in one go."""
    answer: dict[str, Any] = json.loads(emu("explore", *_SEARCH, "./turns", cwd=folder).stdout)
    assert answer["runs"] > 64, "two batches are under way at a time"
    return answer


def test_a_search_goes_on_from_its_bound_and_from_a_file_that_was_cut_off(
    folder: Path, whole: dict[str, Any], tmp_path: Path
) -> None:
    state = tmp_path / "search.state"
    first = emu("explore", *_SEARCH, "--bound", "runs=20", "--state", str(state), "./turns", cwd=folder)
    assert (json.loads(first.stdout)["runs"], first.stderr) == (20, b"")
    size = state.stat().st_size
    done = emu("explore", *_SEARCH, "--state", str(state), "--jobs", "2", "./turns", cwd=folder)
    assert json.loads(done.stdout) == whole
    assert b"has 20 runs already" in done.stderr
    assert state.stat().st_size > size
    state.write_bytes(state.read_bytes()[:-7])
    again = emu("explore", *_SEARCH, "--state", str(state), "./turns", cwd=folder)
    assert json.loads(again.stdout) == whole
    made = int(again.stderr.split(b" has ")[1].split()[0])
    assert 20 <= made < whole["runs"]
    full = emu("explore", *_SEARCH, "--state", str(state), "./turns", cwd=folder)
    assert json.loads(full.stdout) == whole
    assert f"has {whole['runs']} runs already".encode() in full.stderr


def test_a_search_goes_on_after_it_was_killed(folder: Path, whole: dict[str, Any], tmp_path: Path) -> None:
    state = tmp_path / "search.state"
    words = [sys.executable, "-m", "emu", "explore", *_SEARCH, "--state", str(state), "./turns"]
    environment = os.environ | {"PYTHONPATH": str(fixtures.ROOT), "OF_THE_FIRST": "1"}
    with subprocess.Popen(words, cwd=folder, env=environment, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and (not state.exists() or state.read_bytes().count(b"\n") < 2):
            time.sleep(0.01)
        while process.poll() is None and len(state.read_bytes().split(b"\n", 2)[2]) < 100:
            time.sleep(0.01)
        process.kill()
    done = emu("explore", *_SEARCH, "--state", str(state), "./turns", cwd=folder)
    assert json.loads(done.stdout) == whole
    assert b"which differs in " in done.stderr and b"OF_THE_FIRST" in done.stderr


def test_a_file_of_something_else_is_left_alone(folder: Path, tmp_path: Path) -> None:
    state = tmp_path / "search.state"
    words = ("explore", *_SEARCH, "--bound", "runs=2", "--state", str(state))
    assert emu(*words, "./turns", cwd=folder).exit == 0
    content = state.read_bytes()
    for more, complaint in (
        (("./other",), b"differs in program"),
        (("--same-output", "./turns"), b"differs in the way of searching"),
    ):
        refused = emu(*words, *more, cwd=folder)
        assert (refused.exit, complaint in refused.stderr) == (2, True), refused
    assert state.read_bytes() == content
    state.write_text("precious\n")
    refused = emu(*words, "./turns", cwd=folder)
    assert (refused.exit, b"it is no state of a search: not overwritten" in refused.stderr) == (2, True)
    assert state.read_text() == "precious\n"
    state.write_bytes(BEGINNING + b"[1]\n")
    assert b"its head is damaged" in emu(*words, "./turns", cwd=folder).stderr


class _Evil:
    """What unpickling would run."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch harmed",)


def test_a_file_cannot_run_code(folder: Path, tmp_path: Path) -> None:
    state = tmp_path / "search.state"
    words = ("explore", *_SEARCH, "--bound", "runs=2", "--state", str(state))
    assert emu(*words, "./turns", cwd=folder).exit == 0
    content = zlib.compress(pickle.dumps(((), ((_Evil(), _Evil()),))))
    with state.open("ab") as file:
        file.write(struct.pack("<II", len(content), zlib.crc32(content)) + content)
    refused = emu(*words, "./turns", cwd=folder)
    assert (refused.exit, b"posix.system does not belong there" in refused.stderr) == (2, True), refused
    assert not (folder / "harmed").exists()
