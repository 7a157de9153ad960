"""What of each system call works, for `emu help syscalls`.

A call that has a handler and no line here is as on Linux, for all we know.
"""

from __future__ import annotations

from emu.core.record import NamedTuple
from emu.kernel.syscall_names import NUMBERS, syscall_name
from emu.kernel.syscalls import find

PARTIAL = {
    "mmap": "no huge pages (ENOMEM); addresses of a few gaps between windows take PROT_NONE only",
    "mremap": "MREMAP_DONTUNMAP of private anonymous memory only",
    "clone": "threads, vfork and fork; no namespaces",
    "clone3": "as clone",
    "socket": "AF_UNIX, AF_INET, AF_INET6 to the guest itself, AF_NETLINK about its loopback interface",
    "recvmmsg": "no timeout",
    "seccomp": "filters and all actions; no listener for SECCOMP_RET_USER_NOTIF",
    "getsockopt": "options that servers set; another one is ENOPROTOOPT",
    "setsockopt": "options that servers set; another one is ENOPROTOOPT",
    "get_mempolicy": "no MPOL_F_ADDR",
    "ioctl": "terminals, pipes, sockets and interfaces; no devices",
    "mlock": "checked; there is no swapping",
    "mlock2": "checked; there is no swapping",
    "mlockall": "checked; there is no swapping",
    "mincore": "every mapped page is in memory",
    "msgrcv": "no MSG_COPY",
    "mq_notify": "signals only, no SIGEV_THREAD",
    "ptrace": "attach, registers, memory, detach; no stops at signals, calls or steps (EPERM)",
    "madvise": "DONTNEED and guard pages act; other advice is taken",
    "sched_setaffinity": "kept and told; threads run one at a time",
    "sched_setscheduler": "kept and told; the schedule decides",
    "ioprio_set": "taken without effect",
    "fadvise64": "taken without effect",
    "inotify_add_watch": "not told: what execve reads",
    "setxattr": "not in --writable directories (EOPNOTSUPP); no access control lists",
    "readahead": "taken without effect",
}
"""What is missing, by the name of the call."""


class CoverageRow(NamedTuple):
    """One system call: its number and name, "full", "partial" or "refused", and what is missing or told."""

    number: int
    name: str
    state: str
    note: str


def rows() -> list[CoverageRow]:
    """Return a row for each system call of Linux 6.1, by number."""
    found = []
    for number in NUMBERS:
        name = syscall_name(number)
        if find(number) is None:
            found.append(CoverageRow(number, name, "refused", "ENOSYS"))
        elif name in PARTIAL:
            found.append(CoverageRow(number, name, "partial", PARTIAL[name]))
        else:
            found.append(CoverageRow(number, name, "full", ""))
    return found
