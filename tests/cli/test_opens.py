"""`emu why` of opens that fail: for each cause a run that has it, one that just
avoids it, and each remedy, applied, does help.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from functools import cache
from typing import Any

import jsonschema
import pytest

from emu.analysis.data import schema
from emu.analysis.why_data import WhyAnswer
from tests import support
from tools import fixtures

FIXTURE = "opens-that-fail"
#: For each run that has a failure: the library asked for, the cause, what could not be used, and the codes of
#: the remedies.
FAILS: dict[str, tuple[str, str, str, list[str]]] = {
    "file": ("libplugin.so", "no-file", "libcommon_.so", ["rpath", "runpath", "open-first", "library-path"]),
    "file-rpath-ignored": (
        "libown.so",
        "no-file",
        "libcommon_.so",
        ["no-runpath", "runpath", "open-first", "library-path"],
    ),
    "bare-name": ("data.so", "no-file", "data.so", ["runpath", "path", "library-path"]),
    "path": ("libplugin.so", "no-file", "libs/libplugin.so", ["bare-name", "path"]),
    "symbol": ("data.so", "undefined-symbol", "./data.so", ["library", "global"]),
    "symbol-local": ("data.so", "undefined-symbol", "./data.so", ["global", "needed"]),
    "bind-now": ("now.so", "undefined-symbol", "./now.so", ["library", "global", "lazy"]),
    "bind-now-mode": ("lazy.so", "undefined-symbol", "./lazy.so", ["library", "global", "lazy"]),
    "host": ("host.so", "undefined-symbol", "./host.so", ["export"]),
    "version": ("second.so", "no-version", "one/libver.so.1", ["library-path", "preload", "order"]),
    "tls": ("ext.so", "static-tls", "libbig.so", ["tunable", "preload", "model"]),
    "tls-taken": ("libother.so", "static-tls", "./libother.so", ["tunable", "preload", "model", "close"]),
    "files": ("script.so", "bad-file", "./script.so", ["other-file"]),
    "mode": ("linked.so", "mode", "./linked.so", ["mode"]),
    "namespace": ("data.so", "undefined-symbol", "./data.so", ["library"]),
    "exits": ("exits.so", "ended", "./exits.so", []),
}
#: Runs in which the same things are opened without a failure, with the library that was concerned.
WORKS = {
    "file-cured": "libcured.so", "file-rpath": "libplugin.so", "file-library-path": "libplugin.so", "file-first": "libplugin.so",
    "symbol-linked": "linked.so", "symbol-global": "data.so", "host-rdynamic": "host.so", "version-order": "second.so",
    "version-library-path": "second.so", "version-preload": "second.so", "tls-small": "libsmall.so", "tls-tunable": "ext.so",
    "tls-preload": "ext.so",
}  # fmt: skip


def why(run_id: str, library: str, *options: str) -> fixtures.Outcome:
    """What `emu why` says of a run of the fixture."""
    run = support.the_run(f"{FIXTURE}:{run_id}")
    variables = fixtures.BASE_ENV | run.env
    environment = [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
    program, *arguments = run.argv
    folder = fixtures.build(FIXTURE)
    return support.emu(
        "why", "--clean-env", *environment, *options, program, library, "--", *arguments, cwd=folder
    )


@cache
def answer(run_id: str, library: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the answer as data, which its schema describes."""
    done = why(run_id, library, "--json")
    told = json.loads(done.stderr)
    jsonschema.validate(told, schema(WhyAnswer, "why"))
    return done.exit, told


def failure(run_id: str) -> dict[str, Any]:
    """What is told of the failure that a run is there for."""
    _, told = answer(run_id, FAILS[run_id][0])
    return dict(told["failures"][0])


def natively(*words: str, **env: str) -> int:
    """The exit code of a program of the fixture under the real ld.so."""
    folder = fixtures.build(FIXTURE)
    return subprocess.run(
        words, cwd=folder, env=fixtures.BASE_ENV | env, capture_output=True, timeout=60, check=False
    ).returncode


@pytest.mark.parametrize("run_id", FAILS)
def test_each_cause_with_its_remedies(run_id: str) -> None:
    library, cause, object_, codes = FAILS[run_id]
    code, told = answer(run_id, library)
    one = told["failures"][0]
    folder = str(fixtures.build(FIXTURE)) + "/"
    named = os.path.normpath(one["object"].replace(folder, "")) if "/" in one["object"] else one["object"]
    assert (one["cause"], named) == (cause, os.path.normpath(object_))
    assert [cure["code"] for cure in one["cures"]] == codes
    assert code == 1 and not told["opened"]
    assert one["story"] and one["at"]["place"].endswith(("main.c:10", "main.c:11", "main.c:12"))
    assert not any(moment["kind"] == "dlclose" for life in told["generations"] for moment in life["moments"])


