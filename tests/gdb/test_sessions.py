"""Sessions of the system's gdb: the same with emu's process as with the native one."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.gdb.support import folder, in_emu, natively, plain

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.needs("gdb"),
    pytest.mark.skipif(shutil.which("gdb") is None, reason="needs gdb"),
]

SESSIONS = {
    "plain-frames": (
        "plain",
        ("break work", "continue", "bt", "p n", "finish", "next", "step", "bt", "p *p", "finish"),
    ),
    "plain-registers": (
        "plain",
        (
            "break halve",
            "continue",
            "x/4i $pc",
            "p $rdi == (long)p",
            "stepi",
            "nexti",
            "next",
            "p $xmm0.v2_double[0]",
            "p $cs",
            "p $eflags",
            "p $fctrl",
            "p $ftag",
            "p $mxcsr",
        ),
    ),
    "plain-watch": (
        "plain",
        (
            "break work",
            "continue",
            "watch total",
            "continue",
            "continue",
            "bt 1",
            "p total",
            "delete",
            "continue",
        ),
    ),
    "plain-read-watch": (
        "plain",
        ("break work", "continue", "rwatch total", "continue", "bt 1", "awatch total", "continue", "bt 1"),
    ),
    "plain-change": (
        "plain",
        (
            "break work",
            "continue",
            "p n = 3",
            "finish",
            "next",
            "next",
            "p result = 99",
            "p text[0] = 'D'",
            "continue",
        ),
    ),
    "plain-calls": (
        "plain",
        ("break halve", "continue", "p work(4)", "p halve(p)", 'call (int)puts("called")', "bt 1", "finish"),
    ),
    "plain-thread-local": (
        "plain",
        ("break 29", "continue", "p per_thread", "p per_thread = 50", "p per_thread", "continue"),
    ),
    "plain-until": (
        "plain",
        (
            "tbreak work",
            "continue",
            "until 15",
            "info locals",
            "advance 16",
            "p sum",
            "up",
            "p p",
            "p $_exitcode",
            "continue",
            "p $_exitcode",
        ),
    ),
    "plain-conditions": (
        "plain",
        ("break 12 if i == 6", "continue", "p sum", "ignore 1 1", "info breakpoints"),
    ),
    "plain-auxv": (
        "plain",
        ("break main", "continue", "info symbol work", "info line 12", "p argc", "x/s text"),
    ),
    "threads-signal": ("threads", ("continue", "bt 3", "p caught", "p $_siginfo.si_signo", "signal SIGUSR1")),
    "threads-passed": (
        "threads",
        (
            "handle SIGUSR1 nostop noprint pass",
            "break handler",
            "continue",
            "p number",
            "bt 2",
            "finish",
            "delete",
            "continue",
        ),
    ),
    "threads-dropped": ("threads", ("continue", "signal 0")),
    "threads-variables": ("threads", ("break raise", "continue", "thread apply all -q p mine", "p $_thread")),
    "opens-libraries": (
        "opens",
        (
            "set breakpoint pending on",
            "break ask",
            "continue",
            "bt",
            "p answer",
            "info sharedlibrary",
            "finish",
            "delete",
            "continue",
        ),
    ),
    "opens-constructor": (
        "opens",
        ("set breakpoint pending on", "break up", "continue", "p answer", "stepi", "delete", "continue"),
    ),
    "opens-catch": ("opens", ("catch load plugin", "continue", "catch unload plugin", "continue")),
    "crash": (
        "crash",
        (
            "continue",
            "bt",
            "p $_siginfo.si_signo",
            "p $_siginfo._sifields._sigfault.si_addr",
            "info registers rip",
            "continue",
        ),
    ),
    "crash-kill": ("crash", ("break main", "continue", "kill", "info threads")),
    "syscalls": ("crash", ("catch syscall write", "continue", "continue", "delete", "continue")),
}


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("gdb"))


@pytest.mark.parametrize("name", SESSIONS)
def test_session_is_the_native_one(name: str, programs: Path) -> None:
    program, commands = SESSIONS[name]
    assert plain(in_emu(programs / program, *commands)) == plain(natively(programs / program, *commands))
