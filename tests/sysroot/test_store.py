"""`emu sysroot`: names for `--sysroot`, kept in the user's cache, whole or not at all."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path

import pytest

import emu
from emu.core.errors import EXIT_SYSROOT, EXIT_USAGE, SysrootError
from emu.sysroot import store
from emu.sysroot.inspect import inspect
from tests.support import emu as run_emu
from tests.sysroot.support import LIBC, change, packed, system


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of our own; gives the folder that the sysroots will be in."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "emu" / "sysroots"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return system(tmp_path / "root")


def _left(cache: Path) -> list[str]:
    return sorted(name for name in os.listdir(cache) if name != ".lock")


def test_a_folder_gets_a_name_and_stays(root: Path, tmp_path: Path, cache: Path) -> None:
    made = run_emu("sysroot", "add", "root", "--name", "here", cwd=tmp_path)
    glibc = inspect("/")
    assert made.stdout.decode() == f"here: glibc {glibc.version} ({glibc.package}), from {root}\n"
    listed = run_emu("sysroot", "list", cwd=tmp_path).stdout.decode().splitlines()
    assert [line.split()[:2] for line in listed] == [["NAME", "LIBC"], ["here", glibc.version]]
    (row,) = json.loads(run_emu("sysroot", "list", "--json", cwd=tmp_path).stdout)
    assert row == {"name": "here", "root": str(root), "source": str(root), "libc": glibc.version, "package": glibc.package, "there": True}  # fmt: skip
    assert run_emu("sysroot", "remove", "here", cwd=tmp_path).exit == 0
    assert _left(cache) == [] and inspect(str(root)) == glibc._replace(
        ld_so=inspect(str(root)).ld_so, libc=f"/{LIBC}"
    )


def test_a_name_is_taken_where_a_folder_is(root: Path, tmp_path: Path) -> None:
    store.add_folder("here", str(root))
    assert store.resolve("here") == str(root)
    program = ["call", "--sysroot", "here", "libc.so.6", "abs", "-3"]
    assert run_emu(*program, cwd=tmp_path).stdout == b"3\n"
    with emu.Process(sysroot="here") as p:
        assert p.dlopen("libc.so.6").abs(-3) == 3
    # A folder of that name is nearer.
    (tmp_path / "here").mkdir()
    assert run_emu(*program, cwd=tmp_path).exit == EXIT_SYSROOT


def test_a_system_of_musl_is_kept_for_its_own_ld_so(root: Path, tmp_path: Path) -> None:
    shutil.rmtree(root / "usr/lib64")
    (root / "usr/lib/ld-musl-x86_64.so.1").touch()
    assert run_emu("sysroot", "add", "root", cwd=tmp_path).stdout.decode() == f"root: musl, from {root}\n"


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_an_archive_is_unpacked_under_its_name(root: Path, tmp_path: Path, cache: Path, mode: str) -> None:
    ending = ".tar" + mode[1:].replace(":", ".")
    (tmp_path / f"small{ending}").write_bytes(packed(root, mode))
    shutil.rmtree(root)
    done = run_emu("sysroot", "add", f"small{ending}", cwd=tmp_path)
    assert (done.exit, done.stderr) == (0, b"emu: small: unpacking the root file system\n")
    assert store.resolve("small") == str(cache / "small" / "root")
    assert run_emu("call", "--sysroot", "small", "libc.so.6", "abs", "-3", cwd=tmp_path).stdout == b"3\n"
    store.remove("small")
    assert _left(cache) == []


def test_nothing_appears_that_is_not_whole(root: Path, tmp_path: Path, cache: Path) -> None:
    change(root / LIBC, lambda content: content[:5000])
    (tmp_path / "bad.tar").write_bytes(packed(root))
    done = run_emu("sysroot", "add", "bad.tar", cwd=tmp_path)
    assert done.exit == EXIT_SYSROOT and b"is damaged or cut off" in done.stderr
    assert _left(cache) == []

    def interrupted(place: str) -> None:
        Path(place, "x").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.add("x", "nowhere", interrupted)
    assert _left(cache) == []


def test_what_a_killed_add_left_is_swept_away(root: Path, cache: Path) -> None:
    left = cache / ".unfinished-1" / "root" / "shut"
    left.mkdir(parents=True)
    left.chmod(0)
    assert store.sysroots() == []
    store.add_folder("here", str(root))
    assert _left(cache) == ["here"]


def test_one_at_a_time(root: Path, cache: Path) -> None:
    cache.mkdir(parents=True)
    with open(cache / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SysrootError, match="another `emu sysroot` is at work"):
            store.add_folder("here", str(root))


def test_names(root: Path, cache: Path) -> None:
    store.add_folder("debian:trixie", str(root))
    assert [found.name for found in store.sysroots()] == ["debian:13"]
    assert store.resolve("debian:13") == store.resolve("debian:trixie") == str(root)
    with pytest.raises(SysrootError, match="there is a sysroot of this name; remove it first"):
        store.add_folder("debian:13", str(root))
    for name in ("", "a/b", ".x", "..", "a b", "x" * 101):
        with pytest.raises(SysrootError, match="a sysroot's name is of letters"):
            store.add_folder(name, str(root))
        with pytest.raises(SysrootError, match="no such sysroot"):
            store.remove(name)


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("nothing", "sysroot nothing: neither a folder nor the name of a sysroot (there are here)"),
        ("./nothing", "sysroot ./nothing: no such folder"),
        ("", "sysroot : no such folder"),
        ("root/etc", "sysroot root/etc: not a folder"),
        ("debian:12", "sysroot debian:12: not there yet; make it with: emu sysroot add debian:12"),
        ("debian:7", "debian:7: no such release of Debian; known are 11 (bullseye), 12 (bookworm), 13 (trixie), unstable (sid), experimental"),
    ],
)  # fmt: skip
def test_a_word_that_is_neither(root: Path, tmp_path: Path, word: str, complaint: str) -> None:
    (root / "etc").touch()
    store.add_folder("here", str(root))
    done = run_emu("ldd", "--sysroot", word, "/bin/true", cwd=tmp_path)
    assert (done.exit, done.stderr.decode()) == (EXIT_SYSROOT, f"emu: {complaint}\n")


def test_a_folder_that_went_is_said(root: Path, tmp_path: Path) -> None:
    store.add_folder("here", str(root))
    shutil.rmtree(root)
    assert f"{root} (gone)" in run_emu("sysroot", "list", cwd=tmp_path).stdout.decode()
    with pytest.raises(SysrootError, match="sysroot here: its folder .* is gone"):
        store.resolve("here")


def test_notes_that_are_damaged(root: Path, cache: Path) -> None:
    store.add_folder("here", str(root))
    (cache / "here" / "about.json").write_text("{")
    with pytest.raises(SysrootError, match="about.json cannot be read .*; remove it and add it again"):
        store.resolve("here")
    store.remove("here")
    assert store.sysroots() == []


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (["nothing"], EXIT_SYSROOT, "nothing: no such file or folder, and no release of Debian (debian:13)"),
        (["root", "--package", "x"], EXIT_USAGE, "--package is for a release of Debian"),
        (["root", "--image", "x"], EXIT_USAGE, "--image is for an archive of images"),
        (["debian:13", "--image", "x"], EXIT_USAGE, "--image is for an archive of images"),
        (["file"], EXIT_SYSROOT, "file: not a tar archive, damaged or cut off"),
    ],
)
def test_what_cannot_be_added(
    root: Path, tmp_path: Path, words: list[str], code: int, complaint: str
) -> None:
    (tmp_path / "file").write_text("no archive")
    done = run_emu("sysroot", "add", *words, cwd=tmp_path)
    assert done.exit == code and complaint in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1
