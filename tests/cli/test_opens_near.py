"""`emu why` of an open that fails for want of nearly what is there:
other mangling, parameters, string ABI, class, machine or version of a file.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import support

_HOST = """
#include <dlfcn.h>
#include <stdio.h>
#include <string>
int helper(long n) { return int(n); }
extern "C" int plain(int n) { return n; }
std::string name_of(const std::string &s) { return s + "!"; }
int main(int, char **argv) {
    void *handle = dlopen(argv[1], RTLD_NOW);
    puts(handle ? "open" : dlerror());
    return !handle;
}
"""
_NEAR = {
    "c": ("int helper(long); int go(void) { return helper(3); }", "host defines helper(long), mangled as C++ (_Z6helperl)"),
    "parameters": ('int helper(int); extern "C" int go() { return helper(3); }', "host defines helper(long): its parameters are others"),
    "mangled": ('int plain(int); extern "C" int go() { return plain(3); }', "host defines plain without C++ mangling"),
    "abi": (
        '#define _GLIBCXX_USE_CXX11_ABI 0\n#include <string>\nstd::string name_of(const std::string &);\nextern "C" int go() { return name_of("x").size(); }',
        "of the other std::string ABI: compile both with the same _GLIBCXX_USE_CXX11_ABI",
    ),
    "vtable": (
        'struct Widget { virtual ~Widget(); virtual int f(); };\nstruct My : Widget {};\nextern "C" Widget *go() { return new My; }',
        "first virtual function",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that exports what it has, and opens its argument."""
    folder = tmp_path_factory.mktemp("near")
    (folder / "host.cc").write_text(_HOST)
    options = ["-g", "-rdynamic", "-Wl,--enable-new-dtags,-rpath,$ORIGIN/one:$ORIGIN/two"]
    subprocess.run(["g++", *options, "-o", "host", "host.cc"], cwd=folder, check=True)
    return folder


def failure(folder: Path, file: str) -> dict[str, Any]:
    """What is told of the open of a file that fails."""
    done = support.emu("why", "--json", "./host", Path(file).name, "--", file, cwd=folder)
    return dict(json.loads(done.stderr)["failures"][0])


@pytest.mark.parametrize("kind", _NEAR)
def test_what_is_nearly_there_is_named(host: Path, kind: str) -> None:
    source, said = _NEAR[kind]
    suffix = "c" if kind == "c" else "cc"
    (host / f"{kind}.{suffix}").write_text(source)
    words = [
        "gcc" if kind == "c" else "g++",
        "-g",
        "-fPIC",
        "-shared",
        "-o",
        f"{kind}.so",
        f"{kind}.{suffix}",
    ]
    subprocess.run(words, cwd=host, check=True)
    one = failure(host, f"./{kind}.so")
    assert one["cause"] == "undefined-symbol" and any(said in sentence for sentence in one["story"]), one[
        "story"
    ]


def test_files_of_another_class_or_machine_are_passed_over(host: Path) -> None:
    for folder, at, value in (("one", 4, b"\1"), ("two", 18, b"\xb7\0")):
        (host / folder).mkdir()
        content = bytearray((host / "host").read_bytes())
        content[at : at + len(value)] = value
        (host / folder / "libcross.so").write_bytes(content)
    one = failure(host, "libcross.so")
    (place,) = (place for place in one["places"] if place["rule"] == "runpath" and place["searched"])
    assert one["cause"] == "no-file"
    assert [tried["outcome"] for tried in place["tried"]] == ["wrong-class", "wrong-machine"]
    assert "AArch64" in place["tried"][1]["text"]


def test_another_version_of_the_file_is_named(host: Path) -> None:
    (host / "libnear.so.2").write_bytes((host / "host").read_bytes())
    one = failure(host, "libnear.so.1")
    assert any("files of nearly that name are there: libnear.so.2" in sentence for sentence in one["story"])


_RELOADS = """
#include <dlfcn.h>
#include <stdio.h>
#include <unistd.h>
int main(int argc, char **argv) {
    (void)argv;
    unlink("game.so"), symlink("game-1.so", "game.so");
    void *first = dlopen("./game.so", RTLD_NOW);
    if (argc > 1) unlink("game.so"), symlink("game-2.so", "game.so");
    void *second = dlopen("./game.so", RTLD_NOW);
    puts(first && first == second ? "the same" : "another");
}
"""


@pytest.mark.parametrize("arguments", [["again"], []])
def test_an_open_that_gives_the_object_of_before_though_the_file_is_another(
    tmp_path: Path, arguments: list[str]
) -> None:
    (tmp_path / "main.c").write_text(_RELOADS)
    subprocess.run(["gcc", "-g", "-o", "main", "main.c"], cwd=tmp_path, check=True)
    for version in "12":
        (tmp_path / "game.c").write_text(f"int version(void) {{ return {version}; }}")
        words = ["gcc", "-fPIC", "-shared", "-Wl,-soname,game.so", "-o", f"game-{version}.so", "game.c"]
        subprocess.run(words, cwd=tmp_path, check=True)
    done = support.emu("why", "--json", "./main", "game.so", "--", *arguments, cwd=tmp_path)
    assert done.stdout == b"the same\n"
    notes = json.loads(done.stderr)["generations"][0]["notes"]
    assert len(notes) == len(arguments)
    if arguments:
        assert (
            'dlopen("./game.so") at ' in notes[0]
            and "which was opened at" in notes[0]
            and "(game-2.so)" in notes[0]
        )


def test_an_object_that_there_is_no_room_for(host: Path) -> None:
    (host / "big.c").write_text("char big[400 << 20]; char *go(void) { return big; }")
    subprocess.run(["gcc", "-fPIC", "-shared", "-o", "big.so", "big.c"], cwd=host, check=True)
    words = ["why", "--json", "--max-memory", "100M", "./host", "big.so", "--", "./big.so"]
    one = json.loads(support.emu(*words, cwd=host).stderr)["failures"][0]
    assert one["cause"] == "out-of-memory" and "bytes of address space" in one["story"][0]
    assert "104857600 bytes (--max-memory)" in one["story"][1]
    helped = support.emu("run", "--max-memory", "1G", "./host", "./big.so", cwd=host)
    assert (helped.exit, helped.stdout) == (0, b"open\n")
