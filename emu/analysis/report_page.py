"""A report as one HTML file: the template of this package with the data in it, nothing else, no network.

Source: HTML Standard, "Restrictions for contents of script elements".
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

BEGINNING = "<!doctype html>\n<!-- emu report -->"
"""How every report begins."""

_MARK = "@DATA@"


def page(data: dict[str, Any]) -> str:
    """Return the page. No `<` is left in the data, so nothing that the guest named can end the script element."""
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c").replace("&", "\\u0026")
    before, after = files("emu.analysis").joinpath("report.html").read_text("utf-8").split(_MARK)
    return before + text + after
