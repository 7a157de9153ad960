"""How PROGRAM, sizes, categories and the environment are read."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import click
import pytest

from emu.cli import options, parameters
from emu.core.errors import ProgramError
from emu.core.events import CATEGORIES
from emu.process.execvp import find_program

if TYPE_CHECKING:
    from pathlib import Path

CONTEXT, OPTION = click.Context(click.Command("run")), click.Option(["--option"])


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [("1", 1), ("4096", 4096), ("2K", 2048), ("3m", 3 << 20), ("1G", 1 << 30), (None, None)],
)
def test_sizes(text: str | None, bytes_: int | None) -> None:
    assert parameters.size(CONTEXT, OPTION, text) == bytes_


def test_start_time() -> None:
    assert parameters.start_time(CONTEXT, OPTION, "1700000000") == 1_700_000_000 * 10**9
    before = time.time_ns()
    assert before <= parameters.start_time(CONTEXT, OPTION, "now") <= time.time_ns()


@pytest.mark.parametrize("text", ["", "-1", "1.5", "today", "99999999999", "٣"])
def test_no_start_time(text: str) -> None:
    with pytest.raises(click.BadParameter, match="neither now nor"):
        parameters.start_time(CONTEXT, OPTION, text)


def test_with_time_now_new_files_are_listed_as_natively(tmp_path: Path) -> None:
    (tmp_path / "new").write_text("x")
    command = ["ls", "-la", str(tmp_path)]
    env = {"LC_ALL": "C", "TZ": "UTC"}
    native = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    emu = [sys.executable, "-m", "emu", "run", "--clean-env", "--env", "LC_ALL=C", "--env", "TZ=UTC"]
    said = subprocess.run(
        [*emu, "--time", "now", *command], capture_output=True, text=True, check=True
    ).stdout
    assert said == native
    then = [*emu, "--time", "86400", "date", "+%F %T"]
    assert subprocess.run(then, capture_output=True, text=True, check=True).stdout == "1970-01-02 00:00:00\n"


@pytest.mark.parametrize("text", ["", "0", "K", "0G", "-1", "1.5G", "1T", "1KB", "٣"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no size"):
        parameters.size(CONTEXT, OPTION, text)


def test_categories() -> None:
    assert parameters.categories(CONTEXT, OPTION, "dtors,libs,dtors") == ("libs", "dtors")
    assert parameters.categories(CONTEXT, OPTION, "libs,all") == CATEGORIES
    with pytest.raises(click.BadParameter, match="no category '', 'x'"):
        parameters.categories(CONTEXT, OPTION, "x,,libs")


def _executable(path: Path, mode: int = 0o755) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    path.chmod(mode)


def test_a_program_is_searched_like_execvp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "tool").mkdir(parents=True)
    _executable(tmp_path / "b" / "tool")
    _executable(tmp_path / "tool")
    _executable(tmp_path / "a" / "script", 0o644)
    path = f"{tmp_path}/a:{tmp_path}/b/"
    assert find_program("tool", path, "/") == f"{tmp_path}/b/tool"
    assert find_program("tool", f":{path}", "/") == "./tool"
    assert find_program("./x", path, "/") == "./x"
    with pytest.raises(ProgramError, match="^nothing: command not found$") as missing:
        find_program("nothing", path, "/")
    with pytest.raises(ProgramError, match="^script: Permission denied$") as denied:
        find_program("script", path, "/")
    assert (missing.value.exit_code, denied.value.exit_code) == (127, 126)
    with pytest.raises(ProgramError, match=r"^tol: command not found \(the nearest file here is ./tool\)$"):
        find_program("tol", path, "/")


def test_a_sysroot_has_its_own_programs_and_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _executable(tmp_path / "root" / "opt" / "tool")
    assert find_program("tool", "/bin:/opt", str(tmp_path / "root")) == "/opt/tool"
    monkeypatch.chdir(tmp_path / "root" / "opt")
    assert options.guest_directory(str(tmp_path / "root")) == "/opt"
    assert options.guest_directory("/") == str(tmp_path / "root" / "opt")
    monkeypatch.chdir(tmp_path)
    assert options.guest_directory(str(tmp_path / "root")) == "/"


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "emu", "run", *words], capture_output=True, text=True, timeout=60
    )


def test_a_program_found_in_path_keeps_the_name_that_was_typed() -> None:
    native = subprocess.run(["ls", "/no such file"], capture_output=True, text=True, env={"LC_ALL": "C"})
    emulated = _run("--env", "LC_ALL=C", "ls", "/no such file")
    assert (emulated.stderr, emulated.returncode) == (native.stderr, native.returncode)


def test_the_environment_is_ours_or_only_what_is_given() -> None:
    assert _run("--clean-env", "--env", "A=1", "--env", "B=x=y", "/usr/bin/env").stdout == "A=1\nB=x=y\n"
    assert "A=1" in _run("--env", "A=1", "env").stdout.splitlines()
    assert "PATH=" in _run("env").stdout
    assert "'A' is not NAME=VALUE" in _run("--env", "A", "env").stderr


def test_options_after_the_program_are_its_own() -> None:
    assert _run("echo", "--trace", "x", "--", "--help").stdout == "--trace x -- --help\n"


def test_trace_options_need_a_trace() -> None:
    done = _run("--trace-format", "jsonl", "true")
    assert done.returncode == 2
    assert "need --trace" in done.stderr
