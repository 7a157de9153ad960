"""The plugin that the tests of the Python face load."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import emu
from tools import fixtures


@pytest.fixture
def p(built_fixtures: object, capfd: pytest.CaptureFixture[str]) -> Iterator[emu.Process]:
    with emu.Process(
        cwd=str(fixtures.CACHE / "api-plugin"), env=fixtures.BASE_ENV, trace=["dtors", "dl"]
    ) as process:
        yield process


@pytest.fixture
def lib(p: emu.Process) -> emu.Library:
    return p.dlopen("./libplugin.so")
