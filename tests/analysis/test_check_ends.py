"""How a run ended: what a finding says of it, and that each remedy helps."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
from pathlib import Path

import jsonschema
import pytest

from emu.analysis.check_data import Report
from emu.analysis.check_ends import deadlocked
from emu.analysis.data import schema
from emu.analysis.why_data import WhyAnswer
from tests.analysis.test_check_conflicts import checked
from tests.support import emu
from tools import fixtures

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


def test_a_jump_that_may_have_been_another_is_not_blamed() -> None:
    """It is asked for, and the pointer behind it is the one that is null."""
    (finding,) = checked("check-null-call:pointer").report["findings"]
    assert finding["rule"] == "died"
    assert "optional" not in finding["message"]


@pytest.mark.parametrize("avoids", ["asks", "asks-last", "taken", "whole"])
def test_a_static_program_that_has_it_or_asks(avoids: str) -> None:
    answer = checked(f"check-null-static:{avoids}")
    assert (answer.rules, answer.report["exit_code"]) == ([], 0)


def test_a_malloc_that_asks_dlsym_for_what_is_not_there_is_told_as_a_cycle() -> None:
    (finding,) = checked("check-recursion:asks").report["findings"]
    assert (
        "calls that go round until the stack ends: malloc of asks.so (hook.c:20) calls dlsym of libc.so.6, which calls malloc of asks.so:"
        ' dlsym(RTLD_NEXT, "malloc_real") finds nothing, and allocates the message for dlerror by malloc, which asks.so takes over'
        in finding["message"]
    )
    assert [place["title"] for place in finding["related"]] == ["asked by"]
    helps = [
        "emu explain --env LD_PRELOAD=./asks.so ./main malloc_real -- tells",
        "let malloc return NULL while dlsym runs",
        "__libc_malloc",
    ]
    assert [word for word, text in zip(helps, finding["remedies"], strict=True) if word in text] == helps


def test_functions_that_call_each_other_for_ever_are_named() -> None:
    (finding,) = checked("check-recursion:round").report["findings"]
    words = r"calls that go round until the stack ends: even of main \(main\.c:8\) calls odd of main \(main\.c:7\), which calls even of main$"
    assert re.search(words, finding["message"])
    assert "more stack" in finding["remedies"][0]


def test_a_cycle_within_the_librarys_own_functions_is_told() -> None:
    (finding,) = checked("check-recursion:library").report["findings"]
    assert re.search(r"until the stack ends: \w+ of libc\.so\.6 calls ", finding["message"])


@pytest.mark.parametrize("avoids", ["name", "flag", "own", "ends"])
def test_a_recursion_that_ends(avoids: str) -> None:
    answer = checked(f"check-recursion:{avoids}")
    assert (answer.rules, answer.report["exit_code"]) == ([], 0)


@pytest.mark.parametrize(
    ("arguments", "rule", "words", "frames"),
    [
        (["./joins.so"], "deadlock", r"the destructor Worker::~Worker\(\) of joins\.so \(plugin\.cc:29\) has not returned:"
         r" it is in std::thread::join\(\), and waits on a futex at 0x[0-9a-f]+, for the end of thread 1001 \(main\)$", ["dlclose", "main"]),
        (["./joins.so", "keep"], "deadlock", r"the exit handler Worker::~Worker\(\) of joins\.so \(plugin\.cc:29\) has not returned", ["exit"]),
        (["./signals.so"], "not-finished", r"the destructor Worker::~Worker\(\) of signals\.so \(plugin\.cc:25\) has not returned: it is in raise$",
         ["dlclose", "main"]),
    ],
)  # fmt: skip
def test_what_does_not_return_is_named(
    arguments: list[str], rule: str, words: str, frames: list[str]
) -> None:
    done = emu("check", "--json", "./main", *arguments, cwd=fixtures.CACHE / "check-never-ends")
    text = done.stderr.decode()
    report = json.loads(text[text.index('{\n  "program"') :])
    jsonschema.validate(report, schema(Report, "report"))
    (finding,) = report["findings"]
    assert finding["rule"] == rule
    assert re.search(words, finding["message"])
    assert {"Worker::~Worker()", *frames} <= {frame["function"] for frame in finding["frames"]}
    (remedy,) = finding["remedies"]
    assert "belongs in a function of" in remedy
    for avoids in ("stops", "told"):
        answer = checked(f"check-never-ends:{avoids}")
        assert (answer.rules, answer.report["exit_code"]) == ([], 0)


@pytest.mark.parametrize(
    ("library", "words"),
    [
        ("joins.so", "joins.so (plugin.cc:29) has not returned: it is in std::thread::join(), and waits on a futex"),
        ("signals.so", "signals.so (plugin.cc:25) has not returned: it is in raise"),
        ("exits.so", "exits.so (plugin.cc:27) has ended the process (exit code 3)"),
    ],
)  # fmt: skip
def test_a_dlclose_that_never_ended_is_no_dlclose_that_took_it(library: str, words: str) -> None:
    folder = fixtures.CACHE / "check-never-ends"
    text = emu("why", "./main", library, f"./{library}", cwd=folder).stderr.decode()
    assert f"emu why: ./main {library}: its dlclose never ended" in text
    assert "  NEVER ENDED dlclose, at main.c:13" in text
    assert f"    - it is being unloaded: the destructor Worker::~Worker() of {words}" in text
    assert "WENT" not in text
    done = emu("why", "--json", "./main", library, f"./{library}", cwd=folder)
    said = done.stderr.decode()
    answer = json.loads(said[said.index('{\n  "program"') :])
    jsonschema.validate(answer, schema(WhyAnswer, "answer"))
    (moment,) = answer["generations"][0]["moments"]
    assert (done.exit, moment["outcome"], moment["reasons"][0]["code"]) == (1, "unfinished", "unfinished")


@pytest.mark.parametrize("arguments", [["./stops.so"], ["./joins.so", "stop"]])
def test_a_destructor_whose_thread_was_told_ends(arguments: list[str]) -> None:
    library = arguments[0].removeprefix("./")
    done = emu("why", "./main", library, *arguments, cwd=fixtures.CACHE / "check-never-ends")
    assert done.exit == 0
    assert b"is gone (exit code 0)" in done.stderr


def test_the_command_that_tells_more_can_be_pasted() -> None:
    folder = fixtures.CACHE / "opens-that-fail"
    command = "emu why --env LD_LIBRARY_PATH=. ./main './not there.so' 'now:./not there.so'"
    words = ["--env", "LD_LIBRARY_PATH=.", "./main", "now:./not there.so"]
    text = emu("check", *words, cwd=folder).stderr.decode()
    assert f"\nemu check: {command} tells why, and tries what helps\n" in text
    again = emu(*shlex.split(command)[1:], cwd=folder).stderr.decode()
    assert "emu why: ./main ./not there.so: could not be loaded" in again
    text = emu("check", "./main", "now:./no.so", "--timeout", "5", cwd=folder).stderr.decode()
    assert "\nemu check: emu why ./main ./no.so -- now:./no.so --timeout 5 tells why" in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("constructor", "Config::Config() (plugin.cc:11) threw an exception, which must not leave a constructor: dlopen is declared not to throw"),
        ("destructor", "Config::~Config() (plugin.cc:25) threw an exception, which must not leave a destructor: dlclose is declared not to throw"),
        ("at-exit", "Config::~Config() (plugin.cc:25) threw an exception, which must not leave an exit handler: nothing that could catch it has called it"),
        ("start-up", "Config::Config() (plugin.cc:11) threw an exception, which must not leave a constructor: nothing that could catch it has called it"),
    ],
)  # fmt: skip
def test_an_exception_that_leaves_a_constructor_or_destructor_is_told(name: str, words: str) -> None:
    (finding,) = checked(f"check-throws:{name}").report["findings"]
    assert (finding["rule"], words in finding["message"]) == ("died", True)
    (remedy,) = finding["remedies"]
    assert remedy.startswith("catch it in the ")
    assert checked("check-throws:catches").rules == []


def test_a_run_that_could_not_be_finished_says_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text(
        "#include <signal.h>\nint main(void)\n{\n    return raise(SIGSTOP);\n}\n"
    )
    subprocess.run(["gcc", "-O0", "-g", "-o", "main", "main.c"], cwd=tmp_path, check=True)
    text = emu("check", "./main", cwd=tmp_path).stderr.decode()
    assert re.search(r"error \[not-finished\]: .*the program stopped itself with SIGSTOP\n", text)
    assert re.search(r"\n    at main \(main\.c:4\) \[main\+0x[0-9a-f]+\]\n", text)


# -- a lock over fork ----------------------------------------------------------------------------------------


_OWNERS = {
    "./main": (
        r"thread 1002 \(main\) waits for log_lock in \./main, held by thread 1001, which is one of the parent process: fork copies only the thread",
        ("take log_lock before fork", "fork before threads are started"),
    ),
    "./owners grandchild": (
        r"thread 1003 \(owners\) waits for log_lock in \./owners, held by thread 1001, which is one of process 1000: fork copies only the thread",
        ("take log_lock before fork", "fork before threads are started"),
    ),
    "./owners forker": (
        r"waits for log_lock in \./owners, held by thread 1001, which took it before it forked: the child's thread is 1002$",
        ("let log_lock go before fork", "let log_lock go in the child"),
    ),
    "./owners ended": (
        r"thread 1002 \(owners\) waits for log_lock in \./owners, held by thread 1001, which has ended$",
        ("let log_lock go in the thread that has taken it", "make log_lock robust"),
    ),
}
"""Who has the lock that the child of a run waits for, with what the remedies begin with."""


@pytest.mark.parametrize("command", _OWNERS)
def test_whose_a_lock_is_that_a_child_waits_for(command: str) -> None:
    words, helps = _OWNERS[command]
    argv, folder = command.split(), fixtures.CACHE / "check-fork-lock"
    done = emu("check", "--json", *argv, cwd=folder)
    text = done.stderr.decode()
    report = json.loads(text[text.index('{\n  "program"') :])
    jsonschema.validate(report, schema(Report, "report"))
    (finding,) = report["findings"]
    assert (done.exit, finding["rule"]) == (1, "deadlock")
    assert re.search(words, finding["message"]), finding["message"]
    assert [told.startswith(word) for word, told in zip(helps, finding["remedies"], strict=True)] == [
        True
    ] * 2
    native = subprocess.Popen(argv, cwd=folder, stdout=subprocess.PIPE, start_new_session=True)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            native.communicate(timeout=1)
    finally:
        os.killpg(native.pid, signal.SIGKILL)  # its child waits for ever
        native.communicate()


@pytest.mark.parametrize(
    "run",
    ["atfork", "fork-first", "executes", "forker-lets-go", "forker-child-unlocks", "ended-unlocks", "ended-robust"],
)  # fmt: skip
def test_what_is_said_of_a_lock_over_fork_helps(run: str) -> None:
    answer = checked(f"check-fork-lock:{run}")
    assert (answer.rules, answer.report["exit_code"]) == ([], 0)


def test_the_remedies_at_the_loaders_lock_fit_where_a_path_has_spaces() -> None:
    waits = (
        "thread 1001 (host) waits for the dynamic loader's lock (_dl_load_lock), held by thread 1000 (host) in dlopen of ./my plugin.so (main (host.c:9)),"
        " which runs start (plugin.c:5) of ./my plugin.so, and that waits on a futex at 0x7f0010 (lock in /opt/my host/host), held by thread 1001 (host)"
    )
    end = deadlocked("host: deadlock", f"host: deadlock\n  {waits}\n")
    assert end.message.endswith("that waits for lock in /opt/my host/host, held by thread 1001 (host)")
    helps = (
        "do not wait for a lock",
        "do what waits in a function of my plugin.so,",
        "let thread 1001 (host) call the loader",
    )
    assert all(remedy.startswith(word) for word, remedy in zip(helps, end.remedies, strict=True))
