"""Session set-up: the repository on the path, and every fixture built before the first test."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import fixtures

for _signal in (
    signal.SIGINT,
    signal.SIGQUIT,
):  # a background job of a shell ignores them, and so would all that the tests start
    if signal.getsignal(_signal) == signal.SIG_IGN:
        signal.signal(_signal, signal.default_int_handler if _signal == signal.SIGINT else signal.SIG_DFL)


settings.register_profile("emu", deadline=None)  # how long a test takes is no property of the code
settings.load_profile("emu")


@pytest.fixture(scope="session")
def built_fixtures() -> dict[str, fixtures.Fixture]:
    """All fixtures, built; a lock makes the workers of pytest-xdist build once."""
    everything = fixtures.load_all()
    fixtures.build_all(everything)
    return {fixture.name: fixture for fixture in everything}
