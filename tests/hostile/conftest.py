"""The programs of `programs/`, built once a session, and how they are run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

_SOURCES = Path(__file__).parent / "programs"
_LIBRARIES = {"tls": "libtls.so", "ie": "libie.so"}
_STATIC = {"blow", "escape", "fsgs", "waits"}
_SECONDS = 300
"""Longer than any command takes: a hang is to be a failure, and not the end of all tests."""
_ROOT = Path(__file__).parents[2]


class Ended(NamedTuple):
    """How a process ended: exit code as a shell gives it, what it wrote, and the most
    memory that it held, in bytes.
    """

    status: int
    out: bytes
    err: str
    memory: int


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with all programs and libraries."""
    folder = tmp_path_factory.mktemp("hostile")
    for source in _SOURCES.glob("*.c"):
        library = _LIBRARIES.get(source.stem)
        output = library or source.stem
        kind = ["-shared", "-fPIC"] if library else ["-static"] if source.stem in _STATIC else []
        subprocess.run(["gcc", "-w", "-O1", "-g", *kind, "-o", output, source], cwd=folder, check=True)
    return folder


_MEASURE = """
import os, sys
child = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(child, 0)
with open(sys.argv[1], "w") as file:
    file.write(f"{status} {usage.ru_maxrss}")
"""
"""A small parent: what a process held before its execve counts as its own (Linux
fs/exec.c: exec_mmap), and pytest holds much.
"""


def end(words: list[str], folder: Path, environment: dict[str, str]) -> Ended:
    """Run a command to its end."""
    usage = folder / "usage"
    words = [sys.executable, "-S", "-c", _MEASURE, str(usage), *words]
    with (folder / "stderr").open("w+b") as err, (folder / "stdout").open("w+b") as out:
        subprocess.run(
            words,
            cwd=folder,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            check=True,
            timeout=_SECONDS,
        )
        status, memory = map(int, usage.read_text().split())
        err.seek(0)
        out.seek(0)
        code = os.waitstatus_to_exitcode(status)
        text = err.read().decode(errors="replace")
        return Ended(128 - code if code < 0 else code, out.read(), text, memory << 10)


@pytest.fixture
def native(programs: Path) -> Callable[..., Ended]:
    """Run a program natively."""
    return lambda *words: end([f"./{words[0]}", *words[1:]], programs, {})


@pytest.fixture
def emu(programs: Path) -> Callable[..., Ended]:
    """Run `emu` with words, in the programs' folder; a fault of its own would be a traceback (EMU_STRICT)."""

    def run(*words: str, **environment: str) -> Ended:
        strict = {"EMU_STRICT": "1", "PYTHONPATH": str(_ROOT)} | environment
        return end([sys.executable, "-m", "emu", *words], programs, strict)

    return run
