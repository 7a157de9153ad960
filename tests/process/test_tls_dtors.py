"""thread_local destructors: the model's trace equals that of libc's own code, and
every trace repeats byte for byte.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import support
from tools.fixtures import Run

_SOME = [run for run in support.all_runs() if "tls-dtors" in run.tags][::7]


def _trace(run: Run, path: Path, *options: str) -> bytes:
    support.run_emu(run, *options, "--trace-output", str(path))
    return path.read_bytes()


def _facts(trace: bytes) -> list[str]:
    """The lines without the time stamp: libc's code makes other system calls on the
    way (it takes a lock), time may differ.
    """
    return [" ".join(line.split()[2:]) for line in trace.decode().splitlines()]


@pytest.mark.runs(tag="tls-dtors")
@pytest.mark.usefixtures("built_fixtures")
def test_model_and_guest_traces_are_equal(run: Run, tmp_path: Path) -> None:
    model = _trace(run, tmp_path / "model", "--trace", "dtors", "--tls-dtors", "model")
    guest = _trace(run, tmp_path / "guest", "--trace", "dtors", "--tls-dtors", "guest")
    assert _facts(model) == _facts(guest)


@pytest.mark.parametrize("run", _SOME, ids=lambda run: run.id)
@pytest.mark.usefixtures("built_fixtures")
def test_two_runs_give_one_trace(run: Run, tmp_path: Path) -> None:
    first = _trace(run, tmp_path / "first", "--trace", "all")
    assert first
    assert first == _trace(run, tmp_path / "second", "--trace", "all")
