"""Programs about processes in the manner of glibc's tests: each prints in emu what it prints natively.

Those that wait for each other a good deal run under a second schedule as well.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = Path(__file__).parent / "programs" / "processes"
NAMES = sorted(source.stem for source in SOURCES.glob("*.c"))
WAITING = ("groups", "passing", "sharing", "vfork", "wait")
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/", "LC_ALL": "C", "TZ": "UTC"}


def _build(name: str, folder: Path) -> None:
    compiler = ["-w", "-O1", "-o", f"{folder}/{name}", f"{SOURCES}/{name}.c"]
    subprocess.run(["gcc", *compiler, "-lpthread", "-lrt"], check=True)
    if name == "loading":
        library = ["-w", "-shared", "-fPIC", "-o"]
        subprocess.run(["g++", *library, f"{folder}/plugin.so", f"{SOURCES}/plugin.cc"], check=True)
        subprocess.run(["gcc", *library, f"{folder}/other.so", "-xc", "-"], check=True, input=b"int other;\n")


def _run(command: list[str], folder: Path) -> tuple[int, list[str]]:
    """Return the exit code, and what the program and its children have written, with a session of its own."""
    done = subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, timeout=120, start_new_session=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize("name", NAMES)
def test_output_is_the_native_one(name: str, tmp_path: Path) -> None:
    _build(name, tmp_path)
    native = _run([f"./{name}"], tmp_path)
    assert native[0] == 0 and native[1]
    command = [sys.executable, "-m", "emu", "run"]
    assert _run([*command, f"./{name}"], tmp_path) == native
    if name in WAITING:
        schedule = ["--schedule", "random", "--seed", "16"]
        assert _run([*command, *schedule, f"./{name}"], tmp_path) == native
