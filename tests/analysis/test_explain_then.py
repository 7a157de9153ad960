"""`emu explain` tells look-ups of the run when they were made:
each dlsym, and references of opens that failed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import support
from tools import fixtures


def explain(run_id: str, symbol: str, *options: str) -> tuple[int, dict[str, Any], str]:
    """The exit code, the answer as data, and as text, about a run of a fixture."""
    run = support.the_run(run_id)
    variables = fixtures.BASE_ENV | run.env
    environment = [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
    program, *arguments = run.argv
    words = ["--clean-env", *environment, *options, program, symbol, "--", *arguments]
    folder = fixtures.build(run.fixture)
    data = support.emu("explain", "-o", "-", "--json", *words, cwd=folder)
    text = support.emu("explain", "-o", "-", *words, cwd=folder).stdout.decode()
    return data.exit, json.loads(data.stdout[data.stdout.index(b"{\n") :]), text


def dlsyms(answer: dict[str, Any]) -> list[tuple[str, str, str | None]]:
    """Of each dlsym: the handle, on whose behalf, and the winner."""
    told = [one for one in answer["explanations"] if one["reference"]["handle"]]
    return [
        (one["reference"]["handle"], one["reference"]["object"], one["winner"] and one["winner"]["object"])
        for one in told
    ]


@pytest.mark.parametrize(
    ("run", "caller", "winner"),
    [
        ("fails", "hook.so", None),
        ("finds", "hook.so", "libhs.so"),
        ("linked", "hook.so", "libhs.so"),
        ("global", "hook.so", "libhs.so"),
        ("wrapped", "libwrap.so", None),
    ],
)
def test_next_is_told_from_the_object_that_calls_dlsym(run: str, caller: str, winner: str | None) -> None:
    _, answer, text = explain(f"explain-dlsym:{run}", "handshake")
    (told,) = [one for one in answer["explanations"] if one["reference"]["handle"] == "RTLD_NEXT"]
    assert Path(told["reference"]["object"]).name == caller
    assert (told["winner"] and Path(told["winner"]["object"]).name) == winner
    assert [scope["kind"] for scope in told["scopes"]] == ["next"]
    assert (
        "parts.c:" in told["reference"]["caller"]
        and "the caller decides what RTLD_NEXT means" in told["remarks"][-1]
    )
    assert 'dlsym(RTLD_NEXT, "handshake") by ' in text and "called by" in told["then"]


def test_what_would_let_next_find_it_does() -> None:
    _, answer, text = explain("explain-dlsym:fails", "handshake")
    (told,) = [one for one in answer["explanations"] if one["reference"]["handle"]]
    assert [(change["code"], Path(change["winner"]["object"]).name) for change in told["changes"]] == [
        ("preload", "libhs.so"), ("global", "libhs.so"), ("needed", "libhs.so"),
    ]  # fmt: skip
    assert "LD_PRELOAD=./hook.so:./libhs.so" in text
    assert "libhs.so defines it, and is only in the local scope of ./user.so" in text.replace(
        "user.so (R", "./user.so (R"
    )
    helped = {run.id: support.run_native(run).stdout for run in fixtures.load("explain-dlsym").runs}
    for run in ("finds", "global"):
        assert b"next is found" in helped[f"explain-dlsym:{run}"]
    assert b"next is found" not in helped["explain-dlsym:fails"] + helped["explain-dlsym:wrapped"]


def test_default_handle_and_version() -> None:
    _, answer, text = explain("explain-dlsym:fails", "user_go")
    assert dlsyms(answer) == [
        ("./user.so", "./user.so", "./user.so"), ("RTLD_DEFAULT", "./main", None), ("./user.so", "./user.so", "./user.so"),
    ]  # fmt: skip
    assert 'dlvsym(handle of user.so, "user_go", "V9") at main' in text


def test_a_trace_tells_the_caller_the_handle_and_failures() -> None:
    run = support.the_run("explain-dlsym:fails")
    command = support.emu_command(run, "--trace", "bindings", "--trace-format", "brief")
    lines = support.emu(*command[3:], cwd=fixtures.build(run.fixture)).stderr.decode().splitlines()
    asked = [line.partition("dlsym(")[2] for line in lines if " dlsym(" in line]
    assert (
        asked[0].startswith("handle of ./user.so, user_go) by main (")
        and "main.c:8): ./user.so 0x" in asked[0]
    )
    assert asked[1].startswith("RTLD_NEXT of ./hook.so, handshake) by handshake (") and asked[1].endswith(
        "): not found"
    )
    assert asked[2].startswith("RTLD_DEFAULT of ./main, user_go) by main (") and asked[2].endswith(
        "): not found"
    )


@pytest.mark.parametrize(
    ("run", "symbol", "relocation"),
    [
        ("opens-that-fail:bind-now", "not_there", "R_X86_64_JUMP_SLOT"),
        ("opens-that-fail:symbol", "not_there", "R_X86_64_GLOB_DAT"),
        ("opens-that-fail:host", "host_function", "R_X86_64_64"),
    ],
)
def test_a_look_up_that_failed_an_open_is_retold(run: str, symbol: str, relocation: str) -> None:
    code, answer, text = explain(run, symbol)
    (told,) = [one for one in answer["explanations"] if one["then"]]
    assert code == 1 and told["winner"] is None and told["scopes"]
    assert (
        "in dlopen(" in told["then"]
        and "which failed for want of it" in told["then"]
        and told["then"] in text
    )
    assert told["then"].startswith("when it was bound (R_X86_64_") and relocation.startswith("R_X86_64_")


def test_what_an_open_that_works_binds_is_not_told_twice() -> None:
    code, answer, _ = explain("opens-that-fail:symbol-global", "not_there")
    assert code == 0 and [one["then"] for one in answer["explanations"]] == [""]
