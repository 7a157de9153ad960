"""`emu check`: each rule finds what has it, nothing in what has not, and says it in these words.

One piece: what each fixture is expected to give, and the tests over it.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from emu.analysis.check_data import REMEDIES, RULES, Report
from emu.analysis.data import schema
from tests.analysis.test_check_conflicts import CASES, LISTED
from tests.support import emu, run_native, the_run
from tools import fixtures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tools.fixtures import Outcome, Run

GOLDEN = Path(__file__).parent / "check"

#: The rules that each run breaks, sorted; a run that is not here breaks none. An error has a `!`.
EXPECTED: dict[str, list[str]] = {
    "audit-dtors": ["dlclose-no-effect"],
    "backtrace-plugins:unloaded": ["unloaded-use!"],
    "check-copy-size:grown": ["copy-size-mismatch"],
    "check-dtor-never-run:pthread-exit": ["tls-dtor-never-run"],
    "check-dtor-too-late:atexit": ["tls-dtor-too-late"],
    "check-fork-dtors:goes-on": ["fork-loses-dtors"],
    "fork-basics": ["died!"],
    "spawn-attributes": ["died!"],
    "link-symbolic": ["name-taken"],
    "unload-lazy-dying": ["not-loaded!"],
    "fork-tls-dtors": ["fork-loses-dtors", "fork-loses-dtors"],
    "check-dtor-too-late:key": ["tls-dtor-too-late"],
    "check-dtor-wrong-handle:wrong": ["tls-dtor-unloaded!"],
    "check-exit-handler:atexit": ["exit-handler-unloaded!"],
    "check-exit-handler:on_exit": ["exit-handler-unloaded!"],
    "check-exit-handler:quick": ["exit-handler-unloaded!"],
    "check-exit-handler:not-reached": ["exit-handler-unloaded"],
    "check-finalised-use:calls": ["finalised-use"],
    "check-handles:twice-needed": ["handle-closed-twice!"],
    "check-init-cycle:both": ["init-order-cycle", "used-before-constructors"],
    "check-key-destructor:leaves-key": ["key-destructor-unloaded!"],
    "check-key-list:fallback": ["key-destructor-unloaded!"],
    "check-key-list:stays": ["dlclose-no-effect"],
    "check-no-effect:unique": ["dlclose-no-effect"],
    "check-no-effect:nodelete": ["dlclose-no-effect"],
    "check-no-effect:dtor": ["dlclose-no-effect"],
    "check-odr:differs": ["odr-size-mismatch"] * 3,
    "check-pinned:key": ["dso-pinned-at-exit", "tls-dtor-too-late"],
    "check-pinned:key-closes": ["dso-pinned-at-exit", "thread-left-objects", "tls-dtor-too-late"],
    "check-pinned:running": ["dso-pinned-at-exit"],
    "check-signal-handler:raised": ["signal-handler-unloaded!"],
    "check-signal-handler:quiet": ["signal-handler-unloaded"],
    "check-unloaded-use:code": ["unloaded-use!"],
    "check-unloaded-use:closes-itself": ["unloaded-use!"],
    "check-unloaded-use:read": ["unloaded-use!"],
    "check-unloaded-use:write": ["unloaded-use!"],
    "error-undefined-cxx": ["not-loaded!"],
    "error-undefined-symbol:lazy": ["not-loaded!"],
    "check-null-call:weak": ["died!"],
    "check-null-static:main": ["died!"],
    "check-recursion:asks": ["died!"],
    "check-throws:constructor": ["died!"],
    "check-wrapper:scope": ["died!"],
    "not-found:first-call": ["not-loaded!"],
    # Fixtures of other matters that contain the situation all the same.
    "dl-error-call": ["dlclose-no-effect", "handle-closed-twice!", "handle-closed-twice!"],
    "dl-error-call:bind-now": ["dlclose-no-effect", "handle-closed-twice!", "handle-closed-twice!"],
    "dl-libstdcxx-late:local": ["dlclose-no-effect"],
    "dl-libstdcxx-late:global": ["dlclose-no-effect"],
    "dl-libstdcxx-late:bind-now": ["dlclose-no-effect"],
    "dl-linkers:linkers": ["dlclose-no-effect"] * 5,
    "dl-linkers:variants": ["dlclose-no-effect"] * 7,
    "dl-malloc-interposed:without": ["dlclose-no-effect"],
    "dl-malloc-interposed:preloaded": ["dlclose-no-effect"],
    "dl-malloc-interposed:own": ["dlclose-no-effect"],
    "dl-malloc-interposed:preloaded-now": ["dlclose-no-effect"],
    "dl-namespace-tls:own": ["dlclose-no-effect"],
    "dl-namespace-tls:new": ["dlclose-no-effect"],
    "dl-open-at-startup:global": ["dlclose-no-effect"],
    "dl-promotion:noload": ["dlclose-no-effect"],
    "dl-promotion-after-constructors:plain": ["dlclose-no-effect"],
    "dl-promotion-after-constructors:promotes-itself": ["dlclose-no-effect"],
    "dl-scope-local-global:closed-global": ["dlclose-no-effect", "name-taken"],
    "dl-sym-order:global": ["dlclose-no-effect"] * 2,
    "dl-system-libraries": ["dlclose-no-effect"] * 2,
    "explain-mismatch": ["copy-size-mismatch"],
    "init-order-cycle": ["init-order-cycle"] * 2,
    "init-order-cycle:other": ["init-order-cycle"] * 2,
    "init-order-cycle:old-sort": ["init-order-cycle"] * 2,
    "tour-debugger:crash": ["unloaded-use!"],
    "thread-exit-main:worker-returns": ["tls-dtor-never-run"],
    "thread-exit-main:worker-exits": ["tls-dtor-never-run"],
    "thread-key-pins-dso:in-a-key-destructor": ["dso-pinned-at-exit", "tls-dtor-too-late"],
    "thread-keys-after-dtors": ["tls-dtor-too-late"] * 2,
    "thread-namespace-dtors:new": ["dlclose-no-effect"],
    "thread-unload-owner:exits-first": ["dso-pinned-at-exit"],
    "thread-unload-random:dag-1": ["name-taken"],
    "thread-unload-random:cycles-1": ["init-order-cycle"] * 7 + ["name-taken"],
    "thread-unload-random:cycles-2": ["init-order-cycle"] * 6 + ["name-taken"],
    "thread-unload-random:cycles-3": ["init-order-cycle"] * 6 + ["name-taken"],
    "tls-dtors-direct": ["tls-dtor-too-late"],
    "tls-dyn-destructor-order:closed-in-between": ["dlclose-no-effect"] * 2,
    "tls-dyn-destructor-order:closed-and-opened": ["dlclose-no-effect"],
    "tls-dyn-destructor-order:exit": ["dlclose-no-effect"] * 2,
    "tls-dyn-extern:global": ["dlclose-no-effect"],
    "tls-touched-in-atexit": ["tls-dtor-too-late"] * 3,
    "tour-dlclose:alone": ["dlclose-no-effect"],
    "unload-cycle:at-a": ["init-order-cycle"],
    "unload-cycle:at-b": ["init-order-cycle"],
    "unload-cycle:at-c": ["init-order-cycle"],
    "unload-cycle:at-d": ["init-order-cycle"],
    "unload-cycle:two-members": ["init-order-cycle"],
    "unload-cycle:from-outside": ["init-order-cycle"],
    "unload-cycle:at-exit": ["init-order-cycle"],
    "unload-cycle:from-outside-old-sort": ["init-order-cycle"],
    "unload-cycle:at-c-old-sort": ["init-order-cycle"],
    "unload-cycle:at-exit-old-sort": ["init-order-cycle"],
    "unload-dtor-child-stays:root": ["dlclose-no-effect"],
    "unload-dtor-closes-others:closes-the-last-reference-of-a-deferred-one": ["dlclose-no-effect"] * 2,
    "unload-dtor-closes-others:opens-and-closes": ["dlclose-no-effect"],
    "unload-dtor-collected:never": ["dlclose-no-effect"],
    "unload-dtor-collected:too-early": ["dlclose-no-effect"],
    "unload-dtor-collected:failing-close": ["handle-closed-twice!"],
    "unload-dtor-from-constructor:nested-open": ["dlclose-no-effect"],
    "unload-dtor-in-atexit:built-in-the-handler": ["dso-pinned-at-exit", "tls-dtor-too-late"],
    "unload-dtor-in-atexit:opened-in-the-handler": ["dso-pinned-at-exit", "tls-dtor-too-late"],
    "unload-dtor-in-atexit:built-before-too": ["dso-pinned-at-exit", "tls-dtor-too-late"],
    "unload-dtor-pending:pending": ["dlclose-no-effect"],
    "unload-dtor-pending:libstdcxx-at-start": ["dlclose-no-effect"],
    "unload-dtor-pending:reopened": ["dlclose-no-effect"],
    "unload-dtor-pending:noload": ["dlclose-no-effect", "handle-closed-twice!"],
    "unload-dtor-pending:counted": ["dlclose-no-effect", "handle-closed-twice!"],
    "unload-dtor-pending:exit": ["dlclose-no-effect"],
    "unload-dtor-pending:quick-exit": ["dso-pinned-at-exit"],
    "unload-dtor-pending:bind-now": ["dlclose-no-effect"],
    "unload-fini-opens:itself": ["handle-closed-twice!"],
    "unload-gone": ["unloaded-use!"],
    "unload-nodelete:flag": ["dlclose-no-effect"],
    "unload-nodelete:flag-later": ["dlclose-no-effect"],
    "unload-nodelete:flag-with-noload": ["dlclose-no-effect"],
    "unload-nodelete:flag-on-child": ["dlclose-no-effect"],
    "unload-random:dag-1": ["name-taken"],
    "unload-random:cycles-1": ["init-order-cycle"] * 5 + ["name-taken"],
    "unload-random:cycles-2": ["init-order-cycle"] * 6 + ["name-taken"],
    "unload-random:cycles-3": ["init-order-cycle"] * 7 + ["name-taken"],
    "unload-random:cycles-4": ["init-order-cycle"] * 6 + ["name-taken"],
    "unload-relocation-dependency:lookup-by-default-scope": ["dlclose-no-effect"],
    "unload-rules:flag": ["dlclose-no-effect"],
    "unload-startup-reference:from-library": ["dlclose-no-effect"],
    "unload-startup-reference:from-main": ["dlclose-no-effect"],
    "unload-startup-reference:by-dlsym": ["dlclose-no-effect"],
    "unload-unique:first": ["dlclose-no-effect"],
    "unload-unique:second-goes": ["dlclose-no-effect", "unique-shared"],
    "unload-unique:lazy": ["dlclose-no-effect", "unique-shared"],
    "why-bindings:start-up": ["dlclose-no-effect"],
    "why-bindings:dlsym-default": ["dlclose-no-effect"],
    "why-calls:file": ["dlclose-no-effect"],
    "why-calls:call": ["dlclose-no-effect"],
    "why-calls:call-later": ["dlclose-no-effect"],
    "why-calls:needed-by-two": ["dlclose-no-effect"],
    "why-hot-reload:stale": ["dlclose-no-effect", "reopen-gives-old"],
    "why-hot-reload:worker": ["dlclose-no-effect"],
    "why-logger:string": ["dlclose-no-effect"],
    "why-plugin-unique:unique": ["dlclose-no-effect"],
    "why-rust-cdylib:boxed": ["dlclose-no-effect"],
    "why-threads:waits": ["dso-pinned-at-exit"],
    "why-threads:two": ["dso-pinned-at-exit"],
    "why-threads:vanishes": ["dso-pinned-at-exit", "tls-dtor-never-run", "tls-dtor-never-run"],
    "why-threads:main": ["dlclose-no-effect"],
    "why-threads:main-too": ["dso-pinned-at-exit"],
    "why-threads:late": ["dlclose-no-effect"],
    "backtrace-c:qsort": ["died!"],
    "backtrace-crt:close": ["died!"],
    "backtrace-cxx:inlined": ["died!"],
    "backtrace-plugins:function": ["died!"],
    "copy-protected": ["copy-bypassed"],
    "death-abort": ["died!"],
    "death-signals:null-read": ["died!"],
    "dl-deepbind": ["name-taken"],
    "error-missing-library": ["not-loaded!"],
    "error-missing-version": ["not-loaded!"],
    "error-relr-abi": ["not-loaded!"],
    "link-visibility": ["name-taken"],
    "thread-overflow": ["died!"],
    "thread-raise-abort:raise": ["died!"],
    "thread-stack-overflow:plain": ["died!"],
    "thread-uncaught:thrown": ["died!"],
    "tls-data-relocations": ["name-taken"],
    "tls-dtor-throws": ["died!"],
    "tls-dtors-null-first": ["died!"],
    "tls-dyn-relocations:interposed": ["name-taken"],
    "tls-dyn-symbol:exported": ["name-taken"],
    "tls-hidden-static": ["name-taken"],
    "tls-model-global-dynamic": ["name-taken"],
    "tour-symbols:first": ["weak-before-strong"],
    "weak-and-strong:weak-first": ["weak-before-strong"],
    "check-two-unwinders:deepbind": ["died!"],
    "opens-tried:ignored": ["not-loaded!"],
    "opens-tried:throws": ["died!"],
}
#: Further rules that are found with an option.
WITH_OPTIONS = [
    ("check-finalised-use:data", ["--watch"], ["finalised-use"]),
    ("check-finalised-use:avoids", ["--watch"], []),
    ("check-finalised-use:replaces-free", [], []),
    ("check-tls-after-dtor:late", ["--watch"], ["tls-used-after-dtor!"]),
    ("check-tls-after-dtor:avoids", ["--watch"], []),
    ("check-handles:leaks", ["--rule", "handle-leaked"], ["handle-leaked"]),
    ("check-handles:avoids", ["--rule", "handle-leaked"], []),
    ("check-handles:twice-needed", ["--rule", "dlclose-kept-by-others"], []),
    ("check-handles:kept", ["--rule", "dlclose-kept-by-others"], ["dlclose-kept-by-others"]),
    ("check-pinned:key", ["--no-rule", "dso-pinned-at-exit"], ["tls-dtor-too-late"]),
    ("check-dtor-wrong-handle:wrong", ["--tls-dtors", "guest"], ["tls-dtor-unloaded!"]),
    ("why-threads:waits", ["--unload-rule", "nodelete-flag"], ["dlclose-no-effect"]),
]
#: Runs whose whole report is compared.
TEXTS = [
    "check-key-destructor:leaves-key", "check-key-list:fallback", "check-dtor-too-late:atexit", "check-no-effect:unique",
    "check-exit-handler:not-reached", "check-copy-size:grown",
]  # fmt: skip


def check(run: Run, *words: str) -> Outcome:
    """Run a fixture under ``emu check`` with its own environment."""
    variables = fixtures.BASE_ENV | run.env
    environment = [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
    return emu(
        "check", "--clean-env", *environment, *words, *run.argv, cwd=fixtures.CACHE / run.fixture, stdin=run.stdin.encode()
    )  # fmt: skip


def report(run: Run, folder: Path, *words: str) -> tuple[Outcome, dict[str, Any]]:
    """The outcome, and the report as data."""
    path = folder / "report.json"
    outcome = check(run, "--json", "--output", str(path), *words)
    assert path.exists(), outcome.stderr.decode()
    data: dict[str, Any] = json.loads(path.read_text())
    jsonschema.validate(data, schema(Report, "report"))
    return outcome, data


def rules(data: dict[str, Any]) -> list[str]:
    """The rules found, sorted, a `!` at each error."""
    return sorted(f["rule"] + "!" * (f["severity"] == "error") for f in data["findings"])


def judged(runs: Sequence[Run]) -> list[Run]:
    """Of a fixture the first run, and every run that has findings: all of them would take too long.

    Conflicts have tests of their own.
    """
    listed = runs[0].fixture in LISTED
    return [run for run in runs if not listed and (run.id in EXPECTED or run is runs[0])]


@pytest.mark.runs(of=judged)
@pytest.mark.usefixtures("built_fixtures")
def test_findings(run: Run, tmp_path: Path) -> None:
    outcome, data = report(run, tmp_path)
    expected = EXPECTED.get(run.id, [])
    assert rules(data) == expected
    native = run_native(run)
    assert (data["exit_code"], outcome.stdout) == (native.exit, native.stdout), "checking must change nothing"
    assert outcome.exit == (1 if expected else native.exit)


@pytest.mark.parametrize(("run_id", "words", "expected"), WITH_OPTIONS)
@pytest.mark.usefixtures("built_fixtures")
def test_findings_with_options(run_id: str, words: list[str], expected: list[str], tmp_path: Path) -> None:
    assert rules(report(the_run(run_id), tmp_path, *words)[1]) == expected


def test_every_rule_has_a_fixture() -> None:
    found = {name.rstrip("!") for names in EXPECTED.values() for name in names}
    found |= {name.rstrip("!") for _, _, names in WITH_OPTIONS for name in names}
    found |= {case.rule.rstrip("!") for case in CASES.values()}
    assert found == set(RULES) - {"deadlock", "not-finished"}


@pytest.mark.parametrize(
    ("run_id", "function", "line", "related"),
    [
        ("check-key-destructor:leaves-key", "free_state", "plugin.c", {"created by": "init", "unloaded by": "helper"}),
        ("check-key-list:fallback", "run_dtors", "plugin.c", {"created by": "register_dtor", "unloaded by": "use"}),
        ("check-exit-handler:atexit", "handler", "plugin.c", {"registered by": "main", "unloaded by": "main"}),
        ("check-signal-handler:raised", "handler", "plugin.c", {"registered by": "install", "unloaded by": "main"}),
        ("check-dtor-wrong-handle:wrong", "destroy", "plugin.c", {"registered by": "thread", "unloaded by": "main"}),
        ("check-unloaded-use:read", "main", "main.c", {"unloaded by": "main"}),
        ("check-unloaded-use:closes-itself", "close_with", "plugin.c", {"unloaded by": "close_with"}),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("built_fixtures")
def test_places(run_id: str, function: str, line: str, related: dict[str, str], tmp_path: Path) -> None:
    (finding,) = report(the_run(run_id), tmp_path)[1]["findings"]
    assert (finding["frames"][0]["function"], Path(finding["frames"][0]["file"]).name) == (function, line)
    assert [place["title"] for place in finding["related"]] == list(related)
    for place in finding["related"]:
        assert related[place["title"]] in [frame["function"] for frame in place["frames"]]


@pytest.mark.usefixtures("built_fixtures")
def test_what_pins_a_dso_is_told_with_the_dlclose(tmp_path: Path) -> None:
    (finding,) = report(the_run("check-pinned:running"), tmp_path)[1]["findings"]
    registered, closed = finding["related"]
    assert (registered["title"], closed["title"]) == ("registered by", "closed by")
    assert registered["thread"] != closed["thread"]
    assert "main" in [frame["function"] for frame in closed["frames"]]


_DIES_LATER = """#include <cstdlib>
#include <thread>
struct Noisy { int value = 1; ~Noisy() { value = 0; } };
thread_local Noisy noisy;
int main() {
    std::thread([] { return noisy.value; }).join();
    std::abort();
}
"""


@pytest.mark.usefixtures("built_fixtures")
def test_watch_is_a_next_step_only_where_it_can_tell_more(tmp_path: Path) -> None:
    (tmp_path / "main.cc").write_text(_DIES_LATER)
    subprocess.run(["g++", "-pthread", "-o", "main", "main.cc"], cwd=tmp_path, check=True)
    hint = b"--watch may tell why it died"
    assert hint in emu("check", "./main", cwd=tmp_path).stderr
    assert hint not in emu("check", "--watch", "./main", cwd=tmp_path).stderr
    for run in (
        "death-abort",
        "check-exit-handler:atexit",
    ):  # nothing was destroyed or finalised; it is found without
        assert hint not in check(the_run(run)).stderr


def words_of(text: str, folder: Path) -> str:
    """Leave out what a compiler or another build of libc changes:
    offsets, frames inside the system's libraries.
    """
    text = text.replace(f"{folder}/", "")
    text = re.sub(r"\+0x[0-9a-f]+", "+0x..", re.sub(r"jump to 0x[0-9a-f]+", "jump to 0x..", text))
    lines = [line for line in text.splitlines() if not re.match(r"    at .*\[lib(c|stdc\+\+)\.so\.6", line)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("rule", "run_id", "avoids", "words"),
    [
        ("key-destructor-unloaded", "check-key-destructor:leaves-key", "check-key-destructor:avoids", "pthread_key_delete"),
        ("exit-handler-unloaded", "check-exit-handler:atexit", "check-exit-handler:avoids", "by atexit in code of"),
        ("signal-handler-unloaded", "check-signal-handler:raised", "check-signal-handler:avoids", "put back the handler"),
        ("unloaded-use", "check-unloaded-use:code", "check-unloaded-use:avoids", "do not close"),
        ("tls-dtor-unloaded", "check-dtor-wrong-handle:wrong", "check-dtor-wrong-handle:avoids", "__dso_handle"),
        ("handle-closed-twice", "check-handles:twice-needed", "check-handles:avoids", "call dlclose once"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("built_fixtures")
def test_what_would_help_does_help(rule: str, run_id: str, avoids: str, words: str, tmp_path: Path) -> None:
    (finding,) = report(the_run(run_id), tmp_path)[1]["findings"]
    (remedy,) = finding["remedies"]
    assert (finding["rule"], words in remedy) == (rule, True)
    assert rules(report(the_run(avoids), tmp_path)[1]) == []


def test_remedies_are_of_rules() -> None:
    assert set(REMEDIES) < set(RULES)


@pytest.mark.parametrize("run_id", TEXTS)
@pytest.mark.usefixtures("built_fixtures")
def test_text(run_id: str) -> None:
    run = the_run(run_id)
    text = words_of(check(run).stderr.decode(), fixtures.CACHE / run.fixture)
    assert text == (GOLDEN / f"{run_id.replace(':', '-')}.txt").read_text()


@pytest.mark.usefixtures("built_fixtures")
def test_suppressions(tmp_path: Path) -> None:
    run = the_run("check-exit-handler:not-reached")
    said = check(run, "--gen-suppressions").stderr.decode()
    path = tmp_path / "known.toml"
    path.write_text(said[said.index("[[suppression]]") :])
    outcome, data = report(run, tmp_path, "--suppressions", str(path))
    assert (outcome.exit, data["findings"], data["suppressed"]) == (0, [], 1)
    path.write_text('[[suppression]]\nrule = "*"\nobject = "libother*"\n')
    outcome, data = report(run, tmp_path, "--suppressions", str(path))
    assert (outcome.exit, len(data["findings"]), data["suppressed"]) == (1, 1, 0)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("suppression = 1", "only [[suppression]] tables belong here"),
        ("[other]", "only [[suppression]] tables belong here"),
        ("[[suppression]]\nobject = 'x'", "suppression 1 needs rule"),
        (
            "[[suppression]]\nrule = 'x'\nline = 'y'",
            "suppression 1 needs rule, may have object and symbol, and nothing else",
        ),
        ("[[suppression]]\nrule = 1", "rule, object and symbol are strings"),
        ("[[", "known.toml: "),
    ],
)
def test_bad_suppressions(text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "known.toml").write_text(text)
    outcome = emu("check", "--suppressions", "known.toml", "/bin/true", cwd=tmp_path)
    assert outcome.exit == 2
    assert complaint in outcome.stderr.decode()


def test_unknown_rule(tmp_path: Path) -> None:
    outcome = emu("check", "--rule", "no-such", "/bin/true", cwd=tmp_path)
    assert (outcome.exit, b"no rule 'no-such'" in outcome.stderr) == (2, True)


def test_rules_are_listed(tmp_path: Path) -> None:
    listed = emu("check", "--list-rules", cwd=tmp_path).stdout.decode().splitlines()
    assert [line.split()[0] for line in listed] == list(RULES)
