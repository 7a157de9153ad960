"""Every fixture gives in the emulator what it gives under the real ld.so and kernel."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

import pytest

from tests import tiers
from tests.engine.kvm import needs_kvm
from tests.support import run_forked, run_native
from tools import fixtures

if TYPE_CHECKING:
    from pathlib import Path

    from tools.fixtures import Run

_WRITTEN_FOR = "glibc 2.36"
"""Whose exit codes the fixtures have."""
_ENDS_BY_RELEASE = ("unload-lazy-dying",)
"""Which end otherwise with a later release, as they do in emu then, too."""


@cache
def registers_thread_dtors(name: str) -> bool:
    """Whether a fixture has destructors of thread_local, or is made by a script, which may give it some."""
    sources = [path for path in (fixtures.SOURCES / name).rglob("*") if path.is_file()]
    words = (b"thread_local", b"thread_atexit", b"thread_exit")
    return any(path.suffix == ".py" or any(word in path.read_bytes() for word in words) for path in sources)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Where no thread_local has a destructor both modes take the same way: one will do but for `--long`."""
    if "tls_dtors" not in metafunc.fixturenames:
        return
    params = [
        pytest.param(
            run,
            mode,
            id=f"{run.id}-{mode}",
            marks=() if mode == "model" or registers_thread_dtors(run.fixture) else pytest.mark.long,
        )
        for run in tiers.runs(metafunc.config.getoption("keyword"))
        for mode in ("model", "guest")
    ]
    metafunc.parametrize(("run", "tls_dtors"), params)


@pytest.mark.runs
@pytest.mark.usefixtures("built_fixtures")
def test_native_exit_code(run: Run) -> None:
    native = run_native(run)
    release = os.confstr("CS_GNU_LIBC_VERSION")
    if run.fixture in _ENDS_BY_RELEASE and native.exit != run.exit and release != _WRITTEN_FOR:
        pytest.skip(f"{release}: ends with {native.exit}, where {_WRITTEN_FOR} ends with {run.exit}")
    assert (native.exit, native.stderr if native.exit != run.exit else b"") == (run.exit, b"")
    shown = native.stdout or run.same_stderr or run.exit > 128
    assert shown, "a fixture must print what it shows, if a signal is not what it shows"


@pytest.mark.usefixtures("built_fixtures")
def test_emu_equals_native(run: Run, tls_dtors: str) -> None:
    native = run_native(run)
    emulated = run_forked(run, "--tls-dtors", tls_dtors)
    said = emulated.stderr.decode(errors="replace")
    assert emulated.stdout == native.stdout, said
    assert emulated.exit == native.exit, said
    if run.same_stderr:
        assert _guest_stderr(emulated.stderr, emulated.exit) == native.stderr


@needs_kvm
@pytest.mark.runs
@pytest.mark.usefixtures("built_fixtures")
def test_kvm_equals_native(run: Run) -> None:
    native = run_native(run)
    emulated = run_forked(run, "--engine", "kvm")
    said = emulated.stderr.decode(errors="replace")
    assert (emulated.stdout, emulated.exit) == (native.stdout, native.exit), said
    if run.same_stderr:
        assert _guest_stderr(emulated.stderr, emulated.exit) == native.stderr


def _guest_stderr(stderr: bytes, exit_code: int) -> bytes:
    """Leave out what emu adds when a signal killed the guest: a line, and the backtrace behind it."""
    lines = stderr.splitlines(keepends=True)
    report = [number for number, line in enumerate(lines) if line.startswith(b"emu: ")]
    return b"".join(lines[: report[-1]] if exit_code > 128 and report else lines)


