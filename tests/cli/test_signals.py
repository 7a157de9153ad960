"""What Ctrl-C, kill and a hang-up do while the guest computes, with and without a trace in a file."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

ENDLESS = r"""
#include <signal.h>
#include <unistd.h>
static void again(int number) { (void)(number + write(1, "again\n", 6)); }
int main(void) {
    signal(SIGINT, again);
    if (write(1, "one\n", 4) == 4 && write(1, "ready\n", 6) == 6)
        for (;;) {}
}
"""


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("endless")
    (folder / "main.c").write_text(ENDLESS)
    subprocess.run(["gcc", "-o", "main", "main.c"], cwd=folder, check=True)
    return str(folder / "main")


def _start(program: str, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "emu", "run", *options, program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("traced", [False, True])
def test_the_guest_gets_every_signal(endless: str, tmp_path: Path, traced: bool) -> None:
    trace = tmp_path / "trace"
    options = ("--trace", "syscalls", "--trace-output", str(trace)) if traced else ()
    with _start(endless, *options) as run:
        assert run.stdout is not None
        try:
            assert [run.stdout.readline() for _ in range(2)] == ["one\n", "ready\n"]
            for _ in range(2):
                run.send_signal(signal.SIGINT)
                assert run.stdout.readline() == "again\n"
            run.send_signal(signal.SIGTERM)
            _, said = run.communicate(timeout=60)
        finally:
            run.kill()
    assert run.returncode == 128 + signal.SIGTERM
    assert "killed by SIGTERM" in said
    assert not traced or 'write(1, "again\\n"' in trace.read_text()


def test_a_hang_up_keeps_the_trace(endless: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with _start(endless, "--trace", "syscalls", "--trace-output", str(trace)) as run:
        assert run.stdout is not None
        try:
            assert [run.stdout.readline() for _ in range(2)] == ["one\n", "ready\n"]
            run.send_signal(signal.SIGHUP)
            run.communicate(timeout=60)
        finally:
            run.kill()
    assert run.returncode == -signal.SIGHUP
    # The write that we have just read may not have been traced yet; the one before it has.
    assert 'write(1, "one\\n"' in trace.read_text()


def test_a_reader_that_leaves_is_no_error() -> None:
    emu = f"{sys.executable} -m emu"
    script = f"set -o pipefail; {emu} run --trace all true 2>&1 | head -n 1"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 141
    assert done.stdout.count("\n") == 1
    script = f"set -o pipefail; {emu} trace-schema | head -c 1"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("{", "")


@pytest.mark.parametrize("command", ["ldd /bin/true", "call libm.so.6 abs 3", "tour", "run --help"])
def test_standard_output_that_cannot_be_written_is_one_line(command: str) -> None:
    for redirection, reason in ((">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")):
        script = f"{sys.executable} -m emu {command} {redirection}"
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (125, f"emu: standard output: {reason}\n")


@pytest.mark.parametrize("command", ["cat /etc/hostname", "printf x", "bash -c 'echo x'"])
def test_a_closed_descriptor_is_closed_for_the_guest_too(command: str) -> None:
    def run(emu: str) -> tuple[int, str]:
        script = f"exec <&- >&-; LC_ALL=C {emu} {command}"
        done = subprocess.run(["bash", "-c", script], stderr=subprocess.PIPE, text=True, timeout=60)
        return done.returncode, done.stderr.replace("/bin/", "").replace("/usr", "")

    assert run(f"{sys.executable} -m emu run") == run("env")


def test_a_guest_whose_reader_leaves_dies_silently() -> None:
    script = f"{sys.executable} -m emu run yes | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (141, "y\n", "")


INHERITED = r"""
#include <signal.h>
#include <stdio.h>
int main(void) {
    sigset_t blocked;
    sigprocmask(SIG_BLOCK, NULL, &blocked);
    for (int number = 1; number < NSIG; number++) {
        struct sigaction action;
        if (number != SIGPIPE && number != SIGXFSZ && !sigaction(number, NULL, &action) && action.sa_handler == SIG_IGN)
            printf("%d is ignored\n", number);
        if (sigismember(&blocked, number) == 1) printf("%d is blocked\n", number);
    }
}
"""


def test_ignored_and_blocked_signals_are_inherited(tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text(INHERITED)
    subprocess.run(["gcc", "-o", "main", "main.c"], cwd=tmp_path, check=True)
    setup = (
        "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); signal.signal(signal.SIGINT, signal.SIG_IGN); "
        "signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR1, 40)); os.execv(sys.argv[1], sys.argv[1:])"
    )
    native, emulated = (
        subprocess.run(
            [sys.executable, "-c", setup, *prefix, str(tmp_path / "main")],
            capture_output=True, text=True, check=True, timeout=60,
        ).stdout
        for prefix in ((), (sys.executable, "-m", "emu", "run"))
    )  # fmt: skip
    assert "1 is ignored\n2 is ignored\n" in native and "40 is blocked\n" in native
    assert emulated == native
