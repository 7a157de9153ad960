"""The project's own rules: style, types, layers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


def _run(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.needs("ruff")
def test_ruff() -> None:
    _run(str(BIN / "ruff"), "check", ".")
    _run(str(BIN / "ruff"), "format", "--check", ".")


@pytest.mark.needs("mypy")
def test_mypy_strict() -> None:
    _run(sys.executable, "-m", "mypy")


@pytest.mark.needs("import-linter")
def test_layers() -> None:
    _run(str(BIN / "lint-imports"))


def test_only_the_binding_loads_the_unicorn_library() -> None:
    users = [p for p in (ROOT / "emu").rglob("*.py") if "libunicorn.so" in p.read_text()]
    assert users == [ROOT / "emu/machine/binding.py"]
