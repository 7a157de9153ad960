"""The timeline in Python's hands, and gdb's MI interpreter as editors use it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

import emu
from tests.gdb.support import folder
from tools import fixtures

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("gdb-python"))


@pytest.fixture
def going(programs: Path) -> emu.Process:
    return emu.Process(programs / "going", cwd=str(programs), trace=["dl", "dtors"])


def test_a_timeline_goes_to_events_and_back(going: emu.Process, capfd: pytest.CaptureFixture[str]) -> None:
    timeline = going.timeline
    run = timeline.goto("dtors:2")
    assert (run.name, run.task, timeline.task) == ("dtor_run", 1001, 1001)
    with pytest.raises(emu.Error, match="nothing is mapped"):
        timeline.read(run.address, 1)
    registered = timeline.goto("dtors:1")
    assert registered.address == run.address and len(timeline.read(run.address, 1)) == 1
    assert timeline.goto(run).name == "dtor_run"
    unloaded = timeline.back()
    assert unloaded is not None and unloaded.name == "unloaded"
    assert [frame.function.strip("_") for frame in timeline.backtrace()][-2:] == ["start_thread", "clone3"]
    pc = timeline.step_back()
    assert pc
    names = []
    while (event := timeline.back()) is not None:
        names.append(event.name)
    assert "dtor_registered" in names and "open_requested" in names
    with pytest.raises(emu.Error, match="is no event"):
        timeline.goto("nonsense:1")
    with pytest.raises(emu.Error, match="there is no event dtors:3"):
        timeline.goto("dtors:3")
    assert capfd.readouterr().out == ""


def test_an_empty_program_has_no_timeline() -> None:
    with emu.Process() as p, pytest.raises(emu.StateError, match="no run of its own"):
        p.timeline.goto(1)


@pytest.mark.needs("gdb")
@pytest.mark.skipif(shutil.which("gdb") is None, reason="needs gdb")
def test_a_debugger_takes_over_where_the_timeline_stands(going: emu.Process, tmp_path: Path) -> None:
    going.timeline.goto("dtors:1")
    path = tmp_path / "socket"
    ended: list[object] = []
    server = threading.Thread(target=lambda: ended.append(going.gdb(f"unix:{path}")))
    server.start()
    while not path.exists():
        assert server.is_alive()
    words = ["gdb", "-nx", "-batch", "-iex", "set sysroot /"]
    for line in (f"target remote {path}", "continue", "bt 1", "kill"):
        words += ["-ex", line]
    text = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout
    server.join(30)
    assert "received signal SIGSEGV" in text and ended == [None]


@pytest.mark.needs("gdb")
@pytest.mark.skipif(shutil.which("gdb") is None, reason="needs gdb")
def test_an_editor_drives_it_through_mi(programs: Path, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    server = [sys.executable, "-m", "emu", "run", "--gdb", f"unix:{path}", "./plain"]
    environment = os.environ | {"PYTHONPATH": str(fixtures.ROOT)}
    commands = (
        "-gdb-set sysroot /", f"-target-select remote {path}", "-break-insert halve", "-exec-continue", "-stack-list-frames",
        "-stack-list-variables --simple-values", "-thread-info", "-exec-step --reverse", "-break-insert work", "-exec-continue --reverse",
        "-stack-list-frames", "-data-evaluate-expression total", "-break-delete", "-exec-continue",
    )  # fmt: skip
    with (
        subprocess.Popen(server, cwd=programs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process,
        subprocess.Popen(
            ["gdb", "-nx", "-q", "--interpreter=mi3"], cwd=programs, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as gdb,
    ):  # fmt: skip
        assert process.stderr is not None and process.stderr.readline().startswith(b"emu: waiting")
        assert gdb.stdin is not None and gdb.stdout is not None
        lines = []
        for command in commands:
            gdb.stdin.write(f"{command}\n")
            gdb.stdin.flush()
            runs = command.startswith("-exec")
            for line in gdb.stdout:
                lines.append(line)
                if line.startswith("*stopped" if runs else ("^done", "^connected", "^error")):
                    break
                assert not line.startswith("^error"), line
        gdb.stdin.write("-gdb-exit\n")
        gdb.stdin.close()
        text = "".join(lines)
        assert process.wait(30) == 3
    assert '*stopped,reason="breakpoint-hit"' in text and 'func="halve"' in text and 'func="work"' in text
    assert '^done,value="0"' in text and 'reason="exited",exit-code="03"' in text
