"""`emu help`: pages about one topic each, and the help texts of the other commands;
tests/test_docs.py sees to it that every output is real.
"""

from __future__ import annotations

from pathlib import Path

import click

from emu.cli import completion, markdown
from emu.cli.group import COMMANDS, meant
from emu.core.text import aligned

PAGES = Path(__file__).resolve().parent.parent / "docs"


def topics() -> dict[str, Path]:
    """Return the pages by their names, sorted."""
    return {page.stem: page for page in sorted(PAGES.glob("*.md"))}


def title(page: Path) -> str:
    """Return a page's heading."""
    with page.open(encoding="utf-8") as file:
        return file.readline().lstrip("# ").rstrip()


@click.command("help", short_help="Show a page about a topic, or the help of a command.")
@click.argument("topic", required=False, shell_complete=completion.topics)
@click.pass_context
def command(ctx: click.Context, topic: str | None) -> None:
    """Show the page about TOPIC, the help of a command of that name, or without one the list of topics.

    \b
    Examples:
      emu help                 all topics
      emu help checks          what emu check finds
      emu help run             as emu run --help
      emu help python | less   as plain Markdown
    """
    pages = topics()
    if topic is None:
        print("Topics (emu help TOPIC):")
        for line in aligned([(name, title(page)) for name, page in pages.items()]):
            print(f"  {line}")
        print(f"Commands (emu help COMMAND): {', '.join(COMMANDS)}")
    elif topic in pages:
        markdown.show(pages[topic].read_text(encoding="utf-8"))
    elif topic in COMMANDS:
        _help_of(ctx, topic)
    else:
        near = meant(topic, (*pages, *COMMANDS))
        raise click.UsageError(f"no topic and no command {topic!r}{near}; topics: {', '.join(pages)}")


def _help_of(ctx: click.Context, name: str) -> None:
    parent = ctx.parent
    assert parent is not None and isinstance(parent.command, click.Group)
    found = parent.command.get_command(parent, name)
    assert found is not None
    with click.Context(found, info_name=name, parent=parent) as context:
        print(found.get_help(context))
