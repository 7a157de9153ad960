"""What `Process` is given, checked: each wrong value is an ArgumentError that says what would be right."""

from __future__ import annotations

import math
import os
import time as host_time
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, Literal, cast, get_args

from emu.api.errors import ArgumentError
from emu.core.errors import SysrootError
from emu.core.events import CATEGORIES, ON_REQUEST
from emu.core.record import NamedTuple
from emu.glibc.host_program import host_program_for
from emu.kernel.run.clock import EPOCH_NS
from emu.kernel.run.policy import REPLAY, Policy, Random, RoundRobin, ScheduleError, replay_of
from emu.machine.engines import CpuName, EngineName
from emu.process import RunConfig, named_sysroot
from emu.process.execvp import DEFAULT_PATH, find_program
from emu.process.hosting import starts_nowhere

Schedule = Literal["round-robin", "random"]
TlsDtors = Literal["model", "guest"]
UnloadRule = Literal["dtor-count", "nodelete-flag"]
_MOST_SEED = (1 << 64) - 1


class Wanted(NamedTuple):
    """What a process is to be, as its user says it: see `emu.Process`.

    `stdio` are standard input, output and error.
    """

    program: str | os.PathLike[str] | None
    args: Sequence[str]
    env: Mapping[str, str] | None
    sysroot: str | os.PathLike[str]
    cwd: str | os.PathLike[str] | None
    seed: int
    time: int | Literal["now"] | None
    schedule: object
    tls_dtors: str
    unload_rule: str
    stdio: tuple[int | BinaryIO | None, int | BinaryIO | None, int | BinaryIO | None]
    writable: Sequence[str]
    writable_as_root: bool
    max_memory: int | None
    engine: str | None
    cpu: str


def run_config(wanted: Wanted) -> tuple[RunConfig, int | None]:
    """Return how the process runs; for the empty program also where its `main` is, relative to its base.

    Raises ArgumentError, ProgramError.
    """
    unload_rule = choice("unload_rule", wanted.unload_rule, UnloadRule)
    if unload_rule == "nodelete-flag" and wanted.tls_dtors == "guest":
        raise ArgumentError(
            "unload_rule nodelete-flag is not what the guest's libc does: it needs tls_dtors model"
        )
    words, program = strings("args", wanted.args), wanted.program
    environ, sysroot = environment(wanted.env), root(wanted.sysroot)
    host = host_program_for(sysroot) if program is None else None
    most = wanted.max_memory
    config = RunConfig(
        program=program_path(program, environ, sysroot) if program is not None else "emu-host",
        argv0=path("program", program) if program is not None else None,
        args=words,
        env=environ,
        cwd=directory(wanted.cwd, sysroot),
        sysroot=sysroot,
        seed=seed_of(wanted.seed),
        start_time=start_time(wanted.time),
        writable=strings("writable", wanted.writable),
        writable_as_root=wanted.writable_as_root,
        max_memory=most if most is None else whole("max_memory", most, 1, 1 << 47),
        tls_dtors=choice("tls_dtors", wanted.tls_dtors, TlsDtors),
        unload_rule=unload_rule,
        image=host.image if host is not None else None,
        policy=policy(wanted.schedule, wanted.seed),
        engine=wanted.engine if wanted.engine is None else choice("engine", wanted.engine, EngineName),
        cpu=choice("cpu", wanted.cpu, CpuName),
        stdio=(
            descriptor("stdin", wanted.stdio[0], 0),
            descriptor("stdout", wanted.stdio[1], 1),
            descriptor("stderr", wanted.stdio[2], 2),
        ),
    )
    if program is not None and starts_nowhere(os.path.join(config.cwd, config.program), sysroot):
        raise ArgumentError(f"{program} is a library and cannot be run: make an emu.Process() and dlopen it")
    return config, host.main if host is not None else None


def choice(name: str, value: object, literal: Any) -> Any:
    """Return `value` if it is one of the literal's. Raises ArgumentError."""
    known = get_args(literal)
    if value not in known:
        raise ArgumentError(f"{name}={value!r}: choose from {', '.join(map(repr, known))}")
    return value


def policy(schedule: object, seed: int) -> Policy:
    """Return what decides which thread runs next. Raises ArgumentError."""
    if not isinstance(schedule, str) and hasattr(schedule, "choose"):
        return cast(Policy, schedule)
    if isinstance(schedule, str) and schedule.startswith(REPLAY) and schedule != REPLAY:
        try:
            return replay_of(schedule.removeprefix(REPLAY))
        except ScheduleError as error:
            raise ArgumentError(str(error)) from None
    if schedule not in get_args(Schedule):
        raise ArgumentError(
            f"schedule={schedule!r}: choose from 'round-robin', 'random', 'replay:FILE', or give a policy"
        )
    return Random(seed) if schedule == "random" else RoundRobin()


def whole(name: str, value: object, least: int, most: int) -> int:
    """Return a whole number between bounds. Raises ArgumentError."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ArgumentError(f"{name}={value!r} is no whole number from {least} to {most}")
    return value


def address_of(name: str, value: object) -> int:
    """Return an address of the guest, mapped or not. Raises ArgumentError."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 64:
        raise ArgumentError(f"{name}: {value!r} is no address")
    return value


