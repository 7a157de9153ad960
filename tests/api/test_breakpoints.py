"""Breakpoints by what people call a place:
functions that are not exported, lines, and what is still to come.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

import emu

if TYPE_CHECKING:
    from pathlib import Path

PLUGIN = """
namespace { int hidden(int x) {
    int y = x + 1;
    return y * 2;
} }
extern "C" int shown(int x) { return hidden(x); }
__attribute__((constructor)) static void up() {}
"""
MAIN = """
#include <dlfcn.h>
static int quiet(int x) { return x - 1; }
int (*volatile keep)(int) = quiet;
int main(void) {
    int sum = keep(3);
    for (int round = 0; round < 2; ++round) {
        void *handle = dlopen("./plugin.so", RTLD_NOW);
        sum += ((int (*)(int))dlsym(handle, "shown"))(sum);
        dlclose(handle);
    }
    return sum;
}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("breakpoints")
    (place / "plugin.cc").write_text(PLUGIN)
    (place / "main.c").write_text(MAIN)
    subprocess.run(
        ["g++", "-g", "-O0", "-shared", "-fPIC", "-o", "plugin.so", "plugin.cc"], cwd=place, check=True
    )
    subprocess.run(["gcc", "-g", "-O0", "-o", "main", "main.c"], cwd=place, check=True)
    return place


@pytest.fixture
def process(folder: Path) -> emu.Process:
    return emu.Process("./main", cwd=folder)


@pytest.mark.parametrize(
    ("where", "hits"),
    [
        ("main", 1),
        ("quiet", 1),
        ("main.c:9", 2),
        ("main.c:2", 1),  # nothing there: the next line that has code
        ("shown", 2),
        ("hidden", 2),
        ("(anonymous namespace)::hidden(int)", 2),
        ("plugin.cc:3", 2),
        ("up", 2),
    ],
)
def test_a_place_is_reached(process: emu.Process, where: str, hits: int) -> None:
    stop = process.breakpoint(where)
    late = where in ("shown", "hidden", "(anonymous namespace)::hidden(int)", "plugin.cc:3", "up")
    assert stop.pending is late
    assert ("pending" in repr(stop)) is late
    assert process.run() == 26
    assert (stop.hits, stop.pending) == (hits, False)


def test_step_goes_to_a_pending_place_and_the_line_is_right(process: emu.Process) -> None:
    stop = process.breakpoint("plugin.cc:4")
    assert process.step(stop) is stop
    frame = stop.backtrace()[0]
    assert (frame.function, frame.line) == ("(anonymous namespace)::hidden(int)", 4)


def test_what_never_comes_stays_pending(process: emu.Process) -> None:
    stop = process.breakpoint("no_such_function")
    assert process.run() == 26
    assert (stop.hits, stop.pending, stop.address) == (0, True, 0)


def test_a_breakpoint_that_is_removed_is_not_looked_for(process: emu.Process) -> None:
    stop = process.breakpoint("shown")
    stop.remove()
    assert process.run() == 26
    assert stop.pending
