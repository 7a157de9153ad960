#!/usr/bin/env python3
"""Compare the emulator with the real ld.so on random graphs of shared objects.

tools/dso_fuzz.py --count 1000 --seed 7 --jobs 2

Each disagreement is made as small as it goes and printed as an entry for the tables in tests/dso_order. The
exit code is 1 if there was any. A graph is built once and run with several scripts; the same seed gives the
same graphs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools.dso_graph.build import CACHE, base, build  # noqa: E402
from tools.dso_graph.generate import Case, defined_case, random_scripts, random_structure  # noqa: E402
from tools.dso_graph.run import SORTS, GraphServer, run_native  # noqa: E402
from tools.dso_graph.shrink import shrink  # noqa: E402
from tools.dso_graph.table import record  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tools.dso_graph.language import Graph

#: Runs of one graph, each with its own script and hooks.
SCRIPTS = 4

#: Native runs that must agree before the emulator is blamed.
REPEATS = 3


class Findings(NamedTuple):
    """What came of one graph: how many runs were compared, and an entry
    with a comment for each disagreement.
    """

    compared: int
    disagreements: list[str]


def disagrees(server: GraphServer, graph: Graph, sort: int, parent: Path) -> str:
    """Return what the emulator makes of a graph if that is not what the real ld.so makes of it;
    empty otherwise.

    A graph that natively dies of a signal, or is not stable, shows nothing.
    """
    folder = build(graph, parent)
    native = run_native(folder, graph, sort)
    emulated = server.run_graph(folder, graph, sort)
    if emulated == native or native.exit not in (0, 127):
        return ""
    if any(run_native(folder, graph, sort) != native for _ in range(REPEATS)):
        return ""
    return str(emulated)


def cases(rng: Random, parent: Path, scripts: int = SCRIPTS) -> Iterator[tuple[Path, Case]]:
    """Build one random graph in ``parent`` and give it with several scripts, and its folder."""
    structure = random_structure(rng)
    for _ in range(scripts):
        graph = random_scripts(rng, structure)
        folder = build(graph, parent)
        case = defined_case(rng, folder, graph, rng.choice(SORTS))
        if case is not None:
            yield folder, case
            if not case.native.output:
                # It does not even start, whatever the script.
                return


def compare(server: GraphServer, rng: Random, scripts: int = SCRIPTS) -> Findings:
    """Compare one random graph with several scripts."""
    compared = 0
    found = []
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        parent = Path(name)
        for folder, case in cases(rng, parent, scripts):
            compared += 1
            if server.run_graph(folder, case.graph, case.sort) != case.native:
                found += explain(server, case, parent)
    return Findings(compared, found)


def explain(server: GraphServer, case: Case, parent: Path) -> list[str]:
    """Return an entry for the smallest graph that shows the disagreement of a case;
    none if it is not stable.
    """
    if not disagrees(server, case.graph, case.sort, parent):
        return []
    graph = shrink(case.graph, lambda graph: bool(disagrees(server, graph, case.sort, parent)))
    emulated = disagrees(server, graph, case.sort, parent)
    comment = "\n".join(f"# {line}".rstrip() for line in emulated.splitlines())
    return [
        f"# emu with dynamic_sort={case.sort}:\n{comment}\n{record('new', 'FILL IN', str(graph), parent)}"
    ]


def _one(work: tuple[int, int]) -> Findings:
    global _server
    if _server is None:
        _server = GraphServer().__enter__()
    seed, index = work
    return compare(_server, Random(f"{seed}:{index}"))


_server: GraphServer | None = None


def main(arguments: list[str] | None = None) -> int:
    """Compare, show progress and print disagreements; return 1 if there was any."""
    parser = argparse.ArgumentParser(description="Compare emu with ld.so on random graphs of shared objects.")
    parser.add_argument("--count", type=int, default=1000, metavar="N", help="runs to compare (default 1000)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default 0")
    parser.add_argument("--jobs", type=int, default=2, metavar="J", help="processes (default 2)")
    options = parser.parse_args(arguments)
    base()
    done = wrong = 0
    start = last = time.monotonic()
    with ProcessPoolExecutor(options.jobs) as pool:
        graphs = -(-options.count // SCRIPTS)
        for compared, disagreements in pool.map(_one, ((options.seed, index) for index in range(graphs))):
            done += compared
            wrong += len(disagreements)
            for text in disagreements:
                print(text, flush=True)
            if time.monotonic() - last > 10:
                last = time.monotonic()
                rate = done / (last - start)
                print(f"{done} of {options.count} runs, {wrong} differ, {rate:.0f}/s", file=sys.stderr)
    print(f"{done} runs, {wrong} differ", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
