"""The text of emu explain: three whole answers, and how it fits a terminal."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from emu.analysis.answer import (
    Answer,
    AppliedRule,
    Definition,
    Explanation,
    LoadedObject,
    Reference,
    ScopeSearched,
    SearchStep,
)
from emu.analysis.data import Address
from emu.analysis.text import VERDICTS, render
from emu.rtld.verdict import Verdict
from tests.analysis.test_explain import run_explain
from tools import fixtures

_GOLDEN = Path(__file__).parent / "golden"
_ANSWERS = {
    "versions": ("versions-interposed", ("./main", "f@B"), {"LD_PRELOAD": "./one.so:./plain.so"}),
    "copy": ("copy-relocation", ("./main", "number"), {}),
    "dlopen": ("dl-scope-local-global", ("./main", "who", "--from", "libc.so", "--", "global:a", "global:b", "open:c"), {}),
}  # fmt: skip


def _without_numbers(text: str) -> str:
    """Leave out what another compiler may choose: digits of offsets and sizes, and the folder."""
    text = text.replace(f"{fixtures.CACHE}/", "")
    text = re.sub(r"0x[0-9a-f]+", lambda found: "0x" + "x" * (len(found[0]) - 2), text)
    return re.sub(r"FUNC, \d+ bytes", "FUNC, N bytes", text)


@pytest.mark.parametrize("name", _ANSWERS)
def test_golden(name: str) -> None:
    fixture, words, env = _ANSWERS[name]
    done = run_explain(fixture, *words, env=env)
    assert done.returncode == 0, done.stderr
    path = _GOLDEN / f"{name}.txt"
    text = _without_numbers(done.stdout)
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def _answer() -> Answer:
    main, lib = "./main", "/usr/lib/libsome-very-long-name.so.1"
    definition = Definition(
        lib, 0, "V1", "default", "GLOBAL", "FUNC", "DEFAULT", 6, Address(0x1130), Address(0x7FFFF0001130), "/src/some/where/lib.c:3"
    )  # fmt: skip
    reference = Reference(
        main, 0, "call", "V1", "libsome.so", "GLOBAL", "FUNC", "DEFAULT", ("R_X86_64_JUMP_SLOT",)
    )
    steps = (
        SearchStep(main, 0, "passed-over", "bloom-filter", (), ""),
        SearchStep(lib, 0, "won", "same-version", (), ""),
    )
    scope = ScopeSearched("global", main, "the global scope", steps)
    rule = AppliedRule("version", "it has the version that is asked for, " + "and that is a long story " * 8)
    one = Explanation(reference, (scope,), definition, (rule,), (), (), (), ())
    objects = tuple(LoadedObject(name, 0, name, None, "", "start-up", True) for name in (main, lib))
    return Answer(main, "f", "f", "now", "", objects, (one,), (), (), ())


def test_it_fits_the_terminal() -> None:
    text = render(_answer(), width=60)
    assert max(map(len, text.splitlines())) <= 60
    assert "".join(text.split()) == "".join(render(_answer()).split())


def test_colour_only_on_request() -> None:
    plain, coloured = render(_answer()), render(_answer(), colour=True)
    assert "\x1b" not in plain
    assert re.sub(r"\x1b\[\d+m", "", coloured) == plain
    assert "\x1b[32m" in coloured


def test_every_verdict_has_words() -> None:
    assert {verdict.value for verdict in Verdict} - {"protected"} <= set(VERDICTS)
