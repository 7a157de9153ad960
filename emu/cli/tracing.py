"""Options of a trace, and where a trace goes."""

from __future__ import annotations

import os
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from emu.cli import completion, notes, parameters
from emu.cli.answers import wants_colour
from emu.core.events import CATEGORIES, ON_REQUEST
from emu.core.record import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from emu.core.events import EventBus, Record
    from emu.trace.output import TraceWriter

    Command = TypeVar("Command", bound=Callable[..., Any])


def _on_the_command_line(parameter: str) -> bool:
    """Whether an option was typed: a default from the environment or the
    project asks for nothing by itself.
    """
    source = click.get_current_context().get_parameter_source(parameter)
    return source is click.core.ParameterSource.COMMANDLINE


def trace_options(function: Command) -> Command:
    """Add --trace, --trace-output, --trace-format and --force; the command gets them as `tracing`."""

    @wraps(function)
    def with_tracing(
        *args: Any,
        asked: parameters.Asked | None,
        trace_output: str | None,
        trace_format: str | None,
        force: bool,
        follow: str,
        **rest: Any,
    ) -> Any:
        forced = force and not (
            rest.get("output") or rest.get("json_file")
        )  # it is for the answer's file, too, where there is one
        said = any(map(_on_the_command_line, ("trace_output", "trace_format")))
        if asked is None and (said or forced):
            raise click.UsageError("--trace-output, --trace-format and --force need --trace")
        asked = asked or parameters.Asked((), {})
        if asked.filters and trace_format == "chrome":
            raise click.UsageError(
                "a Chrome trace cannot be filtered by name: its tracks are made of all events"
            )
        tracing = Tracing(asked, trace_output, trace_format or "text", force, follow)
        return function(*args, tracing=tracing, **rest)

    for option in (
        click.option("--force", is_flag=True, help="Let the output overwrite a file that is something else."),
        click.option(
            "--trace-format",
            type=click.Choice(["text", "brief", "jsonl", "chrome"]),
            help="Text for people (default), text with no columns but the thread, JSON Lines, or Chrome trace-event JSON for Perfetto "
            "(tracks of threads and of objects).",
        ),
        click.option(
            "--trace-output",
            metavar="FILE",
            help="Where the trace goes (- is standard output); standard error otherwise.",
        ),
        click.option(
            "--trace",
            "asked",
            callback=parameters.traced,
            shell_complete=completion.categories,
            metavar="CATEGORIES",
            help=f"What to trace, comma-separated: {', '.join(CATEGORIES)}, or all; and only on request {', '.join(ON_REQUEST)}. "
            "CATEGORY:NAME shows only what names that symbol or object (* and ? as in a shell).",
        ),
        follow_option(
            "Which processes that the program starts are traced (emu why: asked), too: all (default), none, or those that run a program of that name."
        ),
    ):
        with_tracing = option(with_tracing)
    return cast("Command", with_tracing)


def follow_option(text: str, **kept: Any) -> Callable[[Command], Command]:
    """Return the option that says which processes of the run are looked at."""
    return click.option("--follow", default="all", metavar="all|none|NAME", help=text, **kept)


class Tracing(NamedTuple):
    """What the user wants traced, where to and in which format."""

    asked: parameters.Asked
    path: str | None
    form: str
    force: bool
    follow: str = "all"

    @contextmanager
    def attached(self, bus: EventBus) -> Iterator[None]:
        """Subscribe a writer for the duration of a run. Raises TraceError."""
        if not self.asked.categories:
            yield
            return
        from emu.trace.output import STREAMS, ended_by

        flush = self._chrome(bus) if self.form == "chrome" else self._writer(bus).flush
        with ended_by(flush, lambda: bus.upcoming > 1):
            yield
        if self.path is not None and self.path not in STREAMS:
            notes.written(self.path)

    def _followed(self, sink: Callable[[Record], None], bus: EventBus) -> Callable[[Record], None]:
        """Return a sink that gets what is to be followed."""
        if self.follow == "all":
            return sink
        from emu.trace.filter import Following

        return Following(sink, self.follow, bus.programs)

    def _chrome(self, bus: EventBus) -> Callable[[], None]:
        """Subscribe a Chrome trace and return what ends it."""
        from emu.cli.last_words import flush_before_death
        from emu.trace import chrome, jsonl, text
        from emu.trace.output import STREAMS, TraceWriter, open_output

        beginnings = (*text.BEGINNINGS, jsonl.BEGINNING, chrome.BEGINNING)
        fresh = self.path not in STREAMS
        descriptor, where = (
            (open_output(str(self.path), beginnings, force=self.force), str(self.path))
            if fresh
            else STREAMS[self.path]
        )
        trace = chrome.ChromeTrace(
            TraceWriter(descriptor, where, text.render, buffered=True, fresh=fresh),
            self.asked.categories,
        )
        flush_before_death(trace.close)
        bus.subscribe(self._followed(trace, bus), {*self.asked.categories, *chrome.TRACKS}, None)
        return trace.close

    def _writer(self, bus: EventBus) -> TraceWriter:
        from emu.trace import text
        from emu.trace.output import STREAMS, TraceWriter, open_output

        path, form = self.path, self.form
        render = text.render_brief if form == "brief" else text.render
        beginnings = text.BEGINNINGS
        stream = STREAMS.get(path)
        if form == "jsonl" or stream is None:
            from emu.trace import chrome, jsonl

            beginnings = (*text.BEGINNINGS, jsonl.BEGINNING, chrome.BEGINNING)
            render = jsonl.render if form == "jsonl" else render
        if stream is not None:
            if form == "text" and os.isatty(stream[0]) and wants_colour():
                render = text.render_coloured
            writer = TraceWriter(*stream, render, buffered=False)
        else:
            assert path is not None
            writer = TraceWriter(
                open_output(path, beginnings, force=self.force), path, render, buffered=True, fresh=True
            )
            if form != "jsonl":
                writer.line(text.BRIEF_BEGINNING if form == "brief" else text.BEGINNING)
            from emu.cli.last_words import flush_before_death

            flush_before_death(writer.flush)
        sink: Callable[[Record], None] = writer
        if self.asked.filters:
            from emu.trace.filter import Filter

            sink = Filter(writer, self.asked.filters)
        bus.subscribe(self._followed(sink, bus), self.asked.categories, None)
        return writer
