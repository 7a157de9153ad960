#!/usr/bin/env python3
"""Measure programs natively, under qemu-x86_64 and with each engine, in one run: a Markdown table.

tools/bench_engines.py             all rows
tools/bench_engines.py hello perl  rows whose names hold one of the words

Figures are seconds of the processor (user and system, of the whole process, the guest included), the best of
several runs taken in turn: other load on the machine counts little. Each output is compared with the native
one. What is not installed is left out.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from emu.machine.kvm.vm import why_not  # noqa: E402
from tools import fixtures  # noqa: E402

_AVX2 = """
#include <immintrin.h>
#include <stdio.h>
static float data[4096];
int main(void) {
    for (int i = 0; i < 4096; i++) data[i] = (float)(i % 97);
    __m256 sum = _mm256_setzero_ps(), scale = _mm256_set1_ps(1.0000001f);
    for (int round = 0; round < 100000; round++)
        for (int i = 0; i < 4096; i += 8) sum = _mm256_fmadd_ps(_mm256_loadu_ps(data + i), scale, sum);
    float out[8];
    _mm256_storeu_ps(out, sum);
    printf("%g\\n", out[0]);
    return 0;
}
"""
_CALLS = """
#include <stdio.h>
#include <unistd.h>
#include <sys/syscall.h>
int main(void) { long n = 0; for (int i = 0; i < 20000; i++) n += syscall(SYS_getppid) >= 0; printf("%ld\\n", n); return 0; }
"""
_SHA = "import hashlib, json, re; print(hashlib.sha256(bytes(10_000_000)).hexdigest()); print(sum(i * i % 7 for i in range(300_000)))"
_SUM = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x<300000) SELECT sum(x) FROM c;"


class Row(NamedTuple):
    """A program to be measured: its name in the table, and the command."""

    name: str
    command: list[str]


def rows(folder: Path) -> list[Row]:
    """Return the programs that there are here."""

    def built(name: str, source: str, *words: str) -> str:
        (folder / f"{name}.c").write_text(source)
        subprocess.run(["gcc", "-O2", *words, "-o", name, f"{name}.c"], cwd=folder, check=True)
        return str(folder / name)

    load = str(fixtures.build("bench-load") / "main")
    found = [
        Row("hello (iostream)", [str(fixtures.build("hello-iostream") / "main")]),
        Row("sort, maps, strings (cpu-bound)", [str(fixtures.build("cpu-bound") / "main")]),
        Row("AVX2 and FMA, 410 M elements", [built("avx2", _AVX2, "-mavx2", "-mfma")]),
        Row("20,000 system calls", [built("calls", _CALLS)]),
        Row("200 dlopen and dlclose", [load, "pairs", "200"]),
        Row("two threads, 2000 rounds", [load, "ping-pong", "2000"]),
    ]
    for name, *command in (
        ("python3: SHA-256 of 10 MB, a loop of 300,000", "/usr/bin/python3", "-S", "-c", _SHA),
        (
            "perl: a loop of 2 million",
            "/usr/bin/perl",
            "-e",
            "my $n; $n += $_ * $_ % 7 for 1..2000000; print qq($n\\n)",
        ),
        ("sqlite3: a sum of 300,000 rows", "/usr/bin/sqlite3", ":memory:", _SUM),
    ):
        if os.path.exists(command[0]):
            found.append(Row(name, list(command)))
    return found


def ways(command: list[str]) -> dict[str, list[str]]:
    """Return how a program can be run here."""
    emu = [str(ROOT / ".venv/bin/python"), "-m", "emu", "run", "--engine"]
    found = {"native": command}
    if (qemu := shutil.which("qemu-x86_64")) is not None:
        found["qemu-x86_64"] = [qemu, "-cpu", "max", *command]
    found["unicorn"] = [*emu, "unicorn", *command]
    if not why_not():
        found["kvm"] = [*emu, "kvm", *command]
    return found


def measure(command: list[str], folder: Path) -> tuple[float, bytes]:
    """Return processor seconds of a run, and what it prints."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent, done.stdout if done.returncode == 0 else b""


def figure(row: Row, repeats: int, folder: Path) -> dict[str, str]:
    """Return the figures of one row by way, `refused` where the program does not run there."""
    best: dict[str, float] = {}
    said: dict[str, bytes] = {}
    for _ in range(repeats):
        for way, command in ways(row.command).items():
            spent, said[way] = measure(command, folder)
            best[way] = min(best.get(way, spent), spent)
    return {way: f"{best[way]:.3f}" if said[way] == said["native"] else "refused" for way in best}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", help="rows whose names hold one of these")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each (default 5)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        columns = list(ways([]))
        print(f"| program | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
        for row in rows(folder):
            if not args.words or any(word in row.name for word in args.words):
                found = figure(row, args.repeats, fixtures.build("bench-load"))
                print(f"| {row.name} | {' | '.join(found[way] for way in columns)} |", flush=True)


if __name__ == "__main__":
    main()
