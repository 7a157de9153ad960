"""Session set-up: the repository on the path, and every fixture built before the first test."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests import tiers
from tools import fixtures

for _signal in (
    signal.SIGINT,
    signal.SIGQUIT,
):  # a background job of a shell ignores them, and so would all that the tests start
    if signal.getsignal(_signal) == signal.SIG_IGN:
        signal.signal(_signal, signal.default_int_handler if _signal == signal.SIGINT else signal.SIG_DFL)


settings.register_profile("emu", deadline=None)  # how long a test takes is no property of the code
settings.register_profile("long", deadline=None, max_examples=100 * tiers.LONG)


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
        "markers", "needs(program, ...): uses programs beyond gcc and g++; such a test is in no sample"
    )
    config.addinivalue_line("markers", "long: runs in the long tier only")
    settings.load_profile("long" if config.getoption("tier") == "long" else "emu")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("tier") != "long":
        late = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=late)
        items[:] = [item for item in items if not item.get_closest_marker("long")]
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
        chosen = [fixtures.load(name) for name in sorted(tiers.fixtures_of(items, needy=not sample))]
    else:
        chosen = fixtures.load_all()
    # Past the capturing, which would keep the progress for a failure.
    with config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        fixtures.build_all(chosen)
    return {fixture.name: fixture for fixture in chosen}
