"""Each rule about life-times and conflicts:
what has it is found and told, what just avoids it is not, and every remedy that is told helps.

One piece: the rules about names that two objects have.
"""

from __future__ import annotations

import json
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jsonschema
import pytest

from emu.analysis.check_data import CONFLICT_RULES, END_RULES, RULES, ConflictReport, Report
from emu.analysis.data import schema
from tests.support import emu, run_native, the_run
from tools import fixtures

if TYPE_CHECKING:
    from tools.fixtures import Outcome, Run


class Case(NamedTuple):
    """A run that has the situation: the rule (with ! for an error), words of the message, the run in which
    each remedy is taken, near misses.
    """

    rule: str
    words: str
    remedies: dict[str, tuple[str, ...]]
    near: tuple[str, ...] = ()


CASES = {
    "check-static-twice:twice": Case(
        "static-registered-twice!",
        r"lg::levels of liba\.so was constructed and registered for destruction twice, by libb\.so \(levels\.cc:3\) and by liba\.so \(levels\.cc:3\), "
        r"since libb\.so's own copy is interposed by liba\.so's.*; it is destroyed twice",
        {"--exclude-libs": ("excluded", "hidden"), "one shared library": ("shared",)},
        ("once",),
    ),
    "check-static-late:late": Case(
        "static-used-after-exit",
        r"Log::say\(char const\*\) \(main\.cc:8\) reads log_\(\)::log of main after exit has destroyed it",
        {"construct it before": ("before",), "never destroy it": ("immortal",)},
        ("quiet",),
    ),
    "check-early-use:missing": Case(
        "used-before-constructors",
        r"dot\(double, double\) of libtable\.so is called at user\.cc:2 before the constructors of libtable\.so have run: libuser\.so does not need it",
        {"link libuser.so with libtable.so": ("linked",)},
    ),
    "check-early-use:program": Case(
        "used-before-constructors",
        r"from_main of host is called at callback\.c:6 before the constructors of host have run: the program's own come last",
        {"call it later": ("program-later",)},
    ),
    "check-early-use:data": Case(
        "used-before-constructors",
        r"version(?:\[abi:cxx11\])? of libversion\.so is read at banner\.cc:8 before the constructors of libversion\.so have run, which set it later:"
        r" libbanner\.so does not need it",
        {"link libbanner.so with libversion.so": ("data-linked",)},
        ("data-constant",),
    ),
    "check-early-use:preload": Case(
        "used-before-constructors",
        r"atoi of hook\.so is called at level\.c:3 before the constructors of hook\.so have run: hook\.so is preloaded \(LD_PRELOAD\)",
        {"when it is called": ("preload-asks",), "-z initfirst": ("preload-initfirst",)},
    ),
    "check-two-versions:mixed": Case(
        "name-taken",
        r"libtoken\.so\.1 and libtoken\.so\.2 are two versions of one library, both loaded \(libtoken\.so\.1 by libmail\.so; libtoken\.so\.2 by libnews\.so\)"
        r".*: libnews\.so, libtoken\.so\.2 ask for token_make, token_size of libtoken\.so\.2 and get libtoken\.so\.1's",
        {"against one version": ("one-version",), "symbol versions": ("versioned",)},
        ("apart",),
    ),
    "check-loaded-twice:copy": Case(
        "loaded-twice",
        r"b/libcount\.so is a copy of a/libcount\.so, which is loaded already",
        {"a link to a/libcount.so": ("link", "one-path"), "by its SONAME, libcount.so": ("soname",)},
        ("other-build",),
    ),
    "check-allocators:deepbind": Case(
        "allocator-split!",
        r"a block of libc\.so\.6's allocator \(from plugin\.c:3\) is given to free of main at main\.c:15.*plugin\.so was opened with RTLD_DEEPBIND",
        {"without RTLD_DEEPBIND": ("without",), "let plugin.so free": ("not-mixed",)},
        ("libc", "wrapper"),
    ),
    "check-allocators:operators": Case(
        "allocator-split!",
        r"a block of new\.so's allocator \(from new\.cc:[0-9]+\) is given to operator delete\(void\*, unsigned long\) of libstdc\+\+\.so\.6 at cxx\.cc:",
        {"from one object that everybody finds first": ("operators-program",), "let new.so free": ("operators-dropped",)},
        ("operators-kept",),
    ),
    "check-copy-bypassed:deepbind": Case(
        "copy-bypassed",
        r"plugin\.so is bound to liblib\.so's own settings, but main has a COPY of it .*\(RTLD_DEEPBIND\)",
        {"without RTLD_DEEPBIND": ("without",), "-fPIC": ("deepbind-pic",)},
    ),
    "check-copy-bypassed:symbolic": Case(
        "copy-bypassed",
        r"liblib\.so is bound to its own settings, but main has a COPY of it .*\(-Bsymbolic\)",
        {"without -Bsymbolic": ("symbolic-functions",), "-fPIC": ("symbolic-pic",)},
    ),
    "check-name-taken:preload": Case(
        "name-taken",
        r"liblib\.so uses its own hash_init, but preload\.so takes the name over \(LD_PRELOAD: .*\d\d bytes in the place of 39\)",
        {"make it static": ("preload-static",), "-Bsymbolic": ("preload-symbolic",)},
        ("preload-same",),
    ),
    "check-name-taken:program": Case(
        "name-taken",
        r"liblib\.so uses its own debug, but main takes the name over \(the program comes first",
        {"make it static": ("program-static",), "-Bsymbolic": ("preload-symbolic",)},
    ),
    "check-libc-name:queues": Case(
        "name-taken",
        r"liblib\.so uses libc\.so\.6's send, but queues takes the name over \(the program comes first; it makes no system call, as send of libc does\)",
        {"make it static": ("queues-static",)},
        ("replaces", "wraps", "stands-in", "prints"),
    ),
    "check-libc-name:writes": Case(
        "name-taken",
        r"liblib\.so uses libc\.so\.6's send, but writes takes the name over .*void send\(char \*\) in the place of long send\(int, void \*, ulong, int\)",
        {"make it static": ("writes-hidden",)},
        ("counts", "opens"),
    ),
    "check-compiled-twice:old": Case(
        "name-taken",
        r"libshow\.so uses its own encoding_name, but old takes the name over \(the program comes first; \d\d bytes in the place of \d\d\)",
        {"make it static": ("hidden",), "-Bsymbolic": ("symbolic",)},
        ("same-source",),
    ),
    "check-name-taken:weak-first": Case(
        "weak-before-strong",
        r"libstrong\.so is bound to the weak limit of libweak\.so, though its own is strong",
        {"do not export limit from libweak.so": ("weak-hidden",), "-Bsymbolic": ("strong-symbolic",)},
        ("strong-first",),
    ),
    "check-weak-own:weak-wins": Case(
        "weak-before-strong",
        r"libweak\.so is bound to its own weak hook, though libstrong\.so's is strong: the first in the search order wins",
        {"come before libweak.so": ("strong-first", "preloaded"), "only declare it": ("declared",), "LD_DYNAMIC_WEAK": ("dynamic-weak",)},
        ("only-weak",),
    ),
    "check-singleton:hidden": Case(
        "static-twice",
        r"Registry::instance\(\)::one is in plugin\.so \(local\) and in host \(hidden\)",
        {"one shared library": ("library",), "export it from both": ("exported",)},
    ),
    "check-class-differs:swapped": Case(
        "vtable-differs",
        r"libb\.so uses liba\.so's vtable for Config, which is another: at 0x20 it has Config::first\(\), where libb\.so's own has Config::second\(\)",
        {"the same definition": ("same",), "name them differently": ("renamed",), "hide it in libb.so": ("hidden", "symbolic")},
    ),
    "check-class-differs:wide": Case(
        "odr-size-mismatch",
        r"weak object vtable for Config has 48 bytes in liba\.so and 56 in libb\.so: libb\.so uses liba\.so's",
        {"the same definition": ("same",), "name them differently": ("renamed",), "hide it in libb.so": ("wide-hidden", "wide-symbolic")},
    ),
    "check-class-twice:libcxx": Case(
        "type-twice!",
        r"dynamic_cast to Api2 at cast\.cc:11 fails, though the object is one: typeinfo for Api2 is in cast \(hidden\) and in libsdk\.so \(local\)",
        {"default visibility": ("visible",), "key function": ("key-function",)},
        ("libstdcxx", "copied", "copied-for-all", "mixed", "mixed-through"),
    ),
    "check-class-twice:symbolic": Case(
        "type-twice!",
        r"typeinfo for Api2 is in cast-symbolic \(exported\) and in libsymbolic\.so \(-Bsymbolic\), two objects, and libc\+\+ compares addresses",
        {"without -Bsymbolic": ("visible",), "key function": ("key-function", "copied")},
    ),
    "check-catch:hidden": Case(
        "type-twice!",
        r"an exception of type Error, thrown at plugin\.cc:5, passes the catch for that type in main \(host\.cc:22\): typeinfo for Error is in libhidden\.so"
        r" \(local\) and in hidden \(hidden\), two objects, and libc\+\+ compares addresses",
        {"default visibility": ("visible",), "key function": ("key-function",)},
        ("libstdcxx",),
    ),
    "check-catch:stripped": Case(
        "type-twice!",
        r"an exception of type Error, thrown at libhidden\.so\+0x[0-9a-f]+, passes the catch for that type in \?\? \(hidden\+0x[0-9a-f]+\)",
        {"default visibility": ("visible",), "key function": ("key-function",)},
    ),
    "check-class-twice:unique": Case(
        "unique-shared",
        r"two\.so shares Registry<int>::entries with one\.so, though neither sees the other",
        {"-fvisibility=hidden": ("hidden",), "RTLD_GLOBAL": ("unique-global",)},
    ),
    "check-class-twice:not-unique": Case(
        "static-twice",
        r"Registry<int>::entries is in plain-two\.so \(RTLD_LOCAL\) and in plain-one\.so \(RTLD_LOCAL\)",
        {"one shared library": ("one-library",), "RTLD_GLOBAL": ("not-unique-global",), "hide it in both": ("hidden",)},
    ),
    "check-class-twice:host-has-its-own": Case(
        "static-twice",
        r"Registry<int>::entries is in plain-one\.so \(RTLD_LOCAL\) and in sharing \(not exported\)",
        {"one shared library": ("one-library",), "-rdynamic": ("host-exports",)},
    ),
    "check-class-twice:host-and-symbolic": Case(
        "static-twice",
        r"Registry<int>::entries is in symbolic-one\.so \(-Bsymbolic\) and in exporting \(exported\): it is a variable of its own in both",
        {"one shared library": ("library-in-both",), "without -Bsymbolic": ("host-exports", "symbolic-functions")},
        ("symbolic-untouched", "fixed-untouched"),
    ),
    "check-key-deleted:never-made": Case(
        "key-deleted-by-another!",
        r"pthread_key_delete\(0\) in end \(plugin\.c:12\) of plugin\.so deletes a key that main created \(main\.c:7\)",
        {"only if plugin.so has created it": ("careful",)},
        ("made",),
    ),
    "check-key-left:again": Case(
        "key-left-each-time",
        r"plugin\.so leaves a pthread key behind each time it is unloaded: 3 by now, of the 1024",
        {"pthread_key_delete": ("deletes",), "do not close plugin.so": ("stays",)},
        ("once",),
    ),
    "check-atfork:for-the-program": Case(
        "atfork-handler-unloaded",
        r"the prepare handler of fork, before in \./plugin\.so, is left behind by the unloading of \./plugin\.so: it was registered for main",
        {"pthread_atfork in plugin.so itself": ("itself",), "do not close plugin.so": ("stays",)},
    ),
    "check-thread-left:left": Case(
        "thread-runs-in-closed",
        r"thread 1001, started at plugin\.cc:25 in start, was in work\(\) of plugin\.so when that was unloaded",
        {"join the thread": ("joins-first", "joins"), "do not close plugin.so": ("stays",)},
    ),
    "check-reopen:again": Case(
        "reopen-gives-old",
        r'dlopen\("\./current-1000\.so"\) at main\.c:27 gave the object opened at main\.c:22 \(same name\); the file there is another now \(game-2\.so\)',
        {"dlclose all its handles": ("closed",), "a name that was never opened": ("other",)},
        ("same",),
    ),
    "check-reopen:soname": Case(
        "reopen-gives-old",
        r'dlopen\("libgame\.so\.1"\) at main\.c:17 gave the object opened at main\.c:16 \(same SONAME\); its name leads to another \(.*/two/libgame\.so\.1\)',
        {"dlclose all its handles": ("closed",), "a name that was never opened": ("other",)},
        ("soname-same",),
    ),
    "check-namespace-output:lost": Case(
        "output-never-flushed",
        r"libc\.so\.6 of namespace 1 ends with 12 bytes in its stdout",
        {"fflush": ("flushed",), "setvbuf": ("unbuffered",)},
    ),
    "check-namespace-output:closed": Case(
        "output-never-flushed",
        r"libc\.so\.6 of namespace 1 is unloaded with 12 bytes in its stdout",
        {"fflush": ("flushed",), "setvbuf": ("unbuffered",)},
    ),
    "check-tls-alignment:patched": Case(
        "tls-misaligned",
        r"the TLS segment of patched has alignment 4, but a section in it wants 64",
        {"link patched again": ("aligned",)},
    ),
    "check-tls-alignment:shifted": Case(
        "tls-misaligned",
        r"the TLS segment of shifted begins at 0x[0-9a-f]+, which is no multiple of its alignment 64: its thread_locals may lie 8 bytes off",
        {"link shifted again": ("aligned",)},
    ),
    "check-initialised-twice:twice": Case(
        "initialised-twice!",
        r"the static initialisers of messages\.cc have run in libtwo\.so, and run in libone\.so again: both contain that code, and both call"
        r" Registrar::Registrar of libregistry\.so, the second time in vain: killed by SIGABRT",
        {"as one shared library": ("once",), "out of one of them": ("left",)},
    ),
    "check-initialised-twice:exits": Case(
        "initialised-twice!",
        r"the static initialisers of messages\.cc have run in libtwo\.so.*: it ends with exit code 3",
        {"as one shared library": ("once",), "out of one of them": ("left",)},
    ),
    "check-initialised-twice:opened": Case(
        "initialised-twice!",
        r"the static initialisers of messages\.cc have run in libone\.so, and run in libtwo\.so again",
        {"as one shared library": ("once",), "out of one of them": ("left",)},
    ),
    "check-function-address:differs": Case(
        "address-differs",
        r"the address of changed is the PLT entry of main .* but libsignal\.so takes the function's own \(-Bsymbolic-functions",
        {"compile main with -fPIC": ("pic",), "without -Bsymbolic-functions": ("not-symbolic",)},
        ("only-called", "weak-asked"),
    ),
    "check-layout:differs": Case(
        "layout-differs",
        r"libwidget\.so uses the inline function Widget::(?:get|twice)\(\) const \(and 1 more\) of main, which was compiled for another layout of its class"
        r" than libwidget\.so's own: `mov e.x, dword ptr \[r.x\]` there, `mov e.x, dword ptr \[r.x \+ 4\]` in libwidget\.so",
        {"against one definition": ("same",), "name them differently": ("renamed",)},
        ("other-options",),
    ),
    "check-texts-differ:differ": Case(
        "name-taken",
        r"other\.so uses its own plugin_name, but first\.so takes the name over",
        {"do not export plugin_name": ("static",), "-Bsymbolic": ("symbolic",)},
        ("same",),
    ),
    "check-ifunc-slot:lazy": Case(
        "ifunc-unrelocated!",
        r"in the IFUNC resolver choose of libwork\.so, run for R_X86_64_IRELATIVE: it calls pick through a PLT slot that is not relocated yet",
        {"-z now": ("now",), "call nothing in the resolver": ("calls-nothing",)},
    ),
}  # fmt: skip
LISTED = sorted({run_id.partition(":")[0] for run_id in CASES})
"""The fixtures of these rules."""


