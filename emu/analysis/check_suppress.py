"""Findings that the user does not want to see: by rule and DSO, from a TOML file.

    [[suppression]]
    rule = "exit-handler-unloaded"    # a rule's name, or a pattern
    object = "libplugin*.so"          # optional: a pattern for the file name or the name of a DSO
    symbol = "bump*"                  # optional, for data races: a pattern for the variable or a function

Source: the TOML 1.0 specification; fnmatch for the patterns.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from emu.analysis.check_notes import base
from emu.core.errors import EXIT_USAGE, EmuError
from emu.core.inputs import parse_toml, read_input
from emu.core.record import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from emu.analysis.check_data import Finding

_MOST = 16 << 20
_KEYS = {"rule", "object", "symbol"}


class SuppressionError(EmuError):
    """A file of suppressions cannot be read; the message names it and what is wrong."""

    exit_code = EXIT_USAGE


class Suppression(NamedTuple):
    """Patterns for the rule, for one of the objects concerned, and for one of the symbols."""

    rule: str
    object: str
    symbol: str = "*"

    def matches(self, finding: Finding) -> bool:
        """Whether the finding is to be hidden."""
        return self.concerns(finding.rule, finding.objects, ())

    def concerns(self, rule: str, objects: Iterable[str], symbols: Iterable[str]) -> bool:
        """Whether it is about what a rule has found, which concerns these objects and symbols."""
        if not fnmatchcase(rule, self.rule):
            return False
        files = [name for path in objects for name in (path, base(path))]
        return _is_among(self.object, files) and _is_among(self.symbol, symbols)


def _is_among(pattern: str, names: Iterable[str]) -> bool:
    return pattern == "*" or any(name == pattern or fnmatchcase(name, pattern) for name in names)


def load(path: str) -> list[Suppression]:
    """Read a file. Raises SuppressionError."""
    try:
        table = parse_toml(read_input(path, _MOST))
    except OSError as error:
        raise SuppressionError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise SuppressionError(f"{path}: {error}") from None
    return parse(table, path)


def parse(table: dict[str, Any], path: str) -> list[Suppression]:
    """Return what a file says that holds `table`. Raises SuppressionError."""
    entries = table.pop("suppression", [])
    if table or not isinstance(entries, list):
        raise SuppressionError(f"{path}: only [[suppression]] tables belong here")
    found = []
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict) or not {"rule"} <= entry.keys() <= _KEYS:
            raise SuppressionError(
                f"{path}: suppression {number} needs rule, may have object and symbol, and nothing else"
            )
        if not all(isinstance(value, str) for value in entry.values()):
            raise SuppressionError(f"{path}: suppression {number}: rule, object and symbol are strings")
        found.append(Suppression(entry["rule"], entry.get("object", "*"), entry.get("symbol", "*")))
    return found


def split(findings: Sequence[Finding], hidden: Sequence[Suppression]) -> tuple[list[Finding], int]:
    """Return the findings that are shown, and how many are not."""
    shown = [finding for finding in findings if not any(s.matches(finding) for s in hidden)]
    return shown, len(findings) - len(shown)
