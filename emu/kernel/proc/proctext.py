"""The texts of /proc, in exactly Linux's formats.

Source: proc(5); Linux fs/proc/array.c, task_mmu.c, base.c.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.proc.cpus import cpu_mask, cpu_ranges
from emu.kernel.uname import UNAME

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel
    from emu.kernel.run.signal_info import SignalInfo
    from emu.kernel.run.task import Task
    from emu.machine.vma import Vma

_NAME_COLUMN = 73
_LIMIT_ROWS = tuple(
    row.split("/")
    for row in (
        "cpu time/seconds|file size/bytes|data size/bytes|stack size/bytes|core file size/bytes|resident set/bytes"
        "|processes/processes|open files/files|locked memory/bytes|address space/bytes|file locks/locks"
        "|pending signals/signals|msgqueue size/bytes|nice priority/|realtime priority/|realtime timeout/us"
    ).split("|")
)


def _device(dev: int) -> str:
    major = dev >> 8 & 0xFFF | dev >> 32 & ~0xFFF
    minor = dev & 0xFF | dev >> 12 & ~0xFF
    return f"{major:02x}:{minor:02x}"


def maps_text(k: Kernel) -> bytes:
    """One line per area: range, permissions, offset, device, inode, and from column 73 the name."""
    return "".join(map(map_line, k.space)).encode("utf-8", "surrogateescape")


def map_line(area: Vma) -> str:
    """Return the line of maps about an area."""
    perms = "".join(c if area.prot & b else "-" for c, b in (("r", 1), ("w", 2), ("x", 4)))
    backing = area.backing
    dev, ino = (_device(backing.dev), backing.ino) if backing is not None else ("00:00", 0)
    line = (
        f"{area.start:08x}-{area.end:08x} {perms}{'s' if area.shared else 'p'} {area.offset:08x} {dev} {ino} "
    )
    return (line.ljust(_NAME_COLUMN) + area.name if area.name else line) + "\n"


def _writable(k: Kernel) -> int:
    return sum(area.end - area.start for area in k.space if area.prot & abi.PROT_WRITE)


def cmdline_text(k: Kernel) -> bytes:
    """The arguments, each with its NUL; a process that is over has no memory to find them in."""
    if k.family.status is not None:
        return b""
    return b"".join(argument + b"\0" for argument in k.program.argv)


def environ_text(k: Kernel) -> bytes:
    """The environment at the start, each string with its NUL."""
    if k.family.status is not None:
        return b""
    return b"".join(text + b"\0" for text in k.program.envp)


def auxv_text(k: Kernel) -> bytes:
    """The auxiliary vector as on the stack."""
    return k.program.auxv


def comm_text(k: Kernel, task: Task) -> bytes:
    """The name of a task."""
    return f"{task.name}\n".encode("utf-8", "surrogateescape")


def _state(k: Kernel, task: Task) -> tuple[str, str]:
    """Return the letter and the word for what a task does."""
    if k.family.status is not None:
        return "Z", "zombie"
    if k.signals.stopped:
        return "T", "stopped"
    return ("R", "running") if task.block is None else ("S", "sleeping")


def limits_text(k: Kernel) -> bytes:
    """The table of resource limits."""

    def show(value: int) -> str:
        return "unlimited" if value == abi.RLIM_INFINITY else str(value)

    lines = [f"{'Limit':<25} {'Soft Limit':<20} {'Hard Limit':<20} {'Units':<10}\n"]
    for (name, unit), (soft, hard) in zip(_LIMIT_ROWS, k.rlimits, strict=True):
        lines.append(f"{'Max ' + name:<25} {show(soft):<20} {show(hard):<20} {unit:<10}\n")
    return "".join(lines).encode()


def statm_text(k: Kernel) -> bytes:
    """Sizes in pages; what has been touched is resident."""
    pages, resident = k.space.total // abi.PAGE_SIZE, k.arena.resident
    shared = sum(a.end - a.start for a in k.space if a.backing is not None) // abi.PAGE_SIZE
    text = sum(a.end - a.start for a in k.space if a.prot & abi.PROT_EXEC) // abi.PAGE_SIZE
    return f"{pages} {resident} {min(shared, resident)} {text} 0 {_writable(k) // abi.PAGE_SIZE} 0\n".encode()


def smaps_rollup_text(k: Kernel) -> bytes:
    """The sums that matter; what has been touched is resident."""
    first, last = 0, 0
    for area in k.space:
        first, last = first or area.start, area.end
    size = k.arena.resident * abi.PAGE_SIZE // 1024
    return (
        f"{first:08x}-{last:08x} ---p 00000000 00:00 0 ".ljust(_NAME_COLUMN) + "[rollup]\n"
        + f"Rss:            {size:8d} kB\nPss:            {size:8d} kB\n"
    ).encode()  # fmt: skip


def stat_text(k: Kernel, task: Task) -> bytes:
    """The 52 numbers of /proc/PID/stat; what is not modelled is 0."""
    ticks = k.cpu_used // 10_000_000
    start = 100_000
    pages = k.arena.resident
    threads = max(len(k.tasks), 1)
    family = k.family
    fields = [family.parent, family.group, family.session, 0, abi.PGID, 0x400000]
    priority = -1 - task.priority if task.priority else 20 + task.nice
    fields += [0, 0, 0, 0, ticks, 0, 0, 0, priority, task.nice, threads, 0, start]
    fields += [k.space.total, pages, abi.RLIM_INFINITY, 0, 0, k.program.stack_top]
    fields += [0] * 9 + [17] + [0] * 8 + [k.brk_start] + [0] * 5
    head = f"{task.tid} ({task.name}) {_state(k, task)[0]}"
    return f"{head} {' '.join(map(str, fields))}\n".encode("utf-8", "surrogateescape")


def _mask(signals: int) -> str:
    return f"{signals:016x}"


def _pending(signals: list[SignalInfo]) -> str:
    mask = 0
    for info in signals:
        mask |= 1 << (info.signo - 1)
    return _mask(mask)


def status_text(k: Kernel, task: Task) -> bytes:
    """Names and values for people."""
    ignored = caught = 0
    for signo, action in enumerate(k.signals.actions):
        if action.handler == abi.SIG_IGN:
            ignored |= 1 << (signo - 1)
        elif action.handler != abi.SIG_DFL:
            caught |= 1 << (signo - 1)
    size, resident = k.space.total // 1024, k.arena.resident * abi.PAGE_SIZE // 1024
    allowed = task.affinity & (1 << k.config.cpus) - 1
    stack = next(((a.end - a.start) // 1024 for a in k.space if a.name == "[stack]"), 0)
    rows: list[tuple[str, object]] = [
        ("Name", task.name),
        ("Umask", f"{k.caller.umask:04o}"),
        ("State", "{} ({})".format(*_state(k, task))),
        ("Tgid", k.pid),
        ("Ngid", 0),
        ("Pid", task.tid),
        ("PPid", k.family.parent),
        ("TracerPid", 0),
        ("Uid", "\t".join(map(str, k.credentials.users.all()))),
        ("Gid", "\t".join(map(str, k.credentials.groups.all()))),
        ("FDSize", 64),
        ("Groups", " ".join(map(str, k.caller.groups)) + " "),
        *((name, f"{size:8d} kB") for name in ("VmPeak", "VmSize")),
        *((name, f"{resident:8d} kB") for name in ("VmHWM", "VmRSS")),
        ("VmData", f"{_writable(k) // 1024:8d} kB"),
        ("VmStk", f"{stack:8d} kB"),
        ("Threads", max(len(k.tasks), 1)),
        ("SigPnd", _pending(task.pending)),
        ("ShdPnd", _pending(k.signals.pending)),
        ("SigBlk", _mask(task.mask)),
        ("SigIgn", _mask(ignored)),
        ("SigCgt", _mask(caught)),
        *((f"Cap{name}", f"{held:016x}") for name, held in k.credentials.sets()),
        ("NoNewPrivs", k.no_new_privs),
        ("Seccomp", task.seccomp.mode),
        ("Seccomp_filters", len(task.seccomp.filters)),
        ("Cpus_allowed", cpu_mask(allowed, k.config.cpus)),
        ("Cpus_allowed_list", cpu_ranges(allowed)),
        ("voluntary_ctxt_switches", 0),
        ("nonvoluntary_ctxt_switches", 0),
    ]
    return "".join(f"{name}:\t{value}\n" for name, value in rows).encode("utf-8", "surrogateescape")


def _version(k: Kernel) -> bytes:
    return f"{UNAME[0]} version {UNAME[2]} (emu@emu) {UNAME[3]}\n".encode()


def _meminfo(k: Kernel) -> bytes:
    total, free = k.arena.budget.limit // 1024, k.arena.budget.room() // 1024
    rows = (("MemTotal:", total), ("MemFree:", free), ("MemAvailable:", free))
    return "".join(f"{name:<15} {value:8d} kB\n" for name, value in rows).encode()


def _uptime(k: Kernel) -> bytes:
    seconds = k.clock.monotonic / 1e9
    return f"{seconds:.2f} {seconds:.2f}\n".encode()


def _stat(k: Kernel) -> bytes:
    ticks = k.clock.monotonic // 10_000_000
    cpu = f"{ticks} 0 0 0 0 0 0 0 0 0"
    boot = (k.clock.realtime - k.clock.monotonic) // abi.NSEC_PER_SEC
    each = "".join(
        f"cpu{number} {cpu if not number else '0 0 0 0 0 0 0 0 0 0'}\n" for number in range(k.config.cpus)
    )
    return f"cpu  {cpu}\n{each}ctxt 0\nbtime {boot}\nprocesses 1\nprocs_running 1\nprocs_blocked 0\n".encode()


def _cpuinfo(k: Kernel) -> bytes:
    from emu.kernel.proc.cpuinfo import cpuinfo_text  # few programs ask

    return "".join(
        cpuinfo_text(k.config.features, number, k.config.cpus) for number in range(k.config.cpus)
    ).encode()


def _constant(text: str) -> Callable[[Kernel], bytes]:
    return lambda k: (text + "\n").encode()


def _uuid(k: Kernel) -> bytes:
    digits = k.entropy.take(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-8{digits[17:20]}-{digits[20:]}\n".encode()


MACHINE_TEXTS: dict[str, Callable[[Kernel], bytes]] = {
    "version": _version,
    "meminfo": _meminfo,
    "uptime": _uptime,
    "stat": _stat,
    "cpuinfo": _cpuinfo,
    "loadavg": _constant("0.00 0.00 0.00 1/1 1000"),
    "filesystems": _constant("nodev\tproc\nnodev\toverlay"),
    "sys/kernel/osrelease": _constant(UNAME[2]),
    "sys/kernel/ostype": _constant(UNAME[0]),
    "sys/kernel/hostname": _constant(UNAME[1]),
    "sys/kernel/pid_max": _constant("4194304"),
    "sys/kernel/randomize_va_space": _constant("0"),
    "sys/kernel/ngroups_max": _constant("65536"),
    "sys/kernel/cap_last_cap": _constant("40"),
    "sys/kernel/random/uuid": _uuid,
    "sys/vm/overcommit_memory": _constant("0"),
    "sys/vm/max_map_count": _constant("65530"),
    "sys/vm/mmap_min_addr": _constant("65536"),
    "sys/fs/pipe-max-size": _constant("1048576"),
    "sys/fs/file-max": _constant("1048576"),
}
"""Files about the machine, by path under /proc."""
