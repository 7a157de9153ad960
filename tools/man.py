#!/usr/bin/env python3
"""The manual pages in man/, made from the help texts of the commands:
`tools/man.py --update` writes them anew.

They lie in the repository, since making them takes the program, and a wheel is built without it.
Source: man(7), groff_man_style(7).
"""

from __future__ import annotations

import argparse
import sys
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "man"
sys.path.insert(0, str(ROOT))

from emu import __version__  # noqa: E402 - after the path
from emu.cli.group import LazyGroup  # noqa: E402
from emu.cli.help import title, topics  # noqa: E402
from emu.cli.main import group  # noqa: E402

_EXAMPLES = ("Examples:", "Example:")


def pages() -> dict[str, str]:
    """The text of every page by its file name."""
    return dict(_of(group, click.Context(group, info_name="emu", **group.context_settings)))


def _of(command: click.Command, ctx: click.Context) -> list[tuple[str, str]]:
    name = ctx.command_path.replace(" ", "-")
    found = [(f"{name}.1", _page(command, ctx, name))]
    if isinstance(command, click.Group):
        for word in command.list_commands(ctx):
            below = command.get_command(ctx, word)
            assert below is not None
            found += _of(below, click.Context(below, info_name=word, parent=ctx))
    return found


def _page(command: click.Command, ctx: click.Context, name: str) -> str:
    paragraphs = cleandoc(command.help or "").split("\n\n")
    examples = [p for p in paragraphs if p.lstrip("\b\n").startswith(_EXAMPLES)]
    about = command.short_help or paragraphs[0].replace("\n", " ")
    usage = " ".join(command.collect_usage_pieces(ctx))
    lines = [
        f'.TH {name.upper()} 1 "" "emu {__version__}" "User Commands"',
        ".SH NAME", _text(f"{name} - {about.rstrip('.')}"),
        ".SH SYNOPSIS", f".B {_text(ctx.command_path)}", _text(usage),
        ".SH DESCRIPTION", *_paragraphs([p for p in paragraphs if p not in examples]),
        *_options(command, ctx),
        *_commands(command, ctx, name),
    ]  # fmt: skip
    if examples:
        lines += [".SH EXAMPLES", *_paragraphs([p.partition(":\n")[2] for p in examples], as_written=True)]
    if isinstance(command, LazyGroup):
        lines += [".SH TOPICS", *_table((f"emu help {word}", title(page)) for word, page in topics().items())]
    elif ctx.parent is not None:
        lines += [".SH SEE ALSO", f".BR {_text(ctx.parent.command_path.replace(' ', '-'))} (1)"]
    return "".join(f"{line}\n" for line in lines)


def _options(command: click.Command, ctx: click.Context) -> list[str]:
    records = (p.get_help_record(ctx) for p in command.get_params(ctx) if isinstance(p, click.Option))
    return [".SH OPTIONS", *_table(record for record in records if record is not None)]


def _commands(command: click.Command, ctx: click.Context, name: str) -> list[str]:
    if not isinstance(command, click.Group):
        return []
    found = ((word, command.get_command(ctx, word)) for word in command.list_commands(ctx))
    rows = ((f"{name}-{word}(1)", below.get_short_help_str(1000)) for word, below in found if below)
    return [".SH COMMANDS", *_table(rows)]


def _table(rows: Iterable[tuple[str, str]]) -> list[str]:
    lines: list[str] = []
    for word, text in rows:
        lines += [".TP", f".B {_text(word)}", _text(text)]
    return lines


def _paragraphs(paragraphs: list[str], *, as_written: bool = False) -> list[str]:
    """Text that a manual page fills, or (behind click's mark) keeps as it is."""
    lines: list[str] = []
    for paragraph in paragraphs:
        body = paragraph.lstrip("\n")
        kept = as_written or body.startswith("\b")
        body = body.removeprefix("\b\n")
        lines += [
            ".PP",
            *([".nf"] if kept else []),
            *map(_text, body.splitlines()),
            *([".fi"] if kept else []),
        ]
    return lines


def _text(text: str) -> str:
    """A line of text as roff takes it literally."""
    plain = " ".join(text.split("\n")).replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{plain}" if plain[:1] in (".", "'") else plain


def main() -> int:
    """Compare the pages with the help texts, or write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--update", action="store_true", help="write the pages")
    update = parser.parse_args().update
    there = {path.name: path.read_text(encoding="utf-8") for path in PAGES.glob("*.1")}
    wanted = pages()
    if there == wanted:
        return 0
    if not update:
        stale = sorted(name for name in there.keys() | wanted if there.get(name) != wanted.get(name))
        print(
            f"man/ is not what the help texts say ({', '.join(stale)}): tools/man.py --update",
            file=sys.stderr,
        )
        return 1
    PAGES.mkdir(exist_ok=True)
    for name in there.keys() - wanted:
        (PAGES / name).unlink()
    for name, text in wanted.items():
        (PAGES / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
