"""Objects for newer CPUs: how they are refused, chosen and run."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import emu
from emu.machine.kvm.cpuid import Shown, features_of, level_of, shown_for
from emu.machine.kvm.vm import Leaf
from emu.testing.settings import settings
from tests.engine.kvm import needs_kvm

if TYPE_CHECKING:
    from pathlib import Path

_LIBRARY = """
float sum(const float *a, int n) { float s = 0; for (int i = 0; i < n; i++) s += a[i] * a[i]; return s; }
"""
_MAIN = """
#include <stdio.h>
float sum(const float *, int);
int main(void) { float a[100]; for (int i = 0; i < 100; i++) a[i] = i; printf("%g\\n", sum(a, 100)); return 0; }
"""
_V3 = ("-march=x86-64-v3", "-ffast-math", "-ftree-vectorize")


def _cc(folder: Path, *words: str) -> None:
    subprocess.run(["gcc", "-O2", *words], cwd=folder, check=True)


def _emu(folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "emu", *words]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=120, env=os.environ | env
    )


@pytest.fixture
def marked(tmp_path: Path) -> Path:
    """A program, and a library that is marked as needing x86-64-v3."""
    (tmp_path / "sum.c").write_text(_LIBRARY)
    (tmp_path / "main.c").write_text(_MAIN)
    _cc(tmp_path, *_V3, "-Wl,-z,x86-64-v3", "-shared", "-fPIC", "-o", "libsum.so", "sum.c")
    _cc(tmp_path, "-o", "main", "main.c", "-L.", "-lsum", "-Wl,-rpath,$ORIGIN")
    return tmp_path


def test_unicorn_refuses_a_marked_object(marked: Path) -> None:
    done = _emu(marked, "run", "--engine", "unicorn", "./main")
    assert done.returncode == 125
    assert "needs x86-64-v3" in done.stderr
    assert "--engine kvm" in done.stderr


@needs_kvm
def test_kvm_runs_a_marked_object(marked: Path) -> None:
    done = _emu(marked, "run", "--engine", "kvm", "./main")
    assert (done.returncode, done.stdout, done.stderr) == (0, "328350\n", "")


@needs_kvm
def test_auto_takes_kvm_only_where_it_must_and_says_so(marked: Path) -> None:
    done = _emu(marked, "run", "--engine", "auto", "./main")
    assert (done.returncode, done.stdout) == (0, "328350\n")
    assert "libsum.so needs x86-64-v3" in done.stderr
    plain = _emu(marked, "run", "--engine", "auto", "/bin/true")
    assert (plain.returncode, plain.stderr) == (0, "")


@needs_kvm
def test_the_environment_chooses(marked: Path) -> None:
    assert _emu(marked, "run", "./main", EMU_ENGINE="kvm").returncode == 0
    assert _emu(marked, "run", "--engine", "unicorn", "./main", EMU_ENGINE="kvm").returncode == 125
    wrong = _emu(marked, "run", "./main", EMU_ENGINE="tcg")
    assert wrong.returncode == 2
    assert "unicorn" in wrong.stderr


@needs_kvm
def test_the_library_for_the_level_is_found_as_natively(tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text(
        '#include <stdio.h>\nint which(void);\nint main(void) { printf("%d\\n", which()); return 0; }\n'
    )
    for level in (1, 2, 3):
        folder = tmp_path if level == 1 else tmp_path / f"glibc-hwcaps/x86-64-v{level}"
        folder.mkdir(parents=True, exist_ok=True)
        (tmp_path / "which.c").write_text(f"int which(void) {{ return {level}; }}\n")
        _cc(tmp_path, "-shared", "-fPIC", "-o", str(folder / "libwhich.so"), "which.c")
    _cc(tmp_path, "-o", "main", "main.c", "-L.", "-lwhich", "-Wl,-rpath,$ORIGIN")
    native = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True).stdout
    assert _emu(tmp_path, "run", "--engine", "kvm", "./main").stdout == native
    assert _emu(tmp_path, "run", "--engine", "unicorn", "./main").stdout == "2\n"


@needs_kvm
def test_from_python(marked: Path) -> None:
    with emu.Process(engine="kvm") as p:
        library = p.dlopen(marked / "libsum.so")
        library.sum.restype = ctypes.c_float
        assert library.sum((ctypes.c_float * 4)(1, 2, 3, 4), 4) == 30
        assert p.inner.cpu.features.level >= 3


@needs_kvm
def test_snapshots_and_restores_leak_nothing() -> None:
    with emu.Process(engine="kvm") as p:
        libc = p.dlopen("libc.so.6")
        libc.malloc.restype = ctypes.c_void_p
        snapshot = p.snapshot()

        def round_trip() -> None:
            block = libc.malloc(1 << 16)
            libc.memset(ctypes.c_void_p(block), 7, 1 << 16)
            snapshot.restore()

        def held() -> tuple[int, int]:
            gc.unfreeze()
            gc.collect()
            with open("/proc/self/status") as status:
                resident = next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))
            return resident, len(os.listdir("/proc/self/fd"))

        for _ in range(50):
            round_trip()
        before = held()
        for _ in range(1000):
            round_trip()
        after = held()
        assert after[1] == before[1]
        assert after[0] - before[0] < 4096, "kilobytes"
        assert libc.strlen(b"hello") == 5


# -- levels by CPUID, of hosts that are not here -------------------------------------------------------------


def _haswell() -> list[Leaf]:
    return [
        Leaf(0, 0, 13, 0x756E6547, 0x6C65746E, 0x49656E69),
        Leaf(1, 0, 0x306C4, 0x800, 0xFFFA3203, 0xF8BFBFF),
        Leaf(7, 0, 0, 0x7AB | 1 << 18, 0, 0),
        Leaf(13, 0, 7, 0x340, 0x340, 0),
        Leaf(13, 1, 1, 0, 0, 0),
        Leaf(13, 2, 256, 576, 0, 0),
        Leaf(0x4000_0000, 0, 1, 2, 3, 4),
        Leaf(0x8000_0001, 0, 0, 0, 0x21, 0x2C100800),
    ]


def test_what_is_shown_of_a_haswell() -> None:
    shown = shown_for(_haswell(), None)
    assert (level_of(shown), shown.state_mask, shown.state_size) == (3, 7, 832)
    assert shown.leaf(0x4000_0000) == (0, 0, 0, 0)
    assert not shown.leaf(1)[2] & 1 << 30, "RDRAND"
    assert not shown.leaf(7)[1] & 1 << 18, "RDSEED"
    assert features_of(shown).vendor == "GenuineIntel"


def test_a_lesser_cpu_has_no_trace_of_avx() -> None:
    shown: Shown = shown_for(_haswell(), 2)
    assert (level_of(shown), shown.state_mask, shown.state_size) == (2, 3, 576)
    assert not shown.leaf(1)[2] & (1 << 28 | 1 << 12 | 1 << 29)
    assert not shown.leaf(7)[1] & (1 << 5 | 1 << 3 | 1 << 8)
    assert features_of(shown).hwcaps == ("x86-64-v2",)


def test_the_marker_of_pytest_takes_an_engine() -> None:
    assert settings([((), {"engine": "kvm", "cpu": "x86-64-v2"})]).options["engine"] == "kvm"
    with pytest.raises(ValueError, match="choose from unicorn, kvm, auto"):
        settings([((), {"engine": "qemu"})])
