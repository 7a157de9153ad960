"""LD_DEBUG, LD_DEBUG_OUTPUT and LD_TRACE_LOADED_OBJECTS, line by line against the real ld.so.

LD_DEBUG tells every search, version check, scope, look-up, binding, constructor and unloading in its order,
so an equal output is an equal loader. Made equal before the comparison are: the process id; load biases, by
taking every address of an object as an offset from its own bias; counts of cycles;
where TLS and its blocks lie, and ids of threads. Not a line differs for the
vDSO, whose contents are ours: ld.so names it and looks the same functions up in the same order; only the
binding of one that Linux has since 6.11 is passed over, as the emulated kernel is older and the host's may be
either. The native run is told to take its CPU for the emulated one, which decides on glibc-hwcaps
directories.
"""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from emu.core.events import CATEGORIES, ON_REQUEST, EventBus
from emu.process import Process, RunConfig
from tests import support
from tools import fixtures

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tools.fixtures import Outcome, Run

_STARTS_THREADS = r"\bv?fork\(|\bposix_spawnp?\(|\bpthread_create\b|\bthrd_create\b|\bstd::(j?thread|async)\b"

pytestmark = pytest.mark.usefixtures("built_fixtures")

DIFFERENT = {
    "check-allocators": "as dl-malloc-interposed: the program has a malloc of its own",
    "check-reopen": "names its plugins after its process id",
    "dl-filter:opened": "ld.so makes an exception, by libc's function, for a missing auxiliary object that nobody is told of",
    "dl-malloc-interposed:preloaded": "ld.so's own tables come from the program's malloc, which binds its symbols earlier",
    "error-missing-version": "the last words come after all lines, not among them",
    "error-missing-version:now": "as above",
    "files-streams": "the order of a directory is the file system's",
    "files-streams:empty-stdin": "as above",
    "why-hot-reload": "names a copy of its plugin after its process id",
    "random": "libstdc++ asks the CPU for random bytes; the emulated one has none",
}
"""Runs whose lines cannot be equal, and why."""

_PID = re.compile(r" {0,9}\d+:\t")
_PLACE = re.compile(r"dynamic: 0x(\w+)  base: 0x(\w+)   size: ")
_ENTRY = re.compile(r"entry: 0x(\w+)  phdr: 0x(\w+)  phnum: ")
_CYCLES = re.compile(r"\d+ cycles( \([\d.]*%\))?")
_ADDRESS = re.compile(r"\(0x[0-9a-f]{16}\)")
_ABOUT_TLS = re.compile(r"\t(tls: |TCB |TLS TCB |Thread starting)")
_OF_A_THREAD = re.compile(r"0x[0-9a-f]+|(?<=TID=)[1-9]\d*")

_OF_LATER_KERNELS = "normal symbol `__vdso_getrandom' ["

_NUMBER = re.compile(r"0x[0-9a-f]+$|(?<=HWCAP: {13})\w+|(?<=MINSIGSTKSZ: {7})\d+", re.MULTILINE)


def _ordinary(runs: Sequence[Run]) -> list[Run]:
    """Of a fixture the first run that ends by itself, and the last where the loader has most to say:
    all of them take too long.
    """
    equal = [run for run in runs if run.exit < 128 and not {run.id, run.fixture} & set(DIFFERENT)]
    return equal[:1] + [run for run in equal[1:][-1:] if "ld-debug-last" in run.tags]


def _lines(output: bytes) -> list[str]:
    lines, base = [], 0
    for line in _PID.sub("PID:\t", output.decode(errors="replace")).split("\n"):
        if place := _PLACE.search(line):
            base = int(place[2], 16)
            line = line.replace(place[0], f"dynamic: {int(place[1], 16) - base:#x} size: ")
        elif entry := _ENTRY.search(line):
            places = [int(address, 16) - base for address in entry.groups()]
            line = line.replace(entry[0], f"entry: {places[0]:#x} phdr: {places[1]:#x} phnum: ")
        if _ABOUT_TLS.search(line):
            line = _OF_A_THREAD.sub("NUMBER", line)
        if not line.startswith("emu: syscall ") and _OF_LATER_KERNELS not in line:  # a remark of ours
            lines.append(_ADDRESS.sub("(ADDRESS)", _CYCLES.sub("N cycles", line)))
    return lines


def _with(run: Run, env: dict[str, str]) -> Run:
    tunables = [
        env["GLIBC_TUNABLES"] for env in (run.env, support.AS_EMULATED_CPU) if "GLIBC_TUNABLES" in env
    ]
    return run._replace(env={**run.env, **env, "GLIBC_TUNABLES": ":".join(tunables)})


def _compare(run: Run, env: dict[str, str], *, in_order: bool = True) -> Outcome:
    """Run both ways, demand that all is equal, and return the emulated outcome."""
    run = _with(run, env)
    native, emulated = fixtures.run_native(run), support.run_emu(run)
    arranged = list if in_order else sorted
    assert arranged(_lines(emulated.stderr)) == arranged(_lines(native.stderr))
    assert _lines(emulated.stdout) == _lines(native.stdout)
    assert emulated.exit == native.exit
    return emulated


