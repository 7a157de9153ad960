#!/usr/bin/env python3
"""Check the pages of the tour: every output in them must be what its command prints;
`--update` writes it anew.

A page `emu/tour/N-NAME.md` belongs to the fixture `tour-NAME`. Its files are written into an empty folder and
built there, as a reader does it; then its blocks are carried out, in order:

    ```console           a line that begins with "$ " is a command for sh ("> " continues it)
    ```python            ">>> " and "... " are Python; all blocks of a page are one session
    ```LANGUAGE FILE     a file of the fixture, or build.sh: its build commands

Both kinds of commands write to a terminal of 100 columns, as the reader's do: so a program's output is not
held back until its end. The folder's own path is shown as `...`. Addresses from 0x100000000 on and times in
seconds may differ from the page, but not which of them are equal.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import pty
import re
import subprocess
import sys
import tempfile
import termios
import tty
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from emu.cli.markdown import CodeBlock, blocks
from emu.cli.tour import lessons
from tools import fixtures

COLUMNS = 100
PROMPTS = {"console": ("$ ", "> "), "python": (">>> ", "... ")}
_VARIES = re.compile(r"\b0x[0-9a-f]{9,16}\b|\b\d+\.\d{9}\b")

#: Runs the examples in argv[1], a JSON array, one after the other; a NUL follows the output of each.
SESSION = r"""
import code, json, os, sys, traceback

class Prompt(code.InteractiveInterpreter):
    def showtraceback(self):
        text = "".join(traceback.format_exception_only(sys.exc_info()[1]))
        print("Traceback (most recent call last):\n  ...\n" + text, end="")

prompt = Prompt({"__name__": "__main__"})
for source in json.loads(sys.argv[1]):
    prompt.runcode(compile(source, "<tour>", "single"))
    sys.stdout.flush()
    os.write(1, b"\0")
"""


class Place(NamedTuple):
    """Where a page's commands run, and their environment."""

    folder: Path
    env: dict[str, str]

    def run(self, command: list[str]) -> str:
        """Return what a command writes to its terminal, without blanks at the ends of
        lines, and paths of the folder as `...`.
        """
        master, slave = pty.openpty()
        tty.setraw(slave)
        termios.tcsetwinsize(slave, (50, COLUMNS))
        with subprocess.Popen(
            command, cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL, stdout=slave, stderr=slave
        ):
            os.close(slave)
            said = bytearray()
            try:
                while part := os.read(master, 1 << 16):
                    said += part
            except OSError:
                pass  # EIO: the last writer has closed the terminal
        os.close(master)
        text = said.decode("utf-8", "backslashreplace").replace(str(self.folder), "...")
        return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)


class Example(NamedTuple):
    """A command as it stands in a page, prompts included, and as it is to be run."""

    shown: str
    source: str


def examples(block: CodeBlock) -> list[Example]:
    """Return the commands of a console or Python block, without their outputs."""
    first, more = PROMPTS[block.language]
    found: list[tuple[list[str], list[str]]] = []
    continues = False
    for line in block.text.splitlines():
        if line.startswith(first):
            found.append(([line], [line.removeprefix(first)]))
            continues = True
        elif continues and line.startswith(more.rstrip()):
            found[-1][0].append(line)
            found[-1][1].append(line[len(more) :])
        else:
            continues = False
    return [Example("\n".join(shown) + "\n", "\n".join(source) + "\n") for shown, source in found]