@pytest.mark.parametrize("run_id", WORKS)
def test_what_works_has_no_failure(run_id: str) -> None:
    _, told = answer(run_id, WORKS[run_id])
    assert told["failures"] == [] and told["opened"]


def _setting(run_id: str, code: str) -> dict[str, str]:
    """The environment variable that a remedy says."""
    (text,) = (cure["text"] for cure in failure(run_id)["cures"] if cure["code"] == code)
    found = re.match(r"(\w+)=([^ ,]+)", text.removeprefix(":"))
    assert found is not None, text
    return {found[1]: found[2].rstrip(":")}


@pytest.mark.parametrize(
    ("run_id", "code", "words"),
    [
        ("file", "library-path", ["./main", "now:libplugin.so"]),
        ("file-rpath-ignored", "library-path", ["./main-rpath", "now:libown.so"]),
        ("bare-name", "library-path", ["./main", "now:data.so", "global:./libentry.so"]),
        ("version", "library-path", ["./main", "now:./first.so", "now:./second.so"]),
        ("version", "preload", ["./main", "now:./first.so", "now:./second.so"]),
        ("tls", "tunable", ["./main", "now:./ext.so"]),
        ("tls", "preload", ["./main", "now:./ext.so"]),
        ("tls-taken", "tunable", ["./main", "now:./libsmall.so", "now:./libother.so"]),
        ("tls-taken", "preload", ["./main", "now:./libsmall.so", "now:./libother.so"]),
    ],
)
def test_a_setting_that_is_said_helps_natively(run_id: str, code: str, words: list[str]) -> None:
    if run_id == "bare-name":  # found, it still lacks a symbol, which another remedy gives
        words = ["./main", "global:libentry.so", "now:data.so"]
    assert natively(*words) > 0
    assert natively(*words, **_setting(run_id, code)) == 0


def test_the_tunable_is_no_larger_than_it_must_be() -> None:
    (value,) = _setting("tls", "tunable").values()
    number = int(value.rpartition("=")[2])
    less = f"glibc.rtld.optional_static_tls={number - 64}"
    assert natively("./main", "now:./ext.so", GLIBC_TUNABLES=less) == 1


@pytest.mark.parametrize(
    ("run_id", "code", "said", "words"),
    [
        ("file", "rpath", "--disable-new-dtags", ["./main-rpath", "now:libplugin.so"]),
        ("file", "runpath", "RUNPATH $ORIGIN/common ", ["./main", "now:libcured.so"]),
        ("file", "open-first", 'dlopen("libcommon_.so")', ["./main", "now:libcommon_.so", "now:libplugin.so"]),
        ("path", "bare-name", 'dlopen("libplugin.so")', ["./main", "now:libcommon_.so", "now:libplugin.so"]),
        ("symbol", "library", "libentry.so", ["./main", "now:./linked.so"]),
        ("symbol", "global", "open libentry.so with RTLD_GLOBAL", ["./main", "global:./libentry.so", "now:./data.so"]),
        ("symbol-local", "global", "libentry.so opened with RTLD_GLOBAL", ["./main", "global:./libentry.so", "now:./data.so"]),
        ("symbol-local", "needed", "linked with ./libentry.so (DT_NEEDED)", ["./main", "now:./linked.so"]),
        ("bind-now", "lazy", "-Wl,-z,lazy", ["./main", "lazy:./lazy.so"]),
        ("bind-now-mode", "lazy", "RTLD_LAZY", ["./main", "lazy:./lazy.so"]),
        ("host", "export", "-rdynamic", ["./main-rdynamic", "now:./host.so"]),
        ("version", "order", "second.so be loaded before", ["./main", "now:./second.so", "now:./first.so"]),
        ("files", "other-file", "./libentry.so", ["./main", "now:./libentry.so"]),
        ("mode", "mode", "RTLD_NOW", ["./main", "now:./linked.so"]),
    ],
)  # fmt: skip
def test_a_change_that_is_said_helps_natively(run_id: str, code: str, said: str, words: list[str]) -> None:
    texts = [cure["text"] for cure in failure(run_id)["cures"] if cure["code"] == code]
    assert len(texts) == 1 and said in texts[0]
    assert natively(*words) == 0


def test_where_it_was_looked_for_and_where_not() -> None:
    places = failure("file")["places"]
    searched = [place["rule"] for place in places if place["searched"]]
    assert searched == ["library-path", "runpath", "cache", "default"]
    (main,) = (place for place in places if not place["searched"])
    assert main["text"] == "RUNPATH of ./main" and "only what main itself needs" in main["note"]
    assert [(one["path"], one["outcome"]) for one in main["tried"]] == [
        ("lib/common/libcommon_.so", "would-do")
    ]
    (ignored,) = (place for place in failure("file-rpath-ignored")["places"] if not place["searched"])
    assert (
        ignored["text"] == "RPATH of ./main-rpath"
        and ignored["note"] == "ignored, since libown.so has a RUNPATH of its own"
    )


