"""Run a fixture natively and in the emulator, in the same folder, environment and standard input."""

from __future__ import annotations

import atexit
import os
import re
import subprocess
import sys
from functools import cache
from typing import TYPE_CHECKING

from emu.sysroot.inspect import inspect
from tools import fixtures
from tools.emu_server import EmuServer, Request
from tools.fixtures import Outcome

if TYPE_CHECKING:
    from pathlib import Path

    from tools.fixtures import Run

#: For the native ld.so, also before 2.33: choose as for the CPU that is emulated, not the host's.
AS_EMULATED_CPU = {
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-AVX512F,-AVX512CD,-AVX512ER,-AVX2_Usable,-AVX512F_Usable"
}

#: Seconds after which a run in the emulator has failed.
EMU_TIMEOUT = 180.0


@cache
def all_runs() -> tuple[Run, ...]:
    """Every run of every fixture, by fixture name: all files are read, once."""
    return tuple(run for fixture in fixtures.load_all() for run in fixture.runs)


def the_run(run_id: str) -> Run:
    """The run of that name, of which one file is read; raises FixtureError or ValueError."""
    (run,) = (run for run in fixtures.load(run_id.partition(":")[0]).runs if run.id == run_id)
    return run


@cache
def _native(run_id: str) -> Outcome:
    return fixtures.run_native(the_run(run_id))


def run_native(run: Run) -> Outcome:
    """The run's outcome under the real ld.so and kernel, asked for once a session."""
    return _native(run.id)


def emu_command(run: Run, *emu_options: str) -> list[str]:
    """The command line that runs ``run`` in the emulator, with the fixture's whole environment in it.

    The guest's environment goes through ``--env``: LD_PRELOAD must reach the guest, not Python.
    """
    variables = fixtures.BASE_ENV | run.env
    environment = [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
    return [sys.executable, "-m", "emu", "run", "--clean-env", *environment, *emu_options, *run.argv]


def emu(*words: str, cwd: Path, stdin: bytes = b"", timeout: float = EMU_TIMEOUT) -> Outcome:
    """What ``emu WORDS`` left, in ``cwd``; raises subprocess.TimeoutExpired."""
    done = subprocess.run(
        [sys.executable, "-m", "emu", *words],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(fixtures.ROOT)},
        input=stdin,
        capture_output=True,
        timeout=timeout,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def native(*words: str, cwd: Path) -> Outcome:
    """What a command left under the real ld.so and kernel."""
    done = subprocess.run(words, cwd=cwd, env=fixtures.BASE_ENV, capture_output=True, check=False)
    return Outcome(
        done.returncode if done.returncode >= 0 else 128 - done.returncode, done.stdout, done.stderr
    )


def compile_c(folder: Path, *words: str, compiler: str = "gcc") -> None:
    """Run a compiler in ``folder``; raises subprocess.CalledProcessError."""
    subprocess.run([compiler, *words], cwd=folder, check=True)


def run_emu(run: Run, *emu_options: str, timeout: float = EMU_TIMEOUT) -> Outcome:
    """The run's outcome in the emulator; raises subprocess.TimeoutExpired."""
    done = subprocess.run(
        emu_command(run, *emu_options),
        cwd=fixtures.CACHE / run.fixture,
        env=os.environ | {"PYTHONPATH": str(fixtures.ROOT)},
        input=run.stdin.encode(),
        capture_output=True,
        timeout=timeout,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


_servers: list[EmuServer] = []


def run_forked(run: Run, *emu_options: str) -> Outcome:
    """As `run_emu`, by a process that has emu imported, which saves two thirds of a short run's time.

    Raises subprocess.TimeoutExpired.
    """
    if not _servers:
        _servers.append(EmuServer())
        atexit.register(_servers[0].close)
    words = emu_command(run, *emu_options)[3:]
    folder = str(fixtures.CACHE / run.fixture)
    return Outcome(
        *_servers[0].run(Request(folder, words, dict(os.environ), run.stdin.encode()), EMU_TIMEOUT)
    )


#: The glibc whose addresses, sizes and inner functions the pages show.
PAGES_GLIBC = "2.36"

#: Of the lines that a page shows, the share that another glibc must print as well.
_SHARE = 0.8


def of_the_pages() -> bool:
    """Whether programs here run with the glibc that the pages were written on."""
    return inspect("/").version == PAGES_GLIBC


def mostly(shown: str, printed: str) -> bool:
    """Whether another glibc's output is that of a page but for numbers, and for few lines that are its own.

    `...` of a line stands for anything, a line of it for any lines.
    """

    def plain(text: str) -> list[str]:
        lines = (
            re.sub(r"0x(?:[0-9a-f]+|\.\.\.)|\d+", "N", " ".join(line.split())) for line in text.splitlines()
        )
        return [line for line in lines if line not in ("", "...")]

    # The width decides where a line of an answer is wrapped: none is looked for as a line.
    found, wanted = " ".join(plain(printed)), plain(shown)
    patterns = [".*?".join(map(re.escape, line.split("..."))) for line in wanted]
    there = sum(bool(re.search(pattern, found)) for pattern in patterns)
    return there >= _SHARE * len(wanted)
