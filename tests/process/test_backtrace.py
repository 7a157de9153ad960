"""Backtraces name the frames that gdb names for the same program, and those that libgcc's unwinder finds."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import all_runs, run_emu
from tools import fixtures
from tools.fixtures import Run

_RUNS = [pytest.param(run, id=run.id) for run in all_runs() if run.fixture.startswith("backtrace-")]
_LINE = re.compile(
    r"    #(\d+) (?P<name>.*?)(?: \((?P<file>[^():]*):(?P<line>\d+)\))? \[(?P<where>[^\[\]]*)\](?: \((?P<note>.*)\))?"
)


class _Frame(NamedTuple):
    name: str
    file: str
    line: int
    inlined: bool
    low: int  # the pc's offset in its page: objects lie elsewhere under gdb


def _plain(name: str) -> str:
    """A function's qualified name without arguments, template arguments and return type: demanglers and DWARF differ in these."""
    name = re.sub(r"\.(part|cold|constprop|isra)(\.\d+)*", "", name)
    name = name.replace("(anonymous namespace)", "{anonymous}").replace("operator()", "operator{}")
    previous = ""
    while name != previous:
        previous = name
        name = re.sub(r"<[^<>]*>|\([^()]*\)| const$", "", name)
    return name.rpartition(" ")[2]


def _of_the_loader(name: str) -> bool:
    """Whether a frame is part of dlopen's and dlclose's inside, where the emulator's own frame takes the place of ld.so's."""
    return name.startswith(("_dl_catch_", "__GI__dl_catch_"))


def _until_main(frames: list[_Frame]) -> list[_Frame]:
    names = [frame.name for frame in frames]
    last = next((n for n in ("main", "__libc_start_call_main", "__libc_start_main") if n in names), None)
    return frames[: names.index(last) + 1] if last is not None else frames


def _gdb_frames(run: Run) -> list[_Frame]:
    variables = fixtures.BASE_ENV | run.env
    script = Path(__file__).with_name("gdb_frames.py")
    command = ["gdb", "-nx", "-batch", "-ex", "set debuginfod enabled off"]
    command += ["-ex", "handle SIGUSR1 nostop noprint"]
    command += [word for name in variables for word in ("-ex", f"set environment {name} {variables[name]}")]
    command += ["-ex", "run", "-ex", f"source {script}", "--args", *run.argv]
    done = subprocess.run(
        command, cwd=fixtures.CACHE / run.fixture, capture_output=True, text=True, timeout=120
    )
    (answer,) = re.findall(r"^.*?FRAMES (\[.*\])$", done.stdout, re.MULTILINE)
    frames = []
    for name, file, line, signal, inlined, pc, in_ld_so in json.loads(answer):
        name = "<signal handler called>" if signal else _plain(name)
        if not in_ld_so and not _of_the_loader(name):
            frames.append(_Frame(name, "" if signal else file, 0 if signal else line, inlined, pc & 0xFFF))
    return _until_main(frames)


def _emu_frames(run: Run) -> list[_Frame]:
    done = run_emu(run, "--tls-dtors", "guest")
    lines = done.stderr.decode().splitlines()
    report = next(i for i, line in enumerate(lines) if line.startswith("emu: "))
    frames = []
    for number, line in enumerate(lines[report + 1 :]):
        match = _LINE.fullmatch(line)
        assert match is not None, line
        assert int(match[1]) == number
        signal = match["name"] == "<signal handler called>"
        name = match["name"] if signal else "" if match["name"] == "??" else _plain(match["name"])
        if match["where"] != "emu" and not _of_the_loader(name):
            signal = signal or "unloaded at" in (match["note"] or "")  # gdb knows no code there
            file = "" if signal else (match["file"] or "").rpartition("/")[2]
            low = int(match["where"].rpartition("+")[2], 16) & 0xFFF
            inlined = (match["note"] or "").startswith("inlined")
            frames.append(_Frame(name, file, 0 if signal else int(match["line"] or 0), inlined, low))
    return _until_main(frames)


@pytest.mark.parametrize("run", _RUNS)
@pytest.mark.usefixtures("built_fixtures")
def test_frames_are_those_of_gdb(run: Run) -> None:
    theirs, ours = _gdb_frames(run), _emu_frames(run)
    assert [frame[1:] for frame in ours] == [frame[1:] for frame in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        if other.file in ("main.c", "main.cc", "plugin.c"):
            assert mine.name == other.name
