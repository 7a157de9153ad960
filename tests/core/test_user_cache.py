"""emu.core.user_cache: what was kept comes back, and nothing that anybody may have changed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from emu.core import user_cache

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_DATA = b"some data" * 100


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of something that is in the cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    user_cache.write("kind", "name", _DATA)
    assert user_cache.read("kind", "name") == _DATA
    return tmp_path / "emu/kind/name"


def _through_a_link(path: Path) -> None:
    path.rename(path.with_name("real"))
    path.symlink_to("real")


def _as_a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


_CHANGES: dict[str, Callable[[Path], object]] = {
    "one byte changed": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"!"),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"!"),
    "empty": lambda path: path.write_bytes(b""),
    "another head": lambda path: path.write_bytes(b"E" + path.read_bytes()[1:]),
    "writable by the group": lambda path: path.chmod(0o620),
    "writable by all": lambda path: path.chmod(0o602),
    "folder writable by all": lambda path: path.parent.chmod(0o707),
    "a symbolic link": _through_a_link,
    "a FIFO": _as_a_fifo,
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("change", _CHANGES.values(), ids=_CHANGES)
def test_what_somebody_may_have_changed_is_nothing(kept: Path, change: Callable[[Path], object]) -> None:
    change(kept)
    assert user_cache.read("kind", "name") is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_is_somebody_elses_is_nothing(kept: Path, what: str) -> None:
    os.chown(kept if what == "file" else kept.parent, 12345, -1)
    assert user_cache.read("kind", "name") is None


def test_nobody_else_may_read_or_change_what_is_kept(kept: Path) -> None:
    assert kept.stat().st_mode & 0o777 == 0o600 and kept.parent.stat().st_mode & 0o077 == 0
    assert [path.name for path in kept.parent.iterdir()] == ["name"]


def test_a_cache_that_cannot_be_written_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "emu").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    user_cache.write("kind", "name", _DATA)
    assert user_cache.read("kind", "name") is None


def test_the_oldest_go_when_there_are_many(kept: Path) -> None:
    for number in range(300):
        user_cache.write("kind", f"{number}", b"")
        os.utime(kept.with_name(f"{number}"), (number, number))
    names = {path.name for path in kept.parent.iterdir()}
    assert len(names) == 256 and "299" in names and "3" not in names


def test_it_can_be_listed_cleared_and_left_alone(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ((kind, files, size),) = user_cache.kinds()
    assert (kind, files) == ("kind", 1) and size > len(_DATA)
    assert user_cache.clear("kind") == 1 and not kept.exists()
    assert user_cache.is_wanted()
    monkeypatch.setenv("EMU_NO_CACHE", "1")
    assert not user_cache.is_wanted()
