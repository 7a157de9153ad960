"""A signal ends every command, whatever its guest does, and nothing is left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_COMMANDS = {
    "run": ["run"],
    "run --trace": ["run", "--trace", "processes", "--trace-output", "trace"],
    "check": ["check"],
    "report": ["report", "-o", "page.html"],
    "gdb": ["gdb", "--ex", "shell echo ready", "--ex", "continue"],
}


def _descendants(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile
        if int(fields[3]) == pid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["TERM", "HUP"])
@pytest.mark.parametrize("name", _COMMANDS)
def test_a_signal_ends_it(name: str, number: signal.Signals, programs: Path, tmp_path: Path) -> None:
    if name == "gdb" and shutil.which("gdb") is None:
        pytest.skip("needs gdb")
    words = [sys.executable, "-m", "emu", *_COMMANDS[name], str(programs / "waits")]
    environment = os.environ | {"PYTHONPATH": str(_ROOT), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        words, cwd=tmp_path, env=environment, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            if line.endswith("ready\n"):
                break
        process.send_signal(number)
        try:
            _, err = process.communicate(timeout=60)
        finally:
            left = _descendants(process.pid)
            for pid in (*left, process.pid):
                if process.returncode is None or pid != process.pid:
                    os.kill(pid, signal.SIGKILL)
        assert "Traceback" not in err or name == "gdb"  # gdb's own Python has one for each signal
        assert process.returncode != 0 or name == "report"
        assert left == []
    assert not list(tmp_path.glob("emu-gdb-*"))
