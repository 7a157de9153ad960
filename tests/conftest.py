"""Session set-up: the repository on the path, and every fixture built before the first test."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import fixtures


@pytest.fixture(scope="session")
def built_fixtures() -> dict[str, fixtures.Fixture]:
    """All fixtures, built; a lock makes the workers of pytest-xdist build once."""
    everything = fixtures.load_all()
    fixtures.build_all(everything)
    return {fixture.name: fixture for fixture in everything}