def _write_fixture(sources: Path, name: str, toml: str) -> None:
    (sources / name).mkdir(parents=True)
    (sources / name / "fixture.toml").write_text(toml)


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty tree of fixtures with its own cache; gives the folder of the sources."""
    monkeypatch.setattr(fixtures, "ROOT", tmp_path)
    monkeypatch.setattr(fixtures, "SOURCES", tmp_path / "fixtures")
    monkeypatch.setattr(fixtures, "CACHE", tmp_path / "cache")
    return tmp_path / "fixtures"


@pytest.mark.parametrize(
    ("toml", "complaint"),
    [
        ("about = 'x'", "about and build are required"),
        ("about = 'x'\nbuild = ['true']\nbuilt = 1", "unknown key 'built'"),
        ("about = 'x'\nbuild = 'true'", "build must be list, is str"),
        ("about = 'x'\nbuild = ['true']\nneeds = ['icc']", "unknown tool 'icc'"),
        ("about = 'x'\nbuild = ['true']\ntags = ['thread']", "unknown tag 'thread'"),
        ("about = 'x'\nbuild = ['true']\n[[run]]\nexit = '1'", "exit must be int, is str"),
        ("about = 'x'\nbuild = ['true']\n[[run]]\nstderr = 'any'", 'stderr can only be "same"'),
        ("about = 'x'\nbuild = ['true']\n[[run]]\n[[run]]", "same name"),
        ("about = ", "fixtures/bad/fixture.toml"),
    ],
)
def test_malformed_fixture_is_named(workshop: Path, toml: str, complaint: str) -> None:
    _write_fixture(workshop, "bad", toml)
    with pytest.raises(fixtures.FixtureError, match="bad/fixture.toml") as caught:
        fixtures.load("bad")
    assert complaint in str(caught.value)


def test_build_only_when_the_folder_changed(workshop: Path) -> None:
    _write_fixture(workshop, "copy", "about = 'x'\nbuild = ['echo built >> ../log', 'cp source main']")
    (workshop / "copy" / "source").write_text("one")
    log = fixtures.CACHE / "log"
    folder = fixtures.build("copy")
    fixtures.build("copy")
    assert log.read_text() == "built\n"
    (workshop / "copy" / "source").write_text("two")
    fixtures.build("copy")
    assert (folder / "main").read_text() == "two"
    fixtures.build("copy", force=True)
    assert log.read_text() == "built\n" * 3


def test_failed_build_shows_command_and_output_and_is_tried_again(
    workshop: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _write_fixture(workshop, "broken", "about = 'x'\nbuild = ['echo no such thing; exit 3']")
    for _ in range(2):
        assert fixtures.main([]) == 1
        said = capfd.readouterr().err
        assert "broken: exit 3 from: echo no such thing; exit 3\nno such thing\n" in said


def test_missing_tool_names_its_package(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_fixture(workshop, "exotic", "about = 'x'\nbuild = ['true']\nneeds = ['icc']")
    monkeypatch.setitem(fixtures.TOOLS, "icc", ("no-such-compiler", "no-such-package"))
    with pytest.raises(fixtures.FixtureError, match="install the Debian package no-such-package"):
        fixtures.build("exotic")


def test_unstable_or_wrong_run_is_reported(workshop: Path) -> None:
    _write_fixture(
        workshop, "odd", "about = 'x'\nbuild = ['true']\n[[run]]\nargv = ['sh', '-c', 'echo $$; exit 2']"
    )
    fixture = fixtures.load("odd")
    fixtures.build("odd")
    wrong, unstable = fixtures.check_native([fixture], 3)
    assert wrong.startswith("odd: exit 2, not 0")
    assert unstable.startswith("odd: stdout of 3 native runs differs:\n--- one run\n+++ another\n@@")


def test_check_on_one_cpu_beside_busy_processes(workshop: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _write_fixture(
        workshop, "cpus", "about = 'x'\nbuild = ['true']\n[[run]]\nargv = ['sh', '-c', 'nproc; exit `nproc`']"
    )
    assert fixtures.main(["--check", "1", "--busy", "1", "--one-cpu"]) == 1
    assert "\nfixtures: cpus: exit 1, not 0" in capfd.readouterr().err
