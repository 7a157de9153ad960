"""Tables of graphs with the output that the real ld.so gives: TOML files with an entry for each graph.

[[graph]]
name = "diamond"
about = "what it shows"
graph = "main->a,b; a,b->c"
output = '''...'''            # with both values of glibc.rtld.dynamic_sort
output1 = '''...'''           # or, where they differ, with each
output2 = '''...'''
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tools.dso_graph.build import CACHE, build
from tools.dso_graph.language import Graph, parse
from tools.dso_graph.run import SORTS, run_native

if TYPE_CHECKING:
    from pathlib import Path


class TableError(Exception):
    """A table is malformed; the message names the entry."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One graph of a table; ``outputs`` is by the value of glibc.rtld.dynamic_sort."""

    name: str
    about: str
    text: str
    outputs: dict[int, str]

    @property
    def graph(self) -> Graph:
        """The graph; raises DescriptionError."""
        return parse(self.text)


def load(path: Path) -> list[Entry]:
    """Read one table. Raises TableError, tomllib.TOMLDecodeError."""
    entries = []
    for item in tomllib.loads(path.read_text())["graph"]:
        known = {"name", "about", "graph", "output", "output1", "output2"}
        if not {"name", "about", "graph"} <= item.keys() <= known:
            raise TableError(f"{path.name}: {item.get('name')}: missing or unknown keys")
        outputs = {sort: item.get(f"output{sort}", item.get("output")) for sort in SORTS}
        if None in outputs.values() or ("output" in item) == ("output1" in item):
            raise TableError(f"{path.name}: {item['name']}: either output or output1 and output2")
        entries.append(
            Entry(
                item["name"], item["about"], item["graph"], {s: text.strip() for s, text in outputs.items()}
            )
        )
    return entries


def record(name: str, about: str, text: str, parent: Path = CACHE) -> str:
    """Build a graph in ``parent``, run it natively and return its entry for a table."""
    graph = parse(text)
    folder = build(graph, parent)
    outputs = {sort: str(run_native(folder, graph, sort)) for sort in SORTS}
    if len(set(outputs.values())) == 1:
        outputs_text = f"output = '''\n{outputs[SORTS[0]]}\n'''"
    else:
        outputs_text = "\n".join(f"output{sort} = '''\n{text}\n'''" for sort, text in outputs.items())
    quoted = f'"{text}"' if "\n" not in text else f'"""\n{text.strip()}\n"""'
    return f'[[graph]]\nname = "{name}"\nabout = "{about}"\ngraph = {quoted}\n{outputs_text}\n'
