"""What `emu check` finds in a process that Python holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.api.errors import Error
from emu.api.views import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.analysis.check_data import Finding, Report
    from emu.process import Process


class Findings(Table["Finding"]):
    """Findings in the order of their discovery. `repr` is the report of `emu check`."""

    head = ("severity", "rule", "message", "objects")

    def __init__(self, report: Report) -> None:
        super().__init__(report.findings)
        self.report = report

    def row(self, item: Finding) -> tuple[str, ...]:
        """Return the cells of a finding."""
        return item.severity, item.rule, item.message, " ".join(item.objects)

    def __repr__(self) -> str:
        from emu.analysis.check_text import render

        return render(self.report).rstrip("\n")


class Checked:
    """The checker of a process, which has not begun to load, and of those that it starts.

    Raises Error for a rule that does not exist.
    """

    def __init__(self, process: Process, rules: bool | Sequence[str]) -> None:
        from emu.analysis.check import chosen_rules
        from emu.analysis.check_tree import TreeChecker

        try:
            chosen = chosen_rules(() if isinstance(rules, bool) else rules, ())
        except ValueError as error:
            raise Error(str(error)) from None
        self._program = process.config.program
        self.checker = TreeChecker(process, chosen, "all")

    def findings(self, status: int | None, ended: str) -> Findings:
        """Return the findings; `status` is None as long as the process goes on:
        what only its end shows is left out then.
        """
        from emu.analysis.check_data import Report

        if status is not None:
            return Findings(self.checker.report(status, ended))
        return Findings(Report(self._program, 0, "", tuple(self.checker.findings()), 0))
