"""What README.md and the pages of emu/docs show is what their commands print.

A block of commands says in a comment of its first line where it runs: among the fixtures, or in a folder of C
programs, of which a copy is taken. `...` stands for what is left out, as in doctest; addresses, offsets in
the system's libc, times and the width of columns may differ. With another glibc than 2.36 numbers may, and a
fifth of the lines: names of inner functions, further objects.
"""

from __future__ import annotations

import doctest
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from emu.cli.help import title, topics
from emu.cli.markdown import CodeBlock, blocks
from tests.support import emu, mostly, of_the_pages
from tools import fixtures
from tools.tour import Place, examples

_PLACE = re.compile(r"  # in (\S+)$", re.MULTILINE)
_VARIES = re.compile(r"0x[0-9a-f]{9,}|(?<=libc\.so\.6\+)0x[0-9a-f]+|\b\d+\.\d{9}\b")
_LOOSELY = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

PAGES = [fixtures.ROOT / "README.md", *topics().values()]
CONSOLE = [
    (page, block)
    for page in PAGES
    for block in blocks(page.read_text("utf-8"))
    if block.language == "console"
]
SHOWN = [(page, block) for page, block in CONSOLE if not block.text.startswith("$ pytest ")]
"""What pytest prints is looked at in tests/testing/test_plugin.py."""
CONTRIBUTING = fixtures.ROOT / "CONTRIBUTING.md"
MAP = pytest.param(fixtures.ROOT / "emu" / "README.md", id="map")
_MOST_WORDS = 1500
_MOST_COLUMNS = 110


def _prose(page: Path) -> list[str]:
    """The lines that are neither code nor a row of a table."""
    text = page.read_text("utf-8")
    code = {n for block in blocks(text) for n in range(block.first, block.end)}
    lines = enumerate(text.splitlines())
    return [line for n, line in lines if n not in code and not line.startswith(("|", "    "))]


def _name(shown: object) -> str:
    if isinstance(shown, Path):
        return shown.stem
    assert isinstance(shown, CodeBlock)
    return shown.text.splitlines()[0].partition("  #")[0].strip()


def _folder(block: CodeBlock, scratch: Path) -> Path:
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


@pytest.mark.parametrize(("page", "block"), SHOWN, ids=_name)
def test_a_page_shows_what_its_commands_print(page: Path, block: CodeBlock, tmp_path: Path) -> None:
    folder = _folder(block, tmp_path / "folder")
    program = tmp_path / "emu"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m emu "$@"\n')
    program.chmod(0o755)
    path = f"{tmp_path}:{fixtures.BASE_ENV['PATH']}"
    env = fixtures.BASE_ENV | {"PATH": path, "PYTHONPATH": str(fixtures.ROOT), "TERM": "dumb"}
    place = Place(folder, env)
    commands = examples(block)
    told = "".join(command.shown + place.run(["sh", "-c", command.source]) for command in commands)
    if not of_the_pages():
        assert mostly(block.text, told), told
        return
    want, got = (_VARIES.sub("N", text) for text in (block.text, told))
    assert commands and doctest.OutputChecker().check_output(want, got, _LOOSELY), told


@pytest.mark.parametrize("page", [*PAGES, CONTRIBUTING, MAP], ids=_name)
def test_prose_is_at_most_110_columns_wide(page: Path) -> None:
    assert [line for line in _prose(page) if len(line) > _MOST_COLUMNS and "](" not in line] == []


@pytest.mark.parametrize("page", [*PAGES, CONTRIBUTING, MAP], ids=_name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    tables = [line for line in page.read_text("utf-8").splitlines() if line.startswith("|")]
    links = re.findall(r"\]\(([^)#]+)\)", re.sub(r"`[^`]*`", "", "\n".join([*_prose(page), *tables])))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_whoever_contributes_reads_one_short_page() -> None:
    assert len(CONTRIBUTING.read_text("utf-8").splitlines()) <= 150


def test_the_readme_is_short_and_names_every_page() -> None:
    text = (fixtures.ROOT / "README.md").read_text("utf-8")
    assert len(text.split()) <= _MOST_WORDS
    assert [p.stem for p in topics().values() if f"- [{title(p)}](emu/docs/{p.name})" not in text] == []


def test_help_shows_pages_and_the_help_of_commands(tmp_path: Path) -> None:
    listed = emu("help", cwd=tmp_path).stdout.decode()
    for name, page in topics().items():
        assert re.search(rf"^  {name} +{re.escape(title(page))}$", listed, re.MULTILINE)
        assert emu("help", name, cwd=tmp_path).stdout == page.read_bytes()
    assert emu("help", "ldd", cwd=tmp_path).stdout == emu("ldd", "--help", cwd=tmp_path).stdout
    wrong = emu("help", "nothing", cwd=tmp_path)
    assert wrong.exit == 2
    assert "no topic and no command 'nothing'" in wrong.stderr.decode()


def test_what_another_glibc_may_print_otherwise() -> None:
    page = "$ emu run ./main\nat 0x7ffff7d in main+0x12\n...\nsize 144   of .../libc.so.6\nclosed: 1\nend\n"
    assert mostly(
        page, "$ emu run ./main\nat 0x1 in main+0x9\nmore\nsize 136 of /lib/libc.so.6\nclosed: 0\nend"
    )
    assert mostly(page, "$ emu run ./main\nat 0x1 in main+0x9\nmore\nsize 136 of /lib/libc.so.6\nend")
    assert not mostly(page, "$ emu run ./main\nat 0x1 in other+0x9\nsize 136 of /lib/libc.so.6\nend")
    assert not mostly(page, "$ emu run ./main\n")
