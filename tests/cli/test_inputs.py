"""Files that the user gives: endless, too large, too deep or plain nonsense,
each is one line and the command's exit code.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from emu.core.inputs import parse_toml, read_input
from tests import support
from tools.fixtures import Outcome

_SCHEDULES = {
    "an empty file": b"",
    "not text": b"\xff\xfe\x00",
    "not JSON": b'{"schedule":1}\n{"task":',
    "too deep": b'{"schedule":1}\n' + b"[" * 100_000,
    "numbers without end": b'{"schedule":1}\n{"task":' + b"9" * 5000 + b',"blocks":1}\n',
    "no number": b'{"schedule":1}\n{"task":1000,"blocks":NaN}\n',
    "too many blocks": b'{"schedule":1}\n{"task":1000,"blocks":99999999999999999999999}\n',
    "a list": b'{"schedule":1}\n[1,2]\n',
}
_SUPPRESSIONS = {
    "not TOML": b"[[suppression]\n",
    "too deep": b"a = " + b"[" * 100_000,
    "a long number": b"a = " + b"9" * 5000,
    "not text": b"\xff",
    "a table": b"suppression = 1\n",
    "no rule": b'[[suppression]]\nobject = "x"\n',
}


def _one_line(done: Outcome, code: int, folder: Path) -> None:
    lines = done.stderr.decode().splitlines()
    assert done.exit == code, done.stderr
    assert len(lines) == 1
    assert lines[0].startswith("emu: ")


@pytest.mark.parametrize("name", [*_SCHEDULES, "/dev/zero", "/nowhere"])
def test_a_schedule_that_is_none(name: str, tmp_path: Path) -> None:
    path = name if name.startswith("/") else str(tmp_path / "schedule")
    if name in _SCHEDULES:
        Path(path).write_bytes(_SCHEDULES[name])
    _one_line(support.emu("run", "--schedule", f"replay:{path}", "/bin/true", cwd=tmp_path), 125, tmp_path)


@pytest.mark.parametrize("name", [*_SUPPRESSIONS, "/dev/zero", "/nowhere"])
def test_suppressions_that_are_none(name: str, tmp_path: Path) -> None:
    path = name if name.startswith("/") else str(tmp_path / "suppressions")
    if name in _SUPPRESSIONS:
        Path(path).write_bytes(_SUPPRESSIONS[name])
    _one_line(support.emu("check", "--suppressions", path, "/bin/true", cwd=tmp_path), 2, tmp_path)


@pytest.mark.parametrize("content", [b"# tool.emu\ntool = 1\n", b"[tool.emu]\na = " + b"[" * 100_000, b"[tool.emu]\nseed = " + b"9" * 5000])  # fmt: skip
def test_defaults_that_are_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_bytes(content)
    done = support.emu("run", "/bin/true", cwd=tmp_path)
    if b"tool = 1" in content:
        assert (done.exit, done.stderr) == (0, b"")
    else:
        _one_line(done, 2, tmp_path)


@pytest.mark.parametrize("size", ["9" * 5000, "0", "-1", "1e9", "9" * 30 + "G"])
def test_sizes_that_are_none(size: str, tmp_path: Path) -> None:
    _one_line(support.emu("run", "--max-memory", size, "/bin/true", cwd=tmp_path), 2, tmp_path)


def test_what_is_read_has_a_limit(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(101))
    assert len(read_input(str(tmp_path / "large"), 101)) == 101
    with pytest.raises(OSError, match="larger than"):
        read_input(str(tmp_path / "large"), 100)
    with pytest.raises(ValueError, match="too deeply"):
        parse_toml(b"a = " + b"[" * 100_000)
