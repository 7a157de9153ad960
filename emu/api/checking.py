"""What `emu check` finds in a process that Python holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.api.errors import Error
from emu.api.views import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.analysis.check_data import Finding, Report
    from emu.core.events import EventBus
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
    """The checker of one process, which has not begun to load. Raises Error for a rule that does not exist."""

    def __init__(self, process: Process, bus: EventBus, rules: bool | Sequence[str]) -> None:
        from emu.analysis.check import Checker, chosen_rules

        try:
            chosen = chosen_rules(() if isinstance(rules, bool) else rules, ())
        except ValueError as error:
            raise Error(str(error)) from None
        self.checker = Checker(process, bus, chosen)

    def findings(self, status: int | None, ended: str) -> Findings:
        """Return the findings; `status` is None as long as the process goes on: what only its end shows is left out then."""
        from emu.analysis.check_data import Report

        if status is not None:
            return Findings(self.checker.report(status, ended))
        program = self.checker.process.config.program
        return Findings(Report(program, 0, "", tuple(self.checker.findings()), 0))
