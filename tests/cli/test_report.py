"""`emu report` in a headless browser: it opens without errors, filters, marks what is deferred, and keeps hostile names out of the markup."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from emu.analysis.report_page import BEGINNING, page
from tests.support import emu
from tools import fixtures

if TYPE_CHECKING:
    from pathlib import Path

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--virtual-time-budget=5000",
)  # fmt: skip
_FOLDER = fixtures.CACHE / "unload-rules"


def _attributes(path: Path, fragment: str = "", *flags: str) -> dict[str, str]:
    """What the page noted about itself on its root element."""
    done = subprocess.run(
        ["chromium", *_FLAGS, f"--user-data-dir={path.parent / 'browser'}", *flags, "--dump-dom", f"file://{path}{fragment}"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    (root,) = re.findall("<html[^>]*>", done.stdout)
    return dict(re.findall('data-([a-z]+)="([^"]*)"', root))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    done = emu("report", "./main", "-o", str(path), "--", "count", cwd=_FOLDER)
    assert done.exit == 0 and b"another closed: plugin gone" in done.stdout
    return path


def test_it_opens_marks_what_is_deferred_and_filters(report: Path) -> None:
    whole = _attributes(report)
    assert "error" not in whole and "ready" in whole
    assert whole["deferred"] == "plugin.so"
    filtered = _attributes(report, "#filter=dtors")
    assert 0 < int(filtered["rows"]) < int(whole["rows"])
    assert "error" not in filtered


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


def test_hostile_names_are_text(tmp_path: Path) -> None:
    done = emu("report", "/bin/echo", "-o", "r.html", "--", "x", cwd=tmp_path)
    assert done.exit == 0
    evil = "</script><img src=x onerror=document.documentElement.dataset.error=1>"
    data = {
        "program": evil, "ended": evil, "last": 2, "seen": 1, "categories": ["libs"], "strings": [evil], "events": [1, 0, 7, 0, 0],
        "threads": [[7, evil]], "edges": [[evil, evil, "needed"]], "before": [["0x0", "0x1", "r--", evil]], "after": [],
        "lives": [{"name": evil, "namespace": 0, "from": 1, "to": None, "closed": None, "deferred": [], "kept": [], "start": "0x0",
                   "end": {"reasons": [evil], "remedies": [evil]}}],
        "destructors": [{"thread": 7, "function": evil, "object": "0x0", "owner": evil, "source": "", "registered": 1, "run": None, "done": None}],
        "order": {"init": [[1, evil, "DT_INIT", evil]], "fini": []},
        "tls": {"layout": [], "modules": [[1, evil, 16, 8, 8]], "pointer": "0x0", "generation": 0, "dtv": []},
    }  # fmt: skip
    path = tmp_path / "evil.html"
    path.write_text(page(data))
    assert "</script><img" not in path.read_text()
    seen = _attributes(path, "#why=0")
    assert "error" not in seen and seen["rows"] == "1"


def test_another_file_is_kept_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("<!doctype html>mine")
    words = ("report", "/bin/true", "-o", str(path))
    refused = emu(*words, cwd=tmp_path)
    assert refused.exit != 0 and b"exists and is no report" in refused.stderr
    assert path.read_text() == "<!doctype html>mine"
    assert emu(*words, "--force", cwd=tmp_path).exit == 0
    assert emu(*words, cwd=tmp_path).exit == 0


def test_a_hundred_thousand_events_stay_under_20_megabytes(tmp_path: Path) -> None:
    script = "i=0; while [ $i -lt 100000 ]; do cd /; i=$((i+1)); done"
    done = emu("report", "sh", "-o", "big.html", "--", "-c", script, cwd=tmp_path)
    assert done.exit == 0
    path = tmp_path / "big.html"
    assert path.stat().st_size < 20_000_000
    seen = _attributes(path)
    assert seen["rows"] == "100000" and "error" not in seen
