"""The handlers of system calls, a file per subject. Importing this package fills the table, but for what few programs call: see `find`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from emu.kernel.syscalls import (
    attributes,
    credentials,
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
    "TABLE", "attributes", "credentials", "descriptors", "find", "futex", "identity", "io", "memory", "names", "polling", "scheduling", "signal", "stat",
    "threads", "time",
]  # fmt: skip

_LATE = {
    **dict.fromkeys((*range(41, 56), 288, 299, 307), ("sockets", "socket_options", "messages")),
    **dict.fromkeys((237, 238, 239), ("numa",)),
    **dict.fromkeys((140, 141, 314, 315), ("priority",)),
}


def find(number: int) -> Entry | None:
    """Return the entry of a system call, None where there is none. What few programs call is loaded when it is asked for."""
    for name in _LATE.get(number, ()):
        import_module(f"{__name__}.{name}")
    return TABLE.get(number)
