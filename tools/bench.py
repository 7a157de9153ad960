#!/usr/bin/env python3
"""Measure emu beside the native run and, where it is installed, qemu-x86_64, all in one run.

tools/bench.py            a Markdown table
tools/bench.py --json     the same figures for a program

Times are seconds, the best and the median of several runs taken in turn; machines are noisy, so look at the
ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools import fixtures  # noqa: E402

_LOADER = """
import os, sys, time
from emu.core.events import EventBus
from emu.process import Process, RunConfig
p = Process(RunConfig(program=sys.argv[1], env={}, cwd=os.getcwd()), EventBus())
t = time.perf_counter()
p.start()
print(time.perf_counter() - t)
"""


def seconds(command: list[str]) -> float:
    """Return the time that one run of `command` takes, its output thrown away."""
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def compare(commands: dict[str, list[str]], repeats: int) -> dict[str, tuple[float, float]]:
    """Run the commands in turn; return (best, median) of each."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            times[name].append(seconds(command))
    return {name: (min(values), statistics.median(values)) for name, values in times.items()}


def peak_memory(command: list[str]) -> float:
    """Return the peak resident memory of `command` in MB."""
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    out = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
    return int(out.stdout) * 1024 / 1e6


def instructions(program: Path) -> int | None:
    """Return how many guest instructions a run executes, as callgrind counts them; None without valgrind."""
    if shutil.which("valgrind") is None:
        return None
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", str(program)]
    err = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    line = next(line for line in err.splitlines() if "Collected" in line)
    return int(line.rsplit(":", 1)[1])


def beyond_one(emu: list[str], what: str, count: int, repeats: int) -> float:
    """Return the seconds of `count` times beyond those of one, the best of the repeats."""
    times = compare({str(n): [*emu, "./main", what, str(n)] for n in (1, count)}, max(2, repeats // 2))
    return times[str(count)][0] - times["1"][0]


def processes(repeats: int, emu: list[str]) -> dict[str, object]:
    """Return what processes cost: a fork of 50 MB with the child's end and the wait, a round trip over two
    pipes, a program spawned.
    """
    os.chdir(fixtures.build("bench-processes"))
    figures: dict[str, object] = {
        "fork_50_megabytes_milliseconds": beyond_one(emu, "forks", 51, repeats) / 50 * 1e3,
        "two_switches_microseconds": beyond_one(emu, "rounds", 5001, repeats) / 5000 * 1e6,
        "spawn_milliseconds": beyond_one(emu, "programs", 21, repeats) / 20 * 1e3,
    }
    os.chdir(ROOT)
    return figures


def loads(repeats: int, emu: list[str]) -> dict[str, object]:
    """Return what opening plugins and running threads costs:
    seconds beyond start-up, and whether memory grows.
    """
    folder = fixtures.build("bench-load")
    os.chdir(folder)

    def cost(what: str, count: int) -> float:
        return beyond_one(emu, what, count, repeats)

    figures: dict[str, object] = {
        "dlopen_dlclose_pair_milliseconds": cost("pairs", 1001) / 1000 * 1e3,
        "pairs_200_peak_megabytes": peak_memory([*emu, "./main", "pairs", "200"]),
        "pairs_1000_peak_megabytes": peak_memory([*emu, "./main", "pairs", "1000"]),
        "dlopen_100_dsos_seconds": cost("many", 100),
        "dlopen_200_dsos_seconds": cost("many", 200),
        "ping_pong_10000_rounds_seconds": cost("ping-pong", 10000),
        "threads_1000_seconds": cost("threads", 1000),
    }
    os.chdir(ROOT)
    return figures


def python_face(repeats: int) -> dict[str, object]:
    """Return what the Python face costs, in microseconds:
    a call of the guest, and going back to a snapshot with one thread and with five.
    """
    import emu

    def cost(action: Callable[[], object], count: int) -> float:
        """Microseconds of `action`, the best of the repeats."""
        best = min(_time(action, count) for _ in range(repeats))
        return best / count * 1e6

    with emu.Process() as p:
        libc = p.dlopen("libc.so.6")
        figures: dict[str, object] = {"call_microseconds": cost(lambda: libc.abs(-1), 1000)}
        figures["snapshot_microseconds"] = cost(p.snapshot, 20)
        alone = p.snapshot()
        threads = [p.thread() for _ in range(4)]
        together = p.snapshot()

        def go_back(snapshot: emu.Snapshot) -> None:
            libc.malloc(100_000)
            p.restore(snapshot)

        figures["restore_5_threads_microseconds"] = cost(lambda: go_back(together), 100)
        p.restore(alone)
        figures["restore_1_thread_microseconds"] = cost(lambda: go_back(alone), 100)
        del threads
    return figures


def _time(action: Callable[[], object], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        action()
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--repeats", type=int, default=7, help="runs of each command (default 7)")
    args = parser.parse_args()
    os.chdir(ROOT)
    hello = fixtures.build("hello-iostream") / "main"
    cpu = fixtures.build("cpu-bound") / "main"
    emu = [str(ROOT / ".venv/bin/emu"), "run"]
    qemu = shutil.which("qemu-x86_64")
    figures: dict[str, object] = {}

    def ways(program: Path) -> dict[str, list[str]]:
        commands = {"native": [str(program)], "emu": [*emu, str(program)]}
        if qemu:
            commands["qemu"] = [qemu, str(program)]
        return commands

    figures["hello_seconds"] = compare(ways(hello), args.repeats)
    loader = [
        float(
            subprocess.run(
                [sys.executable, "-c", _LOADER, str(hello)], capture_output=True, text=True, check=True
            ).stdout
        )
        for _ in range(args.repeats)
    ]
    figures["loader_seconds"] = {"emu": (min(loader), statistics.median(loader))}
    trace = {"emu --trace dtors": [*emu, "--trace", "dtors", str(cpu)]}
    cpu_times = compare(ways(cpu) | trace, args.repeats)
    figures["cpu_bound_seconds"] = cpu_times
    figures["hello_peak_megabytes"] = peak_memory([*emu, str(hello)])
    count = instructions(cpu)
    start = figures["hello_seconds"]["emu"][0]  # type: ignore[index]
    if count is not None:
        figures["cpu_bound_instructions"] = count
        figures["emu_million_instructions_per_second"] = count / (cpu_times["emu"][0] - start) / 1e6
    if qemu:
        figures["emu_to_qemu"] = cpu_times["emu"][0] / cpu_times["qemu"][0]
    figures["trace_dtors_cost_percent"] = (cpu_times["emu --trace dtors"][0] / cpu_times["emu"][0] - 1) * 100
    figures |= loads(args.repeats, emu)
    figures |= processes(args.repeats, emu)
    figures |= python_face(args.repeats)
    if args.json:
        print(json.dumps(figures, indent=1))
        return
    print("| what | figure |\n|---|---|")
    for name, value in figures.items():
        if isinstance(value, dict):
            for way, (best, median) in value.items():
                print(f"| {name}: {way} | best {best:.3f}, median {median:.3f} |")
        else:
            print(f"| {name} | {value:,.2f} |" if isinstance(value, float) else f"| {name} | {value:,} |")


if __name__ == "__main__":
    main()
