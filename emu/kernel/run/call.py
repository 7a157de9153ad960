"""A system call: its entry in the table, its result, and what there is of it while it waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from emu.core.record import NamedTuple

if TYPE_CHECKING:
    from emu.core.effects import Exit, RegistersSet
    from emu.kernel.run.block import BlockingCall

    Result = int | Exit | RegistersSet
    Handler = Callable[..., Result | BlockingCall]


class SyscallEntry(NamedTuple):
    """One system call.

    `narrow` lists (argument index, mask, sign bit) for those that are not unsigned 64-bit words.
    """

    number: int
    name: str
    formats: tuple[str, ...]
    handler: Handler
    arity: int
    narrow: tuple[tuple[int, int, int], ...]


class PendingCall(NamedTuple):
    """A system call that waits: its table entry, its handler, its arguments, and
    their text as the trace wants it.
    """

    entry: SyscallEntry
    handler: BlockingCall
    arguments: tuple[int, ...]
    texts: dict[int, str] | None
