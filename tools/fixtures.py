#!/usr/bin/env python3
"""Build the fixture programs: small ELF programs and DSO sets that judge the emulator.

Every folder in ``fixtures/`` holds the sources of one fixture and a ``fixture.toml``:

    about = "the rule that it shows, in one line"
    build = ["exact shell commands, run in the build folder"]
    needs = ["lld"]                 # optional: linkers or compilers beyond GCC
    [[run]]
    name = "default"                # optional; unique within the fixture
    argv = ["./main", "arg"]        # optional; default ["./main"]
    env = { LD_PRELOAD = "./p.so" } # optional additions to BASE_ENV
    stdin = "text"                  # optional
    exit = 0                        # optional; 128+N when killed by signal N
    stderr = "same"                 # optional: standard error is judged too

Builds go to ``.cache/fixtures/NAME/`` and happen again only when the folder or a compiler changed.
Source: the TOML 1.0 specification; wait(2) for the exit codes.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import resource
import shutil
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "fixtures"
CACHE = ROOT / ".cache" / "fixtures"
STAMP = ".stamp"

#: The whole environment of a run, before the run's own additions.
BASE_ENV = {"PATH": "/usr/bin:/bin", "HOME": "/", "LC_ALL": "C"}

#: What ``needs`` may name: the executable looked for and the Debian package that has it.
TOOLS = {
    "gcc": ("gcc", "gcc"),
    "g++": ("g++", "g++"),
    "gold": ("ld.gold", "binutils"),
    "lld": ("ld.lld", "lld"),
    "mold": ("mold", "mold"),
    "clang": ("clang++", "clang"),
}
ALWAYS_NEEDED = ("gcc", "g++")


class FixtureError(Exception):
    """A fixture is malformed, or cannot be built; the message names it."""


class Run(NamedTuple):
    """One way to run a fixture. ``exit`` is 128+N for a death by signal N."""

    fixture: str
    name: str
    argv: tuple[str, ...]
    env: dict[str, str]
    stdin: str
    exit: int
    same_stderr: bool

    @property
    def id(self) -> str:
        """``fixture`` or ``fixture:run``, as the tests and messages call it."""
        return self.fixture if self.name == "default" else f"{self.fixture}:{self.name}"


class Fixture(NamedTuple):
    """One folder of ``fixtures/``."""

    name: str
    about: str
    build: tuple[str, ...]
    needs: tuple[str, ...]
    runs: tuple[Run, ...]

    @property
    def source(self) -> Path:
        """The folder with the sources."""
        return SOURCES / self.name

    @property
    def folder(self) -> Path:
        """The folder it is built and run in."""
        return CACHE / self.name


class Outcome(NamedTuple):
    """What a finished run left: exit code (128+N for signal N) and both outputs."""

    exit: int
    stdout: bytes
    stderr: bytes


def _known(where: str, table: dict[str, Any], types: dict[str, type]) -> dict[str, Any]:
    """Check a table's keys and the types of their values; raise FixtureError that names the key."""
    for key, value in table.items():
        if key not in types:
            raise FixtureError(f"{where}: unknown key {key!r}")
        if type(value) is not types[key]:
            raise FixtureError(f"{where}: {key} must be {types[key].__name__}, is {type(value).__name__}")
    return table


def load(name: str) -> Fixture:
    """Read ``fixtures/NAME/fixture.toml``; raises FixtureError when it is missing or malformed."""
    path = SOURCES / name / "fixture.toml"
    try:
        table = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise FixtureError(f"{path.relative_to(ROOT)}: {error}") from error
    where = str(path.relative_to(ROOT))
    _known(where, table, {"about": str, "build": list, "needs": list, "run": list})
    if not table.get("about") or not table.get("build"):
        raise FixtureError(f"{where}: about and build are required")
    for need in table.get("needs", []):
        if need not in TOOLS:
            raise FixtureError(f"{where}: needs unknown tool {need!r}; known: {', '.join(TOOLS)}")
    types = {"name": str, "argv": list, "env": dict, "stdin": str, "exit": int, "stderr": str}
    runs = []
    for entry in table.get("run", [{}]):
        _known(f"{where}: run", entry, types)
        if entry.get("stderr", "same") != "same":
            raise FixtureError(f'{where}: run: stderr can only be "same"')
        run = Run(
            fixture=name,
            name=entry.get("name", "default"),
            argv=tuple(entry.get("argv", ["./main"])),
            env=entry.get("env", {}),
            stdin=entry.get("stdin", ""),
            exit=entry.get("exit", 0),
            same_stderr="stderr" in entry,
        )
        runs.append(run)
    if len({run.name for run in runs}) != len(runs):
        raise FixtureError(f"{where}: two runs have the same name")
    return Fixture(name, table["about"], tuple(table["build"]), tuple(table.get("needs", [])), tuple(runs))


def load_all() -> list[Fixture]:
    """Every fixture, by name."""
    return [load(path.parent.name) for path in sorted(SOURCES.glob("*/fixture.toml"))]


