"""How a run ended: what a finding says of it, and that each remedy helps."""

from __future__ import annotations

import re

import pytest

from tests.analysis.test_check_conflicts import checked

pytestmark = pytest.mark.usefixtures("built_fixtures")


@pytest.mark.parametrize(
    ("run_id", "words", "named"),
    [
        ("check-null-call:tail", "tail.so calls optional, a weak reference that nothing defines: it is 0", "optional"),
        ("check-null-static:main", "main calls optional, which nothing defined when main was linked", "optional"),
        ("check-null-static:last", "main calls counted, which nothing defined when main was linked", "counted"),
        ("check-null-static:pie", "pie calls optional, which nothing defined when pie was linked", "optional"),
        ("check-null-static:unnamed", "unnamed calls a function at main.c:9, which nothing defined", "NAME"),
    ],
)  # fmt: skip
def test_a_call_of_what_is_not_there(run_id: str, words: str, named: str) -> None:
    (finding,) = checked(run_id).report["findings"]
    assert finding["rule"] == "died"
    assert words in finding["message"]
    assert f"ask before the call: if ({named})" in finding["remedies"]
    if "static" in run_id:
        assert f"-Wl,-u,{named} or -Wl,--whole-archive" in finding["remedies"][0]


@pytest.mark.parametrize("avoids", ["asks", "asks-last", "taken", "whole"])
def test_a_static_program_that_has_it_or_asks(avoids: str) -> None:
    answer = checked(f"check-null-static:{avoids}")
    assert (answer.rules, answer.report["exit_code"]) == ([], 0)


def test_a_malloc_that_asks_dlsym_for_what_is_not_there_is_told_as_a_cycle() -> None:
    (finding,) = checked("check-recursion:asks").report["findings"]
    assert (
        "a recursion that nothing ends: malloc of asks.so (hook.c:20) calls dlsym of libc.so.6, which calls malloc of asks.so:"
        ' dlsym(RTLD_NEXT, "malloc_real") finds nothing, and allocates the message for dlerror by malloc, which asks.so takes over'
        in finding["message"]
    )
    assert [place["title"] for place in finding["related"]] == ["asked by"]
    helps = ["malloc_real", "let malloc return NULL while dlsym runs", "__libc_malloc"]
    assert [word for word, text in zip(helps, finding["remedies"], strict=True) if word in text] == helps


def test_functions_that_call_each_other_for_ever_are_named() -> None:
    (finding,) = checked("check-recursion:round").report["findings"]
    words = r"a recursion that nothing ends: even of main \(main\.c:7\) calls odd of main \(main\.c:6\), which calls even of main$"
    assert re.search(words, finding["message"])


@pytest.mark.parametrize("avoids", ["name", "flag", "own", "ends"])
def test_a_recursion_that_ends(avoids: str) -> None:
    answer = checked(f"check-recursion:{avoids}")
    assert (answer.rules, answer.report["exit_code"]) == ([], 0)
