"""A report as one HTML file: the template of this package with its style, its scripts and the data in it,
nothing else, no network.

Source: HTML Standard, "Restrictions for contents of script elements".
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

BEGINNING = "<!doctype html>\n<!-- emu report -->"
"""How every report begins."""

_STYLE = "report.css"
_SCRIPTS = ("report.js", "report_lives.js", "report_graph.js", "report_lanes.js", "report_end.js")


def page(data: dict[str, Any]) -> str:
    """Return the page.

    No `<` is left in the data, so nothing that the guest named can end the script element.
    """
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c").replace("&", "\\u0026")
    found = _text("report.html")
    found = found.replace("@STYLE@", _text(_STYLE)).replace("@SCRIPT@", "".join(map(_text, _SCRIPTS)))
    before, after = found.split("@DATA@")
    return before + text + after


def _text(name: str) -> str:
    return files("emu.analysis").joinpath(name).read_text("utf-8")
