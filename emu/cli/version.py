"""What `emu --version -v` says: for a report of a fault, and for who wonders where
an option has its value from.
"""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import TYPE_CHECKING

from emu.cli import defaults

if TYPE_CHECKING:
    from collections.abc import Iterator

_PARTS = ("unicorn", "pyelftools", "capstone", "click")


def details() -> Iterator[str]:
    """Yield a line a fact: Python, the libraries that matter, the machine, defaults in force.

    Raises ConfigError.
    """
    yield f"Python {platform.python_version()} on {platform.system()} {platform.release()}, {platform.machine()}"
    libc = os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in os.confstr_names else None
    yield f"the host's libc: {libc or 'not glibc'}"
    for part in _PARTS:
        yield f"{part} {metadata.version(part)}"
    for name, value in sorted(os.environ.items()):
        if name.startswith(defaults.PREFIX):
            yield f"{name}={value!r} (environment)"
    given = defaults.read()
    for key, value in given.table.items():
        yield f"[tool.emu] {key} = {value!r} ({given.path})"
