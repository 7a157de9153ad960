"""The search for needed objects: the files that the real ld.so tries, in its order,
and what it makes of odd ones.
"""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from emu.core.errors import ElfError, LoaderError
from emu.core.events import EventBus, LibrarySearch, Record
from emu.elf.builder import ElfBuilder
from emu.elf.constants import DF_1_NODEFLIB
from emu.glibc.system_dirs import read_system_dirs
from emu.rtld.dst import has_dst
from emu.rtld.search_attempt import FoundFile
from emu.rtld.search_path import SearchPath
from emu.rtld.system_dirs import USABLE_HWCAPS
from tests.support import AS_EMULATED_CPU

if TYPE_CHECKING:
    from collections.abc import Mapping

    from emu.core.files import MemoryFile

LIBC = "/lib/x86_64-linux-gnu/libc.so.6"
LD_SO = "/lib64/ld-linux-x86-64.so.2"
HOST = read_system_dirs(Path(LD_SO).read_bytes(), LD_SO)
"""What the judge searches: its directories, and until 2.36 the legacy subdirectories."""


class HostBacking:
    def __init__(self, path: str) -> None:
        if os.path.isdir(path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        self.path = path
        self._data = Path(path).read_bytes()
        status = os.stat(path)
        self.dev, self.ino = status.st_dev, status.st_ino

    def size(self) -> int:
        return len(self._data)

    def pread(self, size: int, offset: int) -> bytes:
        return self._data[offset : offset + size]

    def pwrite(self, data: bytes, offset: int) -> int:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    def host_fd(self) -> int | None:
        return None

    def memory_file(self) -> MemoryFile:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    def write_back(self, offset: int, size: int) -> None:
        """Nobody maps it."""


class HostFiles:
    """The host's files; counts what is asked of them."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def open_for_loading(self, path: str) -> HostBacking:
        self.calls.append(path)
        return HostBacking(path)

    def look_at(self, path: str) -> HostBacking:
        return HostBacking(path)

    def is_directory(self, path: str) -> bool:
        self.calls.append(path)
        return os.path.isdir(path)

    def realpath(self, path: str) -> str:
        return os.path.realpath(path, strict=True)


class View:
    """A link map as the search sees it."""

    def __init__(
        self,
        display_name: str,
        origin: str | None = None,
        *,
        rpath: str | None = None,
        runpath: str | None = None,
        loader: View | None = None,
        flags_1: int = 0,
    ) -> None:
        self.name, self.display_name, self.origin, self.loader = display_name, display_name, origin, loader
        self.rpath, self.runpath = rpath, runpath
        self.dynamic = SimpleNamespace(flags_1=flags_1)


class Searcher:
    def __init__(
        self, env: Mapping[str, str], *, secure: bool = False, hwcaps: tuple[str, ...] = USABLE_HWCAPS
    ) -> None:
        self.files = HostFiles()
        self.tried: list[LibrarySearch] = []
        bus = EventBus()
        bus.subscribe(self._sink, ["libs"])
        self.search = SearchPath(self.files, bus, env, secure)
        self.search.use(HOST._replace(hwcaps=hwcaps))

    def _sink(self, record: Record) -> None:
        assert isinstance(record.event, LibrarySearch)
        self.tried.append(record.event)

    def find(self, name: str, loader: View | None = None, main: View | None = None) -> FoundFile | None:
        return self.search.find(name, loader, main if main is not None else loader)

    def paths(self) -> list[str]:
        return [event.path for event in self.tried]


def native_hwcaps() -> tuple[str, ...]:
    text = subprocess.run(
        [LD_SO, "--help"], capture_output=True, check=True, text=True, env=AS_EMULATED_CPU
    ).stdout
    return tuple(line.split()[0] for line in text.splitlines() if "x86-64-v" in line and "searched" in line)


def native_tries(program: str, cwd: Path, env: Mapping[str, str]) -> tuple[list[str], str]:
    """The files that the real ld.so tries for what `program` needs, and the rest of its standard error."""
    run = subprocess.run(
        [LD_SO, program],
        cwd=cwd,
        env={**env, **AS_EMULATED_CPU, "LD_DEBUG": "libs"},
        capture_output=True,
        check=False,
        text=True,
    )
    tries = [line.partition("trying file=")[2] for line in run.stderr.splitlines() if "trying file=" in line]
    return tries, run.stderr


def library(
    path: Path, *, needed: list[str] | None = None, rpath: str | None = None, runpath: str | None = None
) -> None:
    builder = ElfBuilder(soname=path.name.encode())
    builder.needed = [name.encode() for name in needed or []]
    builder.rpath = None if rpath is None else rpath.encode()
    builder.runpath = None if runpath is None else runpath.encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(builder.build())


NAMES = ["libqq1.so", "libqq2.so"]
CASES: dict[str, dict[str, str]] = {
    "nothing": {},
    "runpath": {"runpath": "$ORIGIN/a:/nowhere:${ORIGIN}/b//"},
    "rpath": {"rpath": "$ORIGIN/a::/nowhere"},
    "both": {"rpath": "$ORIGIN/a", "runpath": "$ORIGIN/b"},
    "environment": {"env": "a;/nowhere::$ORIGIN/b/"},
    "all": {"runpath": "$ORIGIN/b:b", "env": "/nowhere:$ORIGIN/$LIB:$PLATFORM"},
    "tokens": {"rpath": "/x$ORIGINX:/x${LIB:/x$LIB-$PLATFORM:$:/x${PLATFORM}y:$ORIGIN/a"},
    "same twice": {"env": "b:b/:b//", "rpath": "b"},
    "empty runpath": {"rpath": "$ORIGIN/a", "runpath": ""},
    "root": {"env": "/:///"},
}


@pytest.mark.parametrize("case", CASES)
def test_files_tried_are_ld_so_s(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tags = dict(CASES[case])
    env = {"LD_LIBRARY_PATH": tags.pop("env")} if "env" in tags else {}
    library(tmp_path / "user.so", needed=NAMES, rpath=tags.get("rpath"), runpath=tags.get("runpath"))
    library(tmp_path / "a" / "tls" / "libqq1.so")
    library(tmp_path / "b" / "libqq1.so")
    library(tmp_path / "b" / "libqq2.so")
    expected, _ = native_tries(str(tmp_path / "user.so"), tmp_path, env)
    monkeypatch.chdir(tmp_path)
    searcher = Searcher(env, hwcaps=native_hwcaps())
    user = View(f"{tmp_path}/user.so", str(tmp_path), rpath=tags.get("rpath"), runpath=tags.get("runpath"))
    for name in NAMES:
        if searcher.find(name, user) is None:
            break
    assert searcher.paths() == expected
    assert expected


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "file too short"),
        (b"\x7fELG" + bytes(100), "invalid ELF header"),
        (b"\x7fELF\x01\x01\x01" + bytes(100), "wrong ELF class: ELFCLASS32"),
        (
            b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\0\xb7\0\x01" + bytes(100),
            "cannot open shared object file",
        ),
    ],
)
def test_files_that_are_no_object_for_us(content: bytes, text: str, tmp_path: Path) -> None:
    library(tmp_path / "user.so", needed=["libqq1.so"])
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "libqq1.so").write_bytes(content)
    env = {"LD_LIBRARY_PATH": f"{tmp_path}/a"}
    _, message = native_tries("./user.so", tmp_path, env)
    assert text in message
    searcher = Searcher(env)
    if text.startswith("cannot open"):
        assert searcher.find("libqq1.so") is None
        assert searcher.search.last_errno == errno.ENOENT
    else:
        with pytest.raises((ElfError, LoaderError)) as caught:
            searcher.find("libqq1.so")
        assert text in str(caught.value)
        assert str(caught.value) in message


def test_search_goes_on_after_a_foreign_object(tmp_path: Path) -> None:
    (tmp_path / "libqq1.so").write_bytes(b"\x7fELF\x01\x01\x01" + bytes(100))
    library(tmp_path / "b" / "libqq1.so")
    found = Searcher({"LD_LIBRARY_PATH": f"{tmp_path}:{tmp_path}/b"}).find("libqq1.so")
    assert found is not None
    assert found.path == f"{tmp_path}/b/libqq1.so"
    assert found.rule == "LD_LIBRARY_PATH"


def test_a_directory_in_place_of_a_file_is_fatal(tmp_path: Path) -> None:
    (tmp_path / "libqq1.so").mkdir()
    with pytest.raises(LoaderError, match="libqq1.so: cannot read file data") as caught:
        Searcher({"LD_LIBRARY_PATH": str(tmp_path)}).find("libqq1.so")
    assert caught.value.errno == errno.EISDIR


def test_a_name_with_a_slash_is_a_path(tmp_path: Path) -> None:
    library(tmp_path / "libqq1.so")
    user = View("user", str(tmp_path))
    searcher = Searcher({"LD_LIBRARY_PATH": str(tmp_path)})
    found = searcher.find("$ORIGIN/libqq1.so", user)
    assert found is not None
    assert (found.path, found.rule) == (f"{tmp_path}/libqq1.so", "path")
    assert searcher.find("./nowhere/libqq1.so", user) is None
    assert searcher.find("$ORIGIN/libqq1.so") is None  # no loader: no token is replaced
    (tmp_path / "loop").symlink_to("loop")
    assert searcher.find(f"{tmp_path}/loop") is None
    assert searcher.search.last_errno == errno.ELOOP


def test_rpath_of_the_loaders_and_of_the_program(tmp_path: Path) -> None:
    for folder in "abc":
        library(tmp_path / folder / f"lib{folder}.so")
    main = View("main", rpath=f"{tmp_path}/a")
    middle = View("middle", rpath=f"{tmp_path}/b", loader=main)
    plugin = View("plugin", rpath=f"{tmp_path}/c")
    assert _rule(Searcher({}), "liba.so", View("leaf", loader=middle), main) == "RPATH of main"
    assert _rule(Searcher({}), "libb.so", View("leaf", loader=middle), main) == "RPATH of middle"
    assert _rule(Searcher({}), "liba.so", plugin, main) == "RPATH of main"
    assert _rule(Searcher({}), "libb.so", View("leaf", runpath="/nowhere", loader=middle), main) is None
    assert _rule(Searcher({}), "libc.so", View("leaf", runpath=f"{tmp_path}/c"), main) == "RUNPATH of leaf"


def _rule(searcher: Searcher, name: str, loader: View, main: View) -> str | None:
    found = searcher.find(name, loader, main)
    return None if found is None else found.rule


def test_cache_and_nodeflib() -> None:
    found = Searcher({}).find("libc.so.6")
    assert found is not None
    assert (os.path.realpath(found.path), found.rule) == (os.path.realpath(LIBC), "ld.so.cache")
    user = View("user", flags_1=DF_1_NODEFLIB)
    searcher = Searcher({})
    assert searcher.find("libc.so.6", user) is None
    assert searcher.tried == []


def test_missing_directories_are_remembered(tmp_path: Path) -> None:
    searcher = Searcher({"LD_LIBRARY_PATH": f"{tmp_path}/nowhere:{tmp_path}"})
    assert searcher.find("libc.so.6") is not None
    searcher.files.calls.clear()
    assert searcher.find("libm.so.6") is not None
    first, second = searcher.files.calls
    assert first == f"{tmp_path}/libm.so.6"
    assert os.path.realpath(second) == os.path.realpath("/lib/x86_64-linux-gnu/libm.so.6")


def test_secure_process(tmp_path: Path) -> None:
    library(tmp_path / "libqq1.so")
    searcher = Searcher({"LD_LIBRARY_PATH": str(tmp_path)}, secure=True)
    main, dso = View("main", "/usr/lib/app"), View("dso", "/opt")
    assert searcher.find("libqq1.so") is None
    expand = searcher.search.expand
    assert expand("$ORIGIN/../x", main, main) == "/usr/lib/app/../x"
    assert expand("$ORIGIN/../../../tmp", main, main) == ""
    assert expand("/opt/$ORIGIN", main, main) == ""
    assert expand("$ORIGIN/x", dso, main) == "/opt/x"
    assert expand("/opt/$LIB", main, main) == "/opt/lib/x86_64-linux-gnu"


def test_tokens() -> None:
    assert has_dst("a$LIB")
    assert has_dst("${ORIGIN}x")
    assert not has_dst("$LIBX")
    assert not has_dst("${LIB")
    assert not has_dst("$")
    assert Searcher({}).search.expand("$ORIGIN/x", View("main"), None) == ""
