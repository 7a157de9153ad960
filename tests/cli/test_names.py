"""Names of files and symbols are the guest's:
a line stays one line, and no control character of theirs reaches the terminal.
"""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from emu.core.text import harmless, printable, printable_in_colour
from tests import support
from tools import fixtures

_TAME, _WILD = "libABCDEFG.so", "lib\x1b[2Jx\ny.so"


def test_printable() -> None:
    assert printable("plain ünïcode") == "plain ünïcode"
    assert printable("a\nb\x1b[31mc\x7f\x9b") == r"a\nb\x1b[31mc\x7f\x9b"
    assert printable(os.fsdecode(b"\xce$ORIGIN")) == r"\xce$ORIGIN"
    assert printable("\u202egnp.exe") == r"\u202egnp.exe"


def test_a_painted_line_keeps_its_colours_and_nothing_else() -> None:
    assert printable_in_colour("\x1b[1mbold\x1b[0m \x1b[2J") == "\x1b[1mbold\x1b[0m \\x1b[2J"


def test_text_of_several_lines_keeps_its_lines() -> None:
    assert harmless("one\n\ttwo\n") == "one\n\ttwo\n"
    assert harmless("one\x1b]0;title\x07\n") == "one\\x1b]0;title\\x07\n"
    assert harmless("\x1b[31mred\x1b[0m\r\n") == "\\x1b[31mred\\x1b[0m\\r\n"
    assert harmless("\x1b[31mred\x1b[0m\r\n", colour=True) == "\x1b[31mred\x1b[0m\\r\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program whose library has a wild name."""
    folder = tmp_path_factory.mktemp("names")
    (folder / "lib.c").write_text("int f(void) { return 0; }\n")
    (folder / "main.c").write_text("int f(void); int main(void) { return f(); }\n")
    for command in (
        ["gcc", "-shared", "-fPIC", "-o", "lib.so", "lib.c", f"-Wl,-soname,{_TAME}"],
        [
            "gcc",
            "-o",
            "main",
            "main.c",
            "./lib.so",
            "-Wl,-z,now,--unresolved-symbols=ignore-all,-rpath,$ORIGIN",
        ],
    ):
        subprocess.run(command, cwd=folder, check=True)
    # The linker takes no such name: it takes the place of another one of its length.
    for name in ("lib.so", "main"):
        data = (folder / name).read_bytes().replace(_TAME.encode(), _WILD.encode())
        (folder / name).write_bytes(data)
    (folder / "lib.so").rename(folder / _WILD)
    return folder


COMMANDS = (("run", "./main"), ("ldd", "./main"), ("maps", "./main"), ("explain", "./main", "f"), ("check", "./main"), ("why", "./main", _WILD))  # fmt: skip


@pytest.mark.parametrize("words", COMMANDS, ids=[words[0] for words in COMMANDS])
def test_wild_names_are_written_out(words: tuple[str, ...], folder: Path) -> None:
    done = support.emu(*words, cwd=folder)
    shown = done.stdout + done.stderr
    assert b"Traceback" not in shown
    assert not set(shown) & {0x1B, 0x07}
    assert all(b"y.so" not in line or b"x\\ny.so" in line for line in shown.splitlines())


def test_a_terminal_gets_no_control_characters_of_names(folder: Path) -> None:
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "emu", "ldd", "./main"]
    environment = os.environ | {"PYTHONPATH": str(fixtures.ROOT), "TERM": "xterm"}
    subprocess.run(command, cwd=folder, env=environment, stdout=slave, stderr=slave, check=False)
    os.close(slave)
    shown = os.read(master, 1 << 16)
    os.close(master)
    assert b"lib\\x1b[2Jx\\ny.so" in shown
    assert b"\x1b[2J" not in shown


def test_ld_so_says_the_same_but_raw(folder: Path) -> None:
    (folder / "alone").mkdir()
    (folder / "main").rename(folder / "alone" / "main")
    native = subprocess.run(["./main"], cwd=folder / "alone", capture_output=True)
    ours = support.emu("run", "./main", cwd=folder / "alone")
    assert b"\x1b[2J" in native.stderr
    assert ours.stderr.decode() == printable(os.fsdecode(native.stderr.rstrip(b"\n"))) + "\n"
    assert ours.exit == native.returncode == 127
