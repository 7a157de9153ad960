"""Rules by release: which has which, and what changed between two."""

from __future__ import annotations

import re
from dataclasses import fields, replace

import pytest

from emu.cli.help import topics
from emu.glibc.release import CHANGES, NEWEST, OLDEST, changed_between, number, rules_of, since
from emu.rtld.rules import Rules


def test_rules_accumulate() -> None:
    oldest, home, newest = rules_of("2.28"), rules_of("2.36"), rules_of(".".join(map(str, NEWEST)))
    assert (oldest.sort_by_depth, home.sort_by_depth, newest.sort_by_depth) == (False, True, True)
    assert (home.closed_goes_first, newest.closed_goes_first) == (False, True)
    assert home.release == "2.36"
    assert rules_of("2.50") == replace(newest, release="2.50")


def test_every_rule_has_its_change_and_all_are_in_order() -> None:
    assert {change.rule for change in CHANGES if change.rule} == {f.name for f in fields(Rules)} - {"release"}
    releases = [change.release for change in CHANGES]
    assert releases == sorted(releases)
    assert OLDEST < releases[0] <= releases[-1] <= NEWEST


def test_what_changed_between_two_releases() -> None:
    changed = [change.rule for change in changed_between("2.39", "2.36") if change.rule]
    assert changed == [
        "removed_bind_to_removed",
        "closed_goes_first",
        "finalised_once",
        "empty_ends_told",
        "libc_relocated_first",
    ]
    assert changed_between("2.39", "2.36") == changed_between("2.36", "2.39")
    assert changed_between("2.36", "2.36") == []


def test_since_when_a_rule_holds() -> None:
    assert since("closed_goes_first") == "with glibc 2.39 and later"


@pytest.mark.parametrize("text", ["", "2", "two", "2.x"])
def test_what_is_no_release(text: str) -> None:
    with pytest.raises(ValueError, match="no release of glibc"):
        number(text)


def test_the_page_about_releases_has_every_change() -> None:
    page = topics()["releases"].read_text("utf-8")
    rows = [f"| {c.release[0]}.{c.release[1]} | {c.what} | {c.source} |" for c in CHANGES]
    assert [row for row in rows if row not in page] == []


@pytest.mark.parametrize(
    ("facet", "shown", "what"),
    [
        (
            "output",
            "./lib1664.so: cannot allocate memory in static TLS block",
            "restartable sequences have a block",
        ),
        (
            "output",
            "one: bind realloc of libc.so.6 to libc.so.6, flags 0x3",
            "the C library is relocated before",
        ),
        ("loads", "/usr/lib/x86_64-linux-gnu/libpthread.so.0", "libpthread, libdl, librt and libutil"),
        (
            "errors",
            "./x.so: cannot enable executable stack as shared object requires",
            "dlopen refuses an object",
        ),
    ],
)
def test_a_difference_shows_the_change_behind_it(facet: str, shown: str, what: str) -> None:
    found = [c.what for c in CHANGES if facet in c.concerns and c.sign and re.search(c.sign, shown)]
    assert len(found) == 1
    assert found[0].startswith(what)