def limit(timeout: Any) -> float | None:
    """Return a limit of time in seconds. Raises ArgumentError."""
    if timeout is None:
        return None
    good = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
    if not good or not math.isfinite(timeout) or timeout <= 0:
        raise ArgumentError(f"timeout={timeout!r} is no positive number of seconds")
    return float(timeout)


def strings(name: str, values: object) -> tuple[str, ...]:
    """Return a sequence of strings or paths as strings; one string alone is a mistake.

    Raises ArgumentError.
    """
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise ArgumentError(f"{name}={values!r} is no list of strings: write {name}=[{values!r}]")
    wrong = next((v for v in values if not isinstance(v, (str, os.PathLike))), None)
    if wrong is not None:
        raise ArgumentError(f"{name}: {wrong!r} is no string")
    found = tuple(os.fspath(v) for v in values)
    if any("\0" in value for value in found):
        raise ArgumentError(f"{name}: a string has a NUL in it")
    return found


def categories(trace: object) -> tuple[str, ...]:
    """Return the categories of events to keep. Raises ArgumentError."""
    if trace == "all":
        return CATEGORIES
    named = tuple(trace.split(",")) if isinstance(trace, str) else strings("trace", trace)
    known = (*CATEGORIES, *ON_REQUEST)
    wrong = next((name for name in named if name not in known), None)
    if wrong is not None and wrong.partition(":")[0] in known:
        raise ArgumentError(
            f"trace: {wrong!r}: names are chosen from the events, by Process.events, not here"
        )
    if wrong is not None:
        raise ArgumentError(f"trace: no category {wrong!r}: choose from {', '.join(known)}, or 'all'")
    return named


def path(name: str, value: object) -> str:
    """Return a path as a string. Raises ArgumentError."""
    if isinstance(value, bytes):
        return os.fsdecode(value)
    if not isinstance(value, (str, os.PathLike)):
        raise ArgumentError(f"{name}={value!r} is no path")
    return os.fsdecode(value)


def environment(env: Mapping[str, str] | None) -> dict[str, str]:
    """Return the guest's environment. Raises ArgumentError."""
    if env is None:
        return dict(os.environ)
    if not isinstance(env, Mapping):
        raise ArgumentError(f"env={env!r} is no mapping of names to values")
    for name, value in env.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise ArgumentError(f"env: {name!r}: {value!r} is no pair of strings")
        if not name or "=" in name or "\0" in name + value:
            raise ArgumentError(f"env: {name!r} cannot be the name of a variable, or has a NUL in it")
    return dict(env)


def root(sysroot: str | os.PathLike[str]) -> str:
    """Return the guest's root folder, given as it is or by a name that `emu sysroot` keeps.

    Raises ArgumentError.
    """
    try:
        return named_sysroot(path("sysroot", sysroot))
    except SysrootError as error:
        raise ArgumentError(str(error)) from None


def directory(cwd: str | os.PathLike[str] | None, sysroot: str) -> str:
    """Return the guest's working directory: absolute, and there.

    A relative one counts from ours. Raises ArgumentError.
    """
    if cwd is None:
        return os.getcwd() if sysroot == "/" else "/"
    there = path("cwd", cwd)
    if sysroot == "/":
        there = os.path.abspath(there)
    elif not there.startswith("/"):
        raise ArgumentError(f"cwd={there!r}: below a sysroot it must be absolute")
    if not os.path.isdir(there if sysroot == "/" else os.path.join(sysroot, there.lstrip("/"))):
        raise ArgumentError(f"cwd={there!r} is no folder of the guest")
    return there


def program_path(program: str | os.PathLike[str], env: Mapping[str, str], sysroot: str) -> str:
    """Return the guest path of a program; a name without a slash is searched in
    the guest's PATH. Raises ProgramError.
    """
    return find_program(path("program", program), env.get("PATH", DEFAULT_PATH), sysroot)


def descriptor(name: str, file: int | BinaryIO | None, default: int) -> int:
    """Return the host's descriptor of a standard stream. Raises ArgumentError."""
    if file is None:
        return default
    try:
        number = file if isinstance(file, int) else file.fileno()
    except (AttributeError, OSError, ValueError):  # no file, one in memory only, or a closed one
        raise ArgumentError(f"{name}={file!r} is neither an open file nor a descriptor") from None
    if isinstance(number, bool) or number < 0:
        raise ArgumentError(f"{name}={number!r} is no descriptor")
    return number


def seed_of(seed: object) -> int:
    """Return the seed of the guest's random bytes. Raises ArgumentError."""
    return whole("seed", seed, 0, _MOST_SEED)


def start_time(given: int | Literal["now"] | None) -> int:
    """Return nanoseconds since the epoch. Raises ArgumentError."""
    if given is None:
        return EPOCH_NS
    if given == "now":
        return host_time.time_ns()
    if not isinstance(given, int) or not 0 <= given < 1 << 33:
        raise ArgumentError(f'time={given!r} is neither "now" nor a whole number of seconds since 1970')
    return given * 10**9
