"""The answer of `emu conflicts`: the findings about names, the most harmful first,
and what is meant to be interposed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.analysis.check_data import CONFLICT_RULES, END_RULES, SEVERITIES, ConflictReport, Interposed
from emu.analysis.check_text import finding_text, of_children, summary
from emu.analysis.frames import readable
from emu.elf.demangle import demangle

if TYPE_CHECKING:
    from emu.analysis.check_data import Finding, Report

_NAMES = 8


def conflict_report(report: Report, meant: dict[str, set[bytes]]) -> ConflictReport:
    """Return the report of a run, sorted by harm, with the names that were interposed as they should be."""
    order = {rule: number for number, rule in enumerate(CONFLICT_RULES)}

    def harm(finding: Finding) -> tuple[bool, int, int]:
        return finding.rule in END_RULES, SEVERITIES.index(finding.severity), order[finding.rule]

    intended = tuple(
        Interposed(
            kind, len(names), tuple(demangle(n.decode(errors="replace")) for n in sorted(names)[:_NAMES])
        )
        for kind, names in sorted(meant.items())
    )
    findings = tuple(sorted(report.findings, key=harm))
    return ConflictReport(
        report.program,
        report.exit_code,
        report.ended,
        findings,
        intended,
        report.suppressed,
        report.processes,
    )


def render(report: ConflictReport, *, every: bool = False) -> str:
    """Return the report as text: the findings, and one line; `every`: with the libraries' own frames."""
    first = [finding for finding in report.findings if not finding.process]
    texts = [finding_text(finding, "emu conflicts", every=every) + "\n\n" for finding in first]
    texts.append(of_children(report, "emu conflicts", every=every))
    line = summary(report, "emu conflicts")
    if report.meant:
        line += "; meant to be interposed: " + ", ".join(
            f"{kind.kind} ({kind.count})" for kind in report.meant
        )
    return readable("".join(texts) + line + "\n")
