"""tools/demo and tools/test on a machine that lacks something: what they say, ask and install;
and a demo that fails.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from tools import fixtures

SETUP = ". tools/setup.sh; need ld.lld lld; need ld.gold binutils-gold; need_file /nowhere libc6-dbg; need_done; echo ready"


def _program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A PATH with a shell and little else: no compiler, no Python, no package manager; gives its folder."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "sh", "cat", "env"):
        (folder / name).symlink_to(str(shutil.which(name)))
    _program(folder, "id", "echo 0")
    return folder


def _setup(bare: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [bare / "bash", "-euc", SETUP], cwd=fixtures.ROOT, env={"PATH": str(bare), **env},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("manager", "command"),
    [
        ("dnf", "sudo dnf install gcc gcc-c++ python3 lld binutils-gold glibc-debuginfo"),
        ("zypper", "sudo zypper install gcc gcc-c++ python3 lld binutils glibc-debuginfo"),
        ("pacman", "sudo pacman -S --needed gcc gcc python lld binutils debuginfod"),
        ("apk", "sudo apk add gcc g++ python3 lld binutils musl-dbg"),
    ],
)
def test_what_is_missing_is_named_as_the_distribution_does(bare: Path, manager: str, command: str) -> None:
    _program(bare, manager, "exit 99")
    done = _setup(bare)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"missing on this machine; install with: {command}\n"


def test_without_a_package_manager_debians_names_are_said(bare: Path) -> None:
    done = _setup(bare)
    assert done.returncode == 1
    assert done.stderr.endswith(
        "Debian's packages: gcc g++ python3 python3-venv lld binutils-gold libc6-dbg\n"
    )


MISSING = "gcc g++ python3 python3-venv lld binutils-gold libc6-dbg"
INSTALLED = f"update -q\ninstall -q -y --no-install-recommends {MISSING}\n"


@pytest.fixture
def log(bare: Path, tmp_path: Path) -> Path:
    """An apt-get that only notes what it was called with; gives the file of its notes."""
    _program(bare, "apt-get", f'echo "$@" >>{shlex.quote(str(tmp_path))}/log')
    (tmp_path / "log").touch()
    return tmp_path / "log"


def test_root_without_a_terminal_installs(bare: Path, log: Path) -> None:
    done = _setup(bare)
    assert (done.returncode, done.stdout) == (0, "ready\n")
    assert done.stderr.startswith(f"missing on this machine: {MISSING}\ninstalling: apt-get install")
    assert log.read_text() == INSTALLED


def test_a_user_without_a_terminal_is_told(bare: Path, log: Path) -> None:
    _program(bare, "id", "echo 1000")
    _program(bare, "sudo", 'test "$1" != -n && exec "$@"')
    done = _setup(bare)
    assert (done.returncode, log.read_text()) == (1, "")
    assert done.stderr.endswith(f"install with: sudo apt-get install {MISSING}\n")
    _program(bare, "sudo", 'test "$1" = -n || exec "$@"')
    assert (_setup(bare, CI="true").returncode, log.read_text()) == (0, INSTALLED)


@pytest.mark.parametrize("answer", ["n", "", "y", "no"])
def test_a_person_is_asked(bare: Path, log: Path, answer: str) -> None:
    with pexpect.spawn(
        str(bare / "bash"), ["-euc", SETUP], cwd=str(fixtures.ROOT), env={"PATH": str(bare)}, encoding="utf-8"
    ) as child:
        child.expect_exact("Install them now? [Y/n] ", timeout=60)
        assert log.read_text() == ""
        child.sendline(answer)
        child.expect(pexpect.EOF, timeout=60)
    yes = not answer.startswith("n")
    assert (child.exitstatus == 0) == yes
    assert log.read_text() == (INSTALLED if yes else "")


def test_a_python_that_is_too_old_is_said(bare: Path, log: Path) -> None:
    _program(bare, "python3", 'case "$2" in *exit*) exit 1 ;; *) echo 3.9 ;; esac')
    done = _setup(bare)
    assert (done.returncode, log.read_text()) == (1, "")
    assert done.stderr.startswith(
        "emu needs Python 3.11 or later, and python3 here is 3.9. Get a later one from elsewhere"
    )
    done = _setup(bare, PYTHON=str(bare / "python3"))
    assert done.stderr == f"PYTHON={bare}/python3 is no Python of at least 3.11\n"


def test_a_later_python_of_the_release_is_installed(bare: Path, log: Path) -> None:
    _program(bare, "python3", 'case "$2" in *exit*) exit 1 ;; *) echo 3.10 ;; esac')
    _program(bare, "apt-cache", 'test "$2" = python3.12-venv')
    assert _setup(bare).returncode == 0
    assert " gcc g++ python3.12 python3.12-venv lld " in log.read_text()


def test_another_python_can_be_named(bare: Path) -> None:
    done = _setup(bare, PYTHON=sys.executable)
    assert done.stderr.endswith("Debian's packages: gcc g++ lld binutils-gold libc6-dbg\n")


@pytest.mark.parametrize("had", ["sample", "test"])
@pytest.mark.parametrize("wanted", ["sample", "test"])
def test_an_environment_is_made_again_for_more_packages_only(tmp_path: Path, had: str, wanted: str) -> None:
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / "pyproject.toml").touch()
    _program(tmp_path / ".venv/bin", "python", "echo Python 3.13.1")
    script = f"""
    extra={wanted}; . {shlex.quote(str(fixtures.ROOT))}/tools/setup.sh
    made_of .venv/bin/python {had} >.venv/.stamp
    venv_is_right
    """
    env = {name: value for name, value in os.environ.items() if name != "PYTHON"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert (done.returncode == 0) == (had == "test" or had == wanted), done.stderr


def _demo(place: Path, emu: str) -> subprocess.CompletedProcess[str]:
    """Run tools/demo in a folder that is set up, with `emu` for the command."""
    (place / "tools").mkdir()
    (place / ".venv/bin").mkdir(parents=True)
    for name in ("demo", "setup.sh"):
        shutil.copy(fixtures.ROOT / "tools" / name, place / "tools")
    shutil.copy(fixtures.ROOT / "pyproject.toml", place)
    (place / ".cache").symlink_to(fixtures.ROOT / ".cache")
    for name in (
        "tls-dsos",
        "unload-rules",
        "why-plugin-unique",
        "versions-interposed",
        "check-key-destructor",
    ):
        fixtures.build(name)
    # Nothing is to be installed, and the fixtures are there.
    _program(place / ".venv/bin", "python", "exit 0")
    _program(place / ".venv/bin", "emu", emu)
    stamp = subprocess.run(
        ["bash", "-c", 'echo "$("$PYTHON" --version) $PWD $(cksum <pyproject.toml) test"'],
        cwd=place, env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    (place / ".venv/.stamp").write_text(stamp.stdout)
    env = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(fixtures.ROOT)}
    return subprocess.run(
        [place / "tools/demo"], cwd=place, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )  # fmt: skip


def test_the_demo_shows_what_it_says(tmp_path: Path) -> None:
    done = _demo(tmp_path, f'exec {shlex.quote(sys.executable)} -m emu "$@"')
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\n$ emu ") == 5


@pytest.mark.parametrize("emu", ["exit 0", "echo unsupported glibc >&2; exit 125"])
def test_a_demo_that_does_not_is_a_failure(tmp_path: Path, emu: str) -> None:
    done = _demo(tmp_path, emu)
    assert done.returncode == 1
    assert done.stderr.count(": exit code ") == 5 and "=== Next" not in done.stdout


@pytest.mark.parametrize(("terminal", "told"), [(False, [40, 80, 90]), (True, [*range(1, 91)])])
def test_who_waits_for_fixtures_sees_that_it_goes_on(
    terminal: bool,
    told: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    chosen = fixtures.load_all()[:90]
    monkeypatch.setattr(fixtures, "CACHE", tmp_path)
    monkeypatch.setattr(fixtures, "_build", lambda fixture, force: True)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    fixtures.build_all(chosen)
    lines = [f"fixtures: built {done} of 90: {chosen[done - 1].name}" for done in told]
    assert capsys.readouterr().err.splitlines() == lines


def test_what_is_built_already_is_not_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fixtures, "CACHE", tmp_path)
    monkeypatch.setattr(fixtures, "_build", lambda fixture, force: False)
    fixtures.build_all(fixtures.load_all())
    assert capsys.readouterr().err == ""
