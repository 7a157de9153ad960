"""emu diff: where runs first differ, and the rule that is behind it.

The real ld.so of each system is the judge.
"""

from __future__ import annotations

import gc
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import jsonschema
import pytest

from emu.analysis.diff import Ways, compare
from emu.analysis.diff_data import FACETS
from emu.glibc.release import CHANGES, rules_of
from emu.kernel.run.policy import RoundRobin
from emu.process import RunConfig
from tests.support import compile_c, emu
from tools import elsewhere, fixtures

if TYPE_CHECKING:
    from emu.analysis.diff_data import Comparison, Difference

pytestmark = pytest.mark.usefixtures("built_fixtures")


@pytest.mark.parametrize(
    ("fixture", "words"),
    [
        ("unload-cycle", ("open:a", "close:a")),
        ("unload-unique", ("open:a", "call:a.a", "close:a")),
        ("tls-dsos", ("ca",)),
        ("dl-executable-stack", ()),
        ("exceptions-dsos", ()),
        ("init-order-graph", ()),
    ],
)
def test_our_loader_and_the_real_one_do_the_same(fixture: str, words: tuple[str, ...]) -> None:
    said = emu("diff", "./main", "--ldso", "real", "--", *words, cwd=fixtures.CACHE / fixture)
    text = said.stdout.decode()
    assert (said.exit, said.stderr) == (0, b""), text
    assert "emu's loader and its own ld.so do the same" in text
    assert "the same: output, errors, ending, loads, bindings, init, fini, unloads" in text


def test_a_run_that_was_observed_gives_its_addresses_back() -> None:
    """Each has up to half of what the host's processor can address, and `compare` makes one for each rule."""
    ways = ways_of("unload-cycle", "open:a", "close:a")
    ways.run(0)
    gc.collect()
    gc.disable()
    try:
        before = _reserved()
        ways.run(0)
        assert _reserved() < before + (1 << 40)
    finally:
        gc.enable()


def _reserved() -> int:
    areas = (line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines())
    return sum(int(end, 16) - int(start, 16) for start, end in areas)


# -- two releases, by the rules alone ------------------------------------------------------------------------


_HOME = "2.36"
"""The release whose rules the first side has, whatever this system's is."""


def _rules(release: str, only: tuple[str, ...] = ()) -> tuple[tuple[str, bool], ...]:
    rules = rules_of(release)
    return tuple(
        (c.rule, bool(getattr(rules, c.rule))) for c in CHANGES if c.rule and (not only or c.rule in only)
    )


def ways_of(fixture: str, *words: str, env: dict[str, str] | None = None) -> Ways:
    folder, env = str(fixtures.CACHE / fixture), fixtures.BASE_ENV | (env or {})
    config = RunConfig("./main", words, env, folder, argv0="./main", rules=_rules(_HOME))
    return Ways([config, config], ["old", "new"], b"", RoundRobin)


def compared(ways: Ways, release: str, *only: str) -> Comparison:
    """Compare a loader by the rules of 2.36 with one by those of another release, or by some of them."""
    ours, theirs = ways.run(0), ways.run(1, _rules(release, only))
    ours, theirs = (
        seen._replace(side=replace(seen.side, release=number))
        for seen, number in ((ours, _HOME), (theirs, release))
    )
    return compare(ways, ours, theirs, 1)


def by_facet(comparison: Comparison) -> dict[str, Difference]:
    return {difference.facet: difference for difference in comparison.differences}


def test_order_of_a_closed_object_s_destructor_is_explained() -> None:
    found = by_facet(compared(ways_of("unload-cycle", "open:a", "close:a"), "2.41"))
    assert set(found) == {"output", "fini", "unloads"}
    assert (found["fini"].left, found["fini"].right) == ("./libd.so", "./liba.so")
    (why,) = found["fini"].explanations
    assert (why.release, why.source, why.tried) == ("2.39", "bug 30981", True)


_BARE = {"LD_PRELOAD": "./bare/libv.so.1"}
_KINDS = [
    ("init-order-cycle", (), {}, "2.34", "sort_by_depth", {"output", "init", "fini"}),
    ("check-init-cycle", (), {}, "2.34", "sort_by_depth", {"output", "init", "fini", "findings"}),
    ("tls-dyn-gaps", (), {}, "2.34", "closed_ids_reused", {"output", "tls"}),
    (
        "unload-lazy-dying",
        (),
        {},
        "2.38",
        "removed_bind_to_removed",
        {"output", "errors", "ending", "bindings", "fini", "unloads", "findings"},
    ),
    ("versions-absent", ("call",), _BARE, "2.41", "lost_versions_accepted", {"errors", "bindings"}),
    (
        "versions-unversioned-too",
        (),
        {"LD_LIBRARY_PATH": "./first"},
        "2.41",
        "named_version_first",
        {"output"},
    ),
]


@pytest.mark.parametrize(
    ("fixture", "words", "env", "release", "rule", "facets"), _KINDS, ids=[kind[0] for kind in _KINDS]
)
def test_a_difference_of_each_kind_is_explained_by_its_rule(
    fixture: str, words: tuple[str, ...], env: dict[str, str], release: str, rule: str, facets: set[str]
) -> None:
    found = by_facet(compared(ways_of(fixture, *words, env=env), release, rule))
    (change,) = (change for change in CHANGES if change.rule == rule)
    assert set(found) == facets
    for difference in found.values():
        (why,) = difference.explanations
        assert (why.source, why.text, why.tried) == (change.source, change.what, True)


