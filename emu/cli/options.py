"""What sub-commands share: the guest's environment and file system, and how PROGRAM is found."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from emu.cli import deadline, last_words, ldso, notes, parameters, schedule
from emu.core.errors import ProgramError
from emu.core.record import NamedTuple
from emu.kernel.run.clock import EPOCH_NS
from emu.machine.engines import CPUS, ENGINES
from emu.process import RunConfig, named_sysroot
from emu.process.execvp import DEFAULT_PATH, find_program
from emu.process.hosting import is_library, needing, starts_nowhere

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from emu.kernel.run.policy import Policy

    Command = TypeVar("Command", bound=Callable[..., Any])


def _variables(_ctx: click.Context, _param: click.Parameter, words: tuple[str, ...]) -> dict[str, str]:
    result = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{word!r} is not NAME=VALUE")
        result[name] = value
    return result


_SYSROOT = click.option(
    "--sysroot",
    default="/",
    metavar="DIR|NAME",
    callback=lambda _context, _parameter, word: named_sysroot(word),
    help="The guest's root directory, or a name that `emu sysroot list` shows.",
)


def guest_options(function: Command) -> Command:
    """Add --env, --clean-env and --sysroot; --ldso real is refused."""
    return _guest_options(ldso.REFUSED(function))


def loader_options(function: Command) -> Command:
    """Add the same, and --ldso."""
    return _guest_options(ldso.OPTION(function))


def _guest_options(function: Command) -> Command:
    return _SYSROOT(_environment_options(function))


def _environment_options(function: Command) -> Command:
    for option in (
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


_RUN_OPTIONS = {
    "schedule": click.option(
        "--schedule", callback=schedule.check, default="round-robin", metavar="POLICY",
        help="Which thread runs next: round-robin (default), random (by --seed), or replay:FILE.",
    ),
    "preempt": click.option(
        "--preempt", type=click.Choice(["instructions", "blocks"]),
        help="Where a random schedule takes the CPU away: between any two instructions (default; each time costs about 0.1 ms), "
        "or only between basic blocks.",
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
    "writable_as_root": click.option(
        "--writable-as-root", is_flag=True,
        help="As root, let set-user-id and set-group-id bits and other owners through to --writable directories, too.",
    ),
    "max_memory": click.option(
        "--max-memory", callback=parameters.size, metavar="SIZE",
        help="Limit of the guest's memory, as in 512M (default 4G): pages that it has touched, and its files in memory; what is only mapped does not count.",
    ),
    "cpus": click.option(
        "--cpus", type=click.IntRange(1, 1024), default=1, metavar="N",
        help="How many processors the guest sees (default 1); its threads run one at a time all the same.",
    ),
    "max_processes": click.option(
        "--max-processes", type=click.IntRange(1, 4096), default=256, metavar="N",
        help="How many processes the guest may have at a time (default 256); fork then fails with EAGAIN.",
    ),
    "timeout": click.option(
        "--timeout", type=float, callback=deadline.seconds, metavar="SECONDS",
        help="End the run with exit code 124 after that time.",
    ),
    "tls_dtors": click.option(
        "--tls-dtors", type=click.Choice(["model", "guest"]), default="model",
        help="Who runs thread_local destructors: emu's model (default) or libc's own code.",
    ),
    "unload_rule": click.option(
        "--unload-rule", type=click.Choice(["dtor-count", "nodelete-flag"]), default="dtor-count",
        help="What keeps a DSO with pending thread_local destructors: their count, as in glibc 2.22 and later (default), or NODELETE, as in 2.18 to 2.21.",
    ),
    "engine": click.option(
        "--engine", type=click.Choice(ENGINES),
        help="What executes the code: unicorn (default) emulates an x86-64-v2 CPU anywhere; kvm is the host's own CPU, with AVX, at native speed "
        "(`emu engines` tells if it is there); auto is kvm for programs that unicorn cannot run. Without it EMU_ENGINE decides.",
    ),
    "cpu": click.option(
        "--cpu", type=click.Choice(CPUS), default="host",
        help="The level of the CPU that the program finds, as far as the engine has it (default: all there is).",
    ),
    "no_cache": click.option(
        "--no-cache", is_flag=True,
        help="Neither use nor keep what `emu cache list` shows of look-ups: only the start takes longer.",
    ),
    "all_frames": click.option(
        "--all-frames", is_flag=True, help="Show every frame of a backtrace: calls that repeat and those inside a language's own library, too."
    ),
}  # fmt: skip
_OF_THE_SCHEDULE = ("schedule", "preempt", "record_schedule")
_NOT_OF_SESSIONS = (
    "start_time",
    "timeout",
    "max_processes",
    "all_frames",
    "writable_as_root",
    "cpus",
    "no_cache",
)


def run_config(
    program: str,
    arguments: tuple[str, ...],
    variables: dict[str, str],
    clean_env: bool,
    sysroot: str,
    *,
    hosted: Callable[[RunConfig], RunConfig] | None = None,
    **fields: Any,
) -> RunConfig:
    """Return how to run a program, which is searched for as a shell does, with what `guest_options` give;
    `fields` are other fields of RunConfig.

    `hosted` gives the run of a library in the empty program, for commands that take one in the place of a
    program. Raises ProgramError.
    """
    env = environment(variables, clean_env)
    found = find_program(program, env.get("PATH", DEFAULT_PATH), sysroot)
    notes.detail(
        f"{found}, sysroot {sysroot}, arguments {arguments!r}" if arguments else f"{found}, sysroot {sysroot}"
    )
    ignored, blocked = inherited_signals()
    config = RunConfig(
        found,
        arguments,
        env,
        guest_directory(sysroot),
        sysroot,
        argv0=program,
        ignored=ignored,
        blocked=blocked,
        nice=os.getpriority(os.PRIO_PROCESS, 0),
        die=last_words.die,
        verbose=notes.level() == notes.VERBOSE,
        **fields,
    )
    if hosted is not None and is_library(found, sysroot):
        does = "needs" if hosted is needing else "opens and closes"
        notes.say(f"{program} is a library: an empty program {does} it")
        return hosted(config)
    if hosted is None and starts_nowhere(found, sysroot):
        notes.say(f"{program} is a library and cannot be run: `emu call {program} FUNCTION` calls into it")
    return config


def inherited_signals() -> tuple[tuple[int, ...], int]:
    """Return the signals that this process was started with ignored (by nohup, or by a shell, for a job in
    the background), and the mask of those that were blocked. SIGPIPE and SIGXFSZ are left out: Python ignores
    both, so that nobody can tell.
    """
    unknown = (signal.SIGPIPE, signal.SIGXFSZ)
    ignored = (
        n for n in signal.valid_signals() if n not in unknown and signal.getsignal(n) == signal.SIG_IGN
    )
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    return tuple(sorted(ignored)), sum(1 << number - 1 for number in blocked)


class Guest(NamedTuple):
    """What `guest_options` and `limit_options` give: the guest's environment, file system and limits."""

    variables: dict[str, str]
    clean_env: bool
    sysroot: str
    limits: dict[str, Any]

    def config(
        self, program: str, arguments: tuple[str, ...], hosted: Callable[[RunConfig], RunConfig] | None = None
    ) -> RunConfig:
        """Return the run of a program as `Running.config` does. Raises ProgramError."""
        return run_config(
            program, arguments, self.variables, self.clean_env, self.sysroot, hosted=hosted, **self.limits
        )


