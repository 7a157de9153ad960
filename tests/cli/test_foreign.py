"""A library for another machine or class is there, and every command that passes it
over says for which it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from emu.elf.machines import foreign
from tests.support import compile_c, emu, native

if TYPE_CHECKING:
    from pathlib import Path

KINDS = {"AArch64": (2, 1, 183), "32-bit x86": (1, 1, 3), "32-bit Arm": (1, 1, 40), "x32 (x86-64 with 32-bit pointers)": (1, 1, 62)}  # fmt: skip
USER = "extern int number(void);\nint main(void) { return number(); }\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("foreign")
    (place / "lib").mkdir()
    (place / "number.c").write_text("int number(void) { return 0; }\n")
    (place / "user.c").write_text(USER)
    compile_c(place, "-shared", "-fPIC", "-o", "libnumber.so", "number.c")
    compile_c(place, "-o", "user", "user.c", "-L.", "-lnumber", "-Wl,-rpath,$ORIGIN/lib")
    return place


def _put(folder: Path, kind: str) -> None:
    """Leave a library that is nothing but for another machine where the program looks for it."""
    class_, data, machine = KINDS[kind]
    image = bytearray((folder / "libnumber.so").read_bytes())
    image[4], image[5] = class_, data
    image[18:20] = machine.to_bytes(2, "little")
    (folder / "lib/libnumber.so").write_bytes(image)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_there_but_for_another_machine(folder: Path, kind: str) -> None:
    _put(folder, kind)
    there = f"there, but {kind}"
    assert f"lib/libnumber.so: {there}; the process is" in emu("ldd", "./user", cwd=folder).stdout.decode()
    why = emu("why", "./user", "number", cwd=folder).stderr.decode()
    assert f"lib/libnumber.so was passed over: {there}; the process is" in why
    trace = emu("run", "--trace", "libs", "./user", cwd=folder)
    assert f"libnumber.so (RUNPATH of ./user): {there}\n" in trace.stderr.decode()
    for words in (["lib/libnumber.so"], ["--env", "LD_LIBRARY_PATH=lib", "libnumber.so"]):
        called = emu("call", *words, "number", cwd=folder)
        assert (called.exit, f"; lib/libnumber.so is {there}; the" in called.stderr.decode()) == (127, True)


@pytest.mark.parametrize("kind", KINDS)
def test_where_ld_so_speaks_its_words_stay(folder: Path, kind: str) -> None:
    _put(folder, kind)
    assert emu("run", "./user", cwd=folder) == native("./user", cwd=folder)


def test_words_for_machines() -> None:
    def head(class_: int, data: int, machine: int) -> bytes:
        order = "big" if data == 2 else "little"
        return b"\x7fELF" + bytes([class_, data]) + bytes(12) + machine.to_bytes(2, order)  # type: ignore[arg-type]

    assert foreign(head(2, 1, 62)) == ""
    assert foreign(head(2, 2, 22)) == "s390x"
    assert foreign(head(1, 2, 8)) == "32-bit MIPS"
    assert foreign(head(2, 1, 999)) == "machine 999"
    assert foreign(b"#!/bin/sh, which is no ELF file") == foreign(b"\x7fELF") == ""
