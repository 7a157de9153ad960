"""Make a graph that shows something smaller, as long as it still shows it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from tools.dso_graph.language import Graph, Hook, Operation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")


def shrink(graph: Graph, shows: Callable[[Graph], bool]) -> Graph:
    """Return a graph for which ``shows`` is true and from which nothing can be taken
    alone so that it stays true.

    ``shows(graph)`` must be true.
    """
    while True:
        before = graph
        for step in (
            _fewer_operations,
            _fewer_hooks,
            _shorter_hooks,
            _fewer_edges,
            _fewer_flags,
            _fewer_modes,
        ):
            graph = _descend(graph, step, shows)
        if graph == before:
            return graph


def _descend(graph: Graph, step: Callable[[Graph], Iterator[Graph]], shows: Callable[[Graph], bool]) -> Graph:
    """Take the first smaller graph that shows it, until there is none."""
    while True:
        for candidate in step(graph):
            if shows(candidate):
                graph = candidate
                break
        else:
            return graph


def _without_parts(items: tuple[T, ...]) -> Iterator[tuple[T, ...]]:
    """Leave out big parts first, then small ones, single items at last; the later items first."""
    size = len(items)
    while size:
        for start in range(len(items) - size, -1, -size):
            yield items[:start] + items[start + size :]
        size //= 2


def _fewer_operations(graph: Graph) -> Iterator[Graph]:
    for script in _without_parts(graph.script):
        yield replace(graph, script=script)


def _fewer_hooks(graph: Graph) -> Iterator[Graph]:
    for hooks in _without_parts(graph.hooks):
        yield replace(graph, hooks=hooks)


def _shorter_hooks(graph: Graph) -> Iterator[Graph]:
    for index, hook in enumerate(graph.hooks):
        if len(hook.script) > 1:
            for script in _without_parts(hook.script):
                shorter = Hook(hook.mark, hook.owner, script)
                yield replace(graph, hooks=(*graph.hooks[:index], shorter, *graph.hooks[index + 1 :]))


def _fewer_edges(graph: Graph) -> Iterator[Graph]:
    for edges in _without_parts(graph.edges):
        yield replace(graph, edges=edges)


def _fewer_flags(graph: Graph) -> Iterator[Graph]:
    pairs = tuple((name, flag) for name, flags in graph.flags.items() for flag in flags)
    for some in _without_parts(pairs):
        flags: dict[str, tuple[str, ...]] = {}
        for name, flag in some:
            flags[name] = (*flags.get(name, ()), flag)
        yield replace(graph, flags=flags)


def _fewer_modes(graph: Graph) -> Iterator[Graph]:
    for index, operation in enumerate(graph.script):
        if operation.modes:
            for modes in _without_parts(operation.modes):
                simpler = Operation(operation.mark, operation.target, modes)
                yield replace(graph, script=(*graph.script[:index], simpler, *graph.script[index + 1 :]))
