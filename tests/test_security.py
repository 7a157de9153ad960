"""What SECURITY.md promises has tests, and they are there."""

from __future__ import annotations

import re

import pytest

from tools.fixtures import ROOT

_TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
_NAMED = re.compile(r"`(tests/[\w/.]+)(?:::(\w+))?`")


def _promises() -> list[str]:
    part = _TEXT.partition("## What is promised")[2].partition("\n## ")[0]
    return re.split(r"\n(?=\d+\. )", part.strip())


@pytest.mark.parametrize("promise", _promises(), ids=lambda text: text.partition("**")[2][:20])
def test_every_promise_names_tests_that_are_there(promise: str) -> None:
    tests = _NAMED.findall(promise.partition("Tests:")[2])
    assert tests, promise
    for path, name in tests:
        assert (ROOT / path).exists(), path
        if name:
            assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), (path, name)
        elif (ROOT / path).is_dir():
            assert list((ROOT / path).rglob("test_*.py")), path


def test_there_are_promises() -> None:
    assert len(_promises()) >= 6
