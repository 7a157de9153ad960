"""The handlers of system calls, a file per subject.

Importing this package fills the table, but for what few programs call: see `find`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from emu.kernel.syscalls import (
    attributes,
    credentials,
    descriptors,
    directories,
    futex,
    groups,
    identity,
    io,
    memory,
    polling,
    scheduling,
    signal,
    stat,
    threads,
    time,
)
from emu.kernel.table import TABLE

if TYPE_CHECKING:
    from emu.kernel.run.call import SyscallEntry

__all__ = [
    "TABLE", "attributes", "credentials", "descriptors", "directories", "find", "futex", "groups", "identity", "io", "memory", "polling",
    "scheduling", "signal", "stat", "threads", "time",
]  # fmt: skip

_LATE = {
    **dict.fromkeys((*range(41, 56), 288, 299, 307), ("sockets", "socket_options", "messages", "mmsg")),
    **dict.fromkeys((40, 275, 276, 278, 326), ("copying",)),
    **dict.fromkeys((61, 247), ("wait",)),
    **dict.fromkeys((424, 434, 438), ("pidfd",)),
    **dict.fromkeys((59, 322), ("execute",)),
    **dict.fromkeys((237, 238, 239), ("numa",)),
    **dict.fromkeys((29, 30, 31, 67), ("shm",)),
    **dict.fromkeys((64, 65, 66, 220), ("sem",)),
    **dict.fromkeys((68, 69, 70, 71), ("msg",)),
    **dict.fromkeys((282, 289), ("signalfd",)),
    **dict.fromkeys((253, 254, 255, 294), ("inotify",)),
    101: ("ptrace",),
    437: ("openat2",),
    **dict.fromkeys(range(188, 200), ("xattr",)),
    **dict.fromkeys((310, 311), ("process_vm",)),
    317: ("seccomp",),
    **dict.fromkeys(range(240, 246), ("mqueue",)),
    **dict.fromkeys((140, 141, 314, 315), ("priority",)),
}


def find(number: int) -> SyscallEntry | None:
    """Return the entry of a system call, None where there is none.

    What few programs call is loaded when it is asked for.
    """
    for name in _LATE.get(number, ()):
        import_module(f"{__name__}.{name}")
    return TABLE.get(number)
