"""Run a graph of shared objects: ``python -m tools.dso_graph 'main->a; a->b; {+c;-c}'``."""

from __future__ import annotations

import argparse
import sys

from tools.dso_graph.build import build
from tools.dso_graph.language import DescriptionError, parse
from tools.dso_graph.run import SORTS, run_emu, run_native
from tools.dso_graph.table import record


def main() -> int:
    """Print what the graph does; the exit code is 1 when the emulator differs, 2 for a wrong description."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.dso_graph",
        description="Run a graph of shared objects; see tools/dso_graph/language.py.",
    )
    parser.add_argument("description")
    parser.add_argument(
        "--sort", type=int, choices=SORTS, default=2, help="glibc.rtld.dynamic_sort (default 2)"
    )
    parser.add_argument("--emu", action="store_true", help="run it in the emulator as well")
    parser.add_argument("--entry", metavar="NAME", help="print an entry for a table instead")
    options = parser.parse_args()
    try:
        graph = parse(options.description)
    except DescriptionError as error:
        print(f"dso_graph: {error}", file=sys.stderr)
        return 2
    if options.entry:
        print(record(options.entry, "", options.description))
        return 0
    folder = build(graph)
    native = run_native(folder, graph, options.sort)
    print(native)
    if not options.emu:
        return 0
    emulated = run_emu(folder, graph, options.sort)
    if emulated != native:
        print(f"--- emu:\n{emulated}")
    return int(emulated != native)


if __name__ == "__main__":
    sys.exit(main())