@cache
def _tool_version(tool: str) -> str:
    """What the tool says of itself; raises FixtureError naming the Debian package when it is missing."""
    program, package = TOOLS[tool]
    if shutil.which(program) is None:
        raise FixtureError(f"{program} is missing; install the Debian package {package}")
    return subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout


def _digest(fixture: Fixture) -> str:
    """A digest over the folder's names and contents and the versions of the tools that build it."""
    digest = hashlib.sha256()
    for tool in (*ALWAYS_NEEDED, *fixture.needs):
        digest.update(_tool_version(tool).encode())
    for path in sorted(fixture.source.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(fixture.source)}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    # Debug information and $ORIGIN hold the folder's own path: a moved clone builds again.
    digest.update(str(fixture.folder).encode())
    return digest.hexdigest()


def _build(fixture: Fixture, force: bool) -> bool:
    """Bring one fixture's folder up to date; True when that meant building it."""
    digest = _digest(fixture)
    stamp = fixture.folder / STAMP
    if not force and stamp.exists() and stamp.read_text() == digest:
        return False
    shutil.rmtree(fixture.folder, ignore_errors=True)
    shutil.copytree(fixture.source, fixture.folder)
    for command in fixture.build:
        done = subprocess.run(
            ["sh", "-ec", command],
            cwd=fixture.folder,
            env=BASE_ENV,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise FixtureError(f"{fixture.name}: exit {done.returncode} from: {command}\n{done.stdout}")
    # Last, so that an interrupted build is never taken for a finished one.
    stamp.write_text(digest)
    return True


@contextmanager
def _locked() -> Iterator[None]:
    """Hold the cache's lock: test workers and other commands build one after the other."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build(name: str, *, force: bool = False) -> Path:
    """Build one fixture if it is out of date and return its folder; raises FixtureError."""
    fixture = load(name)
    with _locked():
        _build(fixture, force)
    return fixture.folder


def build_all(chosen: Iterable[Fixture], *, force: bool = False) -> None:
    """Build the chosen fixtures that are out of date, two at a time.

    Raises one FixtureError with the message of every fixture that failed.
    """
    chosen = list(chosen)

    def one(fixture: Fixture) -> tuple[bool, str]:
        try:
            return _build(fixture, force), ""
        except FixtureError as error:
            return True, str(error)

    failures = []
    with _locked(), ThreadPoolExecutor(2) as pool:
        outcomes = zip(chosen, pool.map(one, chosen), strict=True)
        for done, (fixture, (built, failure)) in enumerate(outcomes, 1):
            if failure:
                failures.append(failure)
            if built and sys.stderr.isatty():
                print(f"[{done}/{len(chosen)}] {fixture.name}", file=sys.stderr)
    if failures:
        raise FixtureError("\n".join(failures))


def run_native(run: Run, *, timeout: float = 60) -> Outcome:
    """Run a built fixture under the real ld.so and kernel; raises subprocess.TimeoutExpired."""
    done = subprocess.run(
        run.argv,
        cwd=CACHE / run.fixture,
        env=BASE_ENV | run.env,
        input=run.stdin.encode(),
        capture_output=True,
        timeout=timeout,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
    )
    code = done.returncode if done.returncode >= 0 else 128 - done.returncode
    return Outcome(code, done.stdout, done.stderr)


def check_native(chosen: Iterable[Fixture], repeats: int) -> list[str]:
    """Run every run ``repeats`` times natively; one line for each that is wrong or not stable."""
    wrong = []
    for fixture in chosen:
        for run in fixture.runs:
            outcomes = {run_native(run) for _ in range(repeats)}
            first = next(iter(outcomes))
            if first.exit != run.exit:
                wrong.append(f"{run.id}: exit {first.exit}, not {run.exit}: {first.stderr.decode()}")
            if len({(outcome.exit, outcome.stdout) for outcome in outcomes}) > 1:
                wrong.append(f"{run.id}: {repeats} native runs differ")
            if run.same_stderr and len(outcomes) > 1:
                wrong.append(f"{run.id}: standard error of {repeats} native runs differs")
    return wrong


def main(arguments: list[str] | None = None) -> int:
    """The command; 1 after a failure, whose message goes to standard error."""
    parser = argparse.ArgumentParser(description="Build the fixtures, or only the named ones.")
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--list", action="store_true", help="list the fixtures and build nothing")
    parser.add_argument("--force", action="store_true", help="build even what is up to date")
    parser.add_argument("--check", type=int, metavar="N", help="run each natively N times: right and stable?")
    options = parser.parse_args(arguments)
    try:
        chosen = [load(name) for name in options.names] or load_all()
        if options.list:
            for fixture in chosen:
                print(f"{fixture.name:28} {fixture.about}")
            return 0
        build_all(chosen, force=options.force)
    except FixtureError as error:
        print(f"fixtures: {error}", file=sys.stderr)
        return 1
    wrong = check_native(chosen, options.check) if options.check else []
    for line in wrong:
        print(f"fixtures: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
