"""`emu completion`: what a shell needs to complete commands, options, files, trace
categories, rules, topics and lessons.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_SHELLS = ("bash", "zsh", "fish")
_VARIABLE = "_EMU_COMPLETE"


@click.command("completion", short_help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print a script for SHELL that completes emu's command lines.

    \b
    Examples:
      eval "$(emu completion bash)"                                        in ~/.bashrc
      eval "$(emu completion zsh)"                                         in ~/.zshrc
      emu completion fish > ~/.config/fish/completions/emu.fish
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    text = found(ctx.find_root().command, {}, "emu", _VARIABLE).source()
    # Click's script for fish cuts what is behind a second comma: of `plain,dl,dtors` and of help texts.
    print(text.replace('(string split ","', '(string split --max 1 ","'))


def _item(value: str, about: str | None = None, kind: str = "plain") -> CompletionItem:
    from click.shell_completion import CompletionItem

    return CompletionItem(value, kind, about)


def files(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a file, by the shell's own means."""
    return [_item(incomplete, kind="file")]


def categories(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the last of comma-separated trace categories."""
    from emu.core.events import CATEGORIES, ON_REQUEST

    before, comma, last = incomplete.rpartition(",")
    taken = before.split(",")
    names = (*CATEGORIES, *ON_REQUEST, "all")
    return [_item(before + comma + n) for n in names if n.startswith(last) and n not in taken]


def rules(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a rule of `emu check`."""
    from emu.analysis.check_data import RULES

    return [_item(name, rule.about) for name, rule in RULES.items() if name.startswith(incomplete)]


def topics(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a topic or command of `emu help`."""
    from emu.cli import help as pages
    from emu.cli.group import COMMANDS

    found = [_item(name, pages.title(page)) for name, page in pages.topics().items()]
    found += [_item(name) for name in COMMANDS if name not in pages.topics()]
    return [item for item in found if item.value.startswith(incomplete)]


def lessons(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the number of a lesson."""
    from emu.cli import tour

    found = [page.stem.partition("-")[::2] for page in tour.lessons()]
    return [_item(n, name.replace("-", " ")) for n, name in found if n.startswith(incomplete)]
