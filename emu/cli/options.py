"""What sub-commands share: the guest's environment and file system, and how PROGRAM is found."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import click

from emu.cli import parameters, schedule
from emu.core.errors import EXIT_LOADER, EXIT_NOT_EXECUTABLE, ProgramError
from emu.core.events import CATEGORIES, ON_REQUEST
from emu.kernel.clock import EPOCH_NS
from emu.process import RunConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from emu.core.events import EventBus
    from emu.kernel.policy import Policy
    from emu.trace.output import TraceWriter

    Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_PATH = "/bin:/usr/bin"
"""What execvp searches where PATH is not set (glibc posix/execvpe.c, confstr _CS_PATH)."""

GUEST_CONTEXT = {"ignore_unknown_options": False, "allow_interspersed_args": False}
"""Options after PROGRAM are the guest's."""


SEPARATED = "emu.cli.separated"
"""Where a SeparatedCommand notes it, in its context's `meta`."""


class SeparatedCommand(click.Command):
    """A command that knows whether there was a `--` before the guest's arguments."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as any command does."""
        ctx.meta[SEPARATED] = "--" in args
        return super().parse_args(ctx, args)


def _variables(_ctx: click.Context, _param: click.Parameter, words: tuple[str, ...]) -> dict[str, str]:
    result = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{word!r} is not NAME=VALUE")
        result[name] = value
    return result


def guest_options(function: Command) -> Command:
    """Add --env, --clean-env and --sysroot."""
    for option in (
        click.option(
            "--sysroot",
            type=click.Path(exists=True, file_okay=False),
            default="/",
            metavar="DIR",
            help="The guest's root directory.",
        ),
        click.option("--clean-env", is_flag=True, help="Start from an empty environment, not from this one."),
        click.option(
            "--env",
            "variables",
            multiple=True,
            callback=_variables,
            metavar="NAME=VALUE",
            help="Set a variable of the guest; repeatable.",
        ),
    ):
        function = option(function)
    return function


def trace_options(function: Command) -> Command:
    """Add --trace, --trace-output, --trace-format and --force; the command gets them as `tracing`."""

    @wraps(function)
    def with_tracing(
        *args: Any,
        categories: tuple[str, ...] | None,
        trace_output: str | None,
        trace_format: str | None,
        force: bool,
        **rest: Any,
    ) -> Any:
        forced = force and not rest.get("output")  # it is for the answer's file, too, where there is one
        if categories is None and (trace_output or trace_format or forced):
            raise click.UsageError("--trace-output, --trace-format and --force need --trace")
        tracing = Tracing(categories or (), trace_output, trace_format or "text", force)
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
            "--trace-output", metavar="FILE", help="Where the trace goes; standard error otherwise."
        ),
        click.option(
            "--trace",
            "categories",
            callback=parameters.categories,
            metavar="CATEGORIES",
            help=f"What to trace, comma-separated: {', '.join(CATEGORIES)}, or all; and only on request {', '.join(ON_REQUEST)}.",
        ),
    ):
        with_tracing = option(with_tracing)
    return cast("Command", with_tracing)