class Answer(NamedTuple):
    outcome: Outcome
    report: dict[str, Any]

    @property
    def rules(self) -> list[str]:
        return sorted(f["rule"] + "!" * (f["severity"] == "error") for f in self.report["findings"])


def ask(command: str, run: Run, *words: str) -> Outcome:
    """Run a fixture under a command with its own environment."""
    variables = fixtures.BASE_ENV | run.env
    environment = [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
    return emu(
        command, "--clean-env", *environment, *words, *run.argv, cwd=fixtures.CACHE / run.fixture, stdin=run.stdin.encode()
    )  # fmt: skip


@cache
def checked(run_id: str) -> Answer:
    """The report of emu check as data, asked for once."""
    outcome = ask("check", the_run(run_id), "--json")
    text = outcome.stderr.decode()
    report: dict[str, Any] = json.loads(text[text.index('{\n  "program"') :])
    jsonschema.validate(report, schema(Report, "report"))
    return Answer(outcome, report)


def related_runs(run_id: str) -> list[str]:
    """The near misses of a case, and the runs in which its remedies are taken."""
    case, fixture = CASES[run_id], run_id.partition(":")[0]
    names = [*case.near, *(name for taken in case.remedies.values() for name in taken)]
    return [f"{fixture}:{name}" for name in names]


@pytest.mark.parametrize("run_id", CASES)
@pytest.mark.usefixtures("built_fixtures")
def test_the_situation_is_found(run_id: str) -> None:
    case, answer = CASES[run_id], checked(run_id)
    assert answer.rules == [case.rule]
    (finding,) = answer.report["findings"]
    assert re.search(case.words, finding["message"])
    native = run_native(the_run(run_id))
    assert (answer.report["exit_code"], answer.outcome.stdout) == (native.exit, native.stdout), (
        "checking changes nothing"
    )
    assert answer.outcome.exit == 1


@pytest.mark.parametrize("run_id", CASES)
@pytest.mark.usefixtures("built_fixtures")
def test_every_remedy_that_is_told_is_one_that_helps(run_id: str) -> None:
    case = CASES[run_id]
    (finding,) = checked(run_id).report["findings"]
    told = finding["remedies"]
    assert len(told) == len(case.remedies)
    for remedy in told:
        assert sum(words in remedy for words in case.remedies) == 1, remedy


@pytest.mark.parametrize("run_id", sorted({name for run_id in CASES for name in related_runs(run_id)}))
@pytest.mark.usefixtures("built_fixtures")
def test_what_avoids_it_has_no_finding(run_id: str) -> None:
    answer = checked(run_id)
    native = run_native(the_run(run_id))
    assert answer.rules == []
    assert (answer.report["exit_code"], answer.outcome.stdout) == (native.exit, native.stdout)
    assert answer.outcome.exit == native.exit


def test_every_conflict_is_a_case() -> None:
    found = {case.rule.rstrip("!") for case in CASES.values()}
    assert set(CONFLICT_RULES) - found == {"copy-size-mismatch", *END_RULES}
    assert found <= set(RULES)


def test_the_page_of_rules_has_each_case_with_its_near_misses_and_remedies() -> None:
    lines = (fixtures.ROOT / "emu" / "docs" / "rules.md").read_text().splitlines()
    for run_id, case in CASES.items():
        (line,) = (one for one in lines if one.startswith(f"| `{case.rule.rstrip('!')}` | `{run_id}` |"))
        assert all(
            f"`{run}`" in line
            for run in (*case.near, *(r for taken in case.remedies.values() for r in taken))
        )
    assert {one.split("`")[1] for one in lines if one.startswith("| `")} >= set(RULES)


@pytest.mark.parametrize("host", ["fixed", "assigning"])
@pytest.mark.usefixtures("built_fixtures")
def test_a_static_that_only_code_refers_to_is_used(host: str) -> None:
    (finding,) = checked(f"check-class-twice:{host}-and-symbolic").report["findings"]
    assert f"is in symbolic-one.so (-Bsymbolic) and in {host} (exported)" in finding["message"]


@pytest.mark.usefixtures("built_fixtures")
def test_a_thread_left_in_a_closed_plugin_is_named_with_the_place_where_it_began() -> None:
    (finding,) = checked("check-thread-left:left").report["findings"]
    assert finding["thread"] == 1001
    assert "work()" in [frame["function"] for frame in finding["frames"]]
    started, unloaded = finding["related"]
    assert (started["title"], unloaded["title"]) == ("started by", "unloaded by")
    assert "start" in [frame["function"] for frame in started["frames"]]
    assert "main" in [frame["function"] for frame in unloaded["frames"]]


@pytest.mark.usefixtures("built_fixtures")
def test_a_late_use_is_told_with_its_registration_and_with_exit() -> None:
    (finding,) = checked("check-static-late:late").report["findings"]
    assert [frame["function"] for frame in finding["frames"][:2]] == [
        "Log::say(char const*)",
        "Cache::~Cache()",
    ]
    registered, destroyed = finding["related"]
    assert (registered["title"], destroyed["title"]) == ("registered for destruction by", "destroyed by")
    assert {"log_()", "main"} & {frame["function"] for frame in registered["frames"]}


@pytest.mark.usefixtures("built_fixtures")
def test_a_static_of_a_stripped_program_is_told_by_its_section_with_what_would_name_it() -> None:
    (finding,) = checked("check-static-late:stripped").report["findings"]
    words = r"\(stripped\+0x[0-9a-f]+\) reads the object at \.data\+0x[0-9a-f]+ \(stripped\+0x[0-9a-f]+\) of stripped after exit"
    assert re.search(words, finding["message"])
    named = r"do not strip stripped, or have its debug file, /usr/lib/debug/\.build-id/[0-9a-f]{2}/[0-9a-f]+\.debug"
    assert re.search(named, finding["remedies"][-1])


@pytest.mark.usefixtures("built_fixtures")
def test_an_exception_that_is_caught_first_is_no_error() -> None:
    assert checked("check-catch:caught-all").rules == ["type-twice"]


# -- how a run ended -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("built_fixtures")
def test_two_unwinders_that_met() -> None:
    answer = checked("check-two-unwinders:deepbind")
    assert answer.rules == ["died!"] and answer.report["exit_code"] == 134
    (finding,) = answer.report["findings"]
    assert (
        "an exception of plugin.so, thrown by the unwinder that is linked into it, met" in finding["message"]
    )
    helps = {
        "without RTLD_DEEPBIND": "without-deepbind",
        "without -static-libgcc": "shared-libgcc",
        "let no exception": "catches",
    }
    assert len(finding["remedies"]) == len(helps)
    for (words, name), remedy in zip(helps.items(), finding["remedies"], strict=True):
        assert words in remedy
        avoids = checked(f"check-two-unwinders:{name}")
        assert avoids.rules == [] and avoids.report["exit_code"] == 0


@pytest.mark.parametrize("name", ["scope", "handle"])
@pytest.mark.usefixtures("built_fixtures")
def test_a_wrapper_that_is_given_itself(name: str) -> None:
    (finding,) = checked(f"check-wrapper:{name}").report["findings"]
    handle = "RTLD_DEFAULT" if name == "scope" else "the handle of main"
    assert finding["rule"] == "died"
    assert finding["message"].endswith(
        f'atoi of {"default" if name == "scope" else name}.so wraps atoi, and its dlsym({handle}, "atoi") gives itself, so it calls itself for ever'
    )
    assert [place["title"] for place in finding["related"]] == ["asked by"]
    assert ["RTLD_NEXT" in finding["remedies"][0], "dlopen" in finding["remedies"][1]] == [True, True]
    for avoids in ("next", "library", "careful"):
        assert checked(f"check-wrapper:{avoids}").rules == []


@pytest.mark.parametrize(
    ("name", "words", "places"),
    [
        ("weak", "libweak.so calls optional, a weak reference that nothing defines: it is 0", []),
        ("dlsym", 'main has asked dlsym for in vain is "gone" (by the handle of libweak.so): that gave NULL', ["asked by"]),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("built_fixtures")
def test_a_call_through_a_null_pointer_says_whose(name: str, words: str, places: list[str]) -> None:
    (finding,) = checked(f"check-null-call:{name}").report["findings"]
    assert (finding["rule"], len(finding["remedies"])) == ("died", 2)
    assert words in finding["message"]
    assert [place["title"] for place in finding["related"]] == places
    for avoids in ("weak-asked", "weak-there"):
        assert checked(f"check-null-call:{avoids}").rules == []


@pytest.mark.usefixtures("built_fixtures")
def test_a_condition_variable_that_is_destroyed_while_a_thread_waits_on_it() -> None:
    done = emu("check", "--json", "./waits", cwd=fixtures.CACHE / "check-null-call")
    text = done.stderr.decode()
    (finding,) = json.loads(text[text.index('{\n  "program"') :])["findings"]
    assert (finding["rule"], len(finding["remedies"])) == ("deadlock", 2)
    assert "in pthread_cond_destroy: it destroys what another thread still waits on" in finding["message"]
    for avoids in ("joined", "never-destroyed"):
        assert checked(f"check-null-call:{avoids}").rules == []


@pytest.mark.usefixtures("built_fixtures")
def test_a_registry_in_both_objects_is_told_with_who_comes_first() -> None:
    answer = checked("check-initialised-twice:own")
    assert answer.rules == ["initialised-twice!", "used-before-constructors"]
    early, twice = answer.report["findings"]
    assert "has that function itself, but libone.so's comes first in the search order" in early["message"]
    assert any("--exclude-libs" in remedy for remedy in early["remedies"])
    assert any("--exclude-libs" in remedy for remedy in twice["remedies"])
    assert checked("check-initialised-twice:own-hidden").rules == []


@pytest.mark.usefixtures("built_fixtures")
def test_a_deadlock_of_the_loaders_lock_is_told_in_its_finding() -> None:
    done = emu("check", "--json", "./main", "sym", cwd=fixtures.CACHE / "thread-loader-lock")
    text = done.stderr.decode()
    (finding,) = json.loads(text[text.index('{\n  "program"') :])["findings"]
    assert finding["rule"] == "deadlock"
    assert re.search(
        r"thread 1001 \(main\) waits for the dynamic loader's lock \(_dl_load_lock\), held by thread 1000 \(main\) in dlopen of \./plugin\.so"
        r" \(main \(main\.cc:\d+\)\), which runs .* \(plugin\.cc:\d+\) of \./plugin\.so, and that waits for settings in \./main, held by thread 1001 \(main\)",
        finding["message"],
    )
    kept_apart = (
        "in a constructor",
        "do what waits in a function of plugin.so",
        "let thread 1001 (main) call",
    )
    assert [words in told for words, told in zip(kept_apart, finding["remedies"], strict=True)] == [True] * 3


@pytest.mark.parametrize("run", ["later", "asks-first"])
def test_what_is_said_of_the_loaders_lock_helps(run: str) -> None:
    """The constructor's work in a function that the host calls, and dlsym without the mutex."""
    answer = checked(f"thread-loader-lock:{run}")
    native = run_native(the_run(f"thread-loader-lock:{run}"))
    assert answer.rules == []
    assert (answer.report["exit_code"], answer.outcome.stdout) == (native.exit, native.stdout)


@pytest.mark.usefixtures("built_fixtures")
def test_an_open_that_failed_is_said_and_is_no_finding() -> None:
    answer = checked("opens-that-fail:symbol")
    assert answer.rules == []
    (one,) = answer.report["failed_opens"]
    assert (one["file"], one["error"]) == ("./data.so", "./data.so: undefined symbol: not_there")
    assert re.fullmatch(r"main\.c:1[0-2]", one["place"])
    text = ask("check", the_run("opens-that-fail:symbol")).stderr.decode()
    assert "emu check: emu why ./main ./data.so now:./data.so tells why, and tries what helps\n" in text
    assert checked("opens-that-fail:symbol-linked").report["failed_opens"] == []


@pytest.mark.usefixtures("built_fixtures")
def test_a_program_that_does_not_start_is_sent_to_why() -> None:
    (finding,) = checked("opens-tried:ignored").report["findings"]
    assert finding["rule"] == "not-loaded"
    assert finding["remedies"] == [
        "emu why ./ignored ./ignored tells what was searched and passed over, and tries what would help"
    ]


# -- emu conflicts -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("built_fixtures")
def test_conflicts_are_listed_without_a_name(tmp_path: Path) -> None:
    path = tmp_path / "conflicts.json"
    outcome = ask("conflicts", the_run("check-name-taken:preload"), "--json", "-o", str(path))
    report = json.loads(path.read_text())
    jsonschema.validate(report, schema(ConflictReport, "report"))
    (finding,) = report["findings"]
    assert (outcome.exit, finding["rule"]) == (1, "name-taken")
    # A libc before 2.41 binds four names of its own that it defines twice.
    assert [kind["kind"] for kind in report["meant"]] in ([], ["libc's own aliases"])


@pytest.mark.usefixtures("built_fixtures")
def test_conflicts_as_text() -> None:
    text = ask("conflicts", the_run("check-name-taken:preload")).stderr.decode()
    text = re.sub(r"\d\d bytes in", "35 bytes in", text)  # compilers differ
    assert text.replace("; meant to be interposed: libc's own aliases (4)", "") == (
        "emu conflicts: warning [name-taken]: liblib.so uses its own hash_init, but preload.so takes the name over"
        " (LD_PRELOAD: it comes right behind the program; 35 bytes in the place of 39)\n"
        "  what would help (not tried here):\n"
        "    * do not export hash_init from preload.so: make it static, or hide it (-fvisibility=hidden, a version script,"
        " without -rdynamic)\n"
        "    * link liblib.so with -Bsymbolic, or hide the names that it uses for itself\n\n"
        "emu conflicts: ./main-static: 1 finding (1 warning); it ended with 0\n"
    )


@pytest.mark.usefixtures("built_fixtures")
def test_the_most_harmful_conflict_comes_first() -> None:
    text = ask("conflicts", the_run("check-odr:differs"), "--json").stderr.decode()
    report = json.loads(text[text.index('{\n  "program"') :])
    order = [(f["severity"] != "error", CONFLICT_RULES.index(f["rule"])) for f in report["findings"]]
    assert len(order) > 1
    assert order == sorted(order)


@pytest.mark.usefixtures("built_fixtures")
def test_conflicts_can_be_suppressed(tmp_path: Path) -> None:
    run = the_run("check-name-taken:preload")
    said = ask("conflicts", run, "--gen-suppressions").stderr.decode()
    path = tmp_path / "known.toml"
    path.write_text(said[said.index("[[suppression]]") :])
    outcome = ask("conflicts", run, "--suppressions", str(path))
    assert (outcome.exit, b"no findings, 1 suppressed" in outcome.stderr) == (0, True)


@pytest.mark.parametrize(
    "command",
    [["ls", "/"], ["bash", "-c", "true"], ["perl", "-e", "1"], ["git", "--version"], ["sort", "/dev/null"]],
)
def test_system_programs_have_no_conflicts(command: list[str], tmp_path: Path) -> None:
    told = emu(
        "conflicts", "--clean-env", "--env", "PATH=/usr/bin:/bin", *command, cwd=tmp_path
    ).stderr.decode()
    assert re.fullmatch(
        r"emu conflicts: \S+: no findings; it ended with 0; meant to be interposed: [^\n]+\n", told
    )


# -- how a run ends ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["check", "conflicts"])
@pytest.mark.usefixtures("built_fixtures")
def test_a_death_is_a_finding(command: str) -> None:
    outcome = ask(command, the_run("death-signals:null-read"))
    assert outcome.exit == 1
    assert re.search(rb"error \[died\]: killed by SIGSEGV: read of 0x0 \(a null pointer\)", outcome.stderr)
    assert b"no findings" not in outcome.stderr


@pytest.mark.parametrize("command", ["check", "conflicts"])
@pytest.mark.usefixtures("built_fixtures")
def test_a_program_that_cannot_be_loaded_is_a_finding(command: str) -> None:
    outcome = ask(command, the_run("error-missing-library"))
    assert (outcome.exit, b"[not-loaded]" in outcome.stderr) == (1, True)
    assert b"no findings" not in outcome.stderr


def test_a_deadlock_is_a_finding(tmp_path: Path) -> None:
    source = Path(__file__).parent.parent / "process" / "programs" / "deadlock.c"
    subprocess.run(["gcc", "-O1", "-g", "-pthread", "-o", "deadlock", str(source)], cwd=tmp_path, check=True)
    outcome = emu("check", "./deadlock", cwd=tmp_path)
    assert (outcome.exit, b"error [deadlock]: " in outcome.stderr) == (1, True)
    assert b"thread 1001 (backwards) waits" in outcome.stderr


def test_a_run_that_is_stopped_is_a_finding(tmp_path: Path) -> None:
    outcome = emu("check", "--timeout", "3", "sh", "-c", "while :; do :; done", cwd=tmp_path)
    assert (outcome.exit, b"[not-finished]" in outcome.stderr) == (1, True)


def test_without_the_rule_a_death_is_still_no_clean_run(tmp_path: Path) -> None:
    outcome = emu("check", "--no-rule", "died", "sh", "-c", "kill -9 $$", cwd=tmp_path)
    assert outcome.exit == 128 + 9
    assert b"nothing that the chosen rules find" in outcome.stderr
