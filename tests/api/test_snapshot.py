"""Snapshots: what comes back, what does not, and where none can be taken."""

from __future__ import annotations

import ctypes
import gc
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

import emu
from tests.support import the_run
from tools import fixtures
from tools.fixtures import Run

_SAMPLE = (
    "files-streams", "tls-descriptors:lazy", "signals-altstack", "thread-every-wait:empty", "thread-cancel", "thread-stack-reuse",
    "tls-dsos:abcm", "unload-random:cycles-2", "audit-calls", "audit-loading:opens",
)  # fmt: skip


class _Program:
    """A program with files of ours as its standard streams, and what it does from here to its end."""

    def __init__(self, folder: Path, run: Run) -> None:
        self._files: list[BinaryIO] = []
        (folder / "stdin").write_text(run.stdin)
        for name, mode in (("stdin", "rb"), ("stdout", "w+b"), ("stderr", "w+b")):
            self._files.append((folder / name).open(mode))  # type: ignore[arg-type]
        self._stdin, self._stdout, self._stderr = self._files
        self.process = emu.Process(
            run.argv[0],
            run.argv[1:],
            fixtures.BASE_ENV | run.env,
            cwd=str(fixtures.CACHE / run.fixture),
            trace="all",
            schedule="random",
            seed=3,
            stdin=self._stdin,
            stdout=self._stdout,
            stderr=self._stderr,
        )

    def rest(self) -> tuple[object, ...]:
        """Run to the end; return all that can be seen of that."""
        for file in (self._stdout, self._stderr):
            os.lseek(file.fileno(), 0, os.SEEK_SET)
            os.ftruncate(file.fileno(), 0)
        p = self.process
        status = p.run()
        texts = [os.pread(file.fileno(), 1 << 20, 0) for file in (self._stdout, self._stderr)]
        return status, texts, p.report, [repr(event) for event in p.events()]

    def close(self) -> None:
        for file in self._files:
            file.close()


@pytest.fixture
def program(built_fixtures: object, tmp_path: Path) -> Iterator[Callable[[str], _Program]]:
    started = []

    def start(run_id: str) -> _Program:
        run = the_run(run_id)
        started.append(_Program(tmp_path, run))
        return started[-1]

    yield start
    for one in started:
        one.close()


def _to_a_place_for_one(p: emu.Process) -> emu.Snapshot:
    while True:
        try:
            return p.snapshot()
        except emu.StateError:
            assert p.step("trap") is not None


@pytest.mark.parametrize("run_id", _SAMPLE)
def test_a_program_goes_on_from_a_snapshot_as_it_did(program: Callable[[str], _Program], run_id: str) -> None:
    start = program(run_id)
    p = start.process
    before = p.snapshot()
    whole = start.rest()
    traps = random.Random(run_id)
    for _ in range(2):
        p.restore(before)
        for _ in range(traps.randrange(len(p.events("syscalls")) + 60)):
            p.step("trap")
        middle = _to_a_place_for_one(p)
        rests = []
        for _ in range(2):
            rests.append(start.rest())
            p.restore(middle)
        assert rests[0] == rests[1]
        assert (rests[0][0], rests[0][3]) == (whole[0], whole[3])
    p.restore(before)
    assert start.rest() == whole


def test_every_kind_of_wait_can_be_begun_anew(program: Callable[[str], _Program]) -> None:
    start = program("thread-every-wait:empty")
    p = start.process
    while p.step("trap") != "getppid":
        pass
    assert [thread.waits for thread in p.threads].count("") == 1
    waits = [thread.waits for thread in p.threads]
    snapshot = p.snapshot()
    once = start.rest()
    p.restore(snapshot)
    assert [thread.waits for thread in p.threads] == waits
    assert start.rest() == once


def test_a_call_that_is_half_done_is_named(program: Callable[[str], _Program]) -> None:
    p = program("thread-every-wait:half").process
    while p.step("trap") != "getppid":
        pass
    with pytest.raises(emu.StateError, match=r"thread 10\d\d \(main\) is in the middle of write"):
        p.snapshot()


def test_none_can_be_taken_inside_the_linker(program: Callable[[str], _Program]) -> None:
    p = program("unload-random:cycles-2").process
    p.step("init_started")
    with pytest.raises(emu.StateError, match=r"thread 1000 \(main\) is inside _dl_open"):
        p.snapshot()


