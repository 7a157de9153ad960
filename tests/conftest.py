"""Session set-up: the repository on the path, and every fixture built before the first test."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests import tiers
from tools import fixtures

_HYPOTHESIS = pytest.StashKey[bool]()
_COLLECTED = pytest.StashKey[list[pytest.Item]]()

for _signal in (
    signal.SIGINT,
    signal.SIGQUIT,
):  # a background job of a shell ignores them, and so would all that the tests start
    if signal.getsignal(_signal) == signal.SIG_IGN:
        signal.signal(_signal, signal.default_int_handler if _signal == signal.SIGINT else signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--tier", choices=tiers.TIERS, default="all", help="a sample of every test file, all, or all and more"
    )
    parser.addoption(
        "--glibc",
        choices=["default", "all", "none"],
        default="default",
        help="which other releases of glibc are tested",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "needs(name, ...): uses programs beyond gcc and g++, or packages beyond the extra `sample`; such a test is in no sample",
    )
    config.addinivalue_line("markers", "long: runs in the long tier only")
    config.addinivalue_line(
        "markers", "runs(tag=..., of=...): once for each run of fixtures: see tests.tiers.runs"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_make_collect_report(collector: pytest.Collector) -> None:
    """Set hypothesis up before the first file that uses it: importing it takes as long as all of pytest."""
    stash = collector.config.stash
    if not isinstance(collector, pytest.Module) or _HYPOTHESIS in stash:
        return
    if b"hypothesis" not in collector.path.read_bytes():
        return
    from hypothesis import settings

    stash[_HYPOTHESIS] = True
    # How long a test takes is no property of the code.
    settings.register_profile("emu", deadline=None)
    settings.register_profile("long", deadline=None, max_examples=100 * tiers.LONG)
    settings.load_profile("long" if collector.config.getoption("tier") == "long" else "emu")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Leave hypothesis's summary out where nothing used it: it would be imported to say nothing."""
    plugins = session.config.pluginmanager
    if plugins.has_plugin("hypothesispytest") and "hypothesis" not in sys.modules:
        plugins.unregister(name="hypothesispytest")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make the tests that are marked with `runs`."""
    for marker in metafunc.definition.iter_markers("runs"):
        runs = tiers.runs(metafunc.config.getoption("keyword"), **marker.kwargs)
        metafunc.parametrize("run", [pytest.param(run, id=run.id) for run in runs])


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("tier") != "long":
        late = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=late)
        items[:] = [item for item in items if not item.get_closest_marker("long")]
    config.stash[_COLLECTED] = list(items)
    if config.getoption("tier") == "sample":
        kept = set(chosen := tiers.sample(items))
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = chosen


@pytest.fixture(scope="session")
def built_fixtures(request: pytest.FixtureRequest) -> dict[str, fixtures.Fixture]:
    """The fixtures, built: all, or in the sample and with -k or a test's name those that the tests name.

    A lock makes the workers of pytest-xdist build once.
    """
    config, items = request.config, request.session.items
    named = bool(config.getoption("keyword")) or any("::" in word for word in config.args)
    sample = config.getoption("tier") == "sample"
    if sample or named:
        kept = set(items)
        left = [item for item in config.stash[_COLLECTED] if sample and item not in kept]
        asked = tiers.fixtures_of(items, needy=not sample, left=left)
        chosen = [fixtures.load(name) for name in sorted(asked)]
    else:
        chosen = fixtures.load_all()
    # Past the capturing, which would keep the progress for a failure.
    with config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        fixtures.build_all(chosen)
    return {fixture.name: fixture for fixture in chosen}
