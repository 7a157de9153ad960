"""`emu call`: one function of a library, with arguments and results of every kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import support

if TYPE_CHECKING:
    from pathlib import Path

CODE = r"""
#include <stdio.h>
#include <string.h>
#include <stdlib.h>
int add(int a, int b) { return a + b; }
long wide(long a, long b, long c, long d, long e, long f, long g, long h) { return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + 7 * g + 8 * h; }
double mixed(int i, double d, float f, const char *s) { return i + d + f + strlen(s); }
float half(float f) { return f / 2; }
const char *greet(const char *name) { static char text[64]; snprintf(text, sizeof text, "hello %s", name); return text; }
unsigned char narrow(void) { return 200; }
unsigned big(void) { return 4000000000u; }
void *nothing(void) { return NULL; }
void quiet(void) {}
void leave(int code) { exit(code); }
int crash(int *p) { return *p; }
__attribute__((constructor)) static void up(void) { puts("constructor"); }
__attribute__((destructor)) static void down(void) { puts("destructor"); }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("call")
    (place / "lib.c").write_text(CODE)
    support.compile_c(place, "-shared", "-fPIC", "-O2", "-g", "-o", "lib.so", "lib.c")
    return place


@pytest.mark.parametrize(
    ("words", "result"),
    [
        (["./lib.so", "add", "40", "2"], "42"),
        (["./lib.so", "add", "-40", "0x28"], "0"),
        (["--returns", "long", "./lib.so", "wide", *(f"long:{n}" for n in range(1, 9))], "204"),
        (["--returns", "double", "./lib.so", "mixed", "1", "2.5", "float:0.25", "abc"], "6.75"),
        (["--returns", "double", "./lib.so", "mixed", "1", "double:2", "float:1", "str:4"], "5.0"),
        (["--returns", "float", "./lib.so", "half", "float:3"], "1.5"),
        (["--returns", "str", "./lib.so", "greet", "you"], "hello you"),
        (["--returns", "char", "./lib.so", "narrow"], "-56"),
        (["--returns", "uint", "./lib.so", "big"], "4000000000"),
        (["./lib.so", "big"], "-294967296"),
        (["--returns", "str", "./lib.so", "nothing"], "NULL"),
        (["--returns", "ptr", "./lib.so", "nothing"], "0x0"),
        (["--returns", "void", "./lib.so", "quiet"], None),
    ],
)
@pytest.mark.parametrize("tls_dtors", ["model", "guest"])
def test_result(words: list[str], result: str | None, tls_dtors: str, folder: Path) -> None:
    done = support.emu("call", "--tls-dtors", tls_dtors, *words, cwd=folder)
    expected = ["constructor", "destructor", *([result] if result is not None else [])]
    assert done.stdout.decode().splitlines() == expected
    assert (done.exit, done.stderr) == (0, b"")


def test_a_library_by_its_name() -> None:
    from pathlib import Path

    assert (
        support.emu("call", "--returns", "double", "libm.so.6", "hypot", "3.0", "4.0", cwd=Path("/")).stdout
        == b"5.0\n"
    )


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (
            ["./none.so", "f"],
            127,
            "emu: ./none.so: cannot open shared object file: No such file or directory\n",
        ),
        (["./lib.so", "absent"], 127, "emu: ./lib.so: absent: ./lib.so: undefined symbol: absent\n"),
        (["./lib.so", "add", "int:x"], 2, "argument 'int:x' is no int"),
        (["./lib.so", "add", "char:300"], 2, "argument 'char:300' is no char: 300 does not fit 8 bits"),
        (["--returns", "quad", "./lib.so", "add"], 2, "--returns quad: choose from"),
        (["./lib.so", "leave", "7"], 7, ""),
        (["./lib.so", "crash", "0"], 139, "killed by SIGSEGV: read of 0x0 (a null pointer)"),
    ],
)
def test_what_does_not_come_back(words: list[str], code: int, said: str, folder: Path) -> None:
    done = support.emu("call", *words, cwd=folder)
    assert done.exit == code
    assert said in done.stderr.decode()
    assert b"Traceback" not in done.stderr
