"""Remedies of opens that fail are tried by another run:
what helps, what helps with one cause and then fails for another, what only seems to help.
"""

from __future__ import annotations

import json
import subprocess
from functools import cache
from typing import Any

import jsonschema
import pytest

from emu.analysis.data import schema
from emu.analysis.why_data import WhyAnswer
from tests import support
from tools import elsewhere, fixtures

FIXTURE = "opens-tried"
#: For each run: the library, and the outcome of each remedy by its code.
OUTCOMES = {
    "version-script": ("script.so", {"export": "opens", "library": "opens", "global": "opens", "preload": "opens", "lazy": "opens"}),
    "static": ("static.so", {"export": "opens", "lazy": "opens"}),
    "namespace": ("host.so", {"base-namespace": "opens", "lazy": "opens"}),
    "twice": ("twice.so", {"runpath": "next", "library-path": "next"}),
    "ignored": ("libmiddle.so", {"no-runpath": "starts", "runpath": "starts", "open-first": "starts", "library-path": "starts"}),
    "number": ("libnumber.so.2", {"rebuild": ""}),
    "throws": ("throws.so", {"catch": ""}),
}  # fmt: skip


@cache
def failure(run_id: str, fixture: str = FIXTURE, library: str = "", *options: str) -> dict[str, Any]:
    """What `emu why --json` tells of the failure of a run."""
    run = support.the_run(f"{fixture}:{run_id}")
    variables = fixtures.BASE_ENV | run.env
    environment = [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
    program, *arguments = run.argv
    name = library or OUTCOMES[run_id][0]
    done = support.emu(
        "why", "--json", "--clean-env", *environment, *options, program, name, "--", *arguments, cwd=fixtures.build(fixture)
    )  # fmt: skip
    told = json.loads(done.stderr[done.stderr.index(b'{\n  "program"') :])
    return dict(told["failures"][0])


@pytest.mark.parametrize("run_id", OUTCOMES)
def test_what_became_of_each_remedy(run_id: str) -> None:
    cures = failure(run_id)["cures"]
    assert {cure["code"]: cure["outcome"] for cure in cures} == OUTCOMES[run_id][1]
    assert all("trial" not in cure for cure in cures)
    jsonschema.validate(
        failure(run_id), {"$ref": "#/$defs/FailedOpen", "$defs": schema(WhyAnswer, "why")["$defs"]}
    )


def test_what_fails_next_is_told() -> None:
    (cure,) = (cure for cure in failure("twice")["cures"] if cure["code"] == "runpath")
    assert cure["then"] == "./twice.so: undefined symbol: nowhere"


def test_each_remedy_of_the_usual_causes_was_tried_and_opens() -> None:
    for run_id, library in (
        ("file", "libplugin.so"),
        ("tls", "ext.so"),
        ("host", "host.so"),
        ("version", "second.so"),
    ):
        cures = failure(run_id, "opens-that-fail", library)["cures"]
        tried = {cure["code"]: cure["outcome"] for cure in cures if cure["code"] not in ("model", "order")}
        assert tried and set(tried.values()) == {"opens"}, (run_id, tried)


def test_without_trying_nothing_is_run_again() -> None:
    cures = failure("file", "opens-that-fail", "libplugin.so", "--no-try")["cures"]
    assert cures and {cure["outcome"] for cure in cures} == {""}


def test_what_keeps_a_definition_from_being_exported() -> None:
    remarks = {
        run_id: [
            step["remark"] for scope in failure(run_id)["look_ups"][0]["scopes"] for step in scope["steps"]
        ]
        for run_id in ("version-script", "static")
    }
    assert any(
        "not static: -fvisibility=hidden, its version script" in text for text in remarks["version-script"]
    )
    assert any("it has a static one" in text for text in remarks["static"])


def test_a_file_of_the_same_soname_is_no_dependency_to_add() -> None:
    (cure,) = (cure for cure in failure("version-script")["cures"] if cure["code"] == "preload")
    assert "libtwo.so is libtwo.so here, which does not define it" in cure["text"]


def test_another_namespace_is_named() -> None:
    assert any("main defines it in namespace 0" in text for text in failure("namespace")["story"])


def test_an_exception_out_of_a_constructor() -> None:
    one = failure("throws")
    assert (one["call"], one["cause"]) == ("left", "ended") and "SIGABRT" in one["error"]
    assert any(
        "Licence::Licence() (throws.cc:4) threw an exception, which must not leave a constructor" in text
        for text in one["story"]
    )


def test_the_number_of_a_soname() -> None:
    one = failure("number", FIXTURE, "libnumber.so")
    assert one["cures"][0]["result"] == "its SONAME is libnumber.so.3: another number is another interface"


def test_trying_writes_nothing_and_says_nothing() -> None:
    folder = fixtures.build(FIXTURE)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    done = support.emu("why", "./main", "script.so", "--", "now:./script.so", cwd=folder)
    assert done.stdout.count(b"\n") == 1
    assert b"what helps (the program is run again with each, and it opens):" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_file_that_was_cut_off(tmp_path: Any) -> None:
    folder = fixtures.build(FIXTURE)
    (tmp_path / "libdeep.so").write_bytes((folder / "sub/libdeep.so").read_bytes()[:5000])
    done = support.emu(
        "why", "--json", "--env", f"LD_LIBRARY_PATH={tmp_path}:sub", "./main", "libdeep.so", "--", "now:libdeep.so", cwd=folder
    )  # fmt: skip
    (one,) = json.loads(done.stderr)["failures"]
    assert one["cause"] == "bad-file" and any(
        "was cut off: its segments reach to byte" in text for text in one["story"]
    )
    (cure,) = one["cures"]
    assert (cure["code"], cure["outcome"]) == ("remove", "opens")


def test_a_change_with_which_the_run_does_not_come_so_far(tmp_path: Any) -> None:
    """Under an auditor a preload takes from the surplus, too: then an earlier open fails for want of it."""
    (tmp_path / "a.c").write_text("unsigned la_version(unsigned version) { return version; }\n")
    source = '__thread __attribute__((tls_model("initial-exec"))) char buffer[800]; char *get(void) { return buffer; }\n'
    (tmp_path / "t.c").write_text(source)
    for name, words in (("a.so", ["a.c"]), ("one.so", ["t.c"]), ("two.so", ["t.c"]), ("three.so", ["t.c"])):
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", name, *words], cwd=tmp_path, check=True)
    program = str(fixtures.build(FIXTURE) / "main")
    opens = [f"now:./{name}.so" for name in ("one", "two", "three")]
    words = ["why", "--json", "--env", f"LD_AUDIT={tmp_path}/a.so", program, "three.so", "--", *opens]
    done = support.emu(*words, cwd=tmp_path)
    (one,) = json.loads(done.stderr[done.stderr.index(b'{\n  "program"') :])["failures"]
    (preload,) = (cure for cure in one["cures"] if cure["code"] == "preload")
    assert preload["outcome"] in ("opens", "next")
    natively = subprocess.run(
        [program, *opens], cwd=tmp_path, capture_output=True, check=False,
        env=fixtures.BASE_ENV | {"LD_AUDIT": f"{tmp_path}/a.so", "LD_PRELOAD": "./three.so"},
    )  # fmt: skip
    assert (preload["outcome"] == "opens") == (natively.returncode == 0)


@pytest.mark.skipif(
    elsewhere.source_of("2.41") is None, reason="no system with glibc 2.41 here: emu sysroot add debian:13"
)
def test_an_executable_stack_is_refused_since_2_41(tmp_path: Any) -> None:
    (tmp_path / "x.s").write_text(".globl f\nf: ret\n")
    for flag, name in (("--execstack", "wants.so"), ("--noexecstack", "plain.so")):
        subprocess.run(
            ["gcc", "-shared", f"-Wa,{flag}", "-o", name, "x.s"],
            cwd=tmp_path,
            check=True,
            capture_output=True,
        )
    (tmp_path / "main").write_bytes((fixtures.build(FIXTURE) / "main").read_bytes())
    (tmp_path / "main").chmod(0o755)
    root = str(elsewhere.source_of("2.41"))
    words = ["why", "--json", "--sysroot", root, "--writable", str(tmp_path), f"{tmp_path}/main"]
    done = support.emu(*words, "wants.so", "--", f"now:{tmp_path}/wants.so", cwd=tmp_path)
    (one,) = json.loads(done.stderr[done.stderr.index(b'{\n  "program"') :])["failures"]
    assert one["cause"] == "executable-stack" and "its PT_GNU_STACK asks for one (PF_X)" in one["story"][0]
    assert {cure["code"]: cure["outcome"] for cure in one["cures"]} == {
        "no-exec-stack": "opens",
        "note": "",
        "preload": "opens",
    }
    (tmp_path / "noted.s").write_text('.globl f\nf: ret\n.section .note.GNU-stack,"",@progbits\n')
    subprocess.run(["gcc", "-shared", "-o", "noted.so", "noted.s"], cwd=tmp_path, check=True)
    for name in ("plain.so", "noted.so"):  # what was told helps
        done = support.emu(*words, name, "--", f"now:{tmp_path}/{name}", cwd=tmp_path)
        assert json.loads(done.stderr[done.stderr.index(b'{\n  "program"') :])["failures"] == []
