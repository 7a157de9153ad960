"""Commands that tell more of a run, to be pasted as they stand: with its arguments, its system, and what
ld.so reads of its environment, as far as that differs from ours.
"""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emu.process import RunConfig


def why_command(config: RunConfig, library: str) -> str:
    """Return the command that tells why a library stays or could not be opened, and tries what helps."""
    return shlex.join([*_asking("why", config), library, *_behind(config)])


def explain_command(config: RunConfig, symbol: str) -> str:
    """Return the command that tells of the look-ups of a symbol in a run."""
    return shlex.join([*_asking("explain", config), symbol, *(_behind(config) or ("--",))])


def _behind(config: RunConfig) -> tuple[str, ...]:
    """Return the program's arguments, kept from being taken for options of emu's."""
    return ("--", *config.args) if any(word.startswith("-") for word in config.args) else config.args


def _asking(command: str, config: RunConfig) -> list[str]:
    words = ["emu", command]
    if config.sysroot != "/":
        words += ["--sysroot", config.sysroot]
    for name, value in sorted(config.env.items()):
        if name.startswith("LD_") and os.environ.get(name) != value:
            words += ["--env", f"{name}={value}"]
    return [*words, config.program]
