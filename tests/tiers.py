"""What `--tier` means: a sample of every test file, all, or all with more random cases.

The sample is even over each file in the order of its tests, so that of the fixtures' runs (by name: dl-,
thread-, tls-) each family has some. It is the same on every machine, and wants gcc and g++ only: what needs
another linker, compiler, debugger or a browser is not in it. Only the fixtures that it can ask for are built.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from tools import fixtures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import pytest

TIERS = ("sample", "all", "long")
_TESTS = Path(__file__).resolve().parent

#: One of so many tests of a file is in the sample, and at least so many tests of it.
STRIDE, LEAST = 40, 1

#: How much more the random tests try in the long tier.
LONG = 10


def sample(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """Return the tests of the sample, in order."""
    files: dict[Path, list[pytest.Item]] = defaultdict(list)
    needy = {fixture.name for fixture in fixtures.load_all() if fixture.needs}
    for item in items:
        if item.get_closest_marker("needs") is None and not needy & _named(item):
            files[item.path].append(item)
    chosen = set()
    for tests in files.values():
        count = min(len(tests), max(LEAST, -(-len(tests) // STRIDE)))
        # The middles of equal parts: neither always the first nor always the last of a file.
        chosen |= {tests[(2 * part + 1) * len(tests) // (2 * count)] for part in range(count)}
    return [item for item in items if item in chosen]


def runs(
    keyword: str,
    *,
    tag: str = "",
    of: Callable[[Sequence[fixtures.Run]], Sequence[fixtures.Run]] = lambda runs: runs,
) -> list[fixtures.Run]:
    """Return the runs of all fixtures, by name: with a tag those that have it, of each fixture those that
    `of` chooses. Where `keyword` (what -k says) has a fixture's whole name, only fixtures with that in their
    names are read: thousands of tests that nobody asked for are not made.
    """
    names = sorted(_names())
    words = keyword.split(" and ") if not {"or", "not"} & set(re.findall(r"\w+", keyword)) else []
    for word in {word.strip(" ()") for word in words} & set(names):
        names = [name for name in names if word in name]
    chosen = (fixtures.load(name).runs for name in names)
    return [run for one in chosen for run in of([run for run in one if not tag or tag in run.tags])]


def _names() -> set[str]:
    return {path.parent.name for path in fixtures.SOURCES.glob("*/fixture.toml")}


def _named(item: pytest.Item) -> set[str]:
    """Return what may be names of fixtures among a test's parameters: a run's, or a run's id as a string."""
    values = getattr(getattr(item, "callspec", None), "params", {}).values()
    names = {value.fixture for value in values if isinstance(value, fixtures.Run)}
    return names | {value.partition(":")[0] for value in values if isinstance(value, str)}


def _run_of(item: pytest.Item) -> fixtures.Run | None:
    run = getattr(getattr(item, "callspec", None), "params", {}).get("run")
    return run if isinstance(run, fixtures.Run) else None


def fixtures_of(
    items: Iterable[pytest.Item], *, needy: bool = False, left: Iterable[pytest.Item] = ()
) -> set[str]:
    """Return the names of all fixtures that tests can ask for: those of their parameters, and those that
    their files name, or files beside and below them. `needy` ones need more than gcc and g++.

    `left` are tests that are not run: what a file names for their bodies and parameters only is left out.
    """
    names = _names() if needy else {fixture.name for fixture in fixtures.load_all() if not fixture.needs}
    files: dict[Path, set[str]] = defaultdict(set)
    asked = set[str]()
    for item in items:
        function = getattr(item, "function", None)
        asked |= names & _named(item)
        if function and _run_of(item):  # it asks for its own, and for what it names itself
            asked |= names & _words(inspect.getsource(function))
        else:
            files[item.path].add(function.__name__ if function else "")
    others: dict[Path, set[str]] = defaultdict(set)
    for item in left:
        others[item.path] |= _named(item) | {getattr(getattr(item, "function", None), "__name__", "")}
    for path, functions in files.items():
        text = path.read_text("utf-8")
        asked |= names & (_words_for(text, functions, others[path]) if path in others else _words(text))
    for folder in {path.parent for path in files if path.parent != _TESTS}:
        for path in folder.rglob("*.py" if needy else "conftest.py"):
            asked |= names & _words(path.read_text("utf-8"))
    return asked


def _words(text: str) -> set[str]:
    return set(re.findall(r"[\w-]+", text))


def _words_for(text: str, functions: set[str], others: set[str]) -> set[str]:
    """Return the words of a file that some of its tests can ask for: not those in other tests, nor those of
    its tables that are parameters of such. `others` has the names of both.
    """
    words = set[str]()
    for node in ast.parse(text).body:
        source = ast.get_source_segment(text, node) or ""
        if isinstance(node, ast.FunctionDef) and node.name in functions | others:
            if node.name in functions:  # its decorators name the parameters of all its items
                words |= _words("\n".join(ast.get_source_segment(text, one) or "" for one in node.body))
        elif isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(
            node.value, ast.Dict | ast.List | ast.Set | ast.Tuple
        ):
            words |= _words(source) - others
        else:
            words |= _words(source)
    return words
