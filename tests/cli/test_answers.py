"""One rule for answers: --json[=FILE], --schema, -o, --quiet-program;
which words of a command line are the program's; -q and -v.
"""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from tests.support import compile_c, emu
from tools import fixtures

if TYPE_CHECKING:
    from pathlib import Path

HOST = r"""
#include <dlfcn.h>
#include <stdio.h>
int main(int count, char **words) {
    for (int i = 1; i < count; i++)
        printf("[%s]", words[i]);
    puts("said by the program");
    void *library = dlopen("./lib.so", RTLD_NOW);
    ((void (*)(void))dlsym(library, "touch"))();
    return dlclose(library);
}
"""
LIBRARY = """
#include <pthread.h>
static pthread_key_t key;
static void late(void *value) { (void)value; }
void touch(void) { pthread_key_create(&key, late); }
"""
QUESTIONS: dict[str, tuple[str, ...]] = {
    "why": ("./host", "lib.so"), "check": ("./host",), "conflicts": ("./host",), "explain": ("./host", "puts"),
    "ldd": ("./host",), "maps": ("./host",), "diff": ("./host", "--ldso", "real"),
}  # fmt: skip
RUNNING = ("why", "check", "conflicts", "explain")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("answers")
    (place / "host.c").write_text(HOST)
    (place / "lib.c").write_text(LIBRARY)
    compile_c(place, "-g", "-o", "host", "host.c")
    compile_c(place, "-g", "-shared", "-fPIC", "-o", "lib.so", "lib.c")
    return place


def _words(command: str, *options: str) -> list[str]:
    """The command line of a question, with PROGRAM really run where it can be."""
    return [command, *options, *QUESTIONS[command], *(("--",) if command == "explain" else ())]


def test_options_of_a_question_that_gives_the_program_no_arguments_may_follow_it(folder: Path) -> None:
    before = emu("ldd", "--json", "./host", cwd=folder)
    assert json.loads(before.stdout) and before.exit == 0
    assert emu("ldd", "./host", "--json", cwd=folder) == before
    refused = emu("ldd", "./host", "other", cwd=folder)
    assert (refused.exit, b"unexpected extra argument (other)" in refused.stderr) == (2, True)


@pytest.mark.parametrize("command", QUESTIONS)
def test_json_goes_into_a_file_by_the_schema(folder: Path, tmp_path: Path, command: str) -> None:
    file = tmp_path / "answer.json"
    done = emu(*_words(command, f"--json={file}"), cwd=folder)
    told = json.loads(file.read_text())
    jsonschema.validate(told, json.loads(emu(command, "--schema", cwd=folder).stdout))
    assert b'"program"' not in done.stdout + done.stderr
    assert (b"said by" in done.stdout) == (command in RUNNING)
    assert emu(*_words(command, f"--json={file}"), cwd=folder).exit == done.exit, "its own may be replaced"
    file.write_text("precious")
    assert b"not overwritten" in emu(*_words(command, f"--json={file}"), cwd=folder).stderr
    assert file.read_text() == "precious"


@pytest.mark.parametrize("command", QUESTIONS)
def test_standard_output_is_the_programs_unless_it_is_kept_quiet(folder: Path, command: str) -> None:
    done = emu(*_words(command, "--json"), cwd=folder)
    if command not in RUNNING:
        assert json.loads(done.stdout)["program"]
        return
    assert done.stdout == b"said by the program\n"
    assert json.loads(done.stderr)["program"]
    quiet = emu(*_words(command, "--json", "--quiet-program"), cwd=folder)
    assert (quiet.exit, quiet.stderr) == (done.exit, b"")
    assert json.loads(quiet.stdout).keys() == json.loads(done.stderr).keys(), (
        "times differ with a file's kind"
    )


def test_explain_that_runs_nothing_answers_on_standard_output(folder: Path) -> None:
    assert json.loads(emu("explain", "--json", "./host", "puts", cwd=folder).stdout)["symbol"] == "puts"


