"""The command lines that have a guest's command line in them:
which words are emu's, and which are PROGRAM's.
"""

from __future__ import annotations

from typing import Any

import click

from emu.cli import notes

_SEPARATED = "emu.cli.separated"


class OptionalFile(click.Option):
    """An option that may have a file's name behind `=`:
    --json, --json=FILE. Its value is None, "" without a name, or that name.

    A GuestCommand writes the first form as `--json=`, since click would take the word that follows for the
    name.
    """

    def __init__(self, declarations: list[str], **attributes: Any) -> None:
        super().__init__(declarations, callback=_asked_for, **attributes)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Show the name as what may be left out."""
        record = super().get_help_record(ctx)
        return record and (f"{self.opts[0]}[=FILE]", record[1])


def _asked_for(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Return the value; where a default comes from the environment or the
    project, `true` asks for no file.
    """
    if value is None or ctx.get_parameter_source(param.name or "") is click.core.ParameterSource.COMMANDLINE:
        return value
    return {"true": "", "1": "", "false": None, "0": None}.get(value.lower(), value)


class GuestCommand(click.Command):
    """A command with a program's arguments at its end: behind PROGRAM all words are PROGRAM's."""

    mixed = False
    """Options of emu's own may stand behind PROGRAM, too, up to the first word
    that can only be PROGRAM's (see MixedCommand).
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Split the words, and let click have them with a `--` between options and all else.

        Raises what click raises.
        """
        known = {
            name: p for p in self.get_params(ctx) for name in (*p.opts, *p.secondary_opts) if name[0] == "-"
        }
        words = list(args)
        options, positional, separated = self._split(known, words)
        theirs = [*positional, *words][self._places :]
        ctx.meta[_SEPARATED] = separated or bool(theirs)
        if positional or words or separated:
            options += ["--", *positional, *words]
        slips = [] if ctx.resilient_parsing or separated else self._slips(known, theirs)
        try:
            rest = super().parse_args(ctx, options)
        except click.MissingParameter as error:
            raise click.UsageError("; ".join((error.format_message().rstrip("."), *slips)), ctx) from None
        notes.tell_cost(ctx)
        for slip in slips:
            (notes.say if self.mixed else notes.say_on_terminal)(slip)
        return rest

    @property
    def _places(self) -> int:
        """How many words the command takes before those of PROGRAM."""
        return sum(isinstance(p, click.Argument) and p.nargs == 1 for p in self.params)

    def _split(
        self, known: dict[str, click.Parameter], words: list[str]
    ) -> tuple[list[str], list[str], bool]:
        """Take emu's words away and return them: options, others, and whether a `--` ended them."""
        options: list[str] = []
        positional: list[str] = []
        while words and (self.mixed or not positional):
            word = words.pop(0)
            if word == "--":
                return options, positional, True
            taken = _reads(known, word)
            full = len(positional) == self._places
            if full and not taken:
                words.insert(0, word)
                break
            if word[:1] != "-" or word == "-":
                positional.append(word)
            elif taken == "file":
                options.append(f"{word}=")
            else:  # if it is unknown click says what is wrong with it
                options += [word, *(words[:1] if taken == "value" else ())]
                del words[: taken == "value"]
        return options, positional, False

    def _slips(self, known: dict[str, click.Parameter], theirs: list[str]) -> list[str]:
        """Return a sentence about the first word that reads as an option of
        emu's, but is given to the program.
        """
        read = (w for w in theirs if _reads(known, w) and (self.mixed or w.startswith("--")))
        slip = next((word for word in read if word not in ("--help", "-h", "--version")), None)
        before = "its arguments" if self.mixed else "PROGRAM"
        return [f"{slip} is given to the program; options of emu's go before {before}"] if slip else []


class MixedCommand(GuestCommand):
    """A command whose own options may stand behind PROGRAM.

    The first word that can only be PROGRAM's (one more than this command takes, or an option that it does not
    have) ends them, and so does `--`.
    """

    mixed = True


def has_arguments() -> bool:
    """Whether the command line of this command gives PROGRAM arguments, if only an
    empty list of them behind `--`.
    """
    found: bool = click.get_current_context().meta[_SEPARATED]
    return found


def _reads(known: dict[str, click.Parameter], word: str) -> str:
    """Return how a word is read if it is an option:
    `alone`, with a `value` in the next word, or as one that may have a `file`; else nothing.
    """
    if word.startswith("--"):
        name, equals, _ = word.partition("=")
        if name not in known:
            return ""
        return "alone" if equals else _needs(known[name])
    if word[:1] != "-" or len(word) == 1:
        return ""
    for at, letter in enumerate(word[1:], 1):
        option = known.get(f"-{letter}")
        if option is None:
            return ""
        if _needs(option) == "value":
            return "value" if at == len(word) - 1 else "alone"
    return "alone"


def _needs(option: click.Parameter) -> str:
    if isinstance(option, OptionalFile):
        return "file"
    return "alone" if isinstance(option, click.Option) and (option.is_flag or option.count) else "value"
