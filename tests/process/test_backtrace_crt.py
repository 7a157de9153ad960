"""Backtraces through code without unwind information and objects that have gone; what repeats is folded."""

from __future__ import annotations

import re

import pytest

from tests import support
from tools import fixtures


def frames(run: str, *options: str) -> list[str]:
    """The functions of the backtrace of a death, and what stands between them."""
    done = support.emu("run", *options, "./main", run, cwd=fixtures.build("backtrace-crt"))
    lines = done.stderr.decode().splitlines()
    return [re.sub(r"^    #\d+ |^    | \(.*| \[.*", "", line) for line in lines if line.startswith("    ")]


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (
            "close",
            ["Cache::~Cache", "__do_global_dtors_aux", "call_fini", "_dl_close", "dlclose", "retire", "main"],
        ),
        ("exit", ["Cache::~Cache", "__run_exit_handlers", "exit", "_start"]),
        ("gone", ["back_into", "main", "_start"]),
        ("resolver", ["resolve_answer", "_dl_runtime_resolve", "ask", "main", "_start"]),
    ],
)
def test_the_walk_goes_on_to_main(run: str, expected: list[str]) -> None:
    functions = [name.removesuffix("()") for name in frames(run)]
    assert [name for name in functions if name in expected] == expected


def test_repeated_calls_are_folded_unless_every_frame_is_wanted() -> None:
    shown = frames("recursion")
    assert [line for line in shown if line.startswith("...")] == ["... these 2 frames 49 more times"]
    assert "main" in shown and len(shown) < 12
    every = frames("recursion", "--all-frames")
    assert sum(line.startswith(("even", "odd")) for line in every) == 101 and not any(
        line.startswith("...") for line in every
    )
