"""Damaged objects given to dlopen: it returns NULL with a text, and the program goes on;
emu itself never stumbles.
"""

from __future__ import annotations

import random
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests import support

if TYPE_CHECKING:
    from pathlib import Path

HOST = r"""
#include <dlfcn.h>
#include <stdio.h>
int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        void *handle = dlopen(argv[i], RTLD_NOW);
        if (!handle) printf("%s\n", dlerror());
        else { printf("%s: opened\n", argv[i]); dlclose(handle); }
        fflush(stdout);
    }
    void *handle = dlopen("./good.so", RTLD_NOW);
    puts(handle && dlsym(handle, "value") ? "alive" : "lost");
    return 0;
}
"""
PLUGIN = 'int value = 3; int *pointer = &value; extern int puts(const char *); int hello(void) { return puts("hello"); }\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("damaged")
    (place / "host.c").write_text(HOST)
    (place / "good.c").write_text(PLUGIN)
    # Without constructors no damaged code runs, whatever is opened.
    support.compile_c(place, "-shared", "-fPIC", "-nostartfiles", "-o", "good.so", "good.c")
    support.compile_c(place, "-o", "host", "host.c")
    return place


def _tables(data: bytes) -> tuple[int, int, int]:
    """File offsets of the program headers and of the dynamic section, and the number of program headers."""
    phoff, phnum = struct.unpack_from("<Q", data, 32)[0], struct.unpack_from("<H", data, 56)[0]
    for index in range(phnum):
        kind, _, offset = struct.unpack_from("<IIQ", data, phoff + 56 * index)
        if kind == 2:
            return phoff, offset, phnum
    raise AssertionError("no PT_DYNAMIC")


def _damaged(good: bytes, rng: random.Random) -> bytes:
    """Break one field of the headers, the dynamic section or the tables, or cut the file short."""
    data = bytearray(good)
    phoff, dynamic, phnum = _tables(good)
    huge = rng.choice(
        (0, 1, 7, 0x1000, 0xFFFFFFFF, 1 << 40, (1 << 64) - 1, (1 << 63) + 8, rng.getrandbits(64))
    )
    kind = rng.randrange(5)
    if kind == 0:
        return bytes(data[: rng.randrange(len(data))])
    if kind == 1:
        struct.pack_into("<Q", data, phoff + 56 * rng.randrange(phnum) + 8 * rng.randrange(1, 7), huge)
    elif kind == 2:
        struct.pack_into("<Q", data, dynamic + 16 * rng.randrange(20) + rng.choice((0, 8, 8, 8)), huge)
    elif kind == 3:
        data[rng.randrange(64)] = rng.randrange(256)
    else:
        for _ in range(8):
            data[rng.randrange(0x40, 0x600)] = rng.randrange(256)
    return bytes(data)


@pytest.mark.parametrize("seed", range(12))
def test_the_program_goes_on(seed: int, folder: Path) -> None:
    rng = random.Random(seed)
    good = (folder / "good.so").read_bytes()
    names = []
    for number in range(12):
        name = f"./bad-{seed}-{number}.so"
        (folder / name).write_bytes(_damaged(good, rng))
        names.append(name)
    done = support.emu("run", "./host", *names, cwd=folder, timeout=60)
    assert b"Traceback" not in done.stderr
    lines = done.stdout.decode(errors="replace").splitlines()
    if done.exit == 127:  # an assertion of ld.so, which is the end of any program
        last = subprocess.run(["./host", names[len(lines)]], cwd=folder, capture_output=True)
        assert last.returncode == 127
        assert last.stderr.strip() == done.stderr.strip().removesuffix(b"\n")
        assert done.stderr.startswith(b"Inconsistency detected by ld.so: ")
        return
    assert (lines[-1], len(lines)) == ("alive", len(names) + 1), (lines, done.stderr)
    assert done.exit == 0
    assert all(": " in line for line in lines[:-1])


def test_a_file_too_damaged_to_find_is_told_as_ld_so_tells_it(folder: Path) -> None:
    good = (folder / "good.so").read_bytes()
    names = []
    for at, value in ((0, 0), (4, 1), (5, 2), (6, 0), (7, 9), (16, 1), (18, 3), (20, 7), (54, 32), (56, 0)):
        name = f"./header-{at}.so"
        (folder / name).write_bytes(good[:at] + bytes((value,)) + good[at + 1 :])
        names.append(name)
    native = support.native("./host", *names, cwd=folder)
    assert native.exit == 0
    assert support.emu("run", "./host", *names, cwd=folder).stdout == native.stdout
