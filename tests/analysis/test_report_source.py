"""The source of a report's page is formatted as source code is, in the package and in the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from emu.analysis import report_page
from tools.fixtures import ROOT

FILES = sorted(
    path for path in (ROOT / "emu/analysis").glob("report*") if path.suffix in (".html", ".css", ".js")
)
MOST = 120
_TEXTS = re.compile(r"\"(?:\\.|[^\"])*\"|'(?:\\.|[^'])*'|`(?:\\.|[^`])*`|//.*")
_INNER = re.compile(r"\([^()]*\)")


def _statements(line: str) -> list[str]:
    """Return the statements that a line of a script or a style begins or ends."""
    bare = _TEXTS.sub("", line)
    while (less := _INNER.sub("", bare)) != bare:
        bare = less
    return [part for part in bare.split(";") if part.strip(" {}),]")]


def test_what_counts_as_a_statement() -> None:
    assert len(_statements('for (let i = 0; i < N; i++) put("a; b", i);')) == 1
    assert len(_statements("const a = 1; let b = 2;")) == 2
    assert len(_statements("p { color: red; margin: 0 }")) == 2


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_is_formatted(path: Path) -> None:
    lines = path.read_text().split("\n")
    assert len(lines) > 40 and lines[-1] == "", "lines, and a last one that ends"
    wrong = [
        f"{number}: {line}"
        for number, line in enumerate(lines, 1)
        if len(line) > MOST
        or line != line.rstrip()
        or "\t" in line
        or (len(line) - len(line.lstrip())) % 2
        or path.suffix != ".html"
        and len(_statements(line)) > 1
    ]
    assert wrong == []


def test_the_page_has_it_as_it_is() -> None:
    page = report_page.page({})
    for path in FILES:
        for part in re.split("@STYLE@|@SCRIPT@|@DATA@", path.read_text()):
            assert part in page
