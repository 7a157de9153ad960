"""Static programs about the CPU itself: under KVM they print what they print natively, to the bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.kvm import ENGINES, needs_kvm

_PROGRAMS = Path(__file__).parent / "programs"
#: Those that need no more than what Unicorn's CPU has, and gets right.
_ANYWHERE = ("changing",)


def _build(name: str, folder: Path, *words: str) -> Path:
    program = folder / name
    source = _PROGRAMS / f"{name}.c"
    subprocess.run(["gcc", "-O1", "-w", "-static", *words, "-o", program, source, "-lm"], check=True)
    return program


def _same(program: Path, engine: str) -> None:
    native = subprocess.run([program], capture_output=True, check=False)
    assert native.returncode == 0
    assert native.stdout.count(b"\n") >= 5  # one line more where the CPU has AVX-512
    command = [sys.executable, "-m", "emu", "run", "--engine", engine, str(program)]
    done = subprocess.run(command, capture_output=True, timeout=180, check=False)
    assert (done.stdout, done.stderr, done.returncode) == (native.stdout, b"", 0)


@needs_kvm
@pytest.mark.parametrize("name", sorted(path.stem for path in _PROGRAMS.glob("*.c")))
def test_kvm_is_as_native(name: str, tmp_path: Path) -> None:
    _same(_build(name, tmp_path), "kvm")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", _ANYWHERE)
def test_either_engine_is_as_native(name: str, engine: str, tmp_path: Path) -> None:
    _same(_build(name, tmp_path), engine)


def test_unicorn_refuses_avx_and_names_the_way_out(tmp_path: Path) -> None:
    program = _build("vectors", tmp_path, "-mavx2", "-mfma")
    command = [sys.executable, "-m", "emu", "run", "--engine", "unicorn", str(program)]
    done = subprocess.run(command, capture_output=True, timeout=180, check=False)
    assert done.returncode == 125
    assert b"--engine kvm" in done.stderr
