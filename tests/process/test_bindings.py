"""Who binds to whom: ld.so's own answer (LD_DEBUG=bindings) against our events."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import support
from tools import fixtures
from tools.fixtures import BASE_ENV, Run

if TYPE_CHECKING:
    from collections.abc import Sequence

_LINE = re.compile(
    r"binding file (\S+) \[\d+\] to (\S+) \[\d+\]: (?:normal|protected) symbol `([^']+)'(?: \[([^\]]+)\])?"
)
Binding = tuple[str, str, str, str]


def _ending(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if run.exit == 0 and run.name == "default"]


def _native(run: Run) -> set[Binding]:
    env = {**BASE_ENV, **run.env, **support.AS_EMULATED_CPU, "LD_DEBUG": "bindings", "LD_BIND_NOW": "1"}
    done = subprocess.run(
        run.argv, cwd=fixtures.CACHE / run.fixture, env=env, input=run.stdin.encode(), capture_output=True
    )
    found = set()
    for origin, target, symbol, version in _LINE.findall(done.stderr.decode(errors="replace")):
        if "ld-linux" not in origin and "vdso" not in target and "vdso" not in origin:
            found.add((os.path.basename(origin), os.path.basename(target), symbol, version))
    return found


def _emulated(run: Run, tmp_path: Path) -> set[Binding]:
    trace = tmp_path / "trace.jsonl"
    support.run_emu(
        run,
        "--env",
        "LD_BIND_NOW=1",
        "--trace",
        "bindings",
        "--trace-format",
        "jsonl",
        "--trace-output",
        str(trace),
    )
    found = set()
    for line in trace.read_text().splitlines():
        event = json.loads(line)
        if (
            event["event"] == "binding"
            and event["target"]
            and "ld-linux" not in event["origin"]
            and "vdso" not in event["origin"]
        ):
            found.add(
                (
                    os.path.basename(event["origin"]),
                    os.path.basename(event["target"]),
                    event["symbol"],
                    event["version"],
                )
            )
    return found


@pytest.mark.runs(tag="bindings", of=_ending)
@pytest.mark.usefixtures("built_fixtures")
def test_bindings_equal_ld_so(run: Run, tmp_path: Path) -> None:
    native = _native(run)
    emulated = _emulated(run, tmp_path)
    # ld.so looks up the malloc that it will use itself, in the program's name, an auditor's functions, and
    # (seen with 2.41) its own _r_debug, of which the program may have a copy; we do that without an event.
    names = ("malloc", "calloc", "realloc", "free", "__libc_early_init", "_r_debug")
    own = {b for b in native - emulated if b[2] in names or b[2].startswith("la_")}
    assert native - own - emulated == set()
    assert emulated - native == set()
