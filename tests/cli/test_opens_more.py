"""`emu why` of opens that fail for what happened since the start, or for another build of what is there."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import support
from tools import fixtures

_SETS = """
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
int main(int argc, char **argv) {
    if (argc > 1) setenv("LD_LIBRARY_PATH", argv[1], 1);
    puts(dlopen("libset.so", RTLD_NOW) ? "open" : dlerror());
}
"""
_CALLS = """
#include <dlfcn.h>
int main(int argc, char **argv) {
    void *handle = 0;
    for (int i = 1; i < argc; i++) handle = dlopen(argv[i], RTLD_LAZY);
    return ((int (*)(void))dlsym(handle, "go"))();
}
"""
_SHAPE = "struct Shape { virtual ~Shape(); virtual int area(); };\n"


def build(folder: Path, files: dict[str, str], *commands: str) -> None:
    """Write the sources and build them."""
    for name, text in files.items():
        (folder / name).write_text(text)
    for command in commands:
        subprocess.run(command, shell=True, cwd=folder, check=True)


def failure(folder: Path, *words: str) -> dict[str, Any]:
    """The one failure that emu why tells of."""
    done = support.emu("why", "--json", *words, cwd=folder)
    (one,) = json.loads(done.stderr[done.stderr.index(b'{\n  "program"') :])["failures"]
    return dict(one)


@pytest.mark.parametrize(("words", "noted"), [(["libs"], True), ([], False)])
def test_a_search_path_that_is_set_too_late(tmp_path: Path, words: list[str], noted: bool) -> None:
    build(
        tmp_path,
        {"main.c": _SETS},
        "gcc -g -o main main.c",
        "mkdir libs",
        "gcc -shared -o libs/libset.so -x c /dev/null",
    )
    one = failure(tmp_path, "./main", "libset.so", "--", *words)
    (place,) = (place for place in one["places"] if place["rule"] == "library-path")
    assert ("the program has set it to libs since, which changes nothing" in place["note"]) is noted
    (cure,) = (cure for cure in one["cures"] if cure["code"] == "library-path")
    assert cure["outcome"] == "opens", "set before the start it helps"


def test_a_first_call_that_an_open_with_rtld_global_would_serve(tmp_path: Path) -> None:
    build(
        tmp_path,
        {"main.c": _CALLS, "core.c": "int core(void) { return 5; }", "go.c": "int core(void); int go(void) { return core(); }"},
        "gcc -g -o main main.c",
        "gcc -g -fPIC -shared -o libcore.so core.c",
        "gcc -g -fPIC -shared -o bring.so go.c ./libcore.so -Wl,-rpath,'$ORIGIN'",
        "gcc -g -fPIC -shared -Wl,-z,lazy -o part.so go.c",
    )  # fmt: skip
    one = failure(tmp_path, "./main", "part.so", "--", "./bring.so", "./part.so")
    assert (one["call"], one["symbol"]) == ("first-call", "core")
    assert {cure["code"]: cure["outcome"] for cure in one["cures"]} == {"global": "binds", "needed": "binds"}


@pytest.mark.parametrize("binding", ["now", "lazy"])
def test_another_build_of_a_library_that_has_the_version_and_not_the_symbol(
    tmp_path: Path, binding: str
) -> None:
    soname = "-shared -fPIC -Wl,-soname,libv.so"
    build(
        tmp_path,
        {
            "full.c": "int old(void) { return 1; } int fresh(void) { return 0; }", "thin.c": "int old(void) { return 1; }",
            "main.c": "int fresh(void); int main(void) { return fresh(); }",
            "full.map": "V1 { global: old; };\nV2 { global: fresh; } V1;", "thin.map": "V1 { global: old; };\nV2 { } V1;",
        },
        "mkdir full thin",
        f"gcc {soname},--version-script=full.map -o full/libv.so full.c",
        f"gcc {soname},--version-script=thin.map -o thin/libv.so thin.c",
        f"gcc -g -o main main.c full/libv.so -Wl,-rpath,'$ORIGIN/thin' -Wl,-z,{binding}",
    )  # fmt: skip
    one = failure(tmp_path, "./main", "./main")
    assert any(
        "that version is of libv.so, which is thin/libv.so here (found by RUNPATH of ./main): it has the version V2 and not the symbol"
        in text
        for text in one["story"]
    )
    assert {cure["code"]: cure["outcome"] for cure in one["cures"]} == dict.fromkeys(
        ("library-path", "preload"), "starts" if binding == "now" else "binds"
    )


def test_what_visibility_keeps_from_being_exported(tmp_path: Path) -> None:
    build(
        tmp_path,
        {
            "shape.cc": _SHAPE + "Shape::~Shape() {}\nint Shape::area() { return 0; }\n",
            "square.cc": _SHAPE
            + 'struct Square : Shape {};\nextern "C" Shape *make() { return new Square; }\n',
        },
        "g++ -g -fPIC -shared -fvisibility=hidden -o libshape.so shape.cc",
        "g++ -g -fPIC -shared -o square.so square.cc -Wl,--no-as-needed ./libshape.so -Wl,-rpath,'$ORIGIN'",
    )
    shutil.copy(fixtures.build("opens-tried") / "main", tmp_path / "main")
    one = failure(tmp_path, "./main", "square.so", "--", "now:./square.so")
    (cure,) = (cure for cure in one["cures"] if cure["code"] == "export")
    assert (cure["outcome"], "no -fvisibility=hidden" in cure["text"]) == ("opens", True)
    build(tmp_path, {}, "g++ -g -fPIC -shared -o libshape.so shape.cc")
    assert subprocess.run(["./main", "now:./square.so"], cwd=tmp_path, check=False).returncode == 0


def test_a_library_that_a_link_has_dropped(tmp_path: Path) -> None:
    build(
        tmp_path,
        {"reg.c": "int registered;", "main.c": "int main(void) { return 0; }"},
        "gcc -shared -fPIC -Wl,-soname,libreg.so -o libreg.so reg.c",
        "gcc -o main main.c -L. -Wl,--as-needed -lreg -Wl,-rpath,'$ORIGIN'",
        "gcc -o keeps main.c -L. -Wl,--no-as-needed -lreg -Wl,-rpath,'$ORIGIN'",
    )
    said = support.emu("why", "./main", "libreg.so", cwd=tmp_path)
    assert said.exit != 0
    assert (
        b"nothing that was loaded needs it (DT_NEEDED)" in said.stderr and b"--as-needed drops" in said.stderr
    )
    assert b"it was there at start-up" in support.emu("why", "./keeps", "libreg.so", cwd=tmp_path).stderr


def test_a_library_for_musl(tmp_path: Path) -> None:
    build(
        tmp_path,
        {"part.c": "int part;"},
        "gcc -shared -fPIC -nostdlib -Wl,-soname,libc.musl-x86_64.so.1 -o libc.musl-x86_64.so.1 part.c",
        "gcc -shared -fPIC -nostdlib -Wl,--no-as-needed -o part.so part.c ./libc.musl-x86_64.so.1",
        "rm libc.musl-x86_64.so.1",
    )
    shutil.copy(fixtures.build("opens-tried") / "main", tmp_path / "main")
    one = failure(tmp_path, "./main", "part.so", "--", "now:./part.so")
    assert any("part.so was built for musl" in text for text in one["story"])


def test_the_program_itself_is_kept_by_no_count(tmp_path: Path) -> None:
    build(tmp_path, {"main.c": "int main(void) { return 0; }"}, "gcc -o main main.c")
    text = support.emu("why", "./main", "./main", cwd=tmp_path).stderr
    assert b"it is the program" in text and b"in progress" not in text
