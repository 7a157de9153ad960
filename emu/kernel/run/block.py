"""What a task waits for, and what a system call that may wait is: facts, without the means."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Protocol

from emu.core.record import NamedTuple

if TYPE_CHECKING:
    from emu.core.effects import Exit, RegistersSet


class Awaited(Protocol):
    """An open file, as a wait knows it (`emu.kernel.fs.file.OpenFile`)."""

    def hosts(self, events: int) -> list[tuple[int, int]]:
        """Return the host descriptors (fd, POLL* events) that decide whether the conditions `events` hold."""

    def deadline(self) -> int | None:
        """Return the virtual time at which something next happens to the file by
        itself, None if it never does.
        """

    def hold(self) -> None:
        """Count one more reference, so that it stays open for the wait."""

    def release(self) -> None:
        """One reference less; with the last it is closed."""


class Block(NamedTuple):
    """What a task waits for. `what` completes "waits ...", in a report.

    The wait ends by `Scheduler.wake`, at virtual time `deadline`, when `ready` (asked at each choice of a
    task) says so, or by a signal. `files` are the files, with POLL* events, on which `ready` depends;
    `for_signal`: a signal from the host is an end that can be hoped for. `futex` is a futex's address, `lock`
    tells that its word names the owner. `again` begins the call anew where it waits (see
    `emu.kernel.syscalls.waiting.resumable`); there is none once the call has `begun` its work.
    """

    what: str
    deadline: int | None = None
    ready: Callable[[], object] | None = None
    files: tuple[tuple[Awaited, int], ...] = ()
    for_signal: bool = False
    futex: int = 0
    lock: bool = False
    begun: bool = False
    again: Callable[[], BlockingCall] | None = None


Waiting = Generator[Block, None, int]
"""A system call that may wait: its return value is the call's."""
BlockingCall = Generator[Block, None, "int | Exit | RegistersSet"]


class Blocked(NamedTuple):
    """In place of a result: the task waits."""


BLOCKED = Blocked()
