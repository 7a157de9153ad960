"""Breaking off what takes too long, and going on with it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import emu

_ENDLESS = r"""
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
volatile int enough;
long spin(void) { long turns = 0; while (!enough) turns++; return turns; }
int listen_in(void) { char byte; return read(0, &byte, 1); }
static void *idle(void *nothing) { return nothing; }
int main(int argc, char **argv) {
    pthread_t thread;
    if (argc > 1) pthread_create(&thread, 0, idle, 0);
    spin();
    puts("done");
}
"""


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("endless")
    (folder / "main.c").write_text(_ENDLESS)
    subprocess.run(["gcc", "-O1", "-pthread", "-rdynamic", "-o", "main", "main.c"], cwd=folder, check=True)
    return folder / "main"


@contextmanager
def _ctrl_c(after: float) -> Iterator[None]:
    """Send ourselves SIGINT, as the terminal does."""
    timer = threading.Timer(after, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


@pytest.mark.parametrize("args", [(), ("thread",)])
def test_ctrl_c_stops_a_run_that_can_go_on(
    endless: Path, args: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    with emu.Process(endless, args) as p:
        enough = p.lookup("enough").address
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt), _ctrl_c(0.3):
                p.run()
        assert not p.ended
        p.memory.write(enough, b"\1")
        assert p.run() == 0
    assert capfd.readouterr().out == "done\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_breaks_off_a_call_and_resume_ends_it(endless: Path) -> None:
    with emu.Process(endless) as p:
        spin = p.function("spin")
        with pytest.raises(KeyboardInterrupt), _ctrl_c(0.3):
            spin()
        with pytest.raises(emu.StateError, match="in another call; Process.resume"):
            spin()
        p.memory.write(p.lookup("enough").address, b"\1")
        p.resume()
        assert spin() == 0


def test_ctrl_c_ends_a_wait_on_the_host(endless: Path) -> None:
    reader, writer = os.pipe()
    with emu.Process(endless, stdin=reader) as p:
        before = p.snapshot()
        with pytest.raises(KeyboardInterrupt), _ctrl_c(0.3):
            p.function("listen_in")()
        os.write(writer, b"x")
        p.resume()
        with pytest.raises(KeyboardInterrupt), _ctrl_c(0.3):
            p.function("listen_in")()
        p.restore(before)
        os.write(writer, b"x")
        assert p.function("listen_in")() == 1
    os.close(reader)
    os.close(writer)


def test_a_limit_of_time(endless: Path) -> None:
    with emu.Process(endless, timeout=0.3) as p:
        before = p.snapshot()
        for _ in range(2):
            with pytest.raises(emu.RunTimeout, match=r"main: stopped after 0\.3 s"):
                p.function("spin")()
            p.restore(before)
        for _ in range(2):
            with pytest.raises(emu.RunTimeout):
                p.run()
        p.restore(before)
        assert p.function("atoi")(b"42") == 42


def test_a_limit_of_time_ends_a_wait_on_the_host_in_any_thread(endless: Path) -> None:
    reader, writer = os.pipe()
    seen: list[BaseException] = []

    def use() -> None:
        with emu.Process(endless, stdin=reader, timeout=0.2) as p:
            try:
                p.function("listen_in")()
            except emu.RunTimeout as error:
                seen.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join(60)
    assert len(seen) == 1
    os.close(reader)
    os.close(writer)


def test_ctrl_c_in_a_handler_is_pythons(endless: Path) -> None:
    def handler(_x: int) -> int:
        with _ctrl_c(0.1):
            threading.Event().wait(20)
        return 0

    with emu.Process(endless) as p, p.interpose("abs", handler), pytest.raises(KeyboardInterrupt):
        p.function("abs")(ctypes.c_int(1))


def test_processes_that_are_gone_leave_no_threads(endless: Path) -> None:
    before = threading.active_count()
    for _ in range(3):
        with emu.Process(endless, timeout=20) as p:
            p.function("abs")(1)
        del p
    import gc

    gc.collect()
    for thread in threading.enumerate():
        if thread.name == "emu interrupts":
            thread.join(5)
    assert threading.active_count() <= before


@pytest.mark.parametrize(
    "edge", ["before the watcher hears", "before the run is known", "after it has ended"]
)
def test_ctrl_c_at_the_edge_of_a_run_is_not_lost(
    endless: Path, edge: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_wakeup_fd = signal.set_wakeup_fd
    calls = []

    def at_the_edge(fd: int, *, warn_on_full_buffer: bool = True) -> int:
        calls.append(fd)
        if edge == "before the watcher hears" and len(calls) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        old = set_wakeup_fd(fd, warn_on_full_buffer=warn_on_full_buffer)
        if edge == "before the run is known" and len(calls) == 1:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)  # the watcher looks now, and finds no run
        if edge == "after it has ended" and len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return old

    with emu.Process(endless, timeout=600) as p:
        if edge == "after it has ended":
            p.memory.write(p.lookup("enough").address, b"\1")
        monkeypatch.setattr(signal, "set_wakeup_fd", at_the_edge)
        with pytest.raises(KeyboardInterrupt):
            p.run()
        assert not p.ended or edge == "after it has ended"
