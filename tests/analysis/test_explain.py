"""emu explain: each kind of reason in a fixture that has it; the winner is always the native ld.so's."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tools import fixtures

_GOLDEN = Path(__file__).parent / "golden"
_LINE = re.compile(
    r"binding file (\S+) \[\d+\] to (\S+) \[\d+\]: (?:normal|protected) symbol `([^']+)'(?: \[([^\]]+)\])?"
)
Answer = dict[str, Any]


def run_explain(
    fixture: str, *words: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    variables = fixtures.BASE_ENV | (env or {})
    options = [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
    return subprocess.run(
        [sys.executable, "-m", "emu", "explain", "-o", "-", "--clean-env", *options, *words],
        cwd=fixtures.build(fixture),
        env=os.environ | {"PYTHONPATH": str(fixtures.ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


@cache
def validator() -> jsonschema.Draft202012Validator:
    done = subprocess.run(
        [sys.executable, "-m", "emu", "explain", "--schema"], capture_output=True, text=True
    )
    return jsonschema.Draft202012Validator(json.loads(done.stdout))


def ask(fixture: str, *words: str, env: dict[str, str] | None = None) -> Answer:
    done = run_explain(fixture, "--json", *words, env=env)
    assert done.returncode in (0, 1), done.stderr
    answer: Answer = json.loads(done.stdout[done.stdout.index("{") :])
    validator().validate(answer)
    return answer


@cache
def _native(fixture: str, argv: tuple[str, ...], env: tuple[tuple[str, str], ...]) -> set[tuple[str, ...]]:
    done = subprocess.run(
        argv,
        cwd=fixtures.build(fixture),
        env={**fixtures.BASE_ENV, **dict(env), "LD_DEBUG": "bindings", "LD_BIND_NOW": "1"},
        capture_output=True,
    )
    return {
        (os.path.basename(origin), os.path.basename(target), symbol, version)
        for origin, target, symbol, version in _LINE.findall(done.stderr.decode(errors="replace"))
    }


def check_native(answer: Answer, fixture: str, argv: tuple[str, ...], env: dict[str, str] | None) -> None:
    """The winners are those that ld.so tells of, for every reference that a relocation makes."""
    native = _native(fixture, argv, tuple((env or {}).items()))
    for one in answer["explanations"]:
        reference, winner = one["reference"], one["winner"]
        if not reference["relocations"] or reference["kind"] == "home" or "ld-linux" in reference["object"]:
            continue
        origin, symbol = os.path.basename(reference["object"]), answer["symbol"]
        told = {
            line[1]
            for line in native
            if (line[0], line[2], line[3]) == (origin, symbol, reference["version"])
        }
        if winner is None:
            assert not told
        else:
            assert os.path.basename(winner["object"]) in told, (reference, told)


def base(name: str) -> str:
    return os.path.basename(name)


def explanation(answer: Answer, object_: str, relocation: str = "") -> Answer:
    """The one explanation of an object's reference that a relocation type (or none) makes."""
    found: list[Answer] = [
        one
        for one in answer["explanations"]
        if base(one["reference"]["object"]) == object_
        and (not relocation or relocation in one["reference"]["relocations"])
    ]
    assert len(found) == 1, [one["reference"] for one in answer["explanations"]]
    return found[0]


def steps(one: Answer) -> dict[str, tuple[str, str]]:
    """Outcome and verdict by object, of the first time that each is met."""
    found: dict[str, tuple[str, str]] = {}
    for scope in one["scopes"]:
        for step in scope["steps"]:
            found.setdefault(base(step["object"]), (step["outcome"], step["verdict"]))
    return found


def codes(one: Answer) -> set[str]:
    return {rule["code"] for rule in one["rules"]}


def changes(one: Answer) -> dict[tuple[str, str], str | None]:
    """Who would win, by change and the object that it changes."""
    return {
        (change["code"], base(change["object"])): base(change["winner"]["object"])
        if change["winner"]
        else None
        for change in one["changes"]
    }


J, G, D, C = "R_X86_64_JUMP_SLOT", "R_X86_64_GLOB_DAT", "R_X86_64_64", "R_X86_64_COPY"

