"""System calls against the real kernel: static programs, one a subject, run natively and in emu;
both must print the same.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.kvm import ENGINES

_PROGRAMS = sorted((Path(__file__).parent / "programs").glob("*.c"))


def _run(command: list[str], folder: Path) -> tuple[int, str]:
    folder.mkdir()
    # A session of its own: one whose leader is outside the process-id namespace (a container) has the id 0.
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        errors="replace",
        start_new_session=True,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("source", _PROGRAMS, ids=lambda path: path.stem)
def test_program_prints_what_it_prints_natively(source: Path, engine: str, tmp_path: Path) -> None:
    program = tmp_path / source.stem
    subprocess.run(["gcc", "-O1", "-w", "-static", "-o", str(program), str(source), "-lm"], check=True)
    code, said = _run([str(program), "one", "two"], tmp_path / "native")
    assert code >= 0, "a program must not be killed natively"
    assert said.count("\n") > 10
    emu = [sys.executable, "-m", "emu", "run", "--engine", engine, str(program), "one", "two"]
    assert _run(emu, tmp_path / "emu") == (code, said)
