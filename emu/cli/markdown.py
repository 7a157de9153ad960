"""Pages in Markdown: shown for a terminal, or as they are where standard output is none."""

from __future__ import annotations

import sys

from emu.cli import streams
from emu.cli.answers import wants_colour
from emu.core.record import NamedTuple

_MOST_COLUMNS = 110


class CodeBlock(NamedTuple):
    """A fenced code block of a page: its language, the name of the file that it shows (or ""), its text, and
    its lines, fences included.
    """

    language: str
    name: str
    text: str
    first: int
    end: int


def blocks(page: str) -> list[CodeBlock]:
    """Return the code blocks of a page in Markdown."""
    from markdown_it import MarkdownIt

    found = []
    for token in MarkdownIt().parse(page):
        if token.type == "fence" and token.map is not None:
            language, _, name = token.info.strip().partition(" ")
            found.append(CodeBlock(language, name, token.content, *token.map))
    return found


def show(text: str) -> None:
    """Print a page: drawn on a terminal that has colours, else as plain Markdown."""
    if not (sys.stdout.isatty() and wants_colour()):
        sys.stdout.write(text)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    streams.allow_escapes()
    console = Console()
    console.print(
        Markdown(text, code_theme="ansi_dark", hyperlinks=False), width=min(console.width, _MOST_COLUMNS)
    )
