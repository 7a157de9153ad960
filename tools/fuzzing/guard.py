"""Running what is under test in a child of its own: limits, a deadline, and what came of it."""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

NOBODY = 65534
FAILED = 99
"""The exit code of a child whose work ended in an exception."""
_PR_SET_NO_NEW_PRIVS, _PR_SET_THP_DISABLE = 38, 41
_CLONE_NEWNET = 0x40000000
_ADDR_NO_RANDOMIZE = 0x0040000
_OUTPUT_LIMIT = 1 << 16


class Ended(NamedTuple):
    """How a child ended: 128+N for a death by signal N. `rss`: the most memory of its own, in bytes."""

    code: int
    out: bytes
    err: bytes
    timed_out: bool
    rss: int
    seconds: float


def limits(seconds: int, memory: int | None = None) -> None:
    """Limit the calling process: processor time, files that it writes, no core;
    its address space, if that is given.
    """
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


def small_pages() -> None:
    """Have the kernel give this process 4 KB at a time: Unicorn touches a little of
    much, and clearing 2 MB each time is a tenth of a short run.
    """
    ctypes.CDLL(None).prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)


def become_nobody() -> None:
    """Give up root, the way back, and the network, and have addresses without chance;
    for a process that is about to run something wild.
    """
    libc = ctypes.CDLL(None)
    libc.personality(_ADDR_NO_RANDOMIZE)
    if os.geteuid() == 0:
        libc.unshare(_CLONE_NEWNET)
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def child(work: Callable[[], int], folder: str, timeout: float) -> Ended:
    """Fork; run `work` in `folder` with nothing to read; return how that ended, and what it held
    beside what it was born with, which Linux counts too.

    An exception is a traceback and the exit code FAILED.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as born:
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            # Asked here: a fork leaves out what the parent has of files, 40 MB after many imports.
            os.write(born.fileno(), str(_resident()).encode())
            _in_child(work, folder, out.fileno(), err.fileno())
        timed_out = not _wait(pid, timeout)
        if timed_out:
            os.kill(pid, signal.SIGKILL)
        _, status, usage = os.wait4(pid, 0)
        seconds = time.monotonic() - started
        code = os.waitstatus_to_exitcode(status)
        texts = []
        for file in (out, err, born):
            file.seek(0)
            texts.append(file.read(_OUTPUT_LIMIT))
        return Ended(
            128 - code if code < 0 else code, texts[0], texts[1], timed_out,
            max(0, (usage.ru_maxrss << 10) - int(texts[2] or 0)), seconds,
        )  # fmt: skip


def _resident() -> int:
    """Return the bytes that this process has in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _wait(pid: int, timeout: float) -> bool:
    descriptor = os.pidfd_open(pid)
    try:
        ended = select.poll()  # select has no room for a descriptor of 1024 or more
        ended.register(descriptor, select.POLLIN)
        return bool(ended.poll(timeout * 1000))
    finally:
        os.close(descriptor)


def _in_child(work: Callable[[], int], folder: str, out: int, err: int) -> None:
    code = FAILED
    try:
        os.chdir(folder)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        code = work()
    except BaseException:  # noqa: B036 - a child that is there to fail; it says how, and ends
        os.write(2, traceback.format_exc().encode(errors="replace"))
    finally:
        os._exit(code)
