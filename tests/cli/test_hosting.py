"""A library in the place of a program: it is hosted by an empty one, and that is said."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from emu.process.hosting import is_library
from tests.support import compile_c, emu

if TYPE_CHECKING:
    from pathlib import Path

CODE = """
#include <stdio.h>
#include <pthread.h>
static pthread_key_t key;
static void gone(void *p) { (void)p; }
__attribute__((constructor)) static void up(void) { puts("up"); pthread_key_create(&key, gone); }
__attribute__((destructor)) static void down(void) { puts("down"); }
int f(void) { return puts("f"); }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("hosting")
    (place / "lib.c").write_text(CODE)
    (place / "main.c").write_text("int main(void) { return 0; }")
    compile_c(place, "-shared", "-fPIC", "-O1", "-g", "-o", "lib.so", "lib.c")
    compile_c(place, "-static-pie", "-o", "static-pie", "main.c")
    compile_c(place, "-pie", "-o", "pie", "main.c")
    return place


def test_what_a_library_is(folder: Path) -> None:
    assert is_library(str(folder / "lib.so"), "/")
    assert is_library("/lib.so", str(folder))
    for other in ("static-pie", "pie", "main.c", "nothing", "."):
        assert not is_library(str(folder / other), "/")
    assert not is_library("/lib/x86_64-linux-gnu/libc.so.6", "/"), "it can be run"


def test_links_are_followed_inside_of_the_sysroot(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "usr").mkdir()
    (tmp_path / "usr" / "lib.so").write_bytes((folder / "lib.so").read_bytes())
    for link, target in (("in", "/usr/lib.so"), ("out", str(folder / "lib.so")), ("round", "round")):
        (tmp_path / link).symlink_to(target)
    assert is_library("/in", str(tmp_path))
    assert not is_library("/out", str(tmp_path))
    assert not is_library("/round", str(tmp_path))


@pytest.mark.parametrize(
    ("words", "how", "code", "said"),
    [
        (["explain", "./lib.so", "puts"], "needs", 0, "lib.so calls it"),
        (["explain", "./lib.so", "puts", "--"], "needs", 0, "lib.so calls it"),
        (["maps", "./lib.so"], "needs", 0, "lib.so\n"),
        (["why", "./lib.so", "lib.so"], "opens and closes", 0, "WENT"),
        (["check", "./lib.so"], "opens and closes", 1, "key-destructor-unloaded"),
        (["conflicts", "./lib.so"], "needs", 0, "no findings"),
        (["report", "./lib.so", "-o", "r.html", "--force"], "opens and closes", 0, ""),
    ],
)
def test_questions_to_a_library(folder: Path, words: list[str], how: str, code: int, said: str) -> None:
    done = emu(*words, cwd=folder)
    told = (done.stdout + done.stderr).decode()
    assert done.exit == code, told
    assert told.count(f"emu: ./lib.so is a library: an empty program {how} it\n") == 1
    assert said in told
    assert "statically linked" not in told


def test_its_json_is_standard_outputs_alone(folder: Path) -> None:
    assert json.loads(emu("explain", "--json", "./lib.so", "puts", cwd=folder).stdout)


def test_a_library_run_as_a_program_is_what_it_is_natively(folder: Path) -> None:
    done = emu("run", "./lib.so", cwd=folder)
    assert done.exit == 139
    assert b"`emu call ./lib.so FUNCTION` calls into it" in done.stderr
    assert b"is a library" not in emu("run", "/lib64/ld-linux-x86-64.so.2", "--version", cwd=folder).stderr


def test_what_the_users_plugin_does_to_libstdcxx_is_the_plugins_to_change(tmp_path: Path) -> None:
    """The libstdc++ that it brings binds to what it exports of std, and stays: it has unique symbols."""
    (tmp_path / "plugin.cc").write_text("""#include <string>
        extern "C" unsigned long plugin(const char *s) { return std::string(s).size(); }""")
    (tmp_path / "only").write_text("{ global: plugin; local: *; };")
    compile_c(tmp_path, "-shared", "-fPIC", "-o", "lib.so", "plugin.cc", compiler="g++")
    compile_c(
        tmp_path, "-shared", "-fPIC", "-Wl,--version-script=only", "-o", "own.so", "plugin.cc", compiler="g++"
    )
    done = emu("why", "./lib.so", "lib.so", cwd=tmp_path)
    text = done.stdout.decode() + done.stderr.decode()
    assert "let lib.so export nothing that libstdc++.so.6 has, too, and takes from there: " in text
    assert "compile libstdc++" not in text
    assert re.search(r"STB_GNU_UNIQUE symbols .* and \d+ more for its whole namespace", text)
    done = emu("why", "./own.so", "own.so", cwd=tmp_path)
    assert b"own.so: is gone" in done.stdout + done.stderr
