"""The tour: no page is stale, and a reader gets at the pages and at the programs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from emu.cli.markdown import blocks
from emu.cli.tour import INDEX, lessons
from tests.support import emu, mostly, of_the_pages
from tools import fixtures, tour

SOURCES = {"main.c", "a.c", "b.c", "build.sh"}
"""The files of the first lesson."""


def _outputs(text: str) -> str:
    return "".join(block.text for block in blocks(text) if block.language in tour.PROMPTS)


@pytest.mark.parametrize("page", lessons(), ids=lambda page: page.stem)
def test_every_output_is_real(page: Path) -> None:
    if not of_the_pages():
        text = page.read_text("utf-8")
        shown, printed = (_outputs(each) for each in (text, tour.renewed(page, text)))
        assert mostly(shown, printed) and printed.count("Traceback") == shown.count("Traceback")
        return
    assert tour.difference(page) == "", f"tools/tour.py --update {page.name.partition('-')[0]}"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("main calls greet: liba's", "main calls greet: libb's"),  # what a command prints
        ("\nTrue\n", "\nFalse\n"),  # what Python prints
        ("printf(", "puts("),  # a source
        ("-o liba.so a.c", "-o liba.so b.c"),  # a build command
        ("$ ./main\n", "$ ./main x; echo more\n"),  # a command
    ],
)
def test_what_is_stale_is_found(old: str, new: str) -> None:
    page = lessons()[0]
    text = page.read_text(encoding="utf-8")
    stale = tour.difference(page, text.replace(old, new, 1))
    assert "+++ 1-symbols.md, as it is" in stale


def test_a_source_that_is_not_shown_is_found() -> None:
    page = lessons()[0]
    with pytest.raises(fixtures.FixtureError, match=r"the page does not show a\.c"):
        tour.renewed(page, page.read_text(encoding="utf-8").replace("```c a.c", "```c"))


def test_addresses_may_differ_but_not_which_are_equal() -> None:
    one = "at 0x7ffff7ab96a8 and 0x7ffff7ab96a8, 1000.000023165 s"
    assert tour.normal(one) == tour.normal("at 0x7ffff7000000 and 0x7ffff7000000, 1000.000009000 s")
    assert tour.normal(one) != tour.normal("at 0x7ffff7ab96a8 and 0x7ffff7ab96a9, 1000.000023165 s")
    assert tour.normal("main+0x4000") != tour.normal("main+0x4008")


def test_the_index_lists_every_lesson_by_its_title() -> None:
    index = INDEX.read_text(encoding="utf-8")
    listed = re.findall(r"^(\d+)\. \[(.*)\]\((.*)\):", index, re.MULTILINE)
    there = [
        (re.sub(r"^# (\d+)\. (.*)", r"\1 \2", page.read_text(encoding="utf-8").splitlines()[0]), page.name)
        for page in lessons()
    ]
    assert [(f"{number} {title}", name) for number, title, name in listed] == there


def test_links_lead_somewhere() -> None:
    for page in (INDEX, *lessons()):
        for target in re.findall(r"\]\(([^)]*)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).is_file(), (page.name, target)


def test_pages_are_plain_markdown_where_there_is_no_terminal(tmp_path: Path) -> None:
    assert emu("tour", cwd=tmp_path).stdout == INDEX.read_bytes()
    assert emu("tour", "3", cwd=tmp_path).stdout == lessons()[2].read_bytes()


def test_pages_are_set_for_a_terminal(tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": str(fixtures.ROOT), "TERM": "xterm"}
    env.pop("NO_COLOR", None)
    shown, status = pexpect.run(
        f"{sys.executable} -m emu tour 1", cwd=str(tmp_path), env=env, withexitstatus=True, timeout=60
    )
    assert status == 0
    assert b"How a symbol is found" in shown
    assert b"\x1b[" in shown
    assert b"```" not in shown


def test_the_files_of_a_lesson_build_and_run(tmp_path: Path) -> None:
    done = emu("tour", "1", "--files", "new/lesson", cwd=tmp_path)
    assert (done.exit, done.stderr) == (0, b"")
    folder = tmp_path / "new" / "lesson"
    assert {path.name for path in folder.iterdir()} == SOURCES
    subprocess.run(["sh", "-e", "build.sh"], cwd=folder, check=True)
    said = subprocess.run(["./main"], cwd=folder, check=True, capture_output=True).stdout
    assert said == emu("run", "./main", cwd=folder).stdout
    assert said.startswith(b"main calls greet: liba's")


def test_no_file_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "b.c").write_text("mine\n")
    (tmp_path / "dangling").symlink_to("nowhere")
    done = emu("tour", "1", "--files", ".", cwd=tmp_path)
    assert done.exit == 125
    assert done.stderr == b"emu: b.c exists; nothing was written: choose another folder\n"
    assert (tmp_path / "b.c").read_text() == "mine\n"
    assert not (tmp_path / "a.c").exists()
    done = emu("tour", "1", "--files", "b.c", cwd=tmp_path)
    assert (done.exit, done.stderr) == (125, b"emu: b.c: File exists\n")


@pytest.mark.parametrize("words", [("0",), ("99",), ("x",), ("--files", "d")])
def test_a_wrong_lesson_is_one_line(words: tuple[str, ...], tmp_path: Path) -> None:
    done = emu("tour", *words, cwd=tmp_path)
    assert (done.exit, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)
    assert list(tmp_path.iterdir()) == []


def test_every_block_has_a_known_kind() -> None:
    for page in (INDEX, *lessons()):
        for block in blocks(page.read_text(encoding="utf-8")):
            assert block.name or block.language in tour.PROMPTS or page == INDEX, (page.name, block)
            assert block.language not in tour.PROMPTS or tour.examples(block), (page.name, block)
