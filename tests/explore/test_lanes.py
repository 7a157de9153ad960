"""A found schedule to look at: the lanes of `emu report --schedule replay:FILE`."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import compile_c, emu
from tools import fixtures

if TYPE_CHECKING:
    from pathlib import Path

_PROGRAMS = fixtures.ROOT / "tests" / "explore" / "programs"
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--virtual-time-budget=5000",
)  # fmt: skip


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reports of found schedules, and one of a run without a schedule, as PROGRAM.html."""
    folder = tmp_path_factory.mktemp("lanes")
    for name, options in (("abba", ()), ("message_passing", ("--races",)), ("use_after_close", ())):
        (folder / f"{name}.c").write_text((_PROGRAMS / f"{name}.c").read_text())
        compile_c(folder, "-g", "-O1", "-pthread", "-rdynamic", "-o", name, f"{name}.c")
        plugin = _PROGRAMS / f"{name}_plugin.c"
        if plugin.exists():
            compile_c(folder, "-g", "-O1", "-shared", "-fPIC", "-o", "plugin.so", str(plugin))
        found = emu("explore", "--json", *options, f"./{name}", cwd=folder)
        assert found.exit == 1
        (folder / f"{name}.json").write_bytes(found.stdout)
        words = ("--schedule", f"replay:{name}.schedule", f"./{name}", "-o", f"{name}.html")
        assert emu("report", *words, cwd=folder).exit == 0
    assert emu("report", "./abba", "-o", "unscheduled.html", cwd=folder).exit == 0
    return folder


def _schedule(path: Path) -> Any:
    (text,) = re.findall('id="data">(.*)</script>', path.read_text())
    return json.loads(text)["schedule"]


def _attributes(path: Path) -> dict[str, str]:
    """What the page noted about itself on its root element."""
    words = [
        "chromium",
        *_FLAGS,
        f"--user-data-dir={path.parent / 'browser'}",
        "--dump-dom",
        f"file://{path}",
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    (root,) = re.findall("<html[^>]*>", done.stdout)
    return {**dict(re.findall('data-([a-z]+)="([^"]*)"', root)), "dom": done.stdout}


def _joined(schedule: Any, *, race: bool) -> list[tuple[list[int], str]]:
    """What is joined: the threads of both rows, and what they meet in."""
    rows = schedule["rows"]
    return [
        ([rows[row][0] for row in conflict["rows"]], conflict["of"])
        for conflict in schedule["conflicts"]
        if conflict["race"] == race
    ]


def test_a_deadlock_has_its_preemption_and_both_locks(pages: Path) -> None:
    schedule = _schedule(pages / "abba.html")
    ((preemption),) = schedule["preemptions"]
    assert (preemption["thread"], preemption["next"]) == (1001, 1002)
    assert preemption["operation"] == "pthread_mutex_lock: lock cmpxchg of b"
    assert re.fullmatch(r"under \(.*abba.c:7\)", preemption["place"])
    rows = schedule["rows"]
    assert rows[preemption["at"] - 1][0] == 1001 and rows[preemption["at"]][:2] == [1002, ""]
    joined = _joined(schedule, race=False)
    assert ([1001, 1002], "a in ./abba") in joined
    assert ([1002, 1001], "b in ./abba") in joined
    assert not _joined(schedule, race=True)
    said = [operation for tid, operation, _, _ in rows if tid == 1001 and operation.endswith(" of b")]
    assert said[0] == preemption["operation"] and len(set(said)) == len(said), "what was held back came once"


@pytest.mark.parametrize("name", ["abba", "use_after_close"])
def test_the_preemptions_are_those_that_the_search_has_told(pages: Path, name: str) -> None:
    (failure,) = json.loads((pages / f"{name}.json").read_text())["failures"]
    members = ("thread", "next", "operation", "place")
    told, seen = failure["preemptions"], _schedule(pages / f"{name}.html")["preemptions"]
    assert [[one[m] for m in members] for one in seen] == [[one[m] for m in members] for one in told]


def test_a_data_race_joins_the_accesses(pages: Path) -> None:
    schedule = _schedule(pages / "message_passing.html")
    races = [conflict for conflict in schedule["conflicts"] if conflict["race"]]
    assert {race["of"] for race in races} >= {"flag in ./message_passing"}
    (flag,) = (race for race in races if race["of"].startswith("flag"))
    sides = {flag["first"].split()[0], flag["second"].split()[0]}
    assert sides == {"reads", "writes"}
    assert all("message_passing.c:" in flag[side] for side in ("first", "second"))
    assert {schedule["rows"][row][0] for row in flag["rows"]} == {1000, 1001}


def test_the_use_of_a_closed_object_is_joined_with_the_close(pages: Path) -> None:
    schedule = _schedule(pages / "use_after_close.html")
    assert schedule["preemptions"][-1]["operation"].startswith("enters twice")
    assert any("dlclose" in row[1] for row in schedule["rows"])


def test_a_run_without_a_schedule_has_no_lanes(pages: Path) -> None:
    assert _schedule(pages / "unscheduled.html") is None


@pytest.mark.needs("chromium")
def test_the_lanes_are_drawn(pages: Path) -> None:
    for name in ("abba", "message_passing", "use_after_close"):
        path = pages / f"{name}.html"
        schedule, seen = _schedule(path), _attributes(path)
        assert "error" not in seen
        assert int(seen["lanes"]) == len({row[0] for row in schedule["rows"]})
        assert (
            int(seen["preemptions"]) == len(schedule["preemptions"]) == seen["dom"].count('class="preempted"')
        )
        assert int(seen["conflicts"]) == len(schedule["conflicts"])
        assert int(seen["races"]) == len(_joined(schedule, race=True)) == seen["dom"].count('class="race"')
    seen = _attributes(pages / "unscheduled.html")
    assert "error" not in seen and seen["lanes"] == "0"
