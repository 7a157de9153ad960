"""`emu call`: one function of a library, with arguments and results of every kind."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests import support

if TYPE_CHECKING:
    from pathlib import Path

CODE = r"""
#include <stdarg.h>
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
int log_line(const char *format, ...) { va_list all; va_start(all, format); int n = vsnprintf(NULL, 0, format, all); va_end(all); return n; }
struct pair { long a, b; } both(void) { struct pair p = {1, 2}; return p; }
void leave(int code) { exit(code); }
int crash(int *p) { return *p; }
__attribute__((constructor)) static void up(void) { puts("constructor"); }
__attribute__((destructor)) static void down(void) { puts("destructor"); }
"""

CXX = r"""
namespace ns {
enum class Colour : unsigned char { red = 3, green };
enum Sign { minus = -1, plus = 1 };
Sign sign(Sign a) { return a; }
int first(const int *numbers) { return *numbers; }
struct Box { int x; };
int open_box(const Box &box) { return box.x; }
int twice(int x) { return 2 * x; }
long twice(long x) { return 2 * x; }
double half(const double &x) { return x / 2; }
Colour next(Colour c) { return Colour(int(c) + 1); }
bool is_big(unsigned long long x) { return x > 10; }
}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("call")
    (place / "lib.c").write_text(CODE)
    support.compile_c(place, "-shared", "-fPIC", "-O2", "-g", "-o", "lib.so", "lib.c")
    support.compile_c(place, "-shared", "-fPIC", "-O2", "-o", "plain.so", "lib.c")
    (place / "lib.cc").write_text(CXX)
    subprocess.run(
        ["g++", "-shared", "-fPIC", "-O1", "-g", "-o", "libcxx.so", "lib.cc"], cwd=place, check=True
    )
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
        (["--returns", "int", "./lib.so", "big"], "-294967296"),
        (["./lib.so", "big"], "4000000000"),
        (["./lib.so", "wide", "1", "2", "3", "4", "5", "6", "7", "8"], "204"),
        (["./lib.so", "mixed", "1", "2", "1", "4444"], "8.0"),
        (["./lib.so", "greet", "12"], "hello 12"),
        (["./lib.so", "narrow"], "200"),
        (["./lib.so", "nothing"], "0x0"),
        (["./lib.so", "quiet"], None),
        (["./lib.so", "log_line", "%d %s", "5", "five"], "6"),
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


@pytest.mark.parametrize(
    ("words", "result"),
    [
        (["ns::twice(int)", "21"], "42"),
        (["ns::twice(long)", "21"], "42"),
        (["ns::is_big", "11"], "True"),
        (["ns::next", "3"], "4 (green)"),
        (["ns::next", "red"], "4 (green)"),
        (["ns::next", "200"], "201"),
        (["ns::sign", "minus"], "-1 (minus)"),
        (["ns::sign", "--", "-1"], "-1 (minus)"),
        (["ns::half", "3"], "1.5"),
        (["--returns", "int", "ns::next", "red"], "4"),
    ],
)
def test_a_cxx_function_by_its_name(words: list[str], result: str, folder: Path) -> None:
    said = words.index("ns::next") if words[0] == "--returns" else 0
    done = support.emu("call", *words[:said], "./libcxx.so", *words[said:], cwd=folder)
    assert (done.exit, done.stdout.decode(), done.stderr) == (0, f"{result}\n", b"")


def test_a_result_that_nothing_tells_of_is_said_to_be_guessed(folder: Path) -> None:
    done = support.emu("call", "./plain.so", "add", "40", "2", cwd=folder)
    assert done.stdout.decode().splitlines()[-1] == "42"
    assert done.stderr.decode() == "emu: result taken as int; say --returns TYPE\n"
    assert support.emu("call", "--returns", "int", "./plain.so", "add", "40", "2", cwd=folder).stderr == b""


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
        (["./lib.so", "naro"], 127, "undefined symbol: naro; nearest: narrow"),
        (["lib.so", "add"], 127, "No such file or directory (the file here is ./lib.so)"),
        (["./libcxx.so", "ns::twice", "1"], 127, "ambiguous, choose one of ns::twice(int), ns::twice(long)"),
        (["./libcxx.so", "ns::first", "text"], 127, "'text' is no int *: give an address"),
        (["./libcxx.so", "ns::open_box", "text"], 127, "'text' is no struct Box &: give an address"),
        (["./libcxx.so", "ns::first"], 127, "ns::first takes 1 argument (int *), not 0"),
        (["./lib.so", "add", "1"], 127, "add takes 2 arguments (int, int), not 1"),
        (["libc.so.6", "environ"], 127, "environ is data, no function"),
        (["./lib.so", "add", "1", "two"], 127, "argument 2: 'two' is no int\n"),
        (["./lib.so", "both"], 127, "a value of type struct pair cannot be written here"),
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