class Running(NamedTuple):
    """How a program is to be run: what `run_options` and `guest_options` give;
    `fields` are fields of RunConfig.
    """

    fields: dict[str, Any]
    schedule: str
    preempt: str | None
    record_schedule: str | None
    variables: dict[str, str]
    clean_env: bool

    def config(
        self, program: str, arguments: tuple[str, ...], hosted: Callable[[RunConfig], RunConfig] | None = None
    ) -> RunConfig:
        """Return the run of a program, which is searched for as a shell does; see `run_config`.

        Raises ProgramError.
        """
        return run_config(program, arguments, self.variables, self.clean_env, hosted=hosted, **self.fields)

    @contextmanager
    def policy(self) -> Iterator[Policy]:
        """Give the schedule, recorded if that was asked for. Raises ScheduleError and TraceError."""
        policy = schedule.make_policy(self.schedule, self.fields["seed"], self.preempt)
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


def limit_options(function: Command) -> Command:
    """Add --timeout and --max-memory to a command that has no other option of a run; it gets them,
    as fields of RunConfig, as `limits`.
    """

    @wraps(function)
    def with_limits(*args: Any, timeout: float | None, max_memory: int | None, **rest: Any) -> Any:
        limits = {"timeout": timeout, "max_memory": max_memory}
        with deadline.deadline(timeout, rest.get("program", rest.get("library", "emu"))):
            return function(*args, limits=limits, **rest)

    for name in ("timeout", "max_memory"):
        with_limits = _RUN_OPTIONS[name](with_limits)
    return cast("Command", with_limits)


def run_loader_options(function: Command) -> Command:
    """Add the same, and --ldso."""
    return _running(function, (*_RUN_OPTIONS, "ldso"))


def session_options(function: Command) -> Command:
    """Add those options of a run that `emu.Process` takes; the command gets them as `running`."""
    return _running(function, tuple(name for name in _RUN_OPTIONS if name not in _NOT_OF_SESSIONS))


def search_options(function: Command) -> Command:
    """Add those options of a run that do not say which thread runs, nor end the search as a whole;
    the command gets them as `running`.
    """
    return _running(
        function, tuple(name for name in _RUN_OPTIONS if name not in (*_OF_THE_SCHEDULE, "timeout"))
    )


def sides_options(function: Command) -> Command:
    """Add those options of a run that several runs can share: neither --sysroot nor --ldso."""
    shared = tuple(name for name in _RUN_OPTIONS if name != "record_schedule")
    return _running(function, shared, _environment_options)


def _running(function: Command, names: tuple[str, ...], guest: Callable[[Any], Any] | None = None) -> Command:
    @wraps(function)
    def with_running(
        *args: Any,
        schedule: str = "round-robin",
        preempt: str | None = None,
        variables: dict[str, str],
        clean_env: bool,
        record_schedule: str | None = None,
        sysroot: str = "/",
        **rest: Any,
    ) -> Any:
        fields = {name: rest.pop(name) for name in names if name not in _OF_THE_SCHEDULE}
        fields["sysroot"] = sysroot
        if fields["unload_rule"] == "nodelete-flag" and fields["tls_dtors"] == "guest":
            raise click.UsageError(
                "--unload-rule nodelete-flag is not what the guest's libc does: it needs --tls-dtors model"
            )
        if fields["unload_rule"] == "nodelete-flag" and fields.get("ldso") == "real":
            raise click.UsageError(
                "--unload-rule nodelete-flag is not what the guest's own ld.so does: it needs --ldso emu"
            )
        running = Running(fields, schedule, preempt, record_schedule, variables, clean_env)
        with deadline.deadline(fields.get("timeout"), rest.get("program", "emu")):
            return function(*args, running=running, **rest)

    for name in reversed(names):
        with_running = ldso.OPTION(with_running) if name == "ldso" else _RUN_OPTIONS[name](with_running)
    guest = guest or (_guest_options if "ldso" in names else guest_options)
    return cast("Command", guest(with_running))


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