#: fixture, program, symbol, environment, (object, relocation) that refers, steps to find, winner, rules to
#: find, changes to find
CASES: dict[str, tuple[Any, ...]] = {
    "bloom filter, not asked": (
        "tls-dsos", "./main", "puts", {}, ("main", J),
        {"main": ("passed-over", "bloom-filter"), "libc.so.6": ("won", "same-version"), "libm.so.6": ("not-asked", "bloom-filter")},
        "libc.so.6", {"version", "only-definition"}, {("without-winner", "libc.so.6"): None},
    ),
    "no such name, undefined there": (
        "link-hash-sysv", "./main", "_ZNSo3putEc", {}, ("main", J),
        {"main": ("passed-over", "undefined"), "libx.so": ("passed-over", "no-such-name")}, "libstdc++.so.6", {"version"}, {},
    ),
    "other version": (
        "versions-interposed", "./main", "f@A", {"LD_PRELOAD": "./one.so"}, ("main", J),
        {"one.so": ("passed-over", "other-version")}, "liblib.so.1", {"version"},
        {("version", "main"): "liblib.so.1"},
    ),
    "preload, version": (
        "versions-interposed", "./main", "f@B", {"LD_PRELOAD": "./one.so"}, ("main", J),
        {"one.so": ("won", "same-version"), "liblib.so.1": ("interposed", "same-version")}, "one.so",
        {"preload", "version", "scope-order"}, {("without-winner", "one.so"): "liblib.so.1", ("preload", "liblib.so.1"): "liblib.so.1"},
    ),
    "an object without versions": (
        "versions-interposed", "./main", "f@B", {"LD_PRELOAD": "./plain.so"}, ("main", J),
        {"plain.so": ("won", "no-versions")}, "plain.so", {"preload", "no-versions"}, {},
    ),
    "a definition without a version": (
        "explain-versions", "./main", "f", {"LD_PRELOAD": "./libold.so"}, ("main", J),
        {"libold.so": ("passed-over", "other-version"), "libv.so.1": ("won", "unversioned")}, "libv.so.1", {"unversioned"},
        {("no-version", "main"): "libold.so"},
    ),
    "hidden visibility": (
        "explain-passed-over", "./main", "hidden_one", {}, ("main", J),
        {"libodd.so": ("passed-over", "hidden"), "libmute.so": ("passed-over", "no-hash-table")}, "libplain.so", {"only-definition"}, {},
    ),
    "local": (
        "explain-passed-over", "./main", "local_one", {}, ("main", J), {"libodd.so": ("passed-over", "local")}, "libplain.so", set(), {},
    ),
    "wrong type": (
        "explain-passed-over", "./main", "odd_type", {}, ("main", J), {"libodd.so": ("passed-over", "wrong-type")}, "libplain.so", set(), {},
    ),
    "two default versions": (
        "explain-passed-over", "./main", "both_default", {}, ("main", J),
        {"libodd.so": ("passed-over", "several-defaults")}, "libplain.so", set(), {("version", "main"): "libodd.so"},
    ),
    "home": ("explain-passed-over", "./main", "own_hidden", {}, ("libodd.so", D), {}, "libodd.so", {"home"}, {}),
    "base version for an unversioned reference": (
        "symbol-versions", "./main", "answer", {"LD_LIBRARY_PATH": "."}, ("libunversioned.so", J), {"libv.so.1": ("won", "base-version")},
        "libv.so.1", {"base-version"}, {},
    ),
    "symbolic": (
        "explain-symbolic", "./main", "both", {}, ("libself.so", J), {"libself.so": ("won", "no-versions"), "main": ("interposed", "base-version")},
        "libself.so", {"symbolic"}, {("no-symbolic", "libself.so"): "main"},
    ),
    "protected": (
        "link-visibility", "./main", "guarded", {}, ("libx.so", D), {"main": ("interposed", "base-version")}, "libx.so",
        {"protected"}, {("default-visibility", "libx.so"): "main"},
    ),
    "interposed by the program": (
        "link-visibility", "./main", "open_one", {}, ("libx.so", D), {"libx.so": ("interposed", "no-versions")}, "main",
        {"scope-order"}, {("symbolic", "libx.so"): "libx.so", ("visibility", "libx.so"): "libx.so", ("without-winner", "main"): "libx.so"},
    ),
    "unique": (
        "unique-symbols", "./main", "Registry<long>::count", {"LD_LIBRARY_PATH": "symbolic"}, ("liba.so", G),
        {"main": ("interposed", "unique"), "libb.so": ("won", "unique")}, "libb.so", {"unique"}, {("no-unique", ""): "main"},
    ),
    "copy": (
        "copy-relocation", "./main", "number", {}, ("libx.so", G), {"libx.so": ("interposed", "no-versions")}, "main", {"copy"},
        {("no-copy", "main"): "libx.so"},
    ),
    "the program in its own COPY": (
        "copy-relocation", "./main", "number", {}, ("main", C), {"main": ("passed-over", "executable")}, "libx.so", set(), {},
    ),
    "canonical PLT": (
        "function-pointer-equality", "./nopie", "function", {}, ("libuser.so", G), {"libdef.so": ("interposed", "no-versions")}, "nopie",
        {"canonical-plt"}, {("pic", "nopie"): "libdef.so"},
    ),
    "a call past the canonical PLT": (
        "function-pointer-equality", "./nopie", "function", {}, ("nopie", J), {"nopie": ("passed-over", "canonical-plt")}, "libdef.so",
        set(), {},
    ),
    "ifunc": ("ifunc", "./main", "from_dso", {}, ("main", G), {}, "libx.so", {"ifunc"}, {}),
    "weak first": (
        "weak-and-strong", "./main", "which", {}, ("main", J), {"libstrong.so": ("interposed", "no-versions")}, "libweak.so",
        {"weak-first"}, {("dynamic-weak", ""): "libstrong.so"},
    ),
    "LD_DYNAMIC_WEAK": (
        "weak-and-strong", "./main", "which", {"LD_DYNAMIC_WEAK": "1"}, ("main", J), {"libweak.so": ("interposed", "weak-for-now")},
        "libstrong.so", {"dynamic-weak"}, {("dynamic-weak", ""): "libweak.so"},
    ),
    "undefined weak": ("weak-undefined", "./main", "maybe_data", {}, ("main", G), {}, None, {"undefined-weak"}, {}),
    "weak, but there": (
        "weak-undefined", "./main", "maybe_data", {"LD_PRELOAD": "./libpresent.so"}, ("main", G), {}, "libpresent.so", {"preload"}, {},
    ),
    "undefined": ("error-undefined-symbol", "./main", "missing", {}, ("main", J), {}, None, {"undefined"}, {}),
    "two preloads": (
        "preload-interposition", "./main", "exported", {"LD_PRELOAD": "./libp1.so:./libp2.so"}, ("libx.so", J),
        {"libp2.so": ("interposed", "base-version")}, "libp1.so", {"preload"}, {("preload", "libp2.so"): "libp2.so"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_reason(case: str) -> None:
    fixture, program, symbol, env, (object_, relocation), wanted, winner, rules, changed = CASES[case]
    answer = ask(fixture, program, symbol, env=env)
    one = explanation(answer, object_, relocation)
    found = steps(one)
    assert {name: found[name] for name in wanted} == wanted
    assert (base(one["winner"]["object"]) if one["winner"] else None) == winner
    assert rules <= codes(one)
    told = changes(one)
    assert {key: told[key] for key in changed} == changed
    check_native(answer, fixture, (program,), env)


def test_a_change_by_another_release_of_glibc_is_named() -> None:
    words = ("versions-unversioned-too", "./main", "f")
    env = {"LD_LIBRARY_PATH": "./first"}
    (explanation,) = ask(*words, env=env)["explanations"]
    (change,) = (change for change in explanation["changes"] if change["code"] == "release")
    named = bool(explanation["winner"]["version"])
    assert change["text"] == f"with glibc {'before 2.41' if named else '2.41 and later'}"
    assert bool(change["winner"]["version"]) is not named
    assert change["text"] in run_explain(*words, env=env).stdout
