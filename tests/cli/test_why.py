"""`emu why`: every reason why a library stays, next to a case that just avoids it; what would let it go; reported cases."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests import support
from tests.cli.why_expected import EXPECTED, LIBRARIES
from tools import fixtures
from tools.fixtures import Outcome

GOLDEN = Path(__file__).parent / "why"
TEXTS = [
    "why-threads:main-too", "why-calls:needed-by-two", "why-bindings:start-up", "why-plugin-unique:unique", "why-generations:left-open",
]  # fmt: skip
_HEX = re.compile(r"0x[0-9a-f]{6,}")
_TIME = re.compile(r"\d+\.\d{9} s")


def why(run_id: str, *options: str, library: str = "") -> Outcome:
    """What `emu why` says of a run of a fixture, which is built for it."""
    (run,) = (run for run in support.all_runs() if run.id == run_id)
    folder = fixtures.build(run.fixture)
    variables = fixtures.BASE_ENV | run.env
    environment = [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
    program, *arguments = run.argv
    name = library or LIBRARIES[run_id]
    return support.emu(
        "why", "--clean-env", *environment, *options, program, name, "--", *arguments, cwd=folder
    )


def answer(run_id: str, *options: str, library: str = "") -> tuple[int, dict[str, Any]]:
    """The exit code and the answer as data."""
    done = why(run_id, "--json", "--all", *options, library=library)
    assert done.stderr.startswith(b"{"), done.stderr.decode()
    return done.exit, json.loads(done.stderr)


def summary(told: dict[str, Any]) -> list[str]:
    """One line for each moment: what came, the reasons, the changes."""
    lines = []
    for life in told["generations"]:
        for moment in life["moments"]:
            closed = os.path.basename(moment["closed"])
            what = f"{life['number']} {moment['kind']} {closed}:{moment['close_outcome']} {moment['outcome']}"
            reasons = [_reason(reason, life["name"]) for reason in moment["reasons"]]
            remedies = [_remedy(remedy) for remedy in moment["remedies"]]
            lines.append(f"{what} [{', '.join(reasons)}] -> [{', '.join(remedies)}]")
    return lines


def _reason(reason: dict[str, Any], name: str) -> str:
    chain = "".join(f" {link['kind']} {os.path.basename(link['held'])}" for link in reason["chain"])
    return f"{os.path.basename(reason['object'])} {reason['code']} {reason['count']}{chain}"


def _remedy(remedy: dict[str, Any]) -> str:
    target = str(remedy["thread"]) if remedy["thread"] else os.path.basename(remedy["object"])
    return f"{remedy['code']} {target}"


@pytest.mark.parametrize("run_id", EXPECTED)
def test_reasons_and_changes(run_id: str) -> None:
    code, told = answer(run_id)
    assert summary(told) == EXPECTED[run_id]
    assert code == int(told["stayed"])
