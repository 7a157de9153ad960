"""What README.md shows is what its commands print.

A block of commands says in a comment of its first line where it runs: among the fixtures, or in a folder of C programs, of which a copy is taken.
`...` stands for what is left out, as in doctest; addresses, offsets in the system's libc, times and the width of columns may differ.
"""

from __future__ import annotations

import doctest
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from emu.cli.tour import Block, blocks
from tools import fixtures
from tools.tour import Place, examples

_PLACE = re.compile(r"  # in (\S+)$", re.MULTILINE)
_VARIES = re.compile(r"0x[0-9a-f]{9,}|(?<=libc\.so\.6\+)0x[0-9a-f]+|\b\d+\.\d{9}\b")
_LOOSELY = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

CONSOLE = [
    block for block in blocks((fixtures.ROOT / "README.md").read_text("utf-8")) if block.language == "console"
]
SHOWN = [block for block in CONSOLE if not block.text.startswith("$ pytest ")]
"""What pytest prints is looked at in tests/testing/test_plugin.py."""


def _name(block: Block) -> str:
    return block.text.splitlines()[0].partition("  #")[0].strip()


def _folder(block: Block, scratch: Path) -> Path:
    """Return where a block runs, ready for it."""
    found = _PLACE.search(block.text.splitlines()[0])
    if found is None:
        scratch.mkdir()
        return scratch
    place = fixtures.ROOT / found[1]
    if place.parent == fixtures.CACHE:
        return fixtures.build(place.name)
    shutil.copytree(place, scratch)
    return scratch


@pytest.mark.parametrize("block", SHOWN, ids=_name)
def test_the_readme_shows_what_its_commands_print(block: Block, tmp_path: Path) -> None:
    folder = _folder(block, tmp_path / "folder")
    program = tmp_path / "emu"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m emu "$@"\n')
    program.chmod(0o755)
    path = f"{tmp_path}:{fixtures.BASE_ENV['PATH']}"
    env = fixtures.BASE_ENV | {"PATH": path, "PYTHONPATH": str(fixtures.ROOT), "TERM": "dumb"}
    place = Place(folder, env)
    commands = examples(block)
    told = "".join(command.shown + place.run(["sh", "-c", command.source]) for command in commands)
    want, got = (_VARIES.sub("N", text) for text in (block.text, told))
    assert commands and doctest.OutputChecker().check_output(want, got, _LOOSELY), told