def test_the_failed_look_up_is_told_with_its_scopes() -> None:
    (told,) = failure("host")["look_ups"]
    assert [scope["kind"] for scope in told["scopes"]] == ["global", "local"]
    assert "defines it, but does not export it" in told["scopes"][0]["steps"][0]["remark"]
    stories = {
        run_id: " ".join(failure(run_id)["story"]) for run_id in ("bind-now", "bind-now-mode", "symbol")
    }
    assert (
        "marked BIND_NOW (DF_BIND_NOW, DF_1_NOW: linked with -z now): RTLD_LAZY has no effect"
        in stories["bind-now"]
    )
    assert "would fail next for want of: also_not_there" in stories["bind-now"]
    assert "RTLD_NOW binds every call" in stories["bind-now-mode"]
    assert "data or a pointer" in stories["symbol"]


def test_a_version_by_soname_though_the_runpath_leads_elsewhere() -> None:
    story = "\n".join(failure("version")["story"])
    assert (
        "libver.so.1 is one/libver.so.1 here: found by RUNPATH of ./first.so, needed by ./first.so" in story
    )
    assert "libver.so.1 is its SONAME, and what is there is taken" in story
    assert "lead to two/libver.so.1 (RUNPATH of ./second.so), which defines it" in story


def test_static_tls_says_how_much_is_missing_and_who_took_the_rest() -> None:
    story = "\n".join(failure("tls-taken")["story"])
    assert "R_X86_64_TPOFF64 against state" in story and "taken: 1000 by libsmall.so" in story
    free = re.search(r"(\d+) bytes are free in it .*: (\d+) too few", story)
    assert free is not None and int(free[1]) + int(free[2]) == 1001


def test_what_a_file_is_that_is_no_shared_object() -> None:
    stories = {
        name: " ".join(answer("files", name)[1]["failures"][0]["story"])
        for name in ("script.so", "empty.so", "object.so")
    }
    assert (
        "a linker script, which only ld reads, when a program is linked: it leads to ./libentry.so"
        in stories["script.so"]
    )
    assert "an empty file" in stories["empty.so"] and "an object file (.o)" in stories["object.so"]


def test_an_open_that_never_returned() -> None:
    one = failure("exits")
    assert one["call"] == "left" and [
        f["function"] for f in one["backtrace"] if f["file"].endswith("parts.c")
    ] == ["check_licence"]
    done = why("exits", "exits.so")
    assert b"its open never returned (exit code 3)" in done.stderr and b"NEVER RETURNED" in done.stderr


@pytest.mark.parametrize(
    ("run_id", "library", "cause"),
    [
        ("error-missing-library", "libgone.so", "no-file"),
        ("error-missing-library:indirect", "libgone.so", "no-file"),
        ("error-missing-library:text", "libgone.so", "bad-file"),
        ("error-missing-version", "libv.so.1", "no-version"),
    ],
)
def test_a_start_up_that_fails(run_id: str, library: str, cause: str) -> None:
    run = support.the_run(run_id)
    environment = [word for name, value in run.env.items() for word in ("--env", f"{name}={value}")]
    done = support.emu("why", "--json", *environment, run.argv[0], library, cwd=fixtures.build(run.fixture))
    told = json.loads(done.stderr[done.stderr.index(b"{\n") :])
    assert [one["cause"] for one in told["failures"]] == [cause]
    assert told["failures"][0]["call"] == "start-up" and done.exit == 1 and not told["opened"]


def test_a_name_that_nobody_opened_is_said_with_what_failed() -> None:
    done = why("symbol", "libother.so")
    assert (
        done.exit == 1
        and b"no object libother.so was ever loaded; these opens failed: ./data.so" in done.stderr
    )


def test_an_open_whose_constructor_waits_for_ever() -> None:
    done = support.emu("why", "./main", "plugin.so", "--", "sym", cwd=fixtures.build("thread-loader-lock"))
    told = done.stderr.decode().partition("emu why: ")[2]
    assert "its open never returned (deadlock: all 2 threads wait, and nothing can end that)" in told
    assert re.search(r"where it ended:\n +lock_settings\(\)", told)


def test_a_preload_that_is_refused() -> None:
    folder = fixtures.build(FIXTURE)
    words = [
        "why",
        "--json",
        "--env",
        "LD_PRELOAD=./empty.so",
        "./main",
        "empty.so",
        "--",
        "now:./libentry.so",
    ]
    told = json.loads(support.emu(*words, cwd=folder).stderr.partition(b"ignored.\n")[2])
    (one,) = told["failures"]
    assert (one["call"], one["flags"], one["cause"]) == ("preload", "LD_PRELOAD", "bad-file")
