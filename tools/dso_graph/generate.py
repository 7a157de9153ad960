"""Random graphs and scripts whose behaviour under the real ld.so is defined.

Some things that a program can say leave ld.so itself with dangling pointers, and no run of those says
anything: opening, in a destructor, an object that the same dlclose is about to remove; binding to it or
touching its thread_local object there; closing an object whose function is running. They are avoided here:
destructors open only objects that stand alone (LONERS), and a graph has either closes in constructors or
opens in functions. An operation that ends the program, as a call whose target cannot be bound does, is found
by running natively and taken out again, or made the last one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from tools.dso_graph.language import LIBC, PROGRAM, Edge, Graph, Hook, Operation, Script
from tools.dso_graph.run import Outcome, run_native

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

#: Objects without edges, which alone destructors may open.
LONERS = ("y", "z")

_LETTERS = "abcdefghijkl"

#: How likely an object has each flag.
_FLAGS = {
    "tls": 0.4,
    "common": 0.25,
    "unique": 0.05,
    "now": 0.1,
    "nodelete": 0.04,
    "initfirst": 0.04,
    "symbolic": 0.05,
    "global": 0.04,
    "interpose": 0.03,
    "noopen": 0.02,
    "missing": 0.01,
}

_BINDINGS: dict[tuple[str, ...], int] = {(): 10, ("now",): 5, ("lazy",): 1}
_MORE_MODES = {"global": 0.3, "noload": 0.06, "nodelete": 0.03, "deepbind": 0.07, "local": 0.03}


class Case(NamedTuple):
    """A graph, the sort that it runs with, and what the real ld.so made of it."""

    graph: Graph
    sort: int
    native: Outcome


def random_structure(rng: Random) -> Graph:
    """Return 4 to 12 objects with edges and flags, without scripts."""
    names = _LETTERS[: rng.randint(4, 12)]
    edges: dict[Edge, None] = {}
    backwards = rng.choice((0.0, 0.0, 0.1, 0.3))
    density = rng.choice((0.8, 1.5, 2.5))
    for arrow, each in (("->", density), ("=>", rng.choice((0.3, 0.8, 1.3))), ("?>", 0.2), ("~>", 0.2)):
        for _ in range(int(len(names) * each)):
            source, target = rng.choice(names), rng.choice(names)
            if arrow == "->" and target < source and rng.random() >= backwards:
                source, target = target, source
            if arrow == "~>" and edges and rng.random() < 0.8:
                # Most objects shall be loadable.
                needed = rng.choice([edge for edge in edges if edge.arrow == "->"] or list(edges))
                source, target = needed.source, needed.target
            if source != target or rng.random() < 0.1:
                edges[Edge(source, arrow, target)] = None
    if rng.random() < 0.4:
        for target in rng.sample(names, rng.randint(1, 3)):
            edges[Edge(PROGRAM, "->", target)] = None
        if rng.random() < 0.4:
            edges[Edge(PROGRAM, rng.choice(("=>", "?>")), rng.choice(names))] = None
    if rng.random() < 0.3:
        for source in rng.sample(names, rng.randint(1, len(names))):
            edges[Edge(source, "->", LIBC)] = None
    flags = {}
    for name in (*names, *LONERS, *((PROGRAM,) if rng.random() < 0.1 else ())):
        found = [flag for flag, chance in _FLAGS.items() if rng.random() < chance]
        if name == PROGRAM or name in LONERS:
            found = [flag for flag in found if flag in ("tls", "common", "unique")]
        if name not in LONERS and rng.random() < (0.1 if name == PROGRAM else 0.03):
            found.append(f"soname={rng.choice(names)}")
        flags[name] = tuple(found)
    return Graph(tuple(edges), flags)


def random_scripts(rng: Random, structure: Graph) -> Graph:
    """Return the structure with a long script, and with hooks on some of its objects."""
    names = [name for name in structure.objects() if name not in LONERS]
    opens_in_functions = rng.random() < 0.5
    constructor = "+@&%?" if opens_in_functions else "+-@&%?"
    function = "+@&?" if opens_in_functions else "@&?"
    hooks = []
    for name in (*names, PROGRAM):
        for mark, marks, chance in (("", constructor, 0.12), ("%", function, 0.05), ("@", "+-%@&?", 0.1)):
            if rng.random() < chance:
                script = [_operation(rng, marks, names) for _ in range(rng.randint(1, 2))]
                hooks.append(Hook(mark, name, tuple(script)))
        if rng.random() < 0.12:
            hooks.append(Hook("~", name, _destructor(rng, names)))
    open_now: list[str] = []
    script = []
    for _ in range(rng.randint(8, 40)):
        operation = _operation(rng, "++++----%%@@?&" if open_now else "+", names, open_now)
        if operation.mark == "+":
            open_now.append(operation.target)
        elif operation.mark == "-" and operation.target in open_now:
            open_now.remove(operation.target)
        script.append(operation)
    if rng.random() < 0.5:
        rng.shuffle(open_now)
        script += [Operation("-", name) for name in open_now]
    return replace(structure, hooks=tuple(hooks), script=tuple(script))


def _destructor(rng: Random, names: list[str]) -> Script:
    script = []
    for _ in range(rng.randint(1, 2)):
        mark = rng.choice("--+&?")
        script.append(Operation(mark, rng.choice(LONERS if mark == "+" else (*names, *LONERS))))
    return tuple(script)


def _operation(rng: Random, marks: str, names: list[str], open_now: list[str] | None = None) -> Operation:
    mark = rng.choice(marks)
    target = rng.choice(names)
    if mark in "-%@&" and open_now and rng.random() < 0.9:
        target = rng.choice(open_now)
    elif mark in "+-@%?" and rng.random() < 0.03:
        target = PROGRAM
    if mark != "+":
        return Operation(mark, target)
    (modes,) = rng.choices(list(_BINDINGS), list(_BINDINGS.values()))
    return Operation(
        mark, target, (*modes, *(m for m, chance in _MORE_MODES.items() if rng.random() < chance))
    )


def defined_case(rng: Random, folder: Path, graph: Graph, sort: int) -> Case | None:
    """Take out of the script what ends the program; None when it dies otherwise.

    A tenth of the programs keep their last operation, a failed binding: ld.so's words for it are compared
    too.
    """
    keep = rng.random() < 0.1
    while True:
        native = run_native(folder, graph, sort)
        if not native.exit:
            return Case(graph, sort, native)
        lines = native.output.splitlines()
        refused = native.exit == 127 and "symbol lookup error" in native.errors
        if not lines or lines[-1].startswith(("start", "end")) or (refused and keep):
            return Case(graph, sort, native) if refused else None
        fatal = len(lines) - 2
        graph = replace(graph, script=graph.script[:fatal] + graph.script[fatal + 1 :])
