"""Program headers that ld.so believes and dies of, without a word: one line says what they say."""

from __future__ import annotations

import re
import shutil
import signal
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

from emu.elf import constants as c
from tests import support
from tools import fixtures

if TYPE_CHECKING:
    from pathlib import Path

_ADDRESS, _MEMORY_SIZE = 16, 40
"""Where a program header has p_vaddr and p_memsz. Source: gABI, "Program Header"."""


def _patch(path: Path, kind: int, field: int, value: int) -> None:
    """Store another value in the first program header of a kind."""
    data = bytearray(path.read_bytes())
    (start,), (count,) = struct.unpack_from("<Q", data, 32), struct.unpack_from("<H", data, 56)
    at = next(
        at for at in range(start, start + 56 * count, 56) if struct.unpack_from("<I", data, at)[0] == kind
    )
    struct.pack_into("<Q", data, at + field, value)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("file", "kind", "field", "value", "words"),
    [
        ("main", c.PT_GNU_PROPERTY, _ADDRESS, 0x7FFFF000, "main: its PT_GNU_PROPERTY is wrong \\(address range 0x7ffff000"),
        ("main", c.PT_PHDR, _ADDRESS, 0x80, "main: its PT_PHDR says that it lies at "),
        ("libseed.so", c.PT_GNU_RELRO, _MEMORY_SIZE, 0x3250, "its PT_GNU_RELRO goes 0x[0-9a-f]+ bytes beyond its end: ld.so makes"),
    ],
)  # fmt: skip
def test_what_ld_so_dies_of_is_said(
    file: str, kind: int, field: int, value: int, words: str, tmp_path: Path
) -> None:
    folder = fixtures.build("fuzz-seed")
    for one in ("main", "libseed.so"):
        shutil.copy(folder / one, tmp_path / one)
    _patch(tmp_path / file, kind, field, value)
    native = subprocess.run(["./main"], cwd=tmp_path, capture_output=True, check=False)
    done = support.emu("run", "./main", cwd=tmp_path)
    said = done.stderr.decode()
    assert native.returncode in (-signal.SIGSEGV, 127)  # 127 where nothing lies behind the library
    assert (done.exit, done.stdout, said.count("\n")) == (127, b"", 1)
    assert re.search(words, said) and re.search("die(s)? of ", said)
