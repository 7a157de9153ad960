"""Findings that the user does not want to see: by rule and DSO, from a TOML file.

    [[suppression]]
    rule = "exit-handler-unloaded"    # a rule's name, or a pattern
    object = "libplugin*.so"          # optional: a pattern for the file name or the whole name of a DSO concerned

Source: the TOML 1.0 specification; fnmatch for the patterns.
"""

from __future__ import annotations

import tomllib
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

from emu.analysis.check_notes import base
from emu.core.errors import EXIT_USAGE, EmuError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.analysis.check_data import Finding


class SuppressionError(EmuError):
    """A file of suppressions cannot be read; the message names it and what is wrong."""

    exit_code = EXIT_USAGE


class Suppression(NamedTuple):
    """Patterns for the rule and for one of the objects concerned."""

    rule: str
    object: str

    def matches(self, finding: Finding) -> bool:
        """Whether the finding is to be hidden."""
        if not fnmatchcase(finding.rule, self.rule):
            return False
        names = [name for path in finding.objects for name in (path, base(path))]
        return self.object == "*" or any(fnmatchcase(name, self.object) for name in names)


def load(path: str) -> list[Suppression]:
    """Read a file. Raises SuppressionError."""
    try:
        with open(path, "rb") as stream:
            table = tomllib.load(stream)
    except OSError as error:
        raise SuppressionError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SuppressionError(f"{path}: {error}") from None
    entries = table.pop("suppression", [])
    if table or not isinstance(entries, list):
        raise SuppressionError(f"{path}: only [[suppression]] tables belong here")
    found = []
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict) or not {"rule"} <= entry.keys() <= {"rule", "object"}:
            raise SuppressionError(
                f"{path}: suppression {number} needs rule, may have object, and nothing else"
            )
        if not all(isinstance(value, str) for value in entry.values()):
            raise SuppressionError(f"{path}: suppression {number}: rule and object are strings")
        found.append(Suppression(entry["rule"], entry.get("object", "*")))
    return found


def split(findings: Sequence[Finding], hidden: Sequence[Suppression]) -> tuple[list[Finding], int]:
    """Return the findings that are shown, and how many are not."""
    shown = [finding for finding in findings if not any(s.matches(finding) for s in hidden)]
    return shown, len(findings) - len(shown)
