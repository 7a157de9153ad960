"""Objects that are linked otherwise after the fact:
what is written must do natively what the change of the link command would.
"""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from emu.core.errors import ElfError
from emu.elf.edit import Edit, edited
from tools import fixtures

if TYPE_CHECKING:
    from pathlib import Path

#: The object that is changed, how, and what the program then opens; without the change each fails.
CHANGES = {
    "runpath": ("lib/libplugin.so", Edit(runpath="$ORIGIN/common"), "now:libplugin.so"),
    "inherited": ("main", Edit(inherited=True), "now:libplugin.so"),
    "without-runpath": ("lib/libown.so", Edit(without_runpath=True), "now:libown.so"),
    "needed": ("data.so", Edit(needed=("libentry.so",), runpath="$ORIGIN"), "now:./data.so"),
    "lazy": ("now.so", Edit(lazy=True), "lazy:./now.so"),
    "exported": ("main", Edit(exported=("host_function",)), "now:./host.so"),
    "renamed": ("ext.so", Edit(renamed=(("libbig.so", "libsmall.so"),)), "now:./ext.so"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the fixture."""
    place = tmp_path_factory.mktemp("edit") / "opens"
    shutil.copytree(fixtures.build("opens-that-fail"), place, symlinks=True)
    return place


def _opens(folder: Path, program: str, word: str) -> int:
    words = [f"./{program}", word]
    return subprocess.run(
        words, cwd=folder, env=fixtures.BASE_ENV, capture_output=True, check=False
    ).returncode


@pytest.mark.parametrize("name", CHANGES)
def test_natively_the_change_does_what_linking_would(name: str, folder: Path) -> None:
    path, edit, word = CHANGES[name]
    program = "main-rpath" if name == "without-runpath" else "main"
    before = (folder / path).read_bytes()
    assert _opens(folder, program, word) == 1
    try:
        (folder / path).write_bytes(edited(before, path, edit))
        assert _opens(folder, program, word) == 0
    finally:
        (folder / path).write_bytes(before)


def test_nothing_to_change_leaves_an_object_that_works(folder: Path) -> None:
    before = (folder / "libentry.so").read_bytes()
    after = edited(before, "libentry.so", Edit())
    assert after != before and after[:4] == before[:4]
    (folder / "libentry.so").write_bytes(after)
    assert _opens(folder, "main", "now:./libentry.so") == 0
    (folder / "libentry.so").write_bytes(before)


def test_a_plain_stack_is_a_flag_of_the_program_header(tmp_path: Path) -> None:
    source, target = tmp_path / "x.s", tmp_path / "x.so"
    source.write_text(".globl f\nf: ret\n")
    subprocess.run(
        ["gcc", "-shared", "-Wa,--execstack", "-o", target, source], check=True, capture_output=True
    )
    stack = subprocess.run(["readelf", "-lW", target], capture_output=True, text=True, check=True).stdout
    assert " RWE " in stack.partition("GNU_STACK")[2].splitlines()[0]
    target.write_bytes(edited(target.read_bytes(), "x.so", Edit(plain_stack=True)))
    stack = subprocess.run(["readelf", "-lW", target], capture_output=True, text=True, check=True).stdout
    assert " RW " in stack.partition("GNU_STACK")[2].splitlines()[0]


def test_what_cannot_be_done_is_said(folder: Path) -> None:
    data = (folder / "main").read_bytes()
    with pytest.raises(ElfError, match="no definition of nobody"):
        edited(data, "main", Edit(exported=("nobody",)))
    with pytest.raises(ElfError):
        edited(data[:200], "main", Edit(lazy=True))
