"""Backwards is forwards in the other order:
the same places, the same registers, the same memory, and nothing said twice.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from emu.core.events import EventBus
from emu.gdb.target import Target
from emu.gdb.watches import WRITE, Watch
from emu.process import Process, RunConfig
from tests.gdb.support import folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from emu.gdb.execution import Key
    from emu.gdb.stop import Stop


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("gdb-timeline"))


@pytest.fixture
def start(programs: Path, tmp_path: Path) -> Callable[[str], Target]:
    def make(program: str) -> Target:
        output = os.open(tmp_path / "output", os.O_RDWR | os.O_CREAT)
        config = RunConfig(
            str(programs / program), cwd=str(programs), stdio=(None, output, output), env=dict(os.environ)
        )
        return Target(lambda _program, _args: Process(config, EventBus()))

    return make


def _function(target: Target, name: str) -> int:
    rtld = target.process.rtld
    assert rtld is not None
    found = rtld.lookup(name.encode())
    if found is None:
        symbol = target.process.symbols.unexported(rtld.namespaces[0].maps[0], name.encode())
        assert symbol is not None
        found = rtld.namespaces[0].maps[0].addr + symbol.value
    return found


def _state(target: Target) -> tuple[Key, int, list[bytes], bytes]:
    """Where it is, in which thread, its registers, and the top of its stack."""
    task = target.execution.task
    registers = target.registers.read(task)
    rsp = int.from_bytes(registers[7], "little")
    return target.timeline.here, task.tid, registers, target.read(rsp, 256)


def _on(target: Target, stop: Stop) -> Stop:
    """Run on past loads of libraries, and let signals act."""
    while stop.reason == "library" or target.execution.kept is not None:
        stop = target.resume(target.execution.kept[1].signo if target.execution.kept is not None else 0)
    return stop


def _past_the_breakpoint(target: Target, last: str = "swbreak") -> Stop:
    """Go on as gdb does: over a breakpoint by a step without it; one where a library has stopped the
    guest is still to come.
    """
    execution = target.execution
    signal = execution.kept[1].signo if execution.kept is not None else 0
    here = execution.key[1]
    if signal == 0 and here in execution.breakpoints and last != "library":
        execution.breakpoints.discard(here)
        stop = target.step(execution.task.tid, 0, None)
        execution.breakpoints.add(here)
        if stop.over or stop.reason or stop.signal != 5:
            return stop
        if execution.key[1] in execution.breakpoints:
            return stop._replace(reason="swbreak")
    return target.resume(signal)


@pytest.mark.parametrize("place", ["main", "__cxa_thread_atexit_impl", "raise", "dlclose"])
def test_each_step_is_undone_by_a_step_back(place: str, start: Callable[[str], Target]) -> None:
    program = {"main": "plain", "raise": "threads"}.get(place, "going")
    target = start(program)
    target.execution.breakpoints.add(_function(target, place))
    stop = _on(target, target.resume(0))
    assert stop.reason == "swbreak"
    tid = stop.tid
    states: list[tuple[Key, int, list[bytes], bytes]] = []
    for _ in range(60):
        states.append(_state(target))
        kept = target.execution.kept
        stop = target.step(tid, kept[1].signo if kept is not None else 0, None)
        if stop.over:
            break
    while target.execution.task.tid != tid and not stop.over:
        target.step(tid, 0, None)
    for state in reversed(states):
        stop = target.back(tid)
        assert _state(target) == state


def _stops(target: Target, run: Callable[[], Stop]) -> list[tuple[Key, int, str]]:
    found: list[tuple[Key, int, str]] = []
    while True:
        stop = run()
        if stop.over or stop.reason == "replaylog":
            return found
        if stop.reason in ("swbreak", "watch"):
            found.append((target.execution.key, stop.tid, stop.reason))


@pytest.mark.parametrize(
    ("program", "places"),
    [
        ("plain", ("work", "malloc", "memcpy")),
        ("threads", ("body", "handler", "raise", "pthread_barrier_wait")),
        ("opens", ("dlopen", "dlclose", "dlmopen", "malloc", "free")),
        ("going", ("dlclose", "__cxa_thread_atexit_impl", "write", "malloc")),
    ],
)
def test_breakpoints_are_met_in_the_other_order(
    program: str, places: tuple[str, ...], start: Callable[[str], Target], tmp_path: Path
) -> None:
    target = start(program)
    target.timeline._step = 500  # snapshots close together, so that many are used
    for place in places:
        if target.process.rtld is not None:
            target.execution.breakpoints.add(_function(target, place))

    last = ""

    def forward() -> Stop:
        nonlocal last
        stop = _past_the_breakpoint(target, last)
        last = stop.reason
        return stop

    def backward() -> Stop:
        return target.back(None)

    first = _stops(target, forward)
    output = (tmp_path / "output").read_bytes()
    assert first and output
    assert _stops(target, backward) == first[::-1]
    assert target.execution.key[0] == 1
    assert _stops(target, forward) == first
    assert _stops(target, backward) == first[::-1]
    assert (tmp_path / "output").read_bytes() == output


def test_a_watched_variable_changes_back(start: Callable[[str], Target]) -> None:
    target = start("plain")
    target.execution.breakpoints.add(_function(target, "work"))
    target.resume(0)
    target.execution.breakpoints.clear()
    watch = Watch(WRITE, _function(target, "total"), 8)
    target.execution.watches.add(watch)
    values = [target.read(watch.address, 8)]
    places: list[Key] = []
    while not target.resume(0).over:
        values.append(target.read(watch.address, 8))
        places.append(target.execution.key)
    assert len(places) == 2
    for place, value in zip(reversed(places), values[-2::-1], strict=True):
        stop = target.back(None)
        assert stop.reason == WRITE and target.read(watch.address, 8) == value
        assert target.execution.key[0] == place[0] and target.execution.key[1] < place[1]


def test_the_past_that_was_changed_has_another_future(start: Callable[[str], Target], tmp_path: Path) -> None:
    target = start("plain")
    said: list[str] = []
    target.say = said.append
    target.execution.breakpoints.add(_function(target, "work"))
    target.resume(0)
    there = target.execution.key
    assert _past_the_breakpoint(target).status == 3
    assert (tmp_path / "output").read_bytes() == b"debugger 45 2.50 8 \n"
    target.back(None)
    assert target.execution.key == there
    task = target.execution.task
    total = _function(target, "total")
    target.write(total, (7).to_bytes(8, "little"))
    assert any("new future" in line for line in said)
    assert target.back(None).reason == "replaylog" and target.read(total, 8) == bytes(8)
    target.resume(0)
    assert target.execution.key == there and target.read(total, 8) == bytes(8)
    target.step(task.tid, 0, None)
    assert target.read(total, 1) == b"\7"
    assert target.resume(0).status == 3
    assert (tmp_path / "output").read_bytes() == b"debugger 45 2.50 8 \n" * 2


def test_history_keeps_within_its_limit(start: Callable[[str], Target]) -> None:
    target = start("plain")
    timeline = target.timeline
    timeline._step, timeline._limit = 300, 4 * timeline.held[1]
    target.resume(0)
    marks, size = timeline.held
    assert 2 <= marks <= 8 and size <= timeline._limit
    assert target.back(None).reason == "replaylog"
