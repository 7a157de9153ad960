"""Waiting: what a system call that cannot go on asks for.

A handler that may wait is a generator: it yields a `Block` and is resumed when the wait is over. The scheduler runs other
tasks meanwhile; `emu.kernel.scheduler` says what happens when there are none.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, NamedTuple

from emu.kernel import abi
from emu.kernel.signals import Interrupted
from emu.kernel.task import SIGNALLED, WOKEN

if TYPE_CHECKING:
    from emu.core.effects import Exit, RegistersSet
    from emu.kernel.kernel import Kernel
    from emu.kernel.openfile import OpenFile
    from emu.kernel.table import Entry
    from emu.kernel.task import Task


class Block(NamedTuple):
    """What a task waits for. `what` completes "waits ...", in a report.

    The wait ends by `Scheduler.wake`, at virtual time `deadline`, when `ready` (asked at each choice of a task) says so, or by a
    signal. `files` are the files, with POLL* events, on which `ready` depends; `for_signal`: a signal from the host is an end that can be
    hoped for. `futex` is a futex's address, `lock` tells that its word names the owner.
    """

    what: str
    deadline: int | None = None
    ready: Callable[[], object] | None = None
    files: tuple[tuple[OpenFile, int], ...] = ()
    for_signal: bool = False
    futex: int = 0
    lock: bool = False


Waiting = Generator[Block, None, int]
"""A system call that may wait: its return value is the call's."""
BlockingCall = Generator[Block, None, "int | Exit | RegistersSet"]


class PendingCall(NamedTuple):
    """A system call that waits: its table entry, its handler, its arguments, and their text as the trace wants it."""

    entry: Entry
    handler: BlockingCall
    arguments: tuple[int, ...]
    texts: dict[int, str] | None


class Blocked(NamedTuple):
    """In place of a result: the task waits."""


BLOCKED = Blocked()


def wait(k: Kernel, t: Task, block: Block, *, restart: bool = True) -> Generator[Block, None, bool]:
    """Wait; true when what was waited for has come, false at the deadline.

    Raises Interrupted when a signal is to be handled; `restart` tells that the call then begins again under SA_RESTART.
    """
    while not (t.signalled and k.signals.deliverable(t)):
        yield block
        if t.woken != SIGNALLED:
            return t.woken == WOKEN
    raise Interrupted(restart)


def wait_for_file(k: Kernel, t: Task, file: OpenFile, events: int, what: str) -> Generator[Block, None, None]:
    """Wait until `file` is ready for `events`; it stays open meanwhile, even if its number is closed. Raises Interrupted."""
    ends = events | abi.POLLERR | abi.POLLHUP
    block = Block(f"{what} {file.path}", None, lambda: file.poll() & ends, ((file, events),))
    file.references += 1
    try:
        yield from wait(k, t, block)
    finally:
        k.fds.release(file)
