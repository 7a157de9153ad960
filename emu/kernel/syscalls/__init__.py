"""The handlers of system calls, a file per subject. Importing this package fills the table, but for what few programs call: see `find`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from emu.kernel.syscalls import (
    attributes,
    descriptors,
    futex,
    identity,
    io,
    memory,
    names,
    polling,
    scheduling,
    signal,
    stat,
    threads,
    time,
)
from emu.kernel.table import TABLE

if TYPE_CHECKING:
    from emu.kernel.table import Entry

__all__ = [
    "TABLE", "attributes", "descriptors", "find", "futex", "identity", "io", "memory", "names", "polling", "scheduling", "signal", "stat",
    "threads", "time",
]  # fmt: skip

_SOCKET_CALLS = frozenset((*range(41, 56), 288, 299, 307))


def find(number: int) -> Entry | None:
    """Return the entry of a system call, None where there is none. The sockets' are loaded when the first one is asked for."""
    if number in _SOCKET_CALLS and number not in TABLE:
        for name in ("sockets", "socket_options", "messages"):
            import_module(f"{__name__}.{name}")
    return TABLE.get(number)
