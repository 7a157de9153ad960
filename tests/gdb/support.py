"""Runs the same gdb session on a native process and on one in emu."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tools import fixtures

PROGRAMS = Path(__file__).parent / "programs"
_NO_WRITING = "Couldn't write extended state status"
_LIBRARIES = ("leaving", "plugin")
_LIBRARY = "0x 0x Yes"
_NOISE = re.compile(
    r"^(warning: |Reading symbols from |\[Thread debugging|Using host libthread_db|Download failed|\[Detaching|$|.*No such file or directory\.$"
    r"|\d+\tin |0x in (_start|\?\?) \(\)( from .*)?$|"
    r"_+GI__dl_debug_state|_+GI__dl_catch_exception |_+pthread_mutex_unlock |emu: .*killed by|\[Thread exited\]|0x in \?\? \(\)|"
    r"_+GI__dl_debug_state|_+GI__dl_catch_exception |_+pthread_mutex_unlock |_+GI___libc_(malloc|free) \(|emu: .*killed by|.*\[\S+\+0x\]$|Program stopped\.)"
)


@cache
def folder(where: Path) -> Path:
    """Build all programs into one folder."""
    for source in PROGRAMS.glob("*.c*"):
        name = source.stem
        library = name in _LIBRARIES
        flags = ["-shared", "-fPIC"] if library else ["-pthread"]
        output = where / (f"{name}.so" if library else name)
        subprocess.run(
            ["g++" if source.suffix == ".cc" else "gcc", "-g", "-O0", *flags, "-o", output, source],
            check=True,
        )
    return where


def _gdb(words: list[str], where: Path) -> str:
    done = subprocess.run(
        words, cwd=where, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=120,
        env=os.environ | {"PYTHONPATH": str(fixtures.ROOT), "LC_ALL": "C", "DEBUGINFOD_URLS": ""},
    )  # fmt: skip
    return done.stdout.decode("utf-8", "replace")


def in_emu(program: Path, *commands: str, options: tuple[str, ...] = ()) -> str:
    """What `emu gdb` prints for these commands."""
    lines = [word for command in commands for word in ("--ex", command)]
    return _gdb(
        [sys.executable, "-m", "emu", "gdb", "--batch", *options, *lines, f"./{program.name}"], program.parent
    )


def natively(program: Path, *commands: str) -> str:
    """What gdb prints for them with the native process, from its first instruction on.

    Skips the test where gdb cannot write registers: gdb 13 does not know the size of AMX's state.
    """
    early = ("set startup-with-shell off", "set debuginfod enabled off", "starti")
    words = ["gdb", "-nx", "-q", "-batch"]
    for command in (*early, *commands):
        words += ["-ex", command]
    said = _gdb([*words, f"./{program.name}"], program.parent)
    if _NO_WRITING in said:
        pytest.skip(f"native gdb on this CPU: {_NO_WRITING}")
    return said


_EXIT_CUT = re.compile(r"\[([^][\n]*\n)?Thread (?:0x[0-9a-f]+ \(LWP \d+\)|[\d.]+)([^][\n]*\n)? exited\]\n")
"""That a thread is gone, which gdb prints in pieces: a line of the program's may come between any two."""


def plain(text: str) -> list[str]:
    """The lines of a session without what cannot be equal: addresses, ids, how threads are found."""
    lines = []
    for line in _EXIT_CUT.sub(r"\1\2", text).splitlines():
        line = re.sub(r"0x[0-9a-f]+", "0x", line)
        line = re.sub(r"Thread 0x \(LWP \d+\)|Thread \d+\.\d+|LWP \d+", "Thread", line)
        line = re.sub(r' "[\w.-]+" \((runs|waits .*?)\)(?=\s|:|\)|$)', ' "name"', line)
        line = re.sub(r'(Thread) "[\w.-]+"', r'\1 "name"', line)
        line = re.sub(r"^((?:Temporary b|B)reakpoint \d+ at 0x).*", r"\1", line)
        line = re.sub(r"process \d+", "process N", line)
        if not _NOISE.match(line):
            lines.append(re.sub(r"\s+", " ", line).strip())
    libraries = sorted(line for line in lines if line.startswith(_LIBRARY))  # gdb lists them as it found them
    return [libraries.pop(0) if line.startswith(_LIBRARY) else line for line in lines]
