"""Ways out of a call that are no return: a jump over Python's frames, the end of the thread; and ways in:
signals, other threads, exit handlers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest

import emu
from tests.support import compile_c
from tools import fixtures

_SOURCE = """
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
typedef int (*function)(int);
static jmp_buf back;
static function saved;
int jump_over(function f) { if (setjmp(back)) return 77; f(1); return 1; }
void jump_back(void) { longjmp(back, 1); }
static void *start(void *f) { return (void *)(long)((function)f)(5); }
int in_thread(function f) { pthread_t t; void *r; pthread_create(&t, 0, start, f); pthread_join(t, &r); return (long)r; }
static void handle(int signal) { saved(signal); }
int in_handler(function f) { saved = f; signal(SIGUSR1, handle); raise(SIGUSR1); return 9; }
static void last(void) { saved(3); }
int at_exit(function f) { saved = f; return atexit(last); }
void leave_thread(void) { pthread_exit(0); }
"""
_function = emu.CFUNCTYPE(ctypes.c_int, ctypes.c_int)


@pytest.fixture
def lib(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[emu.Library]:
    (tmp_path / "jumps.c").write_text(_SOURCE)
    compile_c(tmp_path, "-O1", "-shared", "-fPIC", "-o", "libjumps.so", "jumps.c")
    with emu.Process(cwd=str(tmp_path), env=fixtures.BASE_ENV) as p:
        library = p.dlopen("./libjumps.so")
        for name in ("jump_over", "in_thread", "in_handler", "at_exit"):
            getattr(library, name).argtypes = [_function]
        yield library


def test_longjmp_over_a_python_function_ends_that(lib: emu.Library) -> None:
    passed: list[str] = []

    def jumps(_n: int) -> int:
        try:
            lib.jump_back()
        finally:
            passed.append("finally")
        return 0

    assert lib.jump_over(_function(jumps)) == 77
    assert passed == ["finally"]
    assert lib.in_handler(_function(lambda n: n)) == 9


def test_a_thread_that_ends_itself_in_a_call(lib: emu.Library) -> None:
    p = lib._process
    with p.thread() as t, pytest.raises(emu.ClosedError, match=r"thread \d+ ended in the call"):
        t.call(lib.leave_thread)
    assert len(p.threads) == 1
    assert lib.in_handler(_function(lambda n: n)) == 9


def test_python_functions_in_other_threads_handlers_and_at_exit(lib: emu.Library) -> None:
    assert lib.in_thread(_function(lambda n: n * 3)) == 15
    seen: list[int] = []

    def note(n: int) -> int:
        seen.append(n)
        return 0

    ends = _function(note)
    assert lib.in_handler(ends) == 9
    lib.at_exit(ends)
    lib._process.close()
    assert seen == [10, 3]
    assert lib._process.status == 0
