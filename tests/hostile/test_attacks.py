"""A program that wants out, and programs that want all there is; and files that are no files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.hostile.conftest import end

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.hostile.conftest import Ended

    Run = Callable[..., Ended]

_ENVIRONMENT = {"PYTHONPATH": str(Path(__file__).parents[2]), "EMU_STRICT": "1"}
_MIB = 1 << 20


def _state(folder: Path) -> list[tuple[str, os.stat_result]]:
    return [(path.name, path.lstat()) for path in sorted(folder.iterdir())]


def test_nobody_gets_out(programs: Path, tmp_path: Path) -> None:
    """Below a sysroot, with one writable directory that has links out:
    the secret is not read, nothing outside changes, no process is reached.
    """
    outside, root, shared = tmp_path / "outside", tmp_path / "root", tmp_path / "shared"
    for folder in (outside, root / "bin", shared):
        folder.mkdir(parents=True)
    (outside / "secret").write_text("SECRET\n")
    (outside / "outdir").mkdir()
    (shared / "file").write_text("x")
    (shared / "link").symlink_to(outside / "secret")
    (shared / "dirlink").symlink_to(outside)
    (root / "bin" / "escape").write_bytes((programs / "escape").read_bytes())
    (root / "bin" / "escape").chmod(0o755)
    before = _state(outside)
    with subprocess.Popen(["sleep", "600"]) as other:
        words = ["run", "--sysroot", str(root), "--writable", str(shared), "--timeout", "60"]
        guest = ["/bin/escape", str(outside / "secret"), str(shared), str(other.pid)]
        done = end([sys.executable, "-m", "emu", *words, *guest], shared, _ENVIRONMENT)
        assert other.poll() is None
        other.kill()
    assert done.status == 0, done.err
    attempts = done.out.decode()
    assert attempts.count("\n") > 90
    assert "GOT THE SECRET" not in attempts
    assert _state(outside) == before
    assert not any(path.is_char_device() or path.is_block_device() for path in shared.iterdir())
    for call in (
        "ptrace",
        "kill",
        "SYS_process_vm_readv",
        "mount",
        "unshare",
        "AF_PACKET",
        "SYS_bpf",
    ):
        lines = [line for line in attempts.splitlines() if call in line]
        assert lines and all(re.search(r" -1 E[A-Z]+$", line) for line in lines), lines


@pytest.mark.parametrize(
    ("what", "status", "words"),
    [
        ("tree", 0, "errno ENOMEM"),
        ("zombies", 0, "zombies errno ENOMEM"),
        ("x", 0, "execs ok"),
        ("deep", 0, "deep 20000 errno 34"),
        ("sparse", 0, ""),
        ("huge", 0, "xattr"),
        ("recurse", 139, ""),
        ("robust", 0, ""),
        ("sock", 0, "EMFILE"),
        ("unknown", 0, "unknown ok"),
        ("brks", 0, "mremap ok"),
        ("semaphores", 0, "semaphores ENOSPC"),
        ("zeros", 137, ""),
        ("mincores", 137, ""),
    ],
)
def test_who_wants_all_there_is_gets_what_was_allowed(what: str, status: int, words: str, emu: Run) -> None:
    done = emu("run", "--max-memory", "96M", "--timeout", "120", "./blow", what)
    assert done.status == status, done.err
    assert words in done.out.decode()
    assert done.memory < 96 * _MIB + 150 * _MIB


_WELL_FORMED = ("fifo", "loop")
"""Who gives a FIFO means what will be written to it; a line with # is a comment."""
_KINDS = ("fifo", "folder", "sparse", "loop", "link", "/dev/zero", "/proc/self/mem")


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files of other kinds than a command expects."""
    folder = tmp_path_factory.mktemp("odd")
    os.mkfifo(folder / "fifo", 0o755)
    (folder / "folder").mkdir()
    (folder / "sparse").touch(0o755)
    os.truncate(folder / "sparse", 1 << 40)
    (folder / "loop").write_text("#!./loop\n")
    (folder / "loop").chmod(0o755)
    (folder / "link").symlink_to("link")
    return folder


@pytest.mark.parametrize("kind", _KINDS)
def test_a_file_of_another_kind_is_one_line(kind: str, odd: Path) -> None:
    path = kind if kind.startswith("/") else f"./{kind}"
    inputs = [
        ["run", "--schedule", f"replay:{path}", "/bin/true"],
        ["check", "--suppressions", path, "/bin/true"],
    ]
    refused = [
        ["run", path],
        ["ldd", path],
        ["call", path, "f"],
        *(inputs if kind not in _WELL_FORMED else []),
    ]
    for words in (*refused, ["run", "--env", f"LD_PRELOAD={path}", "/bin/true"]):
        done = end([sys.executable, "-m", "emu", *words], odd, _ENVIRONMENT)
        assert done.err.count("\n") == 1, (words, done.err)
        assert "Traceback" not in done.err
        assert (done.status != 0) == (words in refused), words
        assert done.memory < 400 * _MIB


@pytest.mark.parametrize("kind", ["fifo", "folder", "sparse"])
def test_a_debug_file_of_another_kind_is_left_alone(kind: str, odd: Path, tmp_path: Path) -> None:
    source = tmp_path / "crash.c"
    source.write_text("int main(int argc, char **argv) { return *(int *)(argc - 1L); }")
    script = f"""gcc -g -o crash crash.c && objcopy --only-keep-debug crash debug &&
        objcopy --strip-debug --add-gnu-debuglink=debug crash && rm debug && ln -s {odd / kind} debug"""
    subprocess.run(script, shell=True, cwd=tmp_path, check=True)
    done = end([sys.executable, "-m", "emu", "run", "./crash"], tmp_path, _ENVIRONMENT)
    assert done.status == 139
    assert "killed by SIGSEGV" in done.err


def test_a_name_with_a_newline_stays_in_its_line(odd: Path) -> None:
    done = end([sys.executable, "-m", "emu", "run", "./a\n\x1b[2Jb"], odd, _ENVIRONMENT)
    assert done.err == "emu: ./a\\n\\x1b[2Jb: No such file or directory\n"


@pytest.mark.parametrize("words", [("check",), ("conflicts",), ("sysroot", "add")])
def test_a_name_stays_in_its_line_in_what_is_told_of_the_run(words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "a\n\x1b[31mb").symlink_to("/bin/true")
    done = end([sys.executable, "-m", "emu", *words, "./a\n\x1b[31mb"], tmp_path, _ENVIRONMENT)
    assert done.err.count("\n") == 1
    assert "a\\n\\x1b[31mb" in done.err
