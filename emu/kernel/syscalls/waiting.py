"""Waiting: how a handler waits.

A handler that may wait is a generator: it yields a `Block` and is resumed when the wait is over. The
scheduler runs other tasks meanwhile; `emu.kernel.idle` says what happens when there are none.

A generator cannot be copied. So that a snapshot can be taken of a task that waits, what is left of its call
is a part of its own, marked `resumable`: begun anew it goes on as the old one would have.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial, wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from emu.kernel import abi
from emu.kernel.run.block import Block
from emu.kernel.run.signal_info import Interrupted
from emu.kernel.run.task import SIGNALLED, WOKEN

if TYPE_CHECKING:
    from emu.core.effects import Exit, RegistersSet
    from emu.kernel.fs.file import OpenFile
    from emu.kernel.kernel import Kernel
    from emu.kernel.run.task import Task


_P = ParamSpec("_P")
_R = TypeVar("_R", bound="int | Exit | RegistersSet")


def wait(k: Kernel, t: Task, block: Block, *, restart: bool = True) -> Generator[Block, None, bool]:
    """Wait; true when what was waited for has come, false at the deadline.

    Raises Interrupted when a signal is to be handled; `restart` tells that the call then begins again under
    SA_RESTART.
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
    """Wait until `file` is ready for `events`; `begun` tells that part of the work is done.

    Raises Interrupted.
    """
    ends = events | abi.POLLERR | abi.POLLHUP
    ready = lambda: file.poll() & ends  # noqa: E731
    yield from wait(k, t, Block(f"{what} {file.path}", None, ready, ((file, events),), begun=begun))


def resumable(part: Callable[_P, Generator[Block, None, _R]]) -> Callable[_P, Generator[Block, None, _R]]:
    """Mark the part of a handler that waits, so that a snapshot can start it again with the same arguments.

    It must change nothing before its first wait, and its caller must do nothing after it. Started again, it
    comes to the same wait; if that is over by then (`Task.resumed`), it goes on behind it.
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
