"""The table of system calls: number, name, argument formats and handler, one entry a call.

A handler is a function `handler(kernel, task, *arguments)` under `@syscall(number, name, *formats)`; one that
may wait is a generator, see `emu.kernel.syscalls.waiting`. The formats say two things: the C type to which
dispatch narrows the register, and how the trace prints it. So a handler sees the integers that the C
prototype has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from emu.kernel.run.call import SyscallEntry

if TYPE_CHECKING:
    from emu.kernel.run.call import Handler

H = TypeVar("H", bound="Handler")

_SIGNED_INT = frozenset(("fd", "dirfd", "int", "signal", "pid", "clock", "option"))
_UNSIGNED_INT = frozenset(("uint", "mode", "id"))
_SIGNED_LONG = frozenset(("long", "offset"))


TABLE: dict[int, SyscallEntry] = {}
"""All supported system calls by number."""


def _narrowing(formats: tuple[str, ...]) -> tuple[tuple[int, int, int], ...]:
    result = []
    for index, name in enumerate(formats):
        if name in _SIGNED_INT:
            result.append((index, 0xFFFF_FFFF, 0x8000_0000))
        elif name in _UNSIGNED_INT or name.startswith("flags:"):
            result.append((index, 0xFFFF_FFFF, 0))
        elif name in _SIGNED_LONG:
            result.append((index, 0xFFFF_FFFF_FFFF_FFFF, 1 << 63))
    return tuple(result)


def syscall(number: int, name: str, *formats: str) -> Callable[[H], H]:
    """Enter the decorated function in the table as the handler of system call `number`."""

    def enter(handler: H) -> H:
        TABLE[number] = SyscallEntry(number, name, formats, handler, len(formats), _narrowing(formats))
        return handler

    return enter