def test_an_ending_is_explained() -> None:
    """Natively, too: it ends with 127 in 2.36."""
    found = by_facet(compared(ways_of("unload-lazy-dying"), "2.41"))
    ending = found["ending"]
    assert (ending.left, ending.right) == ("exit code 127", "exit code 0")
    (why,) = ending.explanations
    assert (why.release, why.source, why.tried) == ("2.38", "bug 30425", True)


def test_numbers_of_tls_modules_are_explained() -> None:
    """Once objects have gone, an older release counts on for those that come."""
    tls = by_facet(compared(ways_of("tls-dyn-gaps"), "2.34", "closed_ids_reused"))["tls"]
    assert [re.sub(r"module \d+", "module N", text) for text in (tls.left, tls.right)] == [
        "./libg.so: module N, 4 bytes aligned to 4, dynamic"
    ] * 2
    assert tls.left != tls.right
    (why,) = tls.explanations
    assert (why.release, why.source, why.tried) == ("2.35", "bug 27135", True)


def test_refused_executable_stack_is_explained() -> None:
    found = by_facet(compared(ways_of("dl-executable-stack"), "2.41"))
    assert found["loads"].left == "./libstack.so"
    assert found["loads"].right == ""
    assert {d.explanations[0].release for d in found.values()} == {"2.41"}


def test_a_program_that_no_rule_concerns_does_the_same() -> None:
    comparison = compared(ways_of("tls-dsos", "ca"), "2.41")
    assert comparison.differences == ()
    assert comparison.same == tuple(FACETS)


# -- two real systems ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def newer() -> Path:
    """A system with glibc 2.41."""
    found = elsewhere.source_of("2.41")
    if found is None:
        pytest.skip("no system with glibc 2.41 here: EMU_SYSROOTS names none")
    return found


@pytest.mark.parametrize("ldso", [(), ("--ldso", "real")], ids=["emu", "real"])
def test_two_systems(newer: Path, ldso: tuple[str, ...]) -> None:
    roots = ("--sysroot", "/", "--sysroot", str(newer))
    folder = fixtures.CACHE / "unload-cycle"
    said = emu("diff", "./main", *roots, *ldso, "--json", "--", "open:a", "close:a", cwd=folder)
    assert said.exit == 1, said.stderr.decode()
    (comparison,) = json.loads(said.stdout)["comparisons"]
    found = {difference["facet"]: difference for difference in comparison["differences"]}
    assert set(found) == {"output", "fini", "unloads"}
    assert all(d["explanations"][0]["source"] == "bug 30981" for d in found.values())
    same = emu("diff", "./main", *roots, *ldso, "--", "ca", cwd=fixtures.CACHE / "tls-dsos")
    assert same.exit == 0, same.stdout.decode()


# -- the command ---------------------------------------------------------------------------------------------


def test_json_follows_its_schema() -> None:
    schema = json.loads(emu("diff", "--schema", cwd=fixtures.CACHE).stdout)
    folder = fixtures.CACHE / "hello-printf"
    said = emu("diff", "./main", "--json", "--ldso", "real", "--", "one", cwd=folder)
    answer = json.loads(said.stdout)
    jsonschema.validate(answer, schema)
    assert [side["ldso"] for side in answer["sides"]] == ["emu", "real"]
    assert {unseen["facet"] for unseen in answer["comparisons"][0]["unseen"]} == {"tls", "findings"}


def test_every_side_gets_the_standard_input_and_nobody_sees_how_it_is_asked(tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text(
        "#include <stdio.h>\n#include <stdlib.h>\n"
        'int main(void) { puts(getenv("LD_DEBUG") ? "asked" : "not asked"); return getchar(); }\n'
    )
    compile_c(tmp_path, "-o", "main", "main.c")
    said = emu("diff", "./main", "--ldso", "real", "--json", cwd=tmp_path, stdin=b"x")
    assert said.exit == 0, said.stdout.decode()
    assert [side["exit_code"] for side in json.loads(said.stdout)["sides"]] == [ord("x")] * 2


def test_a_program_that_only_one_side_starts(tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text("int f(void);\nint main(void) { return f(); }\n")
    (tmp_path / "f.c").write_text("int f(void) { return 7; }\n")
    compile_c(tmp_path, "-shared", "-fPIC", "-o", "libf.so", "f.c")
    compile_c(tmp_path, "-o", "main", "main.c", "./libf.so")
    (tmp_path / "libf.so").unlink()
    said = emu("diff", "./main", "--ldso", "real", cwd=tmp_path)
    text = said.stdout.decode()
    assert said.exit == 0, text
    assert "exit code 127" in text


@pytest.mark.parametrize(
    ("words", "exit_code", "complaint"),
    [
        (("./main",), 2, "nothing to compare with: give two --sysroot, or --ldso real"),
        (("./main", "--sysroot", "/"), 2, "nothing to compare with"),
        (("./none", "--ldso", "real"), 127, "emu's loader: ./none: No such file or directory"),
    ],
)
def test_bad_input_is_one_line(words: tuple[str, ...], exit_code: int, complaint: str) -> None:
    said = emu("diff", *words, cwd=fixtures.CACHE / "hello-printf")
    assert (said.exit, said.stdout) == (exit_code, b"")
    assert complaint in said.stderr.decode()
    assert said.stderr.count(b"\n") == 1
