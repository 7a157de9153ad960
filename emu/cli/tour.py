"""`emu tour`: lessons about the dynamic linker;
`tools/tour.py` sees to it that every output in them is real.
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from emu.cli import completion, markdown
from emu.core.errors import EmuError

PAGES = Path(__file__).resolve().parent.parent / "tour"
INDEX = PAGES / "README.md"


class TourError(EmuError):
    """A lesson's files cannot be written; the message names the file and why."""


def lessons() -> list[Path]:
    """Return the pages in the order of their numbers."""
    return sorted(PAGES.glob("[0-9]*.md"), key=lambda page: int(page.name.partition("-")[0]))


@click.command("tour", short_help="Learn how a dynamic linker works.")
@click.option(
    "--files", "folder", type=click.Path(), metavar="DIR",
    help="Write the lesson's programs into DIR, and build.sh with the commands that build them; nothing is overwritten.",
)  # fmt: skip
@click.argument("lesson", type=int, required=False, shell_complete=completion.lessons)
def command(lesson: int | None, folder: str | None) -> None:
    """Learn how a dynamic linker works: show LESSON, or without one the list of lessons.

    A lesson has a question, a small program, what the usual tools and emu show of it, the rule behind, and
    something to try.

    \b
    Examples:
      emu tour
      emu tour 1
      emu tour 1 --files lesson1       then: cd lesson1 && sh build.sh
      emu tour 1 | less                as plain Markdown
    """
    pages = lessons()
    if lesson is not None and not 1 <= lesson <= len(pages):
        raise click.UsageError(f"no lesson {lesson}: there are 1 to {len(pages)}")
    if folder is not None:
        if lesson is None:
            raise click.UsageError("--files needs the number of a lesson")
        _write_files(pages[lesson - 1].read_text(encoding="utf-8"), Path(folder))
        print(f"the programs of lesson {lesson} are in {folder}; build them: cd {folder} && sh build.sh")
        return
    markdown.show((INDEX if lesson is None else pages[lesson - 1]).read_text(encoding="utf-8"))


def _write_files(page: str, folder: Path) -> None:
    """Write the files that a page shows.

    Raises TourError before anything is written if one is there already.
    """
    files = {block.name: block.text for block in markdown.blocks(page) if block.name}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TourError(f"{folder}: {error.strerror}") from None
    for name in files:
        if os.path.lexists(folder / name):
            raise TourError(f"{folder / name} exists; nothing was written: choose another folder")
    for name, text in files.items():
        try:
            with open(folder / name, "x", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise TourError(f"{folder / name}: {error.strerror}") from None
