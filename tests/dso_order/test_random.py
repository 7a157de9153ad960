"""Random graphs with random scripts: the emulator prints what the real ld.so prints.

Each example is a graph of its own with one long script; a disagreement is shown at its smallest, ready for
the tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests import tiers
from tools.dso_fuzz import compare
from tools.dso_graph.build import base
from tools.dso_graph.run import GraphServer

#: Graphs in all: each of the chunks, which can run beside each other, has so many.
CHUNKS, EXAMPLES = 10, 36


@pytest.fixture(scope="module")
def server() -> Iterator[GraphServer]:
    base()
    with GraphServer() as running:
        yield running


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_emu_equals_native(server: GraphServer, chunk: int, request: pytest.FixtureRequest) -> None:
    compared = 0
    examples = EXAMPLES * (tiers.LONG if request.config.getoption("tier") == "long" else 1)

    @seed(chunk)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.randoms(use_true_random=True))
    def check(rng: Random) -> None:
        nonlocal compared
        findings = compare(server, rng, scripts=1)
        compared += findings.compared
        assert not findings.disagreements, findings.disagreements[0]

    check()
    assert compared >= examples * 0.9