def test_text_goes_to_a_file_too_and_only_one_place_can_be_said(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "ldd.txt"
    assert emu("ldd", "-o", str(file), "./host", cwd=folder).stdout == b""
    assert file.read_text().startswith("NAME ")
    assert emu("ldd", "-o", str(file), "./host", cwd=folder).exit == 0
    refused = emu("ldd", f"--json={file}", "-o", "x", "./host", cwd=folder)
    assert (refused.exit, b"choose one" in refused.stderr) == (2, True)


def test_json_by_default_is_asked_for_by_true(folder: Path) -> None:
    for value, asked in (("true", True), ("1", True), ("false", False)):
        environment = os.environ | {"PYTHONPATH": str(fixtures.ROOT), "EMU_JSON": value}
        words = [sys.executable, "-m", "emu", "ldd", "./host"]
        text = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True).stdout
        assert text.startswith("{") == asked


def test_suppressions_go_to_their_own_file(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "known.toml"
    done = emu("check", f"--gen-suppressions={file}", "./host", cwd=folder)
    assert done.exit == 1
    assert b"[[suppression]]" not in done.stderr
    assert emu("check", "--suppressions", str(file), "./host", cwd=folder).exit == 0
    told = emu("check", "--json", f"--gen-suppressions={file}", "--quiet-program", "./host", cwd=folder)
    assert json.loads(told.stdout)["findings"]
    assert b"[[suppression]]" in emu("check", "--gen-suppressions", "./host", cwd=folder).stderr
    (tmp_path / "mine").write_text("precious")
    refused = emu("check", f"--gen-suppressions={tmp_path}/mine", "./host", cwd=folder)
    assert b"not overwritten" in refused.stderr and b"said by" not in refused.stdout


@pytest.mark.parametrize(
    ("words", "theirs"),
    [
        (["why", "./host", "lib.so", "--load", "-x", "--last"], "[--load][-x][--last]"),
        (["why", "./host", "lib.so", "--last", "-la"], "[-la]"),
        (["why", "--last", "./host", "--all", "lib.so", "--", "--last"], "[--last]"),
        (["why", "./host", "lib.so", "one", "--json"], "[one][--json]"),
        (["explain", "./host", "puts", "--from", "lib.so", "--load"], "[--load]"),
        (["explain", "./host", "puts", "-", "--json"], "[-][--json]"),
        (["report", "./host", "--force", "-or.html", "-x", "--seed=5"], "[-x][--seed=5]"),
        (["check", "./host", "--seed", "-x"], "[--seed][-x]"),
        (["check", "--seed", "5", "./host", "--json"], "[--json]"),
        (["conflicts", "./host", "--json=x"], "[--json=x]"),
        (["run", "-q", "./host", "-q", "--trace"], "[-q][--trace]"),
        (["run", "--", "./host", "-v"], "[-v]"),
        (["check", "./host", "--", "x"], "[--][x]"),
    ],
)
def test_words_behind_the_program_are_its_own(folder: Path, words: list[str], theirs: str) -> None:
    assert emu(*words, cwd=folder).stdout.decode() == f"{theirs}said by the program\n"


def test_an_option_that_the_program_gets_is_told_of(folder: Path) -> None:
    done = emu("why", "./host", "lib.so", "x", "--last", cwd=folder)
    assert b"emu: --last is given to the program; options of emu's go before its arguments\n" in done.stderr
    missing = emu("report", "./host", "x", "-o", "r.html", cwd=folder)
    assert (missing.exit, b"-o is given to the program" in missing.stderr) == (2, True)
    assert b"given to" not in emu("why", "./host", "lib.so", "--", "--last", cwd=folder).stderr
    assert b"given to" not in emu("why", "-q", "./host", "lib.so", "x", "--last", cwd=folder).stderr
    assert emu("why", "./host", "--lasst", "lib.so", cwd=folder).exit == 2


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("ib.s", "emu why: ./host lib.so: is gone"),
        ("./li", "emu why: ./host lib.so: is gone"),
        ("libc", "emu why: ./host libc.so.6: stays"),
        ("lib", "emu: lib: ambiguous, choose one of lib.so, libc.so.6\n"),
        ("nothing", "emu: no object nothing was ever loaded"),
    ],
)
def test_a_part_of_a_librarys_name_is_enough_if_only_one_has_it(folder: Path, part: str, said: str) -> None:
    assert said in emu("why", "./host", part, cwd=folder).stderr.decode()


