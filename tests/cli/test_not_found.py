"""What fails while a program runs, asked by the first command that comes to mind: a first call, a dlsym, a
library without versions.
"""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from emu.glibc.release import rules_of
from tests import support
from tools import fixtures

FOLDER = fixtures.CACHE / "not-found"
pytestmark = pytest.mark.usefixtures("built_fixtures")


def asked(command: str, *words: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the answer of a command as data; the program's own words come before it."""
    done = support.emu(command, "--json", *words, cwd=FOLDER)
    text = done.stderr.decode()
    return done.exit, json.loads(text[text.index('{\n  "program"') :])


def failure(*words: str) -> dict[str, Any]:
    """The one failure that emu why tells of."""
    (one,) = asked("why", *words)[1]["failures"]
    return dict(one)


@pytest.mark.parametrize("library", ["libcaller.so", "./lazy"])
def test_a_first_call_that_nothing_serves(library: str) -> None:
    one = failure("./lazy", library, "call")
    assert (one["call"], one["cause"], one["symbol"]) == ("first-call", "undefined-symbol", "served")
    assert one["at"]["place"].endswith("parts.c:8")
    served = [cure for cure in one["cures"] if "libserver.so" in cure["text"]]
    assert [cure["outcome"] for cure in served] == ["binds"], "the remedy was tried"


def test_a_first_call_is_a_finding_and_its_near_misses_are_none() -> None:
    code, report = asked("check", "./lazy", "call")
    (finding,) = report["findings"]
    assert (code, report["exit_code"], finding["rule"], finding["severity"]) == (
        1,
        127,
        "not-loaded",
        "error",
    )
    assert (
        finding["message"]
        == "symbol lookup error: " + str(FOLDER / "libcaller.so") + ": undefined symbol: served"
    )
    assert finding["frames"][0]["function"] == "go"
    for words in (["./lazy"], ["./linked", "call"]):
        assert asked("check", *words)[1]["findings"] == []
        assert asked("why", words[0], "libcaller.so", *words[1:])[1]["failures"] == []


def test_a_dlsym_that_finds_nothing_in_its_library() -> None:
    one = failure("./host", "plugin.so", "./plugin.so")
    assert (one["call"], one["symbol"], one["flags"]) == ("dlsym", "create", "./plugin.so")
    assert any(
        'plugin.so defines create(int), mangled as C++ (_Z6createi): declare it extern "C"' in s
        for s in one["story"]
    )
    assert asked("why", "./host", "plain.so", "./plain.so")[1]["failures"] == []


def test_explain_tells_of_that_dlsym_by_the_name_that_it_asked_for() -> None:
    text = support.emu("explain", "./host", "create", "./plugin.so", cwd=FOLDER).stderr.decode()
    assert 'dlsym(handle of plugin.so, "create") at main' in text
    assert "! plugin.so defines create(int), mangled as C++" in text
    assert (
        "mangled as"
        not in support.emu("explain", "./host", "create", "./plain.so", cwd=FOLDER).stderr.decode()
    )


def test_a_library_without_versions_ends_the_start_before_2_41() -> None:
    assert asked("why", "--env", "LD_LIBRARY_PATH=bare", "./needs", "libserver.so")[1]["failures"] == []
    words = ("--env", "LD_LIBRARY_PATH=silent", "./needs", "libserver.so")
    if rules_of(os.confstr("CS_GNU_LIBC_VERSION").split()[1]).lost_versions_accepted:  # type: ignore[union-attr]
        assert asked("why", *words)[1]["failures"] == []
        return
    one = failure(*words)
    assert (one["call"], one["cause"], one["symbol"]) == ("start-up", "no-version", "V2")
    assert one["story"][0].startswith(
        "libserver.so has no versions at all, though needs was linked with one that has"
    )
    assert [(cure["code"], cure["outcome"]) for cure in one["cures"]] == [
        ("library-path", "starts"),
        ("preload", "starts"),
    ]


def test_a_file_for_another_system_says_which() -> None:
    one = failure("./host", "bsd.so", "./bsd.so")
    assert one["cause"] == "bad-file"
    assert "its header says that it is for FreeBSD, ABI version 0 (EI_OSABI)" in one["story"][-1]


@pytest.mark.parametrize(
    ("first", "again", "library", "words"),
    [
        ("./plain.so", "./hard.so", "hard.so", "the path is a hard link or another path to its file"),
        ("./plain.so", "./soft.so", "soft.so", "the path is a symbolic link to its file"),
        ("sub/named.so", "libname.so", "libname.so", "that is its SONAME, and what is there is taken without a search"),
        ("./plain.so", "./plain.so", "plain.so", ""),
    ],
)  # fmt: skip
def test_an_object_that_was_found_by_another_name(first: str, again: str, library: str, words: str) -> None:
    (life,) = asked("why", "./names", library, first, again)[1]["generations"]
    notes = [note for note in life["notes"] if "gave this object" in note]
    assert [words in note for note in notes] == ([True] if words else [])


def test_an_open_that_only_asks_says_how_the_object_is_known() -> None:
    one = failure("./names", "unnamed.so", "sub/unnamed.so", "?unnamed.so")
    assert one["story"][0].startswith(
        "RTLD_NOLOAD only asks whether it is loaded: no loaded object is called unnamed.so"
    )
    assert "sub/unnamed.so is loaded, but it has no SONAME" in one["story"][0]
    same, soname = (cure for cure in one["cures"] if cure["code"] in ("same-name", "soname"))
    assert (same["outcome"], soname["tried"]) == ("opens", False)
    assert "link it with -Wl,-soname,unnamed.so" in soname["text"]
    for helped in (("sub/unnamed.so", "?sub/unnamed.so"), ("sub/named.so", "?libname.so")):  # linked so
        assert asked("why", "./names", helped[0], *helped)[1]["failures"] == []
