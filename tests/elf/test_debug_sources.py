"""Names from where distributions put them:
mini debug info (.gnu_debugdata), and what debuginfod's clients have fetched.
"""

from __future__ import annotations

import lzma
import subprocess
from pathlib import Path

import pytest

from emu.core.errors import ElfError
from emu.elf.debug_file import build_id_of
from emu.elf.dwarf import DebugInfo

_SOURCE = """
static int __attribute__((noinline)) hidden_one(int n) { return n * 3; }
int exported(int n) { return hidden_one(n) + 1; }
"""


def _run(*words: str, cwd: Path) -> str:
    return subprocess.run(words, cwd=cwd, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A library with everything in it, beside a stripped copy."""
    (tmp_path / "x.c").write_text(_SOURCE)
    _run("gcc", "-g", "-O1", "-fPIC", "-shared", "-Wl,--build-id", "-o", "full.so", "x.c", cwd=tmp_path)
    _run("strip", "-o", "stripped.so", "full.so", cwd=tmp_path)
    return tmp_path


def _address(folder: Path, name: str) -> int:
    line = next(line for line in _run("nm", "full.so", cwd=folder).splitlines() if line.endswith(f" {name}"))
    return int(line.split()[0], 16)


def test_mini_debug_info_names_what_dynsym_does_not(built: Path) -> None:
    _run("objcopy", "-S", "--keep-symbol=hidden_one", "--only-keep-debug", "full.so", "mini", cwd=built)
    _run("objcopy", "--strip-debug", "mini", cwd=built)
    (built / "mini.xz").write_bytes(lzma.compress((built / "mini").read_bytes()))
    _run("objcopy", "--add-section", ".gnu_debugdata=mini.xz", "stripped.so", "with.so", cwd=built)
    hidden, exported = _address(built, "hidden_one"), _address(built, "exported")
    with_mini, without = DebugInfo(str(built / "with.so")), DebugInfo(str(built / "stripped.so"))
    assert with_mini.function(hidden) == ("hidden_one", hidden)
    assert without.function(hidden) is None
    assert with_mini.function(exported) == without.function(exported) == ("exported", exported)


def test_mini_debug_info_that_is_damaged_is_an_error(built: Path) -> None:
    (built / "bad").write_bytes(b"\xfd7zXZ\0 this is no xz stream")
    _run("objcopy", "--add-section", ".gnu_debugdata=bad", "stripped.so", "bad.so", cwd=built)
    with pytest.raises(ElfError, match="gnu_debugdata"):
        DebugInfo(str(built / "bad.so")).function(_address(built, "hidden_one"))


def test_debuginfods_cache_is_asked_where_its_servers_are_set(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = built / "cache"
    place = cache / build_id_of(str(built / "full.so"))
    place.mkdir(parents=True)
    _run("objcopy", "--only-keep-debug", "full.so", str(place / "debuginfo"), cwd=built)
    hidden, path = _address(built, "hidden_one"), str(built / "stripped.so")
    monkeypatch.setenv("DEBUGINFOD_CACHE_PATH", str(cache))
    monkeypatch.delenv("DEBUGINFOD_URLS", raising=False)
    assert DebugInfo(path).line(hidden) is None
    monkeypatch.setenv("DEBUGINFOD_URLS", "http://localhost:1")
    found = DebugInfo(path)
    assert found.function(hidden) == ("hidden_one", hidden)
    assert found.line(hidden) == (str(built / "x.c"), 2)
    (place / "debuginfo").write_bytes(b"")  # a server that had none
    assert DebugInfo(path).line(hidden) is None
