"""Chrome traces in Perfetto's own trace processor:
nothing is dropped, and tracks, nesting, counters and arrows are what was meant.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support import run_emu, the_run
from tests.trace.perfetto import ask

if TYPE_CHECKING:
    from pathlib import Path


QUERIES = {
    "faults": "select name, value from stats where value > 0 and severity in ('error', 'data_loss')",
    "slices": "select count(*) from slice",
    "unended": "select count(*) from slice where dur < 0",
    "counts": "select count(*) from counter",
    "tracks": "select process.name, thread.name from thread join process using (upid) where thread.tid != process.pid",
    "counters": "select t.name, min(value), max(value), count(*) from counter c join counter_track t on c.track_id = t.id group by 1 order by 1",
    "arrows": "select a.name, b.name, a.ts + a.dur <= b.ts from flow join slice a on slice_out = a.id join slice b on slice_in = b.id",
    "nested": "select p.name, s.name from slice s join slice p on s.parent_id = p.id",
}


@pytest.mark.needs("chromium")
@pytest.mark.parametrize("run", ["unload-rules:count", "thread-tls-dtors"])
def test_perfetto_reads_it(run: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    run_emu(the_run(run), "--trace", "all", "--trace-format", "chrome", "--trace-output", str(path))
    phases = [event["ph"] for event in json.loads(path.read_text())["traceEvents"]]
    seen = ask(path, QUERIES, tmp_path / "browser")
    assert seen["faults"] == []
    assert seen["slices"] == [[sum(phase in "BXi" for phase in phases)]]
    assert seen["unended"] == [[0]]
    assert seen["counts"] == [[phases.count("C")]] and phases.count("C") > 0
    assert len(seen["arrows"]) == phases.count("f") > 0
    assert all(a == f"register {b}" and later for a, b, later in seen["arrows"])
    assert ["threads", "main thread"] in seen["tracks"] and ["shared objects", "libc.so.6"] in seen["tracks"]
    if run == "unload-rules:count":
        assert ["opens of plugin.so count", 0, 1, 2] in seen["counters"]
        assert ["thread_local of plugin.so live", 0, 1, 2] in seen["counters"]
        assert any(
            outer == "plugin.so mapped" and inner.startswith("deferred: kept by")
            for outer, inner in seen["nested"]
        )
        assert ["dlopen plugin.so", "library_load"] in seen["nested"]
    else:
        assert sum(process == "threads" for process, _ in seen["tracks"]) == 5
