#!/usr/bin/env python3
"""Build the fixture programs: small ELF programs and DSO sets that judge the emulator.

Every folder in ``fixtures/`` holds the sources of one fixture and a ``fixture.toml``:

    about = "the rule that it shows, in one line"
    build = ["exact shell commands, run in the build folder"]
    needs = ["lld"]                 # optional: linkers or compilers beyond GCC
    tags = ["threads"]              # optional: the suites that it joins, beyond tests/test_fixtures.py
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
import difflib
import fcntl
import hashlib
import os
import re
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

#: What ``needs`` may name: the executable (or file) looked for and the Debian package that has it.
TOOLS = {
    "gcc": ("gcc", "gcc"),
    "g++": ("g++", "g++"),
    "gold": ("ld.gold", "binutils"),
    "lld": ("ld.lld", "lld"),
    "mold": ("mold", "mold"),
    "clang": ("clang++", "clang"),
    "libc++": ("/usr/lib/x86_64-linux-gnu/libc++.so", "libc++-dev and libc++abi-dev"),
}
#: What ``tags`` may name, and what the suite of that name asks of a fixture's runs.
TAGS = {
    "backtraces": "tests/process/test_backtrace.py: the frames are gdb's",
    "bindings": "tests/process/test_bindings.py: every binding is ld.so's",
    "ld-debug-last": "tests/test_ld_debug.py: its last run is compared line by line, too, not its first only",
    "threads": "tests/process/test_threads.py: equal under every policy of the scheduler",
    "tls-dtors": "tests/process/test_tls_dtors.py: the model of thread_local destructors tells what libc's own code does",
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
    tags: tuple[str, ...] = ()

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
    _known(where, table, {"about": str, "build": list, "needs": list, "tags": list, "run": list})
    if not table.get("about") or not table.get("build"):
        raise FixtureError(f"{where}: about and build are required")
    for need in table.get("needs", []):
        if need not in TOOLS:
            raise FixtureError(f"{where}: needs unknown tool {need!r}; known: {', '.join(TOOLS)}")
    tags = tuple(table.get("tags", []))
    for tag in tags:
        if tag not in TAGS:
            raise FixtureError(f"{where}: unknown tag {tag!r}; known: {', '.join(TAGS)}")
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
            tags=tags,
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
    if program.startswith("/") and Path(program).exists():
        return str(Path(program).resolve())
    if shutil.which(program) is None:
        raise FixtureError(f"{program} is missing; install the Debian package {package}")
    return subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout


def digest(fixture: Fixture) -> str:
    """A digest over the folder's names and contents and the versions of the tools that build it."""
    found = hashlib.sha256()
    for tool in (*ALWAYS_NEEDED, *fixture.needs):
        found.update(_tool_version(tool).encode())
    for path in sorted(fixture.source.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            if path.name == "fixture.toml":  # which suites it joins says nothing of its build
                content = re.sub(rb"^tags = .*\n", b"", content, flags=re.MULTILINE)
            found.update(f"{path.relative_to(fixture.source)}\0{len(content)}\0".encode() + content)
    # Debug information and $ORIGIN hold the folder's own path: a moved clone builds again.
    found.update(str(fixture.folder).encode())
    return found.hexdigest()


def run_build(fixture: Fixture, folder: Path, env: dict[str, str]) -> None:
    """Run a fixture's build commands in a folder with its sources; raises FixtureError."""
    for command in fixture.build:
        done = subprocess.run(
            ["sh", "-ec", command],
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise FixtureError(f"{fixture.name}: exit {done.returncode} from: {command}\n{done.stdout}")


def _build(fixture: Fixture, force: bool) -> bool:
    """Bring one fixture's folder up to date; True when that meant building it."""
    digest_now = digest(fixture)
    stamp = fixture.folder / STAMP
    if not force and stamp.exists() and stamp.read_text() == digest_now:
        return False
    shutil.rmtree(fixture.folder, ignore_errors=True)
    shutil.copytree(fixture.source, fixture.folder)
    run_build(fixture, fixture.folder, BASE_ENV)
    # Last, so that an interrupted build is never taken for a finished one.
    stamp.write_text(digest_now)
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
            # Each on a terminal, some elsewhere: who waits sees that it goes on.
            if built and (sys.stderr.isatty() or done % 40 == 0 or done == len(chosen)):
                print(f"fixtures: built {done} of {len(chosen)}: {fixture.name}", file=sys.stderr, flush=True)
    if failures:
        raise FixtureError("\n".join(failures))


def run_native(run: Run, *, timeout: float = 60, cpus: frozenset[int] = frozenset()) -> Outcome:
    """Run a built fixture under the real ld.so and kernel, on the given CPUs only if there are any.

    Raises subprocess.TimeoutExpired.
    """

    def prepare() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if cpus:
            os.sched_setaffinity(0, cpus)

    done = subprocess.run(
        run.argv,
        cwd=CACHE / run.fixture,
        env=BASE_ENV | run.env,
        input=run.stdin.encode(),
        capture_output=True,
        timeout=timeout,
        check=False,
        preexec_fn=prepare,
    )
    code = done.returncode if done.returncode >= 0 else 128 - done.returncode
    return Outcome(code, done.stdout, done.stderr)


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep the machine busy with so many processes that only compute, and end with this one at the latest."""
    program = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(100000))"
    started = [
        subprocess.Popen([sys.executable, "-c", program], start_new_session=True) for _ in range(processes)
    ]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def check_native(
    chosen: Iterable[Fixture], repeats: int, *, cpus: frozenset[int] = frozenset()
) -> Iterator[str]:
    """Run every run ``repeats`` times natively; one text for each that is wrong or differs from itself.

    What differs with the load, the clock or the number of CPUs judges nothing: see ``busy`` and ``cpus``.
    """
    for fixture in chosen:
        for run in fixture.runs:
            outcomes: list[Outcome] = []
            try:
                outcomes = [run_native(run, cpus=cpus) for _ in range(repeats)]
            except subprocess.TimeoutExpired as error:
                yield f"{run.id}: no end after {error.timeout} s"
                continue
            first = outcomes[0]
            for bad in [outcome for outcome in outcomes if outcome.exit != run.exit][:1]:
                yield f"{run.id}: exit {bad.exit}, not {run.exit}: {bad.stderr.decode(errors='replace')}"
            kinds = ["stdout", "stderr"] if run.same_stderr else ["stdout"]
            for kind in kinds:
                texts = [getattr(outcome, kind) for outcome in outcomes]
                if len(set(texts)) > 1:
                    other = next(text for text in texts if text != texts[0])
                    yield f"{run.id}: {kind} of {repeats} native runs differs:\n" + _difference(
                        getattr(first, kind), other
                    )


def _difference(one: bytes, other: bytes) -> str:
    """The lines that two outputs do not share."""
    lines, others = (text.decode(errors="replace").splitlines() for text in (one, other))
    return "\n".join(difflib.unified_diff(lines, others, "one run", "another", n=0, lineterm=""))


def main(arguments: list[str] | None = None) -> int:
    """The command; 1 after a failure, whose message goes to standard error."""
    parser = argparse.ArgumentParser(description="Build the fixtures, or only the named ones.")
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument(
        "--list", nargs="?", const="", choices=["", *TAGS], metavar="TAG",
        help=f"list the fixtures (those with TAG: {', '.join(TAGS)}) and build nothing",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="build even what is up to date")
    parser.add_argument("--check", type=int, metavar="N", help="run each natively N times: right and stable?")
    parser.add_argument(
        "--busy", type=int, default=0, metavar="M", help="with --check: beside M busy processes"
    )
    parser.add_argument("--one-cpu", action="store_true", help="with --check: all threads on one CPU")
    options = parser.parse_args(arguments)
    try:
        chosen = [load(name) for name in options.names] or load_all()
        if options.list is not None:
            for fixture in (f for f in chosen if not options.list or options.list in f.runs[0].tags):
                print(f"{fixture.name:28} {fixture.about}")
            return 0
        build_all(chosen, force=options.force)
    except FixtureError as error:
        print(f"fixtures: {error}", file=sys.stderr)
        return 1
    if not options.check:
        return 0
    cpus = frozenset([min(os.sched_getaffinity(0))]) if options.one_cpu else frozenset[int]()
    wrong = False
    with busy(options.busy):
        for text in check_native(chosen, options.check, cpus=cpus):
            wrong = True
            print(f"fixtures: {text}", file=sys.stderr, flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