def _starts_others(run: Run) -> bool:
    sources = (fixtures.SOURCES / run.fixture).glob("*.c*")
    return "threads" in run.tags or any(
        re.search(_STARTS_THREADS, path.read_text("utf-8")) for path in sources
    )


@pytest.mark.runs(of=_ordinary)
def test_every_line_is_ld_sos(run: Run) -> None:
    if _starts_others(run):
        # Natively nobody decides which thread, or process, binds first: nothing is left to first calls, and
        # lines may be in another order.
        _compare(run, {"LD_DEBUG": "all,statistics", "LD_BIND_NOW": "1"}, in_order=False)
    else:
        _compare(run, {"LD_DEBUG": "all,statistics"})


@pytest.mark.parametrize(
    "categories",
    ["libs", "reloc", "files", "symbols", "bindings", "versions", "scopes", "statistics", "unused", "help", "nonsense,libs:no"],
)  # fmt: skip
@pytest.mark.parametrize("run_id", ["dl-chain", "hello-printf"])
def test_a_single_category(run_id: str, categories: str) -> None:
    _compare(support.the_run(run_id), {"LD_DEBUG": categories})


_TRACED = (
    "hello-iostream", "search-origin", "search-paths:runpath-not-inherited", "search-tokens:gone", "symbol-versions", "error-missing-library",
    "error-missing-version", "error-undefined-symbol:data", "versions-absent", "ifunc:pie", "preload-interposition", "static-exe",
)  # fmt: skip


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"LD_TRACE_LOADED_OBJECTS": "2"},
        {"LD_WARN": "yes", "LD_BIND_NOW": "yes"},
        {"LD_VERBOSE": "yes", "LD_WARN": ""},
        {"LD_DEBUG": "unused"},
        {"LD_DEBUG": "all", "LD_WARN": "yes", "LD_BIND_NOW": "yes"},
    ],
    ids=["ldd", "with-the-program", "ldd-r", "ldd-v", "ldd-u", "debug"],
)
@pytest.mark.parametrize("run_id", _TRACED)
def test_objects_are_listed_as_for_ldd(run_id: str, env: dict[str, str]) -> None:
    run = support.the_run(run_id)
    _compare(run._replace(argv=run.argv[:1]), {"LD_TRACE_LOADED_OBJECTS": "1", **env})


def test_the_auxiliary_vector_is_shown() -> None:
    """Compared are the entries that are there and what is in them;
    where things lie, the CPU and newer kernels' entries differ.
    """
    run = _with(support.the_run("hello-printf"), {"LD_SHOW_AUXV": ""})
    native, emulated = (
        _NUMBER.sub("N", done.stdout.decode()) for done in (fixtures.run_native(run), support.run_emu(run))
    )
    assert "AT_PHENT:             56\n" in emulated
    shown, expected = (
        [line for line in text.splitlines() if not line.startswith("AT_???")] for text in (emulated, native)
    )
    assert shown == expected


def test_the_output_goes_to_a_file(tmp_path: Path) -> None:
    run = _with(support.the_run("dl-chain"), {"LD_DEBUG": "all", "LD_DEBUG_OUTPUT": str(tmp_path / "lines")})
    done = support.run_emu(run, "--writable", str(tmp_path))
    native = fixtures.run_native(run)
    ours = tmp_path / "lines.1000"
    (theirs,) = (path for path in tmp_path.iterdir() if path != ours)
    assert _lines(ours.read_bytes()) == _lines(theirs.read_bytes())
    assert (done.stdout, done.stderr, done.exit) == (native.stdout, native.stderr, native.exit)


def test_without_writable_the_file_is_the_guests_alone(tmp_path: Path) -> None:
    run = _with(support.the_run("dl-chain"), {"LD_DEBUG": "all", "LD_DEBUG_OUTPUT": str(tmp_path / "lines")})
    done = support.run_emu(run)
    assert done.stderr == b""
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_opened_is_standard_output(tmp_path: Path) -> None:
    _compare(
        support.the_run("hello-printf"),
        {"LD_DEBUG": "libs", "LD_DEBUG_OUTPUT": str(tmp_path / "no-folder" / "lines")},
    )


def test_the_lines_stand_among_the_guests_own_standard_error() -> None:
    run = _with(support.the_run("dl-chain"), {"LD_DEBUG": "files"})
    command = ["sh", "-c", 'exec "$@" 2>&1', "sh", *support.emu_command(run)]
    done = subprocess.run(command, cwd=fixtures.CACHE / run.fixture, capture_output=True, check=True)
    before, _, after = done.stdout.partition(b"transferring control")
    assert b"calling init" in before
    assert b"calling fini" in after


def test_without_ld_debug_nothing_listens() -> None:
    bus = EventBus()
    config = RunConfig("/bin/true", env={"LD_DEBUG_OUTPUT": "/tmp/never"})
    Process(config, bus).start()
    assert not any(getattr(bus, category) for category in (*CATEGORIES, *ON_REQUEST))
