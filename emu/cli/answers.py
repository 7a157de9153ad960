"""How every command answers: as text or as JSON, to a file or to the standard
stream that the program does not need.

Standard output is the program's, so the answer of a command that runs one stands on standard error. It stands
on standard output if no program runs, if its output is kept away (--quiet-program), and for `-o -`.
"""

from __future__ import annotations

import os
import sys
from functools import wraps
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import click

from emu.cli import notes
from emu.cli.guest import OptionalFile
from emu.core.record import NamedTuple
from emu.trace.output import STANDARD_OUTPUT, check_output, write_answer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from emu.process import RunConfig

    Stdio = tuple[int | None, int | None, int | None]

JSON_BEGINNING = '{\n  "program"'


class Answering(NamedTuple):
    """How an answer is to be given: as JSON or as text; to the file `path`, or (None) to a standard stream;
    whether the program's own output is kept away. `runs` tells whether a program runs at all, `force` whether
    files that are something else may be overwritten.
    """

    as_json: bool
    path: str | None
    quiet_program: bool
    runs: bool
    force: bool

    def config(self, config: RunConfig) -> RunConfig:
        """Return the run with the program's output where it belongs."""
        if not self.quiet_program:
            return config
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        return config._replace(stdio=(config.stdio[0], nowhere, nowhere))

    @property
    def stream(self) -> int:
        """The descriptor of the standard stream that the answer goes to, 0 if it goes to a file."""
        if self.path not in (None, STANDARD_OUTPUT):
            return 0
        return 2 if self.path is None and self.runs and not self.quiet_program else 1

    @property
    def colour(self) -> bool:
        """Whether the text shall have colour."""
        return bool(self.stream) and os.isatty(self.stream) and wants_colour()

    @property
    def width(self) -> int:
        """The columns of the terminal that the text goes to, 0 if it goes elsewhere."""
        if not self.stream or not os.isatty(self.stream):
            return 0
        from shutil import get_terminal_size

        return get_terminal_size().columns

    def write(self, answer: Any, text: Callable[[], str]) -> None:
        """Write an answer: a dataclass, and what makes text of it. Raises TraceError."""
        import json

        from emu.analysis.data import as_json

        told = json.dumps(as_json(answer), indent=2) + "\n" if self.as_json else text()
        if self.stream == 1:
            sys.stdout.write(told)
            sys.stdout.flush()
        else:
            write_answer(self.path, told)
        if self.path is not None and not self.stream:
            notes.written(self.path)


def wants_colour() -> bool:
    """Whether a terminal, if there is one, shall have colour. Source: no-color.org."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


def answer_options(
    answer: str, title: str, beginnings: Sequence[str] = (), *, runs: bool = True, forces: bool = True
) -> Callable[[Any], Any]:
    """Return a decorator that adds --json, --schema, --output, --force (unless another adds it) and,
    where a program `runs`, --quiet-program.

    The command gets them as `answering`. `answer` is the dataclass that `Answering.write` gets, as
    MODULE:NAME below emu; `title` that of its schema. A file that begins with one of `beginnings` is an
    earlier answer. Raises TraceError for a file that is something else.
    """

    def decorate(function: Any) -> Any:
        @wraps(function)
        def with_answering(
            *args: Any, json_file: str | None, output: str | None, quiet_program: bool = False, **rest: Any
        ) -> Any:
            force = rest.pop("force") if forces else rest["tracing"].force
            if json_file and output is not None:
                raise click.UsageError("--json=FILE and --output both say where the answer goes: choose one")
            path = json_file or output
            if path is not None:
                check_output(path, (*beginnings, JSON_BEGINNING), force=force, what="answer")
            answering = Answering(json_file is not None, path, quiet_program, runs, bool(force))
            return function(*args, answering=answering, **rest)

        command: Any = with_answering
        for option in reversed(_options(answer, title, runs=runs, forces=forces)):
            command = option(command)
        return command

    return decorate


def _options(answer: str, title: str, *, runs: bool, forces: bool) -> list[Callable[[Any], Any]]:
    def print_schema(ctx: click.Context, _param: click.Parameter, asked: bool) -> None:
        if asked:
            import json

            from emu.analysis.data import schema

            module, _, name = answer.partition(":")
            kind = getattr(import_module(f"emu.{module}"), name)
            print(json.dumps(schema(kind, title), indent=2))
            ctx.exit()

    stream = "standard error" if runs else "standard output"
    made = [
        click.option("--json", "json_file", cls=OptionalFile, help="One JSON object instead of text; into FILE, if that is given."),
        click.option(
            "--schema", is_flag=True, is_eager=True, expose_value=False, callback=print_schema,
            help="Print the JSON Schema of --json and stop.",
        ),
        click.option("-o", "--output", metavar="FILE", help=f"Where the answer goes (- is standard output); {stream} otherwise."),
    ]  # fmt: skip
    if forces:
        made.append(
            click.option("--force", is_flag=True, help="Let the answer overwrite a file that is no answer.")
        )
    if runs:
        made.append(
            click.option(
                "--quiet-program", is_flag=True,
                help="Keep the program's output away; the answer then goes to standard output.",
            )
        )  # fmt: skip
    return cast("list[Callable[[Any], Any]]", made)
