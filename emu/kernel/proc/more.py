"""Files of /proc that programs look at now and then:
memory by area, mounts, limits of the machine, its network.

Source: proc(5); Linux fs/proc/task_mmu.c, fs/proc_namespace.c, net/core/net-procfs.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.fs.notices import MAX_INSTANCES, MAX_QUEUED, MAX_WATCHES
from emu.kernel.proc.proctext import map_line
from emu.machine.arena import PAGE_SIZE, physical

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.kernel.kernel import Kernel
    from emu.machine.vma import Vma

    Text = Callable[[Kernel], bytes]


def _rss(k: Kernel, area: Vma) -> int:
    """Return how many KiB of an area have been touched."""
    first = physical(area.start) // PAGE_SIZE
    if first < 0:
        return 0
    parts = k.arena.counted(first, first + (area.end - area.start) // PAGE_SIZE)
    return sum(touched.count(1) for _, touched in parts) * 4


def smaps_text(k: Kernel) -> bytes:
    """Each line of maps, with how much of it is in memory."""
    text = []
    for area in k.space:
        rss = _rss(k, area)
        private = area.backing is None or bool(area.prot & abi.PROT_WRITE)
        rows = {
            "Size": (area.end - area.start) // 1024, "KernelPageSize": 4, "MMUPageSize": 4, "Rss": rss, "Pss": rss, "Pss_Dirty": rss if private else 0,
            "Shared_Clean": 0, "Shared_Dirty": 0, "Private_Clean": 0 if private else rss, "Private_Dirty": rss if private else 0,
            "Referenced": rss, "Anonymous": rss if private and not area.shared else 0, "LazyFree": 0, "AnonHugePages": 0, "ShmemPmdMapped": 0,
            "FilePmdMapped": 0, "Shared_Hugetlb": 0, "Private_Hugetlb": 0, "Swap": 0, "SwapPss": 0, "Locked": 0,
        }  # fmt: skip
        text.append(map_line(area))
        text += [f"{name + ':':<15} {size:8d} kB\n" for name, size in rows.items()]
        flags = [name for name, bit in (("rd", 1), ("wr", 2), ("ex", 4)) if area.prot & bit]
        flags += ["sh"] if area.shared else []
        text.append(f"THPeligible:           0\nVmFlags: {' '.join([*flags, 'mr', 'mw', 'me'])} \n")
    return "".join(text).encode("utf-8", "surrogateescape")


def _constant(text: str) -> Text:
    return lambda k: (text + "\n").encode()


def _sockets(path: str) -> Text:
    def text(k: Kernel) -> bytes:
        from emu.kernel.proc.netstat import SOCKET_TEXTS  # with all that sockets need

        return SOCKET_TEXTS[path](k)

    return text


_MOUNTS = (
    ("/", "overlay", "rootfs"), ("/dev", "devtmpfs", "devtmpfs"), ("/dev/pts", "devpts", "devpts"), ("/proc", "proc", "proc"),
    ("/sys", "sysfs", "sysfs"),
)  # fmt: skip


def _mountinfo(k: Kernel) -> bytes:
    lines = []
    for number, (place, kind, source) in enumerate(_MOUNTS):
        dev = k.fs.root.stat().dev if place == "/" else 0x35
        major = dev >> 8 & 0xFFF
        minor = dev & 0xFF | dev >> 12 & ~0xFF
        lines.append(
            f"{20 + number} {20 if number else 1} {major}:{minor} / {place} rw,relatime - {kind} {source} rw\n"
        )
    return "".join(lines).encode()


def mounts_text(k: Kernel) -> bytes:
    """The same in the form of fstab."""
    return "".join(f"{source} {place} {kind} rw,relatime 0 0\n" for place, kind, source in _MOUNTS).encode()


_LO = "    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0"
PROCESS_TEXTS: dict[str, tuple[int, Text]] = {
    "smaps": (0o444, smaps_text),
    "mountinfo": (0o444, _mountinfo),
    "mounts": (0o444, mounts_text),
    "cgroup": (0o444, _constant("0::/")),
    "oom_score": (0o444, _constant("0")),
    "oom_score_adj": (0o644, _constant("0")),
    "wchan": (0o444, lambda k: b"0"),
    "personality": (0o400, lambda k: f"{k.personality:08x}\n".encode()),
    "coredump_filter": (0o644, _constant("00000033")),
    "loginuid": (0o644, lambda k: b"4294967295"),
    "sessionid": (0o444, lambda k: b"4294967295"),
    "uid_map": (0o644, _constant(f"{0:10d} {0:10d} {abi.U32:10d}")),
    "gid_map": (0o644, _constant(f"{0:10d} {0:10d} {abi.U32:10d}")),
    "setgroups": (0o644, _constant("allow")),
}
"""Files of each process, with their permissions."""
MACHINE_TEXTS: dict[str, Text] = {
    **{f"net/{name}": _sockets(f"net/{name}") for name in ("tcp", "tcp6", "udp", "udp6", "unix")},
    "cmdline": _constant("ro"),
    "swaps": _constant("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority"),
    "diskstats": lambda k: b"",
    "partitions": _constant("major minor  #blocks  name\n"),
    "devices": _constant(
        "Character devices:\n  1 mem\n  5 /dev/tty\n  5 /dev/ptmx\n136 pts\n\nBlock devices:"
    ),
    "net/dev": _constant(
        "Inter-|   Receive                                                |  Transmit\n"
        " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n"
        + _LO
    ),
    "net/if_inet6": _constant("00000000000000000000000000000001 01 80 10 80       lo"),
    "net/route": _constant(
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT".ljust(127)
    ),
    "sys/kernel/threads-max": _constant("95808"),
    "sys/kernel/core_pattern": _constant("core"),
    "sys/kernel/msgmax": _constant("8192"),
    "sys/kernel/msgmnb": _constant("16384"),
    "sys/kernel/msgmni": _constant("32000"),
    "sys/kernel/sem": _constant("32000\t1024000000\t500\t32000"),
    "sys/kernel/shmmax": _constant("18446744073692774399"),
    "sys/kernel/shmall": _constant("18446744073692774399"),
    "sys/kernel/shmmni": _constant("4096"),
    "sys/kernel/yama/ptrace_scope": _constant("0"),
    "sys/kernel/random/boot_id": _constant("00000000-0000-4000-8000-000000000000"),
    "sys/kernel/random/entropy_avail": _constant("256"),
    "sys/vm/swappiness": _constant("60"),
    "sys/vm/overcommit_ratio": _constant("50"),
    "sys/fs/inotify/max_queued_events": _constant(str(MAX_QUEUED)),
    "sys/fs/inotify/max_user_instances": _constant(str(MAX_INSTANCES)),
    "sys/fs/inotify/max_user_watches": _constant(str(MAX_WATCHES)),
    "sys/fs/nr_open": _constant("1048576"),
    "sys/fs/file-nr": _constant("64\t0\t1048576"),
    "sys/fs/mqueue/msg_max": _constant("10"),
    "sys/fs/mqueue/msgsize_max": _constant("8192"),
    "sys/net/core/somaxconn": _constant("4096"),
    "sys/net/ipv4/ip_local_port_range": _constant("32768\t60999"),
    "sys/net/ipv6/conf/all/disable_ipv6": _constant("0"),
    "sys/net/ipv6/bindv6only": _constant("0"),
}
"""Files about the machine, by path under /proc."""
