"""A dynamic linker that people can read, run and question; emu/README.md tells its design.

The Python face is `emu.api`; its names are here, too, and are loaded when they are first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from emu.api import *  # noqa: F403
    from emu.exploration.functions import explore as explore

_ELSEWHERE = {"explore": "emu.exploration.functions"}
"""Names of the Python face that are not `emu.api`'s."""


def __getattr__(name: str) -> object:
    """Load the Python face for one of its names: the command line does not need it."""
    if name.startswith("__"):
        raise AttributeError(name)
    import importlib

    api = importlib.import_module(_ELSEWHERE.get(name, "emu.api"))
    if name not in _ELSEWHERE and name not in api.__all__:
        raise AttributeError(f"module 'emu' has no attribute {name!r}")
    value: object = getattr(api, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    import importlib

    return sorted({*globals(), *_ELSEWHERE, *importlib.import_module("emu.api").__all__})
