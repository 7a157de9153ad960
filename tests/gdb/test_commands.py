"""emu's commands in gdb, and where they lead."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.gdb.support import folder, in_emu
from tools import fixtures

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.needs("gdb"),
    pytest.mark.skipif(shutil.which("gdb") is None, reason="needs gdb"),
]


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("gdb-commands"))


def _said(text: str, *patterns: str) -> None:
    """The patterns are found in the text, in this order."""
    place = 0
    for pattern in patterns:
        found = re.search(pattern, text[place:])
        assert found is not None, f"{pattern!r} is not in\n{text[place:]}"
        place += found.end()


def test_from_the_crash_to_the_registration(programs: Path) -> None:
    text = in_emu(
        programs / "going", "continue", "bt 2", "set breakpoint pending on", "break dlclose", "reverse-continue", "bt 2",
        "break __cxa_thread_atexit_impl", "reverse-continue", "bt 2", "delete", "continue", "reverse-stepi", "continue",
    )  # fmt: skip
    _said(
        text, "received signal SIGSEGV", r"in __call_tls_dtors \(\)", r"__dlclose \(handle=", r"work \(\) at .*going.cc:15",
        r"__cxa_thread_atexit_impl \(func=", r"work \(\) at .*going.cc:12", "received signal SIGSEGV", "received signal SIGSEGV",
    )  # fmt: skip
    assert text.count("registered") == 1


def test_the_loaders_events_stop_the_guest(programs: Path) -> None:
    text = in_emu(
        programs / "opens", "catch dl open plugin.so", "continue", "catch dl close", "continue", "catch bind ask", "emu catch off",
        "continue",
    )  # fmt: skip
    _said(
        text,
        r"emu: dl open plugin.so: .* open ./plugin.so",
        r"emu: dl close: .* close ./plugin.so",
        "bind ask is caught",
        "exited",
    )


def test_a_dtor_is_caught_at_its_entry_and_events_are_gone_to(programs: Path) -> None:
    text = in_emu(
        programs / "going", "catch dtor", "continue", "p $pc", "emu events dtors", "emu goto dtors:1", "emu dtors", "emu why leaving.so",
        "emu scopes going", "emu tls", "emu history", "emu goto begin", "p $pc", "emu goto nonsense:1", "emu nothing",
    )  # fmt: skip
    _said(
        text, "emu: dtor: 1001 run", r"register last_words on 0x0, owner ./going", r"\*?#\d+ +1001 run", r"at #\d+ +1001 register last_words",
        r"1\. last_words at .*leaving.c:2 for the object at 0x0, of ./going", "leaving.so stays loaded", "scope 0: ./going", "module 1:",
        r"\d+ snapshots", "at the first instruction", "'nonsense:1' is no event", "no monitor command 'nothing'",
    )  # fmt: skip


def test_a_session_begins_at_an_event(programs: Path) -> None:
    text = in_emu(programs / "going", "emu events dtors", "bt 1", options=("--at", "dtors:2"))
    _said(text, r" #\d+ +1001 register last_words", r" #\d+ +1001 run", "#0 ")
    assert "no event" in in_emu(programs / "going", options=("--at", "dtors:9"))


_SPIN = """
#include <stdio.h>
volatile long turns;
int main(int argc, char **argv) {
    printf("%d arguments\\n", argc - 1);
    fflush(stdout);
    for (;;)
        turns++;
}
"""
_SESSION = """
import gdb, os, signal, threading, time
def break_in():
    time.sleep(1)
    os.kill(os.getpid(), signal.SIGINT)
gdb.execute("set confirm off")
gdb.execute("set sysroot /")
gdb.execute("target extended-remote SOCKET")
threading.Thread(target=break_in, daemon=True).start()
gdb.execute("continue")
gdb.execute("reverse-stepi")
gdb.execute("x/i $pc")
gdb.execute("set remote exec-file PROGRAM")
gdb.execute("break main")
gdb.execute("run")
gdb.execute("print turns")
gdb.execute("monitor exit")
"""


def test_ctrl_c_breaks_in_and_run_begins_again(tmp_path: Path) -> None:
    (tmp_path / "spin.c").write_text(_SPIN)
    program, path = tmp_path / "spin", tmp_path / "socket"
    subprocess.run(["gcc", "-g", "-O0", "-o", program, tmp_path / "spin.c"], check=True)
    (tmp_path / "session.py").write_text(
        _SESSION.replace("SOCKET", str(path)).replace("PROGRAM", str(program))
    )
    words = [sys.executable, "-m", "emu", "run", "--gdb", f"unix:{path}", str(program), "one"]
    environment = os.environ | {"PYTHONPATH": str(fixtures.ROOT)}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as server:
        assert server.stderr is not None and server.stdout is not None
        assert server.stderr.readline().startswith(b"emu: waiting")
        gdb = ["gdb", "-nx", "-batch", "-x", str(tmp_path / "session.py")]
        text = subprocess.run(gdb, capture_output=True, text=True, timeout=60, check=False).stdout
        assert server.wait(30) == 137
        assert server.stdout.read() == b"1 arguments\n"
    _said(text, "received signal SIGINT", "=> 0x", "Breakpoint 1, main", r"\$1 = 0")
