"""Manual pages: they say what the help texts say, roff has no complaint, and a wheel brings them along."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest

from tools import fixtures, man

if TYPE_CHECKING:
    from pathlib import Path


def test_they_are_what_the_help_texts_say() -> None:
    there = {path.name: path.read_text(encoding="utf-8") for path in man.PAGES.glob("*.1")}
    assert there == man.pages(), "tools/man.py --update"


def test_each_command_has_one_with_its_options_and_examples() -> None:
    pages = man.pages()
    assert {"emu.1", "emu-why.1", "emu-sysroot-add.1"} <= pages.keys()
    assert ".B \\-\\-json[=FILE]\n" in pages["emu-why.1"]
    assert ".SH EXAMPLES\n.PP\n.nf\n  emu why ./host libplugin.so\n" in pages["emu-why.1"]
    assert "emu help checks" in pages["emu.1"]


@pytest.mark.needs("groff")
def test_roff_takes_them_without_a_warning() -> None:
    for page in sorted(man.PAGES.glob("*.1")):
        command = ["groff", "-man", "-Tutf8", "-ww", "-z", str(page)]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stderr == "", page.name


def test_a_wheel_has_them(tmp_path: Path) -> None:
    source = tmp_path / "source"
    skipped = shutil.ignore_patterns(".*", "fixtures", "tests", "__pycache__", "*.egg-info", "build")
    shutil.copytree(fixtures.ROOT, source, ignore=skipped)
    words = [
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--quiet",
        "--wheel-dir",
        str(tmp_path),
        str(source),
    ]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    shipped = {name.rpartition("/")[2] for name in names if ".data/data/share/man/man1/" in name}
    assert shipped == {path.name for path in man.PAGES.glob("*.1")}
    assert "emu/docs/command-line.md" in names