def test_libraries_and_threads_are_what_they_were(p: emu.Process, lib: emu.Library) -> None:
    thread = p.thread("worker")
    base = lib.link_map.addr
    snapshot = p.snapshot()
    assert thread.call(lib.touch, 3) == 3
    lib.close()
    thread.close()
    other = p.dlopen("./libplugin.so")
    late = p.thread("late")
    p.restore(snapshot)
    assert lib.link_map.addr == base and not lib.closed
    assert thread.call(lib.touch, 4) == 4
    with pytest.raises(emu.ClosedError, match="was opened after the snapshot"):
        other.touch(1)
    with pytest.raises(emu.ClosedError, match="the thread is over"):
        late.call(lib.touch, 1)
    thread.close()


def test_memory_is_what_it_was(p: emu.Process) -> None:
    libc = p.dlopen("libc.so.6")
    at = p.memory.new(b"before")
    snapshot = p.snapshot()
    p.memory.write(at, b"after!")
    areas = [repr(area) for area in p.memory]
    big = p.function("mmap")
    for size in (4096, 1 << 20):
        big(0, size, 3, 0x22, -1, 0)
    p.function("munmap")(
        ctypes.c_void_p(libc.link_map.map_start), 4096
    )  # the guest has lost its libc's headers
    p.restore(snapshot)
    assert p.memory.cstring(at) == b"before"
    assert [repr(area) for area in p.memory] == areas
    assert p.memory.read(libc.link_map.map_start, 4) == b"\x7fELF"
    assert libc.atoi(b"42") == 42


def test_a_process_comes_back_from_its_end(p: emu.Process, lib: emu.Library) -> None:
    snapshot = p.snapshot()
    with pytest.raises(emu.GuestFault):
        p.function("abort")()
    assert p.ended
    p.restore(snapshot)
    with pytest.raises(emu.ProcessEnded):
        p.function("exit")(3)
    p.restore(snapshot)
    assert not p.ended and lib.touch(3) == 3


def test_callbacks_and_interpositions_stay(p: emu.Process, lib: emu.Library) -> None:
    snapshot = p.snapshot()
    seen: list[int] = []

    def handler(x: int) -> int:
        seen.append(x)
        return 5

    with p.interpose("abs", handler):
        p.restore(snapshot)
        assert p.function("abs")(-4) == 5
    assert len(seen) == 1
    assert p.function("abs")(-4) == 4


def test_a_callback_that_is_gone_is_named(p: emu.Process) -> None:
    qsort = p.function("qsort")
    qsort.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p]
    values = p.memory.new(bytes(16))
    callback = emu.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(lambda a, b: 0)
    trap = p.calls.pointer_to(callback)
    qsort(values, 2, 8, trap)
    del callback
    with pytest.raises(emu.ClosedError, match="a Python function that is gone"):
        qsort(values, 2, 8, trap)


def test_not_while_the_guest_runs(p: emu.Process) -> None:
    snapshot = p.snapshot()
    refused = []

    def handler(_x: int) -> int:
        for action in (p.snapshot, snapshot.restore):
            with pytest.raises(emu.StateError, match="in a Python function that the guest is calling"):
                action()
            refused.append(action)
        return 0

    with p.interpose("abs", handler):
        p.function("abs")(1)
    assert len(refused) == 2


def test_only_its_own(p: emu.Process) -> None:
    with emu.Process() as other, pytest.raises(emu.ArgumentError, match="not of this process"):
        p.restore(other.snapshot())
    with p.snapshot() as snapshot:
        assert "KiB" in repr(snapshot)
    with pytest.raises(emu.ArgumentError, match="closed"):
        p.restore(snapshot)


def test_many_restores_leak_nothing(p: emu.Process, lib: emu.Library) -> None:
    snapshot = p.snapshot()

    def held() -> tuple[int, int, int]:
        p.restore(snapshot)
        gc.unfreeze()
        gc.collect()
        maps = Path("/proc/self/maps").read_text().count("\n")
        return len(os.listdir("/proc/self/fd")), maps, len(gc.get_objects())

    def use() -> None:
        p.dlopen("libstdc++.so.6")
        p.function("fopen")(b"/tmp/of the guest", b"w")
        p.function("malloc")(1 << 20)
        p.thread("short").call(lib.touch, 1)
        p.restore(snapshot)

    for _ in range(3):
        use()
    before = held()
    for _ in range(20):
        use()
    for _ in range(1000):
        p.restore(snapshot)
    after = held()
    assert after[0] <= before[0] and after[2] <= before[2] + 50
    assert after[1] <= before[1] + 20  # the host's allocator has its own mappings