_RUN_OPTIONS = {
    "schedule": click.option(
        "--schedule", callback=schedule.check, default="round-robin", metavar="POLICY",
        help="Which thread runs next: round-robin (default), random (by --seed), or replay:FILE.",
    ),
    "record_schedule": click.option(
        "--record-schedule", metavar="FILE", help="Write the decisions about threads to FILE, for replay:FILE."
    ),
    "seed": click.option(
        "--seed", type=click.IntRange(0, (1 << 64) - 1), default=0, metavar="N",
        help="Seed of the guest's random bytes and of a random schedule (default 0).",
    ),
    "start_time": click.option(
        "--time", "start_time", callback=parameters.start_time, default=str(EPOCH_NS // 10**9), metavar="now|SECONDS",
        help="The guest's time at the start, in seconds since 1970 (default: 2024-01-01, so that runs are alike).",
    ),
    "writable": click.option(
        "--writable", multiple=True, type=click.Path(exists=True, file_okay=False), metavar="DIR",
        help="Let writes under DIR through to the host; others vanish at exit. Repeatable.",
    ),
    "max_memory": click.option(
        "--max-memory", callback=parameters.size, metavar="SIZE",
        help="Limit of the guest's memory, as in 512M.",
    ),
    "timeout": click.option(
        "--timeout", type=click.FloatRange(0, min_open=True), metavar="SECONDS",
        help="End the run with exit code 124 after that time.",
    ),
    "tls_dtors": click.option(
        "--tls-dtors", type=click.Choice(["model", "guest"]), default="model",
        help="Who runs thread_local destructors: emu's model (default) or libc's own code.",
    ),
    "unload_rule": click.option(
        "--unload-rule", type=click.Choice(["dtor-count", "nodelete-flag"]), default="dtor-count",
        help="What keeps a DSO with pending thread_local destructors: their count, as in glibc 2.23 and later (default), or NODELETE, as in 2.18 to 2.22.",
    ),
}  # fmt: skip
_OF_THE_SCHEDULE = ("schedule", "record_schedule")


def run_config(
    program: str,
    arguments: tuple[str, ...],
    variables: dict[str, str],
    clean_env: bool,
    sysroot: str,
    **fields: Any,
) -> RunConfig:
    """Return the run of a program, which is searched for as a shell does, from what `guest_options` say. `fields` are others of RunConfig.

    Raises ProgramError.
    """
    env = environment(variables, clean_env)
    found = find_program(program, env.get("PATH", DEFAULT_PATH), sysroot)
    ignored, blocked = inherited_signals()
    return RunConfig(
        found,
        arguments,
        env,
        guest_directory(sysroot),
        sysroot,
        argv0=program,
        ignored=ignored,
        blocked=blocked,
        nice=os.getpriority(os.PRIO_PROCESS, 0),
        **fields,
    )


def inherited_signals() -> tuple[tuple[int, ...], int]:
    """Return the signals that our parent has ignored, as nohup does and shells do for jobs in the background, and those that it has
    blocked, as a mask. That of SIGPIPE and SIGXFSZ cannot be known: Python itself ignores them.
    """
    unknown = (signal.SIGPIPE, signal.SIGXFSZ)
    ignored = (
        n for n in signal.valid_signals() if n not in unknown and signal.getsignal(n) == signal.SIG_IGN
    )
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    return tuple(sorted(ignored)), sum(1 << number - 1 for number in blocked)


class Running(NamedTuple):
    """How a program is to be run: what `run_options` and `guest_options` say. `fields` are those of RunConfig."""

    fields: dict[str, Any]
    schedule: str
    record_schedule: str | None
    variables: dict[str, str]
    clean_env: bool

    def config(self, program: str, arguments: tuple[str, ...]) -> RunConfig:
        """Return the run of a program, which is searched for as a shell does. Raises ProgramError."""
        return run_config(program, arguments, self.variables, self.clean_env, **self.fields)

    @contextmanager
    def policy(self) -> Iterator[Policy]:
        """Give the schedule, recorded if that was asked for. Raises ScheduleError and TraceError."""
        policy = schedule.make_policy(self.schedule, self.fields["seed"])
        with schedule.recorded(policy, self.record_schedule) as recorder:
            yield recorder

    @contextmanager
    def scheduled(self, config: RunConfig) -> Iterator[RunConfig]:
        """Give the run its schedule. Raises as `policy` does."""
        with self.policy() as policy:
            yield config._replace(policy=policy)


def run_options(function: Command) -> Command:
    """Add all options of a run but those of tracing; the command gets them as `running`."""
    return _running(function, tuple(_RUN_OPTIONS))


def session_options(function: Command) -> Command:
    """Add those options of a run that `emu.Process` takes; the command gets them as `running`."""
    return _running(function, tuple(name for name in _RUN_OPTIONS if name not in ("start_time", "timeout")))


def _running(function: Command, names: tuple[str, ...]) -> Command:
    @wraps(function)
    def with_running(
        *args: Any,
        schedule: str,
        record_schedule: str | None,
        variables: dict[str, str],
        clean_env: bool,
        sysroot: str,
        **rest: Any,
    ) -> Any:
        fields = {name: rest.pop(name) for name in names if name not in _OF_THE_SCHEDULE}
        fields["sysroot"] = sysroot
        if fields["unload_rule"] == "nodelete-flag" and fields["tls_dtors"] == "guest":
            raise click.UsageError(
                "--unload-rule nodelete-flag is not what the guest's libc does: it needs --tls-dtors model"
            )
        running = Running(fields, schedule, record_schedule, variables, clean_env)
        return function(*args, running=running, **rest)

    for name in reversed(names):
        with_running = _RUN_OPTIONS[name](with_running)
    return cast("Command", guest_options(with_running))


class Tracing(NamedTuple):
    """What the user wants traced, where to and in which format."""

    categories: tuple[str, ...]
    path: str | None
    form: str
    force: bool

    @contextmanager
    def attached(self, bus: EventBus) -> Iterator[None]:
        """Subscribe a writer for the duration of a run. Raises TraceError."""
        if not self.categories:
            yield
            return
        from emu.trace.output import ended_by

        flush = self._chrome(bus) if self.form == "chrome" else self._writer(bus).flush
        with ended_by(flush, lambda: bus.upcoming > 1):
            yield

    def _chrome(self, bus: EventBus) -> Callable[[], None]:
        """Subscribe a Chrome trace and return what ends it."""
        from emu.cli.last_words import flush_before_death
        from emu.trace import chrome, jsonl, text
        from emu.trace.output import TraceWriter, open_output

        beginnings = (*text.BEGINNINGS, jsonl.BEGINNING, chrome.BEGINNING)
        where = self.path or "standard error"
        descriptor = 2 if self.path is None else open_output(self.path, beginnings, force=self.force)
        trace = chrome.ChromeTrace(
            TraceWriter(descriptor, where, text.render, buffered=True, fresh=self.path is not None),
            self.categories,
        )
        flush_before_death(trace.close)
        bus.subscribe(trace, {*self.categories, *chrome.TRACKS})
        return trace.close

    def _writer(self, bus: EventBus) -> TraceWriter:
        from emu.trace import text
        from emu.trace.output import TraceWriter, open_output

        path, form = self.path, self.form
        render = text.render_brief if form == "brief" else text.render
        beginnings = text.BEGINNINGS
        if form == "jsonl" or path is not None:
            from emu.trace import chrome, jsonl

            beginnings = (*text.BEGINNINGS, jsonl.BEGINNING, chrome.BEGINNING)
            render = jsonl.render if form == "jsonl" else render
        if path is None:
            if form == "text" and os.isatty(2) and wants_colour():
                render = text.render_coloured
            writer = TraceWriter(2, "standard error", render, buffered=False)
        else:
            writer = TraceWriter(
                open_output(path, beginnings, force=self.force), path, render, buffered=True, fresh=True
            )
            if form != "jsonl":
                writer.line(text.BRIEF_BEGINNING if form == "brief" else text.BEGINNING)
            from emu.cli.last_words import flush_before_death

            flush_before_death(writer.flush)
        bus.subscribe(writer, self.categories)
        return writer


def wants_colour() -> bool:
    """Whether a terminal, if there is one, shall have colour. Source: no-color.org."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


def environment(variables: dict[str, str], clean: bool) -> dict[str, str]:
    """Return the guest's environment: ours unless `clean`, with `variables` set in it."""
    return variables if clean else dict(os.environ) | variables


def guest_directory(sysroot: str) -> str:
    """Return the guest's working directory: ours where it lies in the sysroot, its root otherwise.

    Raises ProgramError when ours is gone.
    """
    try:
        here = os.getcwd()
    except FileNotFoundError:
        raise ProgramError("the working directory no longer exists") from None
    root = os.path.realpath(sysroot)
    if root == "/":
        return here
    return here.removeprefix(root) or "/" if f"{here}/".startswith(f"{root}/") else "/"


def find_program(name: str, path: str, sysroot: str) -> str:
    """Return the guest path of `name`: itself if it has a slash, otherwise the first executable in `path`.

    Raises ProgramError: 127 when there is none, 126 when there are only files that may not be executed.
    Source: execvp(3); glibc posix/execvpe.c:__execvpe_common.
    """
    if "/" in name:
        return name
    if not name:
        raise ProgramError("'': command not found", EXIT_LOADER)
    denied = False
    for folder in path.split(":"):
        candidate = f"{folder.rstrip('/')}/{name}" if folder else f"./{name}"
        host = candidate if sysroot == "/" else os.path.join(sysroot, candidate.lstrip("/"))
        # Links of another root cannot be followed here; the process does it, by the guest's rules.
        if os.path.isfile(host) or (sysroot != "/" and os.path.islink(host)):
            if os.path.islink(host) or os.access(host, os.X_OK):
                return candidate
            denied = True
    if denied:
        raise ProgramError(f"{name}: Permission denied", EXIT_NOT_EXECUTABLE)
    hint = f" (the file here is ./{name})" if sysroot == "/" and os.path.isfile(name) else ""
    raise ProgramError(f"{name}: command not found{hint}", EXIT_LOADER)