def test_an_open_that_failed_is_found_by_a_part_too(folder: Path) -> None:
    (folder / "bad.c").write_text(
        '#include <dlfcn.h>\nint main(void) { return !dlopen("./gone-away.so", RTLD_NOW); }'
    )
    compile_c(folder, "-o", "bad", "bad.c")
    done = emu("why", "./bad", "gone", cwd=folder)
    assert b"./gone-away.so" in done.stderr and b"emu why: ./bad gone-away.so" in done.stderr


def test_explain_takes_a_part_of_the_objects_name(folder: Path) -> None:
    assert b"libc.so.6" in emu("explain", "./host", "malloc", "--from", "ibc.s", cwd=folder).stdout
    later = emu("explain", "./host", "touch", "--from", "lib.so", cwd=folder)
    assert (later.exit, b"a -- at the end lets the program run first" in later.stderr) == (1, True)


def _at_a_terminal(folder: Path, *words: str) -> str:
    """What a command writes to standard error where that is a terminal."""
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "emu", *words]
    environment: dict[str, Any] = os.environ | {"PYTHONPATH": str(fixtures.ROOT)}
    subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=terminal)
    os.close(terminal)
    shown = b""
    try:
        while part := os.read(controller, 4096):
            shown += part
    except OSError:  # the terminal's other end is closed
        pass
    os.close(controller)
    return shown.decode()


@pytest.mark.parametrize(
    ("words", "file"),
    [
        (["ldd", "--json={}", "./host"], "ldd.json"),
        (["report", "./host", "-o", "{}"], "r.html"),
        (["run", "--trace", "dl", "--trace-output", "{}", "./host"], "trace.txt"),
        (["run", "--record-schedule", "{}", "./host"], "schedule.jsonl"),
        (["check", "--gen-suppressions={}", "-o", "/dev/null", "./host"], "known.toml"),
    ],
)
def test_a_file_that_was_written_is_a_line_on_a_terminal(
    folder: Path, tmp_path: Path, words: list[str], file: str
) -> None:
    path = str(tmp_path / file)
    command = [word.format(path) for word in words]
    assert f"emu: wrote {path} (" in _at_a_terminal(folder, *command)
    assert f"emu: wrote {path} (" in emu(command[0], "-v", *command[1:], cwd=folder).stderr.decode()
    assert b"wrote" not in emu(*command, cwd=folder).stderr
    assert "wrote" not in _at_a_terminal(folder, command[0], "-q", *command[1:])


def test_an_option_behind_the_program_is_a_line_on_a_terminal(folder: Path) -> None:
    said = "emu: --trace is given to the program; options of emu's go before PROGRAM\r\n"
    assert _at_a_terminal(folder, "run", "./host", "--trace", "dl") == said
    assert _at_a_terminal(folder, "-q", "run", "./host", "--trace", "dl") == ""


def test_verbose_says_what_runs_and_what_it_costs(folder: Path) -> None:
    for words in (("run", "-v", "./host", "x"), ("-v", "run", "./host", "x")):
        first, *_, last = emu(*words, cwd=folder).stderr.decode().splitlines()
        assert first == "emu: ./host, sysroot /, arguments ('x',)"
        assert last.startswith("emu: took ") and last.endswith(" MiB of memory at most")


def test_quiet_keeps_notes_away(folder: Path) -> None:
    assert b"is a library" in emu("maps", "./lib.so", cwd=folder).stderr
    assert emu("maps", "-q", "./lib.so", cwd=folder).stderr == b""
