"""/sys of the emulated machine: its processors, its one memory node, its network's loopback, no disks.

What is not here is absent.

Nothing of the host shows: neither how many processors it has, nor its hardware addresses, disks and memory.
Source: sysfs(5); Linux Documentation/ABI/testing/sysfs-devices-system-cpu, stable/sysfs-devices-node,
testing/sysfs-class-net.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.fs.file import Meta, fresh
from emu.kernel.fs.inodes import Symlink
from emu.kernel.proc.cpus import cpu_mask, cpu_ranges
from emu.kernel.proc.files import MachineText
from emu.kernel.proc.procfs import ProcDirectory

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.kernel.fs.directory import Directory
    from emu.kernel.fs.file import Inode
    from emu.kernel.kernel import Kernel, System

_CACHES = (("Data", 1, 32, 8), ("Instruction", 1, 32, 8), ("Unified", 2, 256, 8), ("Unified", 3, 4096, 16))
"""Type, level, size in KiB and ways of the caches that CPUID tells of."""
_LINE = 64
_LOOPBACK = {
    "address": "00:00:00:00:00:00", "addr_len": "6", "broadcast": "00:00:00:00:00:00", "carrier": "1", "dev_id": "0x0",
    "dormant": "0", "flags": "0x9", "ifindex": "1", "iflink": "1", "link_mode": "0", "mtu": "65536", "operstate": "unknown",
    "tx_queue_len": "1000", "type": "772",
}  # fmt: skip
_STATISTICS = ("rx_bytes", "rx_dropped", "rx_errors", "rx_packets", "tx_bytes", "tx_dropped", "tx_errors", "tx_packets")  # fmt: skip


def mount_sys(system: System) -> None:
    """Put /sys in place of whatever the sysroot has there."""
    system.fs.mount("/sys", lambda parent, name: _LazySys(system, parent, name))


class _LazySys(ProcDirectory):
    """/sys itself. Its entries are made at the first look."""

    __slots__ = ("_system",)

    def __init__(self, system: System, parent: Directory, name: str) -> None:
        super().__init__(system.fs, parent, name)
        self._system = system

    def lookup(self, name: str) -> Inode | None:
        """Return an entry."""
        self._fill()
        return super().lookup(name)

    def listing(self) -> list[tuple[str, int, int]]:
        """Return the entries."""
        self._fill()
        return super().listing()

    def _fill(self) -> None:
        if self.children:
            return
        for path in (
            "block",
            "bus",
            "class",
            "dev",
            "devices",
            "firmware",
            "fs/cgroup",
            "kernel",
            "module",
            "power",
        ):
            self._folder(path)
        count = self._system.config.cpus
        self._cpus(count)
        self._node(count)
        for name, text in _LOOPBACK.items():
            self._text(f"devices/virtual/net/lo/{name}", text)
        for name in _STATISTICS:
            self._text(f"devices/virtual/net/lo/statistics/{name}", "0")
        self._link("class/net/lo", "../../devices/virtual/net/lo")
        self._text("kernel/mm/transparent_hugepage/enabled", "always madvise [never]")
        self._text("kernel/mm/transparent_hugepage/hpage_pmd_size", "2097152")

    def _cpus(self, count: int) -> None:
        cpu = "devices/system/cpu"
        every = cpu_ranges((1 << count) - 1)
        for name in ("online", "possible", "present"):
            self._text(f"{cpu}/{name}", every)
        for name, text in (("offline", ""), ("isolated", ""), ("kernel_max", "8191"), ("smt/active", "0")):
            self._text(f"{cpu}/{name}", text)
        self._text(f"{cpu}/smt/control", "notsupported")
        everyone = cpu_mask((1 << count) - 1, count)
        for number in range(count):
            own, alone = f"{cpu}/cpu{number}", cpu_mask(1 << number, count)
            for name, text in (("core_id", str(number)), ("die_id", "0"), ("physical_package_id", "0")):
                self._text(f"{own}/topology/{name}", text)
            for name in ("core_cpus", "thread_siblings"):
                self._text(f"{own}/topology/{name}", alone)
                self._text(f"{own}/topology/{name}_list", str(number))
            for name in ("core_siblings", "package_cpus", "die_cpus"):
                self._text(f"{own}/topology/{name}", everyone)
                self._text(f"{own}/topology/{name}_list", every)
            if number:
                self._text(f"{own}/online", "1")
            for index, (kind, level, size, ways) in enumerate(_CACHES):
                shared = level == 3
                self._cache(f"{own}/cache/index{index}", kind, level, size, ways)
                self._text(f"{own}/cache/index{index}/shared_cpu_map", everyone if shared else alone)
                self._text(f"{own}/cache/index{index}/shared_cpu_list", every if shared else str(number))

    def _cache(self, folder: str, kind: str, level: int, size: int, ways: int) -> None:
        rows = (
            ("type", kind), ("level", level), ("size", f"{size}K"), ("ways_of_associativity", ways), ("coherency_line_size", _LINE),
            ("number_of_sets", size * 1024 // ways // _LINE), ("physical_line_partition", 1),
        )  # fmt: skip
        for name, text in rows:
            self._text(f"{folder}/{name}", str(text))

    def _node(self, count: int) -> None:
        node = "devices/system/node"
        for name in ("online", "possible", "has_cpu", "has_memory", "has_normal_memory"):
            self._text(f"{node}/{name}", "0")
        self._text(f"{node}/node0/cpulist", cpu_ranges((1 << count) - 1))
        self._text(f"{node}/node0/cpumap", cpu_mask((1 << count) - 1, count))
        self._text(f"{node}/node0/distance", "10")
        for number in range(count):
            self._link(f"{node}/node0/cpu{number}", f"../../cpu/cpu{number}")
            self._link(f"devices/system/cpu/cpu{number}/node0", "../../node/node0")

        def meminfo(k: Kernel) -> bytes:
            budget = k.arena.budget
            rows = (("MemTotal", budget.limit), ("MemFree", budget.room()), ("MemUsed", budget.used))
            return "".join(f"Node 0 {name + ':':<15} {size // 1024:8d} kB\n" for name, size in rows).encode()

        self._enter(f"{node}/node0/meminfo", meminfo)

    def _folder(self, path: str) -> ProcDirectory:
        node: ProcDirectory = self
        for name in path.split("/"):
            child = node.children.get(name)
            if not isinstance(child, ProcDirectory):
                child = node.children[name] = ProcDirectory(self._system.fs, node, name, 0o755)
            node = child
        return node

    def _text(self, path: str, text: str) -> None:
        content = f"{text}\n".encode()
        self._enter(path, lambda k: content)

    def _enter(self, path: str, text: Callable[[Kernel], bytes]) -> None:
        folder, _, name = path.rpartition("/")
        self._folder(folder).children[name] = MachineText(self._system, text)

    def _link(self, path: str, target: str) -> None:
        folder, _, name = path.rpartition("/")
        fs = self._system.fs
        self._folder(folder).children[name] = Symlink(fs, None, Meta(fresh(fs, abi.S_IFLNK | 0o777)), target)
