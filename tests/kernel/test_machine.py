"""What the guest sees of its machine: as many processors as it was given, in every place;
nothing of the host's.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

_COUNTS = r"""
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <unistd.h>
int main(void) {
    cpu_set_t set;
    sched_getaffinity(0, sizeof set, &set);
    printf("%ld %ld %d %d\n", sysconf(_SC_NPROCESSORS_ONLN), sysconf(_SC_NPROCESSORS_CONF), CPU_COUNT(&set), sched_getcpu());
    cpu_set_t last;
    CPU_ZERO(&last);
    for (int i = 0; i < CPU_SETSIZE; i++)
        if (CPU_ISSET(i, &set)) { CPU_ZERO(&last); CPU_SET(i, &last); }
    printf("%d ", sched_setaffinity(0, sizeof last, &last));
    sched_getaffinity(0, sizeof set, &set);
    printf("%d %d ", CPU_COUNT(&set), CPU_EQUAL(&set, &last));
    CPU_ZERO(&last);
    CPU_SET(CPU_SETSIZE - 1, &last);
    printf("%d\n", sched_setaffinity(0, sizeof last, &last));
    return 0;
}
"""


def _emu(*words: str) -> str:
    command = [sys.executable, "-m", "emu", "run", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> str:
    program = tmp_path_factory.mktemp("machine") / "counts"
    subprocess.run(["gcc", "-w", "-x", "c", "-o", str(program), "-"], input=_COUNTS, text=True, check=True)
    return str(program)


@pytest.mark.parametrize("cpus", [1, 2, 70])
def test_each_place_tells_the_same_number(cpus: int, counts: str) -> None:
    words = () if cpus == 1 else ("--cpus", str(cpus))
    assert _emu(*words, counts) == f"{cpus} {cpus} {cpus} 0\n0 1 1 -1\n"
    told = _emu(*words, "/bin/grep", "-c", "^processor", "/proc/cpuinfo")
    assert told == f"{cpus}\n"
    listed = _emu(
        *words, "/bin/cat", "/sys/devices/system/cpu/online", "/sys/devices/system/node/node0/cpulist"
    )
    assert listed == ("0\n0\n" if cpus == 1 else f"0-{cpus - 1}\n" * 2)
    assert f"Cpus_allowed_list:\t{listed.splitlines()[0]}\n" in _emu(*words, "/bin/cat", "/proc/self/status")


def test_the_hosts_devices_do_not_show() -> None:
    assert _emu("/bin/ls", "/sys/class/net", "/sys/block") == "/sys/block:\n\n/sys/class/net:\nlo\n"
    assert _emu("/bin/cat", "/sys/class/net/lo/address") == "00:00:00:00:00:00\n"
    assert _emu("/bin/cat", "/sys/devices/system/cpu/cpu0/cache/index0/size") == "32K\n"


_INTERFACES = r"""
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <stdio.h>
int main(void) {
    struct ifaddrs *all;
    if (getifaddrs(&all)) return 1;
    for (; all; all = all->ifa_next) {
        char text[64] = "";
        if (all->ifa_addr->sa_family == AF_INET) inet_ntop(AF_INET, &((struct sockaddr_in *)all->ifa_addr)->sin_addr, text, 64);
        if (all->ifa_addr->sa_family == AF_INET6) inet_ntop(AF_INET6, &((struct sockaddr_in6 *)all->ifa_addr)->sin6_addr, text, 64);
        printf("%s %d %x %s\n", all->ifa_name, all->ifa_addr->sa_family, all->ifa_flags, text);
    }
    for (struct if_nameindex *one = if_nameindex(); one->if_index; one++) printf("%d %s\n", one->if_index, one->if_name);
    char name[IF_NAMESIZE];
    printf("%d %d %s\n", if_nametoindex("lo"), if_nametoindex("eth0"), if_indextoname(1, name));
    return 0;
}
"""


def test_the_loopback_interface_is_told_of_by_netlink_and_ioctl(tmp_path: Path) -> None:
    """What a native run prints in a network namespace whose `lo` is up."""
    program = tmp_path / "interfaces"
    words = ["gcc", "-w", "-x", "c", "-o", str(program), "-"]
    subprocess.run(words, input=_INTERFACES, text=True, check=True)
    assert _emu(str(program)) == "lo 17 10049 \nlo 2 10049 127.0.0.1\nlo 10 10049 ::1\n1 lo\n1 0 lo\n"


def test_memory_by_area_and_mounts() -> None:
    text = _emu("/bin/sh", "-c", "/bin/cat /proc/self/smaps /proc/self/smaps_rollup")
    sizes = [int(line.split()[1]) for line in text.splitlines() if line.startswith("Rss:")]
    assert sizes[-1] > 100
    assert sum(sizes[:-1]) > sizes[-1] // 2
    assert text.count("VmFlags: rd ex mr mw me") >= 3
    info, mounts = _emu("/bin/cat", "/proc/self/mountinfo"), _emu("/bin/cat", "/proc/mounts")
    assert [line.split()[4] for line in info.splitlines()] == [
        line.split()[1] for line in mounts.splitlines()
    ]
    for name in ("cgroup", "oom_score_adj", "wchan", "uid_map"):
        assert _emu("/bin/cat", f"/proc/self/{name}")
