"""The group of commands: words that are none, defaults from outside, completion,
outputs that are standard output, filters.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pexpect
import pytest

from tests.support import emu
from tools import fixtures

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("built_fixtures")
FOLDER = fixtures.CACHE / "tls-dsos"


def _with(variables: dict[str, str], *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(fixtures.ROOT)} | variables
    return subprocess.run(
        [sys.executable, "-m", "emu", *words], cwd=cwd, env=env, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("rnu", "no command 'rnu': did you mean 'run'?"),
        ("./main", "no command './main': to run a program say `emu run ./main'"),
        ("main", "no command 'main': to run a program say `emu run main'"),
        ("qqqq", "no command 'qqqq' (try"),
    ],
)
def test_a_word_that_is_no_command_is_answered_with_what_was_meant(word: str, answer: str) -> None:
    outcome = emu(word, cwd=FOLDER)
    assert outcome.exit == 2
    assert answer in outcome.stderr.decode()


def test_a_topic_that_is_none_is_answered_with_what_was_meant() -> None:
    assert (
        b"no topic and no command 'chekcs': did you mean 'checks'?"
        in emu("help", "chekcs", cwd=FOLDER).stderr
    )


def test_version_tells_what_it_runs_with(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[tool.emu]\nseed = 5\n[tool.emu.check]\nno-rule = ["handle-leaked"]\n'
    )
    assert _with({}, "-V", cwd=tmp_path).stdout.count("\n") == 1
    said = _with({"EMU_TIMEOUT": "7"}, "--version", "-v", cwd=tmp_path).stdout
    assert "unicorn 2.1.4\n" in said
    assert "EMU_TIMEOUT='7' (environment)\n" in said
    assert f"[tool.emu] seed = 5 ({tmp_path}/pyproject.toml)\n" in said


def test_options_have_defaults_from_the_environment_and_the_project(tmp_path: Path) -> None:
    program = str(FOLDER / "main")
    assert "register" not in _with({}, "run", program, "c", cwd=tmp_path).stderr
    assert "register" in _with({"EMU_TRACE": "dtors"}, "run", program, "c", cwd=tmp_path).stderr
    (tmp_path / "pyproject.toml").write_text(
        '[tool.emu]\ntrace = "dtors"\n[tool.emu.run]\ntrace-format = "brief"\n'
    )
    inside = tmp_path / "below"
    inside.mkdir()
    said = _with({}, "run", program, "c", cwd=inside).stderr
    assert said.startswith(" 1000 register")
    assert "bind" in _with({}, "run", "--trace", "bindings", program, "c", cwd=inside).stderr


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[tool.emu.run]\nsede = 3\n", "[tool.emu.run] sede: no such option"),
        ("[tool.emu]\nrun = 3\n", "[tool.emu] run must be a table"),
        ("[tool.emu]\nsede = 3\n", "[tool.emu] sede: no command has such an option"),
        ("[tool.emu.rnu]\nseed = 3\n", "[tool.emu.rnu]: no such command"),
        ("[tool.emu\n", "pyproject.toml: "),
        ("[tool]\nemu = 3 # tool.emu\n", "tool.emu must be a table"),
    ],
)
def test_a_project_with_wrong_defaults_is_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    done = _with({}, "run", str(FOLDER / "main"), cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert complaint in done.stderr


def test_a_trace_and_an_answer_go_to_standard_output(tmp_path: Path) -> None:
    done = _with({}, "run", "--trace", "dtors", "--trace-output", "-", "./main", "c", cwd=FOLDER)
    assert done.stderr == ""
    assert "register" in done.stdout
    with (tmp_path / "kept").open("w+") as kept:
        kept.write("before\n")
        kept.flush()
        command = [sys.executable, "-m", "emu", "check", "-o", "-", "./main", "c"]
        subprocess.run(
            command, cwd=FOLDER, stdout=kept, env=os.environ | {"PYTHONPATH": str(fixtures.ROOT)}, check=True
        )
        kept.seek(0)
        text = kept.read()
    assert text.startswith("before\n")
    assert "no findings" in text


@pytest.mark.parametrize(
    ("asked", "shown", "hidden"),
    [
        ("bindings:touch_a", "bind touch_a", "bind puts"),
        ("bindings:touch_?,bindings:puts", "bind puts", "bind _res"),
        ("bindings:liba.so", "to {folder}/liba.so", "bind puts@GLIBC_2.2.5 of ./main"),
        ("bindings:std::cout", "bind std::cout@GLIBCXX_3.4", "bind puts"),
        ("bindings:puts,dtors", "register", "bind touch_a"),
    ],
)
def test_a_trace_shows_what_names_a_symbol_or_an_object(asked: str, shown: str, hidden: str) -> None:
    said = _with({}, "run", "--trace", asked, "./main", "ca", cwd=FOLDER).stderr
    assert shown.format(folder=FOLDER) in said
    assert hidden not in said


@pytest.mark.parametrize("asked", ["all:puts", "bindings:", "nothing:puts"])
def test_a_filter_that_means_nothing_is_refused(asked: str) -> None:
    assert emu("run", "--trace", asked, "./main", cwd=FOLDER).exit == 2


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("emu ru", "plain,run"),
        ("emu run --sched", "plain,--schedule"),
        ("emu run --trace dl,dto", "plain,dl,dtors"),
        ("emu run ./ma", "file,./ma"),
        ("emu check --rule key-", "plain,key-destructor-unloaded"),
        ("emu tour 3", "plain,3"),
        ("emu help plug", "plain,plugins"),
    ],
)
def test_bash_is_offered_what_fits(words: str, offered: str) -> None:
    variables = {"_EMU_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    assert offered in _with(variables, cwd=FOLDER).stdout.splitlines()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell_calls_emu(shell: str) -> None:
    assert f"_EMU_COMPLETE={shell}_complete" in emu("completion", shell, cwd=FOLDER).stdout.decode()


def test_fish_keeps_what_is_behind_a_comma() -> None:
    script = emu("completion", "fish", cwd=FOLDER).stdout.decode()
    assert script.count("string split") == script.count('string split --max 1 ","') == 1


def test_bash_itself_completes() -> None:
    script = emu("completion", "bash", cwd=FOLDER).stdout.decode()
    ask = f'{script}\nCOMP_WORDS=(emu ru); COMP_CWORD=1; _emu_completion emu ru emu; echo "${{COMPREPLY[@]}}"'
    path = f"{os.path.dirname(sys.executable)}:/usr/bin:/bin"
    done = subprocess.run(
        ["bash", "-c", ask],
        env={"PATH": path, "PYTHONPATH": str(fixtures.ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "run\n", done.stderr


COMPLETED = [
    ("emu ru", "run"),
    ("emu run ./main.", "./main.cc"),
    ("emu run --trace dl,dto", "dl,dtors"),
    ("emu check --rule key-des", "key-destructor-unloaded"),
    ("emu tour 3", "3"),
]


def _shells_environment(home: Path) -> dict[str, str]:
    path = f"{os.path.dirname(sys.executable)}:/usr/bin:/bin"
    return {
        "PATH": path,
        "PYTHONPATH": str(fixtures.ROOT),
        "HOME": str(home),
        "TERM": "dumb",
        "LANG": "C.UTF-8",
    }


@pytest.mark.needs("zsh")
def test_zsh_itself_completes(tmp_path: Path) -> None:
    """What stands on the line behind TAB is printed by a key of our own."""
    ready = """autoload -Uz compinit; compinit -D -u; eval "$(emu completion zsh)"; echo 'load'ed
        show() { print -r -- "<$BUFFER>"; BUFFER= }; zle -N show; bindkey '^T' show; echo 're'ady"""
    with pexpect.spawn(
        "zsh", ["-f"], cwd=str(FOLDER), env=_shells_environment(tmp_path), encoding="utf-8", timeout=120,
        dimensions=(40, 200),
    ) as child:  # fmt: skip
        child.sendline(ready)
        child.expect_exact("ready\r\n")
        for words, completed in COMPLETED:
            child.send(f"{words}\t\x14")
            child.expect_exact(f"<{words.rpartition(' ')[0]} {completed} >")


@pytest.mark.needs("fish")
def test_fish_itself_completes(tmp_path: Path) -> None:
    asked = "; ".join(f"complete --do-complete '{words}'" for words, _ in COMPLETED)
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"emu completion fish | source; {asked}"],
        cwd=FOLDER, env=_shells_environment(tmp_path), capture_output=True, text=True, check=True,
    )  # fmt: skip
    offered = [line.partition("\t")[0] for line in done.stdout.splitlines()]
    assert offered == [completed for _, completed in COMPLETED], done.stderr
