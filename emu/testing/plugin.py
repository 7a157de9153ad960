"""The pytest plugin: guest processes as fixtures, and tests run under many schedules of the guest's threads.

A test under N schedules is one item, as a property of hypothesis is one: it has one result, it stops at the
first schedule under which it fails, and says how to run it under that one alone. Its fixtures of function
scope are made anew for each schedule, as pytest-repeat has them, since what a process was before cannot be
undone. An item that makes no choice between threads is not repeated: each run would be the same.
"""

from __future__ import annotations

import argparse
import copy
import os
import shlex
from typing import TYPE_CHECKING, Any

import pytest

from emu.testing.exploring import ExploredRun, search
from emu.testing.factories import LibraryFactory, ProgramFactory
from emu.testing.pool import Pool
from emu.testing.schedules import Schedule, ScheduledRun, parse
from emu.testing.settings import ARGUMENTS, Settings, settings

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from emu.api import Process

_FIXTURES = frozenset(("emu_process", "emu_library", "emu_program"))
_SETTINGS = pytest.StashKey[Settings]()
_RUN = pytest.StashKey[ScheduledRun]()
_POOL = pytest.StashKey[Pool]()
_MARKER = (
    f"emu({', '.join(f'{name}=...' for name in ARGUMENTS)}): how the guest processes of a test are made. "
    "schedules=N repeats the test under N schedules of the guest's threads, round-robin and then random ones by `seed` and its "
    'successors; schedule="random:17" is one for ever; explore=N searches the schedules that matter, in at most N runs. '
    "The others are arguments of emu.Process (trace: beyond dl and dtors; check: on by default)."
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("emu", "emu: guest processes under schedules")
    group.addoption(
        "--emu-schedule", metavar="POLICY[:SEED]|replay:FILE", type=_schedule,
        help="Run each test under this schedule alone: round-robin, random:SEED as a failure names it, or replay:FILE.",
    )  # fmt: skip
    group.addoption(
        "--emu-schedules", metavar="N", type=_count,
        help="Run each test that uses a guest process under N schedules, whatever its marker says.",
    )  # fmt: skip


def _schedule(text: str) -> Schedule:
    try:
        return parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of schedules: 1 or more")
    return int(text)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", _MARKER)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Check the markers.

    Raises UsageError, which names the test and the argument; a worker of xdist,
    which cannot, lets the test fail.
    """
    for item in items if not hasattr(config, "workerinput") else ():
        _settings(item)


def _settings(item: pytest.Item) -> Settings:
    """Return what the markers of a test say. Raises UsageError."""
    if _SETTINGS not in item.stash:
        markers = [(mark.args, mark.kwargs) for mark in item.iter_markers("emu")]
        try:
            item.stash[_SETTINGS] = settings(reversed(markers))
        except ValueError as error:
            raise pytest.UsageError(f"{item.nodeid}: marker emu: {error}") from None
    return item.stash[_SETTINGS]


# -- the schedules of a test ---------------------------------------------------------------------------------


def _runs(item: pytest.Item) -> list[ScheduledRun]:
    """Return the runs of a test: one for each schedule."""
    try:
        wanted, config = _settings(item), item.config
    except pytest.UsageError:
        return [ScheduledRun()]  # its set-up will say so
    only: Schedule | None = config.getoption("--emu-schedule")
    if not _FIXTURES & set(getattr(item, "fixturenames", ())) and wanted.repeats is None:
        return [ScheduledRun()]
    schedules = [only] if only is not None else wanted.schedules(config.getoption("--emu-schedules"))
    return [ScheduledRun(schedule, number, len(schedules)) for number, schedule in enumerate(schedules, 1)]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a test under its schedules, or as long as a search goes on."""
    if most := _searched(item):
        item.stash[_RUN] = ScheduledRun()
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        _repeat(item, nextitem, search(most))
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True
    runs = _runs(item)
    item.stash[_RUN] = runs[0]
    if len(runs) == 1:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    _repeat(item, nextitem, runs)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _searched(item: pytest.Item) -> int | None:
    """Return the most runs of a test's search, None if it has none:
    one schedule alone, asked for on the command line, goes before.
    """
    try:
        wanted = _settings(item).explore
    except pytest.UsageError:
        return None
    return wanted if item.config.getoption("--emu-schedule") is None else None


def _repeat(item: pytest.Item, nextitem: pytest.Item | None, runs: Iterable[ScheduledRun]) -> None:
    """Run a test until it fails, or has passed under all schedules;
    report its last run, with the time of all.
    """
    from _pytest.runner import runtestprotocol

    again = copy.copy(
        item
    )  # for pytest another test of the same module: nothing of a wider scope is torn down for it
    spent: dict[str, float] = {}
    reports: list[pytest.TestReport] = []
    for run in runs:
        item.stash[_RUN] = run
        item._report_sections.clear()
        last = isinstance(runs, list) and run is runs[-1]
        made = runtestprotocol(item, log=False, nextitem=nextitem if last else again)
        for report in made:
            report.duration = spent[report.when] = spent.get(report.when, 0.0) + report.duration
        reports = reports if run.given_up else made
        if run.failed or not run.choices:
            break
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    if not last:
        _leave(item, nextitem)


def _leave(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Tear down what the next test has no use for, after an early end."""
    session = item.session
    needed = None if session.shouldfail or session.shouldstop else nextitem
    call = pytest.CallInfo.from_call(lambda: session._setupstate.teardown_exact(needed), when="teardown")
    if call.excinfo is not None:
        report = item.ihook.pytest_runtest_makereport(item=item, call=call)
        item.ihook.pytest_runtest_logreport(report=report)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    """Check the markers, if that was not done; say under which schedule it failed."""
    __tracebackhide__ = True
    item.config.stash.setdefault(_POOL, Pool()).set_up(True)
    done = yield from _noting(item)
    _settings(item)
    if item.stash[_RUN].given_up:
        pytest.skip("what is left of this run is known from others")
    return done


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Say under which schedule it failed."""
    __tracebackhide__ = True
    item.config.stash[_POOL].set_up(False)
    return (yield from _noting(item))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    """Say under which schedule it failed."""
    __tracebackhide__ = True
    return (yield from _noting(item))


def _noting(item: pytest.Item) -> Generator[None, Any, Any]:
    __tracebackhide__ = True
    try:
        return (yield)
    except BaseException as error:
        run = item.stash.get(_RUN, None)
        if isinstance(run, ExploredRun) and type(error).__name__ == "GivenUp":
            run.given_up = True
            return None
        if run is not None:
            run.failed = True
            if isinstance(error, (Exception, pytest.fail.Exception)):
                _note(item, run, error)
        raise


def _note(item: pytest.Item, run: ScheduledRun, error: BaseException) -> None:
    """Add the schedule to an error, with the command that repeats it, and take the
    frames of our own from it.
    """
    if isinstance(run, ExploredRun):
        error.add_note(run.note())
    elif run.count > 1:
        command = f"pytest {_word(item)} --emu-schedule={run.schedule}"
        error.add_note(
            f"emu: schedule {run.schedule}, number {run.number} of {run.count}, fails; to repeat it: {command}"
        )
    from emu.core.errors import EmuError

    if isinstance(error, EmuError) and not item.config.getoption("fulltrace"):
        _shorten(error)


def _word(item: pytest.Item) -> str:
    """Return the test's name on a command line given here."""
    _, colons, names = item.nodeid.partition("::")
    return shlex.quote(f"{os.path.relpath(item.path, item.config.invocation_params.dir)}{colons}{names}")


def _shorten(error: BaseException) -> None:
    """Let a traceback end where `emu` was called."""
    entries = []
    entry = error.__traceback__
    while entry is not None:
        entries.append(entry)
        entry = entry.tb_next
    rooms = [entry.tb_frame.f_globals.get("__name__", "").partition(".")[0] for entry in entries]
    last = max((at for at, room in enumerate(rooms) if room != "emu"), default=0)
    if rooms[last] in ("_pytest", "pluggy"):  # in a fixture of ours
        last += 1
    if last < len(entries):
        entries[last].tb_next = None


# -- fixtures ------------------------------------------------------------------------------------------------


def _pool(request: pytest.FixtureRequest) -> Pool:
    return request.config.stash.setdefault(_POOL, Pool())


def _start(request: pytest.FixtureRequest) -> Any:
    item: pytest.Item = request.node
    options, run = _settings(item).options, item.stash.setdefault(_RUN, ScheduledRun())
    pool = _pool(request)

    def start(program: Any = None, args: Any = (), **more: Any) -> Process:
        if "schedule" in more:
            from emu.api import Process

            return Process(program, args, **{**options, **more})
        process = pool.take(program, args, run, {**options, **more})
        run.begin(process)
        return process

    return start


@pytest.fixture
def emu_process(request: pytest.FixtureRequest) -> Iterator[Process]:
    """An emu.Process that hosts libraries, by the arguments of the marker `emu`;
    it traces `dl` and `dtors`, is checked, and ends with the test.
    """
    process: Process = _start(request)()
    yield process
    try:
        process.close()
    finally:
        _pool(request).give_back(process)


@pytest.fixture
def emu_library(emu_process: Process) -> Iterator[LibraryFactory]:
    """Open an object in `emu_process`: emu_library("./libplugin.so", flags=emu.RTLD_NOW).

    What is still open when the test ends is closed.
    """
    factory = LibraryFactory(emu_process)
    yield factory
    factory.close()


@pytest.fixture
def emu_program(request: pytest.FixtureRequest) -> Iterator[ProgramFactory]:
    """Make an emu.Process of a program: emu_program("./main", "argument").run(); it ends with the test."""
    factory = ProgramFactory(_start(request), _pool(request).give_back)
    yield factory
    factory.close()
