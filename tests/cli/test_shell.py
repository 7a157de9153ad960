"""The prompt with a process in it: at a terminal, with a script on standard input, with -c."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pexpect
import pytest

from tests.support import compile_c, emu
from tools import fixtures

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def hello() -> Path:
    return fixtures.build("hello-iostream")


@contextmanager
def _terminal(folder: Path, *words: str) -> Iterator[pexpect.spawn[str]]:
    """`emu shell WORDS` at a terminal, with a home of its own: IPython keeps a history there."""
    env = os.environ | {
        "PYTHONPATH": str(fixtures.ROOT), "TERM": "dumb", "HOME": str(folder), "IPYTHONDIR": str(folder / "ipython"),
    }  # fmt: skip
    child = pexpect.spawn(
        sys.executable,
        ["-m", "emu", "shell", *words],
        cwd=str(folder),
        env=env,
        encoding="utf-8",
        timeout=60,
        dimensions=(40, 200),
    )
    try:
        yield child
    finally:
        child.close(force=True)


def test_python_s_own_prompt(hello: Path) -> None:
    with _terminal(hello, "--plain", "./main") as child:
        child.expect("stands before its first instruction")
        child.expect("the guest reads /dev/null")
        child.expect(">>> ")
        child.sendline("p")
        child.expect("<emu.Process ./main, ready>")
        child.send("p.link_ma\t\n")  # completed
        child.expect(r"name +address +opens")
        child.expect(">>> ")
        child.sendline("p.run()")
        child.expect("hello, world\r\n")
        child.expect("\n0\r\n>>> ")
        child.sendline("p.lookup('nothing')")
        child.expect(
            'Traceback .*:\r\n  File "<console>", line 1, in <module>\r\nemu.*no symbol nothing.*\r\n>>> '
        )
        child.sendeof()
        child.expect(pexpect.EOF)
    assert child.exitstatus == 0


ENDLESS = """
#include <stdio.h>
int main(void) {
    setlinebuf(stdout), puts("ready");
    for (;;) {}
}
"""


@pytest.mark.parametrize("plain", [True, pytest.param(False, marks=pytest.mark.needs("ipython"))])
def test_ctrl_c_stops_a_guest_that_runs_and_it_can_go_on(tmp_path: Path, plain: bool) -> None:
    (tmp_path / "main.c").write_text(ENDLESS)
    compile_c(tmp_path, "-o", "main", "main.c")
    prompt = ">>> " if plain else r"In \[.*\d.*\]: "
    with _terminal(tmp_path, *(("--plain",) if plain else ()), "./main") as child:
        child.expect(prompt)
        child.sendline("p.run()")
        child.expect("ready\r\n")
        child.sendintr()
        child.expect("KeyboardInterrupt")
        child.expect(prompt)
        child.sendline("p")
        child.expect("main, running>")
        child.expect(prompt)
        child.sendline("print('go' + 'es') or p.run()")
        child.expect("goes\r\n")
        child.sendintr()
        child.expect("KeyboardInterrupt")
        child.expect(prompt)
        child.send("abandoned")  # what is echoed is read: IPython draws its prompt before it hears Ctrl-C
        child.expect("abandoned")
        child.sendintr()  # at the prompt it is Python's
        child.expect(prompt)


@pytest.mark.needs("ipython")
def test_ipython_where_it_is_installed(hello: Path) -> None:
    with _terminal(hello, "./main") as child:
        child.expect("stands before its first instruction")
        child.expect(r"In \[.*1.*\]: ")
        child.sendline("p.run()")
        child.expect("hello, world")
        child.expect(r"In \[.*2.*\]: ")
        child.sendline("exit()")
        child.expect(pexpect.EOF)
    assert child.exitstatus == 0


def test_without_a_program_libraries_are_hosted(tmp_path: Path) -> None:
    with _terminal(tmp_path, "--plain") as child:
        child.expect("an empty program stands ready")
        child.expect(">>> ")
        child.sendline("p.dlopen('libm.so.6').abs(-5)")
        child.expect("\n5\r\n>>> ")
        child.sendline("raise SystemExit(3)")
        child.expect(pexpect.EOF)
    assert child.exitstatus == 3


def test_lines_on_standard_input_are_a_script(hello: Path) -> None:
    script = b"import os\nprint('first')\nstatus = p.run()\nprint(status, os.path.basename(p.link_maps[0].display_name))\n"
    done = emu("shell", "./main", cwd=hello, stdin=script)
    assert (done.exit, done.stderr) == (0, b"")
    assert done.stdout == b"first\nhello, world\n42 2.5 ff\n0 main\n"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            b"def f():\n    return 1 / 0\n\nf()\n",
            '  File "<stdin>", line 4, in <module>\n    f()\n  File "<stdin>", line 2, in f\n    return 1 / 0\n',
        ),
        (
            b"p.lookup('nothing')\n",
            "  File \"<stdin>\", line 1, in <module>\n    p.lookup('nothing')\nemu.api.errors.SymbolNotFoundError: ",
        ),
        (b"with p:\n", 'File "<stdin>", line 1'),
        (b"p.x = '\0'\n", "null bytes"),
        (b"x = '\xff'\n", "SyntaxError"),
    ],
)
def test_an_error_of_a_script_is_shown_in_the_users_lines(script: bytes, said: str, tmp_path: Path) -> None:
    done = emu("shell", cwd=tmp_path, stdin=script)
    assert done.exit == 1
    # Python 3.13 underlines more of the lines.
    assert said in re.sub(r"\n +[~^]+(?=\n)", "", done.stderr.decode())
    assert "emu/cli" not in done.stderr.decode()


def test_code_arguments_options_and_the_guests_standard_input(tmp_path: Path) -> None:
    (tmp_path / "given").write_text("line\n")
    wc = ("/usr/bin/wc", "-l")
    assert emu("shell", "-c", "p.run()", *wc, cwd=tmp_path, stdin=b"not for the guest\n").stdout == b"0\n"
    assert emu("shell", "--stdin", "given", "-c", "p.run()", *wc, cwd=tmp_path).stdout == b"1\n"
    assert emu("shell", "--stdin", "-", "-c", "p.run()", *wc, cwd=tmp_path, stdin=b"a\nb\n").stdout == b"2\n"
    printed = emu(
        "shell", "--clean-env", "--env", "A=b", "--trace", "init", "-c",
        "p.run(); print({e.category for e in p.events()})", "/usr/bin/env", cwd=tmp_path,
    )  # fmt: skip
    assert printed.stdout == b"A=b\n{'init'}\n"


def test_what_cannot_be_is_one_line(tmp_path: Path) -> None:
    for words, code in (
        (("no-such-program",), 127),
        (("--stdin", "missing", "cat"), 2),
        (("--stdin", "-", "cat"), 2),
    ):
        done = emu("shell", *words, cwd=tmp_path)
        assert (done.exit, done.stdout, done.stderr.count(b"\n")) == (code, b"", 1), done
        assert done.stderr.startswith(b"emu: ")
    closed = f"{sys.executable} -m emu shell <&-"
    said = subprocess.run(["sh", "-c", closed], cwd=fixtures.ROOT, capture_output=True, text=True)
    assert (said.returncode, said.stderr.count("\n")) == (2, 1)
    assert "standard input is closed" in said.stderr