def renewed(page: Path, text: str) -> str:
    """Return the page as it has to be. Raises fixtures.FixtureError."""
    fixture = fixtures.load(f"tour-{page.stem.partition('-')[2]}")
    found = blocks(text)
    files = {block.name: _file(fixture, block.name) for block in found if block.name}
    if unseen := {path.name for path in fixture.source.iterdir()} - {"fixture.toml", *files}:
        raise fixtures.FixtureError(f"{fixture.name}: the page does not show {', '.join(sorted(unseen))}")
    told = {block: examples(block) for block in found if block.language in PROMPTS}
    with tempfile.TemporaryDirectory() as scratch:
        place = _place(Path(scratch), files)
        answers = iter(_session(place, [e for b, its in told.items() if b.language == "python" for e in its]))
        news = {}
        for block in found:
            if block.name:
                news[block] = files[block.name]
            elif block.language == "console":
                news[block] = "".join(e.shown + place.run(["sh", "-c", e.source]) for e in told[block])
            elif block.language == "python":
                news[block] = "".join(e.shown + next(answers) for e in told[block])
    lines = text.splitlines(keepends=True)
    for block in reversed(found):
        if block in news and normal(news[block]) != normal(block.text):
            lines[block.first + 1 : block.end - 1] = [news[block]]
    return "".join(lines)


def normal(text: str) -> str:
    """Return a text with what may vary numbered in the order in which it appears,
    so that equal things stay equal.
    """
    seen: dict[str, str] = {}
    return _VARIES.sub(lambda match: seen.setdefault(match[0], f"<{len(seen)}>"), text)


def difference(page: Path, text: str | None = None) -> str:
    """Return what is stale in a page (or in `text` in its place) as a unified diff, empty if nothing is.

    Raises fixtures.FixtureError.
    """
    if text is None:
        text = page.read_text(encoding="utf-8")
    new = renewed(page, text)
    return "".join(
        difflib.unified_diff(text.splitlines(True), new.splitlines(True), page.name, f"{page.name}, as it is")
    )


def _place(scratch: Path, files: dict[str, str]) -> Place:
    folder, programs = scratch / "lesson", scratch / "bin"
    folder.mkdir()
    programs.mkdir()
    (programs / "emu").write_text(f'#!/bin/sh\nexec {sys.executable} -m emu "$@"\n')
    (programs / "emu").chmod(0o755)
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    path = f"{programs}:{fixtures.BASE_ENV['PATH']}"
    env = fixtures.BASE_ENV | {"PATH": path, "PYTHONPATH": str(fixtures.ROOT), "TERM": "dumb"}
    place = Place(folder, env)
    if said := place.run(["sh", "-e", "build.sh"]):
        raise fixtures.FixtureError(f"build.sh: {said}")
    return place


def _session(place: Place, session: list[Example]) -> list[str]:
    if not session:
        return []
    command = [sys.executable, "-c", SESSION, json.dumps([e.source for e in session])]
    *answers, rest = place.run(command).split("\0")
    if rest or len(answers) != len(session):
        raise fixtures.FixtureError(f"{session[len(answers)].shown}ended the session: {rest}")
    return answers


def _file(fixture: fixtures.Fixture, name: str) -> str:
    if name == "build.sh":
        return "".join(f"{command}\n" for command in fixture.build)
    try:
        return (fixture.source / name).read_text(encoding="utf-8")
    except OSError as error:
        raise fixtures.FixtureError(f"{fixture.name}/{name}: {error.strerror}") from None


def main(arguments: list[str] | None = None) -> int:
    """The command; 1 if a page is stale and was not updated."""
    parser = argparse.ArgumentParser(description="Check every output in the pages of the tour.")
    parser.add_argument("numbers", nargs="*", type=int, metavar="LESSON")
    parser.add_argument(
        "--update", action="store_true", help="write the outputs as they are now into the pages"
    )
    options = parser.parse_args(arguments)
    stale = 0
    for page in lessons():
        if options.numbers and int(page.name.partition("-")[0]) not in options.numbers:
            continue
        text = page.read_text(encoding="utf-8")
        try:
            if options.update:
                page.write_text(renewed(page, text), encoding="utf-8")
            elif said := difference(page, text):
                stale += 1
                print(said, end="")
        except fixtures.FixtureError as error:
            print(f"tour: {page.name}: {error}", file=sys.stderr)
            return 1
    if stale:
        print(f"tour: {stale} pages are stale: tools/tour.py --update", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
