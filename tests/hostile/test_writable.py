"""What a program may do as root in a `--writable` directory stays in it, and is
nothing that only root could give away.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.hostile.conftest import end

if TYPE_CHECKING:
    from tests.hostile.conftest import Ended

root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has what this takes away")
_SET_ID = stat.S_ISUID | stat.S_ISGID


def _run(folder: Path, programs: Path, *options: str) -> Ended:
    (folder / "set-id").write_text("old")
    (folder / "set-id").chmod(0o6755)
    words = [sys.executable, "-m", "emu", "run", "--writable", ".", *options, str(programs / "privilege")]
    return end(words, folder, {"EMU_STRICT": "1", "PYTHONPATH": str(Path(__file__).parents[2])})


@root
def test_no_set_id_bit_no_device_and_no_other_owner_gets_out(tmp_path: Path, programs: Path) -> None:
    done = _run(tmp_path, programs, "-v")
    assert done.status == 0
    for name in ("made", "folder", "link", "set-id"):
        found = os.lstat(tmp_path / name)
        assert (found.st_uid, found.st_gid) == (os.geteuid(), os.getegid())
        assert not found.st_mode & _SET_ID
    assert (tmp_path / "set-id").read_text() == "new"
    assert not (tmp_path / "device").exists()
    assert not (tmp_path / "fifo").exists()
    refused = [line.partition(":")[0] for line in done.out.decode().splitlines() if line.endswith(": EPERM")]
    assert refused == [
        "fchmod(fd, 04755)", 'chmod("made", 02755)', "fchown(fd, 1234, -1)", 'lchown("made", -1, 1234)', 'chmod("folder", 02755)',
        'chown("folder", 1234, 1234)', 'lchown("link", 1234, 1234)',
    ]  # fmt: skip
    assert "emu: chmod 4755 in a --writable directory is refused" in done.err


@root
def test_with_the_option_they_do(tmp_path: Path, programs: Path) -> None:
    done = _run(tmp_path, programs, "--writable-as-root")
    assert "EPERM" not in done.out.decode()
    assert os.lstat(tmp_path / "link").st_uid == 1234
    assert os.lstat(tmp_path / "folder").st_mode & stat.S_ISGID
    assert not (tmp_path / "device").exists()
