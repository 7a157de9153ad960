"""Chrome traces of fixtures: the form of the format, tracks in order, arrows with
two ends, and lives of objects.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from emu.core.events import Record
from emu.core.task_events import Syscall
from emu.trace import text
from emu.trace.chrome import OBJECTS, THREADS, ChromeTrace
from emu.trace.output import TraceWriter, open_output
from tests.support import emu, run_emu, run_native
from tools import fixtures

if TYPE_CHECKING:
    from pathlib import Path

FIXTURES = ("unload-rules", "tls-dsos", "thread-tls-dtors", "dl-namespaces", "dl-open-in-constructor")
RUNS = [run for name in FIXTURES for run in fixtures.load(name).runs]


def _check(events: list[dict[str, Any]]) -> None:
    """What Perfetto's importer asks of the events:
    members by phase, time that goes on, slices that end, arrows with two ends.
    """
    last: dict[tuple[int, int], float] = {}
    open_slices: dict[tuple[int, int], int] = {}
    starts: set[int] = set()
    for event in events:
        phase, track = event["ph"], (event["pid"], event["tid"])
        assert phase in "XBEisfCM" and track[0] in (THREADS, OBJECTS)
        if phase == "M":
            assert event["name"] in ("process_name", "thread_name") and event["args"]["name"]
            continue
        assert event["ts"] >= last.get(track, 0)
        last[track] = event["ts"]
        assert event.get("dur", 1) > 0 and ("dur" in event) == (phase == "X")
        assert "name" in event or phase == "E"
        if phase in "BE":
            open_slices[track] = open_slices.get(track, 0) + (1 if phase == "B" else -1)
            assert open_slices[track] >= 0
        if phase == "s":
            assert event["id"] not in starts
            starts.add(event["id"])
        if phase == "f":
            assert event["id"] in starts and event["bp"] == "e"
        if phase == "C":
            assert all(isinstance(value, int) for value in event["args"].values())
    assert not any(open_slices.values())


def _named(events: list[dict[str, Any]], beginning: str, phase: str) -> list[dict[str, Any]]:
    return [event for event in events if event["ph"] == phase and event.get("name", "").startswith(beginning)]


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.id)
def test_a_fixture(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    done = run_emu(run, "--trace", "all", "--trace-format", "chrome", "--trace-output", str(path))
    assert (done.exit, done.stdout) == (run_native(run).exit, run_native(run).stdout)
    whole = json.loads(path.read_text())
    assert whole["displayTimeUnit"] == "ns"
    events = whole["traceEvents"]
    _check(events)
    registered, ran = _named(events, "thread_local", "s"), _named(events, "thread_local", "f")
    runs = [event for event in events if event["ph"] == "X" and event["args"]["event"].startswith("run ")]
    assert {event["id"] for event in ran} <= {event["id"] for event in registered}
    assert len(ran) == len(runs)
    assert _named(events, "libc.so.6 mapped", "B")
    assert _named(events, "constructor", "X") or _named(events, "constructor", "i")


def _trace(fixture: str, tmp_path: Path, *options: str) -> list[dict[str, Any]]:
    run = next(run for run in RUNS if run.id.startswith(fixture))
    path = tmp_path / "trace.json"
    run_emu(run, *options, "--trace-format", "chrome", "--trace-output", str(path))
    events: list[dict[str, Any]] = json.loads(path.read_text())["traceEvents"]
    return events


def test_a_deferred_object_is_marked_from_its_dlclose_to_its_unmap(tmp_path: Path) -> None:
    events = _trace("unload-rules:count", tmp_path, "--trace", "dl")
    (deferred,) = _named(events, "deferred: kept by tls-dtors", "B")
    life = [
        event
        for event in events
        if event["pid"] == OBJECTS and event["tid"] == deferred["tid"] and event["ph"] in "BE"
    ]
    assert [event["ph"] for event in life] == ["B", "B", "E", "E"]
    assert life[1]["cat"] == "deferred" and life[2]["args"] == {"end": "unmapped"}
    closes = [event for event in events if event.get("name", "").startswith("dlclose")]
    assert deferred["ts"] in [event["ts"] for event in closes]
    assert all(event["ph"] == "X" for event in closes)
    counts = [event["args"]["count"] for event in _named(events, "opens of plugin.so", "C")]
    assert counts[:2] == [1, 0]
    assert [e["args"]["live"] for e in _named(events, "thread_local of plugin.so", "C")][-1] == 0


def test_a_dlopen_holds_the_constructors_that_it_runs(tmp_path: Path) -> None:
    events = _trace("dl-open-in-constructor", tmp_path, "--trace", "dl")
    opens = _named(events, "dlopen", "X")
    inside = [
        event
        for event in _named(events, "constructor", "X")
        if any(
            o["ts"] < event["ts"] and event["ts"] + event["dur"] <= o["ts"] + o["dur"] + 1e-6 for o in opens
        )
    ]
    assert inside


def test_threads_have_tracks_with_their_names(tmp_path: Path) -> None:
    events = _trace("thread-tls-dtors", tmp_path, "--trace", "threads")
    names = [
        event
        for event in events
        if event["ph"] == "M" and event["pid"] == THREADS and event["name"] == "thread_name"
    ]
    assert names[0]["args"]["name"] == "main thread"
    assert len({event["tid"] for event in names}) > 1
    assert len(_named(events, "thread ", "B")) == len(names) - 1


def test_a_guest_that_dies_leaves_valid_json(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    options = ("--trace", "all", "--trace-format", "chrome", "--trace-output", str(path))
    done = emu("run", *options, "sh", "-c", "kill -9 $$", cwd=tmp_path)
    assert done.exit == 137
    _check(json.loads(path.read_text())["traceEvents"])


def test_hostile_names_and_a_second_close(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    writer = TraceWriter(open_output(str(path), ("{",)), str(path), text.render, buffered=True)
    trace = ChromeTrace(writer, ("syscalls",))
    trace(Record(1, 5, 7, Syscall(0, 'a"\n\udcff', "\x1b[2J", "0")))
    trace.close()
    trace.close()
    events = json.loads(path.read_text())["traceEvents"]
    _check(events)
    assert "\\xff" in events[-1]["args"]["event"] and events[-1]["args"]["event"].isprintable()
