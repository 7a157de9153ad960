"""Where options have their values from when the command line does not say:
the environment (`EMU_SEED`), then `[tool.emu]` in pyproject.toml.

    [tool.emu]               # for every command that has the option
    max-memory = "512M"
    [tool.emu.check]         # for one command
    no-rule = ["handle-leaked"]

The file is the nearest pyproject.toml, from the working directory upwards.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from emu.core.errors import EmuError
from emu.core.inputs import parse_toml, read_input
from emu.core.record import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

PREFIX = "EMU_"
_FILE = "pyproject.toml"
_MARK = b"tool.emu"
_MOST = 1 << 20
"""Bytes of a pyproject.toml that are read; no project has more."""


class ConfigError(EmuError):
    """A pyproject.toml cannot be read, or has in [tool.emu] what no option takes;
    the message names the file.
    """

    exit_code = 2


class Defaults(NamedTuple):
    """What [tool.emu] says: the file's path, empty without one, and its table."""

    path: str
    table: dict[str, Any]

    def of(self, command: str, parameters: dict[str, str]) -> dict[str, Any]:
        """Return the defaults of a command by its parameters' names, which `parameters` has by option.

        Raises ConfigError.
        """
        common = {key: value for key, value in self.table.items() if not isinstance(value, dict)}
        own = self.table.get(command, {})
        if not isinstance(own, dict):
            raise ConfigError(f"{self.path}: [tool.emu] {command} must be a table")
        unknown = sorted(key for key in own if key not in parameters)
        if unknown:
            raise ConfigError(f"{self.path}: [tool.emu.{command}] {unknown[0]}: no such option")
        return {parameters[key]: value for key, value in {**common, **own}.items() if key in parameters}

    def refuse_unknown(
        self, commands: Collection[str], known: Collection[str], every: Callable[[], Collection[str]]
    ) -> None:
        """Raise ConfigError for a table of no command, or a key that is an option neither of this command
        (`known`) nor of any (`every`, which is asked only then).
        """
        tables = [key for key, value in self.table.items() if isinstance(value, dict) and key not in commands]
        if tables:
            raise ConfigError(f"{self.path}: [tool.emu.{tables[0]}]: no such command")
        others = {
            key
            for key, value in self.table.items()
            if not isinstance(value, dict) and key not in {*known, *commands}
        }
        unknown = sorted(others.difference(every())) if others else ()
        if unknown:
            raise ConfigError(f"{self.path}: [tool.emu] {unknown[0]}: no command has such an option")


def read() -> Defaults:
    """Return what the nearest pyproject.toml says. Raises ConfigError."""
    path = _nearest()
    if not path:
        return Defaults("", {})
    try:
        content = read_input(path, _MOST)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    if _MARK not in content:
        return Defaults("", {})
    try:
        tools = parse_toml(content).get("tool", {})
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    table = tools.get("emu", {}) if isinstance(tools, dict) else {}
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: tool.emu must be a table")
    return Defaults(path, table)


def _nearest() -> str:
    try:
        folder = os.getcwd()
    except FileNotFoundError:
        return ""
    while True:
        path = os.path.join(folder, _FILE)
        if os.path.isfile(path):
            return path
        above = os.path.dirname(folder)
        if above == folder:
            return ""
        folder = above


def variable(option: str) -> str:
    """Return the name of the variable that sets an option's default: EMU_MAX_MEMORY for max-memory."""
    return PREFIX + option.replace("-", "_").upper()
