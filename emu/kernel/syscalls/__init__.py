"""The handlers of system calls, a file per subject. Importing this package fills the table."""

from __future__ import annotations

from emu.kernel.syscalls import (
    attributes,
    descriptors,
    futex,
    identity,
    io,
    memory,
    messages,
    names,
    polling,
    scheduling,
    signal,
    socket_options,
    sockets,
    stat,
    threads,
    time,
)
from emu.kernel.table import TABLE

__all__ = [
    "TABLE", "attributes", "descriptors", "futex", "identity", "io", "memory", "messages", "names", "polling",
    "scheduling", "signal", "socket_options", "sockets", "stat", "threads", "time",
]  # fmt: skip
