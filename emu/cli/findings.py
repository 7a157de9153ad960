"""What `emu check` and `emu conflicts` share: the options of a report of findings, and how it is written."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from emu.cli import notes
from emu.cli.answers import Answering, answer_options
from emu.cli.guest import OptionalFile
from emu.core.errors import EXIT_FINDINGS
from emu.core.record import NamedTuple
from emu.trace.output import check_output, write_output

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from emu.analysis.check_data import ConflictReport, Finding, Report
    from emu.analysis.check_suppress import Suppression

_BEGINNINGS = ("emu check: ", "emu conflicts: ", "emu: ")
"""Of their own reports as text: other files are not overwritten."""
_SUPPRESSIONS = ("[[suppression]]",)


class Writing(NamedTuple):
    """How a report is to be written; where suppressions for it go: None for none, "" for behind it."""

    answering: Answering
    gen_suppressions: str | None
    hidden: list[Suppression]

    def shown(self, findings: Sequence[Finding]) -> tuple[tuple[Finding, ...], int]:
        """Return the findings that are not suppressed, and how many are."""
        from emu.analysis import check_suppress

        shown, count = check_suppress.split(findings, self.hidden)
        return tuple(shown), count

    def write(self, report: Report | ConflictReport, text: Callable[[], str]) -> int:
        """Write a report, as JSON or as the text that is asked for; return the exit code."""
        from emu.analysis import check_text

        known = check_text.suppressions(report.findings) if self.gen_suppressions is not None else ""
        behind = f"\n{known}" if self.gen_suppressions == "" else ""
        self.answering.write(report, lambda: text() + behind)
        write_suppressions(self.gen_suppressions, known)
        return EXIT_FINDINGS if report.findings else report.exit_code


def suppression_options(command: Any) -> Any:
    """Add --suppressions and --gen-suppressions; the command gets them as `suppressions` and
    `gen_suppressions`.
    """
    for option in (
        click.option(
            "--gen-suppressions", cls=OptionalFile,
            help="Write suppressions for what was found to FILE, or without one behind the report.",
        ),
        click.option(
            "--suppressions", multiple=True, metavar="FILE",
            help="Hide what FILE (TOML) names; repeatable.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def loaded(
    suppressions: tuple[str, ...], gen_suppressions: str | None, answering: Answering
) -> list[Suppression]:
    """Return what the files of --suppressions name. Raises SuppressionError, TraceError, UsageError."""
    from emu.analysis import check_suppress

    if gen_suppressions == "" and answering.as_json:
        raise click.UsageError("JSON has no room for suppressions: say --gen-suppressions=FILE")
    if gen_suppressions:
        check_output(gen_suppressions, _SUPPRESSIONS, what="suppressions")
    return [entry for path in suppressions for entry in check_suppress.load(path)]


def write_suppressions(path: str | None, known: str) -> None:
    """Write suppressions, a file's text, to the file that --gen-suppressions names, if it does.

    Raises TraceError.
    """
    if path and known:
        write_output(path, known, "suppressions")
        notes.written(path)
    elif path:
        notes.say(f"nothing to suppress: {path} not written")


def report_options(answer: str, title: str) -> Callable[[Any], Any]:
    """Return a decorator that adds the options of a report,
    which is the dataclass `answer` of `emu.analysis.check_data`.

    The command gets them as `writing`. Raises SuppressionError and TraceError.
    """

    def decorate(function: Any) -> Any:
        @wraps(function)
        def with_writing(
            *args: Any,
            suppressions: tuple[str, ...],
            gen_suppressions: str | None,
            answering: Answering,
            **rest: Any,
        ) -> Any:
            hidden = loaded(suppressions, gen_suppressions, answering)
            return function(*args, writing=Writing(answering, gen_suppressions, hidden), **rest)

        command = suppression_options(with_writing)
        return answer_options(f"analysis.check_data:{answer}", title, _BEGINNINGS)(command)

    return decorate
