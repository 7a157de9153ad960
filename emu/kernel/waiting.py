"""Waiting: what a system call that cannot go on asks for.

A handler that may wait is a generator: it yields a `Block` and is resumed when the wait is over. The scheduler runs other
tasks meanwhile; `emu.kernel.scheduler` says what happens when there are none.

A generator cannot be copied. So that a snapshot can be taken of a task that waits, what is left of its call is a part of its own, marked
`resumable`: begun anew it goes on as the old one would have.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial, wraps
from typing import TYPE_CHECKING, NamedTuple, ParamSpec, TypeVar

from emu.kernel import abi
from emu.kernel.signals import Interrupted
from emu.kernel.task import SIGNALLED, WOKEN

if TYPE_CHECKING:
    from emu.core.effects import Exit, RegistersSet
    from emu.kernel.kernel import Kernel
    from emu.kernel.openfile import OpenFile
    from emu.kernel.table import Entry
    from emu.kernel.task import Task


_P = ParamSpec("_P")
_R = TypeVar("_R", bound="int | Exit | RegistersSet")


class Block(NamedTuple):
    """What a task waits for. `what` completes "waits ...", in a report.

    The wait ends by `Scheduler.wake`, at virtual time `deadline`, when `ready` (asked at each choice of a task) says so, or by a
    signal. `files` are the files, with POLL* events, on which `ready` depends; `for_signal`: a signal from the host is an end that can be
    hoped for. `futex` is a futex's address, `lock` tells that its word names the owner. `again` begins the call anew where it waits
    (see `resumable`); there is none once the call has `begun` its work.
    """

    what: str
    deadline: int | None = None
    ready: Callable[[], object] | None = None
    files: tuple[tuple[OpenFile, int], ...] = ()
    for_signal: bool = False
    futex: int = 0
    lock: bool = False
    begun: bool = False
    again: Callable[[], BlockingCall] | None = None


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
    while t.resumed or not (t.signalled and k.signals.deliverable(t)):
        if not t.resumed:
            yield block
        t.resumed = False
        if t.woken != SIGNALLED:
            return t.woken == WOKEN
    raise Interrupted(restart)


def wait_for_file(
    k: Kernel, t: Task, file: OpenFile, events: int, what: str, *, begun: bool = False
) -> Generator[Block, None, None]:
    """Wait until `file` is ready for `events`; `begun` tells that part of the work is done. Raises Interrupted."""
    ends = events | abi.POLLERR | abi.POLLHUP
    ready = lambda: file.poll() & ends  # noqa: E731
    yield from wait(k, t, Block(f"{what} {file.path}", None, ready, ((file, events),), begun=begun))


def resumable(part: Callable[_P, Generator[Block, None, _R]]) -> Callable[_P, Generator[Block, None, _R]]:
    """Mark the rest of a call, from where it waits: before its first wait it changes nothing, so that begun anew, with the same arguments, it
    waits for the same or, when the wait is over (`Task.resumed`), goes on from there. Nothing may be left to do for those who called it.
    """

    @wraps(part)
    def marked(*args: _P.args, **kwargs: _P.kwargs) -> Generator[Block, None, _R]:
        again = partial(marked, *args, **kwargs)
        rest = part(*args, **kwargs)
        try:
            while True:
                block = next(rest)
                yield block if block.begun else block._replace(again=again)
        except StopIteration as stop:
            value: _R = stop.value
            return value
        finally:
            rest.close()

    return marked
