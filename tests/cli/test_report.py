"""`emu report`: what is in its data, and in a headless browser:
it opens without errors, filters, marks what is deferred, and keeps hostile names out of the markup.
"""

from __future__ import annotations

import json
import re
import subprocess
from html import unescape
from typing import TYPE_CHECKING, Any

import pytest

from emu import __version__
from emu.analysis.frames import is_standard
from emu.analysis.report import ReportRows
from emu.analysis.report_events import EventList
from emu.analysis.report_page import BEGINNING, page
from emu.core.events import Record
from emu.core.task_events import Syscall
from tests.support import emu
from tools import fixtures

if TYPE_CHECKING:
    from pathlib import Path

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--virtual-time-budget=5000",
)  # fmt: skip
_FOLDER = fixtures.CACHE / "unload-rules"


def _dom(path: Path, fragment: str = "", *flags: str) -> str:
    """The page's elements once its code has run."""
    done = subprocess.run(
        ["chromium", *_FLAGS, f"--user-data-dir={path.parent / 'browser'}", *flags, "--dump-dom", f"file://{path}{fragment}"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout


def _attributes(path: Path, fragment: str = "", *flags: str) -> dict[str, str]:
    """What the page noted about itself on its root element."""
    (root,) = re.findall("<html[^>]*>", _dom(path, fragment, *flags))
    return dict(re.findall('data-([a-z]+)="([^"]*)"', root))


def _data(path: Path) -> dict[str, Any]:
    """What the page shows."""
    (text,) = re.findall('id="data">(.*)</script>', path.read_text())
    data: dict[str, Any] = json.loads(text)
    return data


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    done = emu("report", "./main", "-o", str(path), "--", "count", cwd=_FOLDER)
    assert done.exit == 0 and b"another closed: plugin gone" in done.stdout
    return path


@pytest.mark.needs("chromium")
def test_it_opens_marks_what_is_deferred_and_filters(report: Path) -> None:
    whole = _attributes(report)
    assert "error" not in whole and "ready" in whole
    assert (whole["deferred"], whole["findings"], whole["left"]) == ("plugin.so", "0", "0")
    filtered = _attributes(report, "#filter=dtors")
    assert 0 < int(filtered["rows"]) < int(whole["rows"])
    assert "error" not in filtered


@pytest.mark.needs("chromium")
def test_a_nodelete_object_that_is_closed_is_deferred_and_the_head_tells_what_ran(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    assert emu("report", "./main", "-o", str(path), "--", "flag", cwd=_FOLDER).exit == 0
    data = _data(path)
    assert _attributes(path)["deferred"] == "plugin.so"
    (life,) = (one for one in data["lives"]["rows"] if one["deferred"])
    ((_, kept),) = life["kept"]
    assert any("NODELETE" in reason for reason in kept["reasons"])
    assert "since event ," not in json.dumps(data) and ", )" not in json.dumps(data)
    assert (data["program"], data["arguments"], data["ended"]) == ("./main", ["flag"], "exit code 0")
    assert data["version"] == __version__ and re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", data["built"])


def test_a_death_is_named_in_the_head(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    assert (
        emu("report", "./main", "-o", str(path), "--", "null-read", cwd=fixtures.CACHE / "death-signals").exit
        == 0
    )
    assert _data(path)["ended"] == "killed by SIGSEGV (exit code 139)"


@pytest.mark.needs("chromium")
def test_an_event_has_the_command_that_goes_there(report: Path) -> None:
    data = _data(report)
    cells, dtors = data["events"], data["categories"].index("dtors")
    number = next(cells[at] for at in range(0, len(cells), 5) if cells[at + 3] == dtors)
    assert _attributes(report, f"#event={number}")["command"] == "emu gdb --at dtors:1 ./main count"


def test_what_the_program_did_has_most_of_the_axis(report: Path) -> None:
    whole = _attributes(report)
    assert int(whole["share"]) >= 50
    assert whole["axis"] == f"0-{_data(report)['last']}"
    first = _data(report)["started"]
    assert 0 < first < _data(report)["last"]
    assert _attributes(report, f"#zoom={first}-{first + 20}")["axis"] == f"{first}-{first + 20}"


@pytest.mark.needs("chromium")
def test_a_large_graph_stays_in_its_card_and_shows_neighbours(report: Path, tmp_path: Path) -> None:
    data = _data(report)
    names = [f"lib{n}.so" for n in range(60)]
    data["objects"] = [[name, 0] for name in names]
    data["lives"]["rows"], data["spans"] = [], [part for n in range(60) for part in (n, 1, 9)]
    data["edges"] = [[names[0], name, "needed"] for name in names[1:]] + [[names[5], names[6], "bound", 3]]
    path = tmp_path / "large.html"
    path.write_text(page(data))
    seen = _attributes(path)
    assert "error" not in seen and int(seen["graph"]) <= 0
    assert _attributes(path, "#node=lib5.so")["near"] == "3"


@pytest.mark.needs("chromium")
def test_a_long_list_of_symbols_is_folded(report: Path, tmp_path: Path) -> None:
    data = _data(report)
    symbols = "it is NODELETE since it defines " + ", ".join(f"Registry<{n}>::entries" for n in range(82))
    life = next(n for n, life in enumerate(data["lives"]["rows"]) if life["kept"])
    data["lives"]["rows"][life]["kept"][0][1]["reasons"] = [symbols]
    (tmp_path / "long.html").write_text(page(data))
    panel = _dom(tmp_path / "long.html", f"#why={life}").partition('id="why"')[2]
    summaries = re.findall("<details><summary>([^<]*)</summary><div>([^<]*)</div>", panel)
    ((summary, whole),) = [pair for pair in summaries if "Registry" in pair[0]]
    assert len(unescape(summary)) < 220 and summary.endswith("…")
    assert unescape(whole).endswith(symbols)


def test_the_standard_librarys_names_are_nobodys_to_change() -> None:
    for name in (
        "std::x",
        "vtable for std::ctype<char>",
        "guard variable for __gnu_cxx::f()::y",
        "core::fmt::Write",
    ):
        assert is_standard(name)
    for name in ("mystd::x", "ns::std_like", "vtable for ns::Thing", "stdx::y"):
        assert not is_standard(name)


@pytest.mark.needs("chromium")
def test_light_and_dark(report: Path) -> None:
    light = _attributes(report, "", "--blink-settings=preferredColorScheme=1")
    dark = _attributes(report, "", "--blink-settings=preferredColorScheme=0")
    assert (light["dark"], dark["dark"]) == ("false", "true")
    assert light["back"] != dark["back"]


def test_nothing_is_asked_of_a_network(report: Path) -> None:
    text = report.read_text()
    assert text.startswith(BEGINNING) and "default-src 'none'" in text
    assert not re.search(r'(src|href)="(?!#|data:)', text)
    assert "innerHTML" not in text


@pytest.mark.needs("chromium")
def test_hostile_names_are_text(tmp_path: Path) -> None:
    done = emu("report", "/bin/echo", "-o", "r.html", "--", "x", cwd=tmp_path)
    assert done.exit == 0
    evil = "</script><img src=x onerror=document.documentElement.dataset.error=1>"
    none: dict[str, Any] = {"rows": [], "left_out": 0}
    data = {
        "program": evil, "arguments": [evil], "version": "1", "built": evil, "started": 1,
        "ended": evil, "last": 2, "seen": 2, "categories": ["libs"], "strings": [evil], "events": [1, 0, 7, 0, 0],
        "left_out": {evil: 1}, "first_left_out": 2, "threads": [[7, evil]], "edges": [[evil, evil, "needed"]],
        "before": {"rows": [["0x0", "0x1", "r--", evil]], "left_out": 0}, "after": none, "objects": [[evil, 0]], "spans": [0, 1, 2],
        "findings": {"left_out": 1, "rows": [{"rule": evil, "severity": "error", "message": evil, "thread": 7, "event": 1, "frames": [evil],
                     "related": [{"title": evil, "thread": 7, "event": 2, "frames": [evil]}], "objects": [evil], "remedies": [evil]}]},
        "failures": {"left_out": 0, "rows": [{"rule": "open-failed", "severity": "info", "message": evil, "thread": 7, "event": 1, "frames": [evil],
                     "related": [], "objects": [evil], "story": [evil], "remedies": [evil]}]},
        "lives": {"left_out": 1, "rows": [{"object": 0, "from": 1, "to": None, "closed": None, "deferred": [], "kept": [], "kept_left_out": 1,
                  "start": "0x0", "end": {"reasons": [evil], "remedies": [evil]}}]},
        "destructors": {"left_out": 0, "rows": [{"thread": 7, "function": evil, "object": "0x0", "owner": evil, "source": "", "registered": 1,
                        "run": None, "done": None}]},
        "order": {"init": {"rows": [[1, evil, "DT_INIT", evil]], "left_out": 0}, "fini": none},
        "tls": {"layout": {"used": 0, "size": 0, "align": 0, "surplus": 0, "tcb": 0, "generation": 1}, "left_out": 1,
                "threads": [{"thread": 7, "name": evil, "ended": 2, "pointer": "0x0", "dtv": "0x0", "length": 0, "generation": 0,
                             "blocks": [[1, evil, 8, 8, 16, "0x0", evil, None]]}]},
    }  # fmt: skip
    data |= {"process": 0, "parent": 0}
    data["processes"] = {"rows": [{**data, "process": 2, "parent": 1}], "left_out": 1}
    path = tmp_path / "evil.html"
    path.write_text(page(data))
    assert "</script><img" not in path.read_text()
    seen = _attributes(path, "#why=0")
    assert "error" not in seen and (seen["rows"], seen["findings"], seen["storage"]) == ("1", "1", "7")


def test_another_file_is_kept_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("<!doctype html>mine")
    words = ("report", "/bin/true", "-o", str(path))
    refused = emu(*words, cwd=tmp_path)
    assert refused.exit != 0 and b"exists and is no report" in refused.stderr
    assert path.read_text() == "<!doctype html>mine"
    assert emu(*words, "--force", cwd=tmp_path).exit == 0
    assert emu(*words, cwd=tmp_path).exit == 0


def test_an_earlier_report_stays_until_there_is_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(f"{BEGINNING} mine")
    link = tmp_path / "link.html"
    link.symlink_to(path)
    words = ("report", "-o", str(link))
    assert emu(*words, "./no-such-program", cwd=tmp_path).exit == 127
    assert (
        emu(*words, "--env", "LD_BIND_NOW=1", "./main", cwd=fixtures.CACHE / "error-missing-library").exit
        == 127
    )
    assert path.read_text() == f"{BEGINNING} mine"
    assert emu(*words, "/bin/true", cwd=tmp_path).exit == 0
    assert link.is_symlink() and len(path.read_text()) > 10_000
    assert {one.name for one in tmp_path.iterdir()} == {"report.html", "link.html"}


@pytest.mark.needs("chromium")
def test_its_findings_are_those_of_check(tmp_path: Path) -> None:
    path, folder = tmp_path / "report.html", fixtures.CACHE / "check-key-destructor"
    assert emu("report", "./main", "-o", str(path), "--", "./libs2n.so", cwd=folder).exit == 0
    data = _data(path)
    checked = json.loads(emu("check", "--json", "./main", "./libs2n.so", cwd=folder).stderr)
    (finding,), (expected,) = data["findings"]["rows"], checked["findings"]
    for member in ("rule", "severity", "message", "thread", "objects"):
        assert finding[member] == expected[member]
    said = dict(zip(data["events"][::5], data["events"][4::5], strict=True))
    assert data["strings"][said[finding["event"]]].startswith("SIGSEGV")
    created, unloaded = finding["related"]
    assert (created["title"], unloaded["title"]) == ("created by", "unloaded by")
    assert created["event"] < unloaded["event"] < finding["event"]
    assert data["strings"][said[unloaded["event"]]].startswith("drop ./libs2n.so")
    assert any("free_state (plugin.c:6)" in line for line in finding["frames"])
    seen = _attributes(path)
    assert "error" not in seen and seen["findings"] == "1"


@pytest.mark.needs("chromium")
def test_remedies_and_opens_that_failed_are_shown(tmp_path: Path) -> None:
    path, folder = tmp_path / "report.html", fixtures.CACHE / "opens-that-fail"
    assert emu("report", "./main", "-o", str(path), "--", "now:./data.so", cwd=folder).exit == 0
    (failed,) = _data(path)["failures"]["rows"]
    assert failed["message"].startswith("dlopen of ./data.so failed: ./data.so: undefined symbol: not_there")
    assert any("libentry.so" in remedy for remedy in failed["remedies"]) and failed["story"]
    seen = _attributes(path)
    assert "error" not in seen and (seen["findings"], seen["failures"]) == ("0", "1")
    taken = fixtures.CACHE / "check-name-taken"
    assert (
        emu(
            "report",
            "--env",
            "LD_PRELOAD=./preload.so",
            "./main-static",
            "-o",
            str(path),
            "--force",
            cwd=taken,
        ).exit
        == 0
    )
    (finding,) = _data(path)["findings"]["rows"]
    assert len(finding["remedies"]) == 2


@pytest.mark.needs("chromium")
def test_each_thread_has_its_storage(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    assert (
        emu(
            "report", "./main", "-o", str(path), "--", "./libplugin.so", cwd=fixtures.CACHE / "thread-tls-dyn"
        ).exit
        == 0
    )
    data = _data(path)
    threads = data["tls"]["threads"]
    assert threads[0]["thread"] == 1000 and len(threads) > 1
    assert len({thread["pointer"] for thread in threads}) > 1
    said = dict(zip(data["events"][::5], data["events"][4::5], strict=True))
    lazily = 0
    for thread in threads:
        pointer = int(thread["pointer"], 16)
        for module, _, _, _, offset, block, entry, event in thread["blocks"]:
            if offset:
                assert int(block, 16) == pointer - offset
            elif event is not None and entry == "set":
                lazily += 1
                assert data["strings"][said[event]].startswith(f"allocate module {module} of ")
                assert block in data["strings"][said[event]]
    assert lazily > 1
    seen = _attributes(path, f"#thread={threads[-1]['thread']}")
    assert "error" not in seen and seen["storage"] == str(threads[-1]["thread"])


@pytest.mark.needs("chromium")
def test_what_is_left_out_is_said_and_the_size_has_a_limit(tmp_path: Path) -> None:
    path, limit = tmp_path / "report.html", 200
    done = emu("report", "--max-events", str(limit), "./main", "-o", str(path), "--", "count", cwd=_FOLDER)
    assert done.exit == 0
    data = _data(path)
    listed = len(data["events"]) // 5
    assert limit < listed <= limit + limit // 10
    assert listed + sum(data["left_out"].values()) == data["seen"] and data["left_out"]["bindings"] > 0
    numbers = data["events"][::5]
    assert all(number in numbers for number in range(1, data["first_left_out"]))
    assert data["destructors"]["rows"] and len(data["objects"]) > 5
    seen = _attributes(path)
    assert "error" not in seen
    assert (seen["left"], seen["deferred"]) == (str(data["seen"] - listed), "plugin.so")


def test_long_texts_take_the_room_of_several_events() -> None:
    events = EventList(limit := 100)
    for number in range(1, 501):
        events.take(Record(number, 0, 1, Syscall(0, "write", f"{number}{'<' * 2000}", "0")))
    data = events.data()
    listed = len(data["events"]) // 5
    assert 0 < listed < limit
    assert (data["first_left_out"], data["left_out"]) == (listed + 1, {"syscalls": 500 - listed})
    assert len(json.dumps(data).replace("<", "\\u003c")) < 160 * limit + 510_000


def test_other_tables_say_what_they_leave_out() -> None:
    rows = ReportRows(limit=2)
    assert [rows.add(number) for number in range(5)] == [True, True, False, False, False]
    assert rows.data() == {"rows": [0, 1], "left_out": 3}
