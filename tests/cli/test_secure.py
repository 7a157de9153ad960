"""Programs with set-id bits: the loader passes over what their user says,
as natively, and `emu why` says so.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from emu.rtld.secure import preloads, secured
from tests.support import emu

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Natively the ids of a program change only where its owner is somebody else, which root alone can arrange.
NOBODY = 65534
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file to somebody else")
_PROGRAM = """
#include <stdio.h>
#include <sys/auxv.h>
extern char **environ;
int lib(void);
int main(void) {
    printf("secure %lu, lib %d\\n", getauxval(AT_SECURE), lib());
    for (char **variable = environ; *variable; variable++) puts(*variable);
}
"""
_ENV = {
    "HOME": "/",
    "LD_LIBRARY_PATH": "lib",
    "LD_PRELOAD": "./own.so:libm.so.6",
    "LD_BIND_NOW": "1",
    "LD_DEBUG": "libs",
    "GLIBC_TUNABLES": "glibc.malloc.check=3",
    "TMPDIR": "/x",
    "MALLOC_CHECK_": "1",
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A set-user-ID program of nobody that finds its library by an absolute RUNPATH,
    and two that do not find it.

    They lie where nobody may look, too.
    """
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        _make(Path(name))
        yield Path(name)


def _make(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib.c").write_text("int lib(void) { return 7; }\n")
    (tmp_path / "main.c").write_text(_PROGRAM)

    def gcc(*words: str) -> None:
        subprocess.run(["gcc", *words], cwd=tmp_path, check=True)

    gcc("-shared", "-fPIC", "-o", "lib/liblib.so", "lib.c")
    gcc("-o", "absolute", "main.c", "-Llib", "-llib", f"-Wl,-rpath,{tmp_path}/lib")
    gcc("-o", "origin", "main.c", "-Llib", "-llib", "-Wl,-rpath,$ORIGIN/lib")
    gcc("-o", "plain", "main.c", "-Llib", "-llib")
    for name in ("absolute", "origin", "plain"):
        os.chown(tmp_path / name, NOBODY, 0)
        (tmp_path / name).chmod(0o4755)


def _emulated(folder: Path, *words: str) -> tuple[int, bytes, bytes]:
    variables = [word for name, value in _ENV.items() for word in ("--env", f"{name}={value}")]
    done = emu("run", "--clean-env", *variables, *words, cwd=folder)
    return done.exit, done.stdout, done.stderr


@as_root
@pytest.mark.parametrize("program", ["./absolute", "./origin", "./plain"])
def test_it_starts_or_fails_as_natively(folder: Path, program: str) -> None:
    native = subprocess.run([program], cwd=folder, env=_ENV, capture_output=True, check=False)
    assert _emulated(folder, program) == (native.returncode, native.stdout, native.stderr)


@as_root
@pytest.mark.parametrize(
    ("program", "note"), [("./plain", "ignored in secure mode"), ("./origin", "passed over in secure mode")]
)
def test_why_says_what_was_passed_over_and_tries_what_helps(folder: Path, program: str, note: str) -> None:
    done = emu("why", "--json", "--env", "LD_LIBRARY_PATH=lib", program, "liblib.so", cwd=folder)
    (one,) = json.loads(done.stderr[done.stderr.index(b'{\n  "program"') :])["failures"]
    assert any(note in place["note"] for place in one["places"])
    assert {cure["code"]: cure["outcome"] for cure in one["cures"]} == {
        "runpath": "starts",
        "no-set-id": "starts",
        "install": "",
    }
    (runpath,) = (cure for cure in one["cures"] if cure["code"] == "runpath")
    assert f"{folder}/lib" in runpath["text"]


@as_root
def test_a_library_that_is_installed_is_found_in_secure_mode(folder: Path) -> None:
    root, system = folder / "root", "lib/x86_64-linux-gnu"
    for name in ("etc", "lib64", system, "work", "own"):
        (root / name).mkdir(parents=True)
    shutil.copy("/lib64/ld-linux-x86-64.so.2", root / "lib64")
    shutil.copy("/lib/x86_64-linux-gnu/libc.so.6", root / system)
    shutil.copy(folder / "plain", root / "work")
    shutil.copy(folder / "lib/liblib.so", root / "own")
    os.chown(root / "work/plain", NOBODY, 0)
    (root / "work/plain").chmod(0o4755)
    words = ["--sysroot", str(root), "--clean-env", "--env", "LD_LIBRARY_PATH=/own", "/work/plain"]
    natively = ["/usr/bin/env", "-i", "LD_LIBRARY_PATH=/own", "/usr/sbin/chroot", str(root), "/work/plain"]
    assert subprocess.run(natively, capture_output=True, check=False).returncode == 127
    done = emu("why", "--json", *words, "liblib.so", cwd=folder)
    (one,) = json.loads(done.stderr[done.stderr.index(b'{\n  "program"') :])["failures"]
    (cure,) = (cure for cure in one["cures"] if cure["code"] == "install")
    assert cure["text"] == "install liblib.so in one of the system's directories, and run ldconfig"
    shutil.copy(folder / "lib/liblib.so", root / system)
    subprocess.run(["/sbin/ldconfig", "-r", str(root)], check=True, capture_output=True)
    assert b"secure 1, lib 7" in subprocess.run(natively, capture_output=True, check=True).stdout
    assert emu("run", *words, cwd=folder).stdout.startswith(b"secure 1, lib 7\n")


def test_the_owner_runs_it_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text(_PROGRAM.replace("lib())", "0)").replace("int lib(void);", ""))
    subprocess.run(["gcc", "-o", "main", "main.c"], cwd=tmp_path, check=True)
    (tmp_path / "main").chmod(0o4755)
    done = emu("run", "--clean-env", "--env", "TMPDIR=/x", "./main", cwd=tmp_path)
    assert done.stdout == b"secure 0, lib 0\nTMPDIR=/x\n"


def test_which_variables_and_preloads_are_left() -> None:
    assert secured(_ENV) == {"HOME": "/", "LD_BIND_NOW": "1", "GLIBC_TUNABLES": ""}
    assert list(preloads("./a.so:b.so c.so", lambda name: name == "c.so")) == [
        ("b.so", False),
        ("c.so", True),
    ]


@as_root
def test_what_ld_so_does_not_tell_of_a_secure_program_is_not_compared(folder: Path) -> None:
    said = emu("diff", "--ldso", "real", "./absolute", cwd=folder)
    text = said.stdout.decode()
    assert said.exit in (0, 1) and b"fault of emu" not in said.stderr, said.stderr
    assert "not compared: bindings: ld.so tells nothing of a program in secure mode" in text
