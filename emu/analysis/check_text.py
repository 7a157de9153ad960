"""The report of `emu check` as text, and as suppressions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from emu.analysis.check_notes import base
from emu.analysis.frames import readable
from emu.process.backtrace import PYTHON

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.analysis.check_data import Finding, Report
    from emu.analysis.frames import CallFrame

_OUTER = frozenset(
    ("__libc_start_call_main", "__libc_start_main", "_start", "start_thread", "clone3", "__clone3", "_dl_start_user")
)  # fmt: skip
_PLUMBING = frozenset(
    ("_dl_catch_exception", "_dl_catch_error", "_dlerror_run", "dlerror_run", "dlopen_doit", "dlopen_implementation", "dlmopen_doit",
     "dlmopen_implementation")
)  # fmt: skip
_SHOWN = 24
_SIGNAL = 128


def render(report: Report, *, watched: bool = False) -> str:
    """Return the findings and a summary line, with a next step for a run that died of what no rule has found; `watched`: with --watch."""
    texts = [_finding(finding) + "\n" for finding in report.findings]
    if report.ended:
        told = report.ended.splitlines()
        texts.append("\n".join(line for line in told if not line.startswith("    #")) + "\n")
    text = "".join(f"{text}\n" if text.count("\n") > 1 else text for text in texts) + _summary(report) + "\n"
    if report.exit_code > _SIGNAL and report.ended and not watched and not report.findings:
        text += "emu check: --watch may tell why it died: it also sees uses of destroyed thread_locals and of finalised DSOs' data\n"
    return readable(text)


def _finding(finding: Finding) -> str:
    thread = f" (thread {finding.thread})" if finding.thread and finding.frames else ""
    lines = [f"emu check: {finding.severity} [{finding.rule}]{thread}: {finding.message}"]
    lines += frame_lines(finding.frames)
    for place in finding.related:
        lines.append(f"  {place.title} (thread {place.thread})")
        lines += frame_lines(place.frames)
    return "\n".join(lines)


def frame_lines(frames: Sequence[CallFrame]) -> list[str]:
    """Return the frames as indented lines, without those that start a program or a thread, and what lies between libc's dlopen and ours."""
    frames = [frame for frame in frames if _name(frame) not in _PLUMBING]
    while len(frames) > 1 and _name(frames[-1]) in _OUTER:
        frames.pop()
    lines = [_frame(frame) for frame in frames[:_SHOWN]]
    if len(frames) > _SHOWN:
        lines.append(f"      ... {len(frames) - _SHOWN} more frames ...")
    return lines


def _name(frame: CallFrame) -> str:
    return frame.function.partition("+0x")[0].partition("@")[0]


def _frame(frame: CallFrame) -> str:
    source = f" ({base(frame.file)}:{frame.line})" if frame.file else ""
    where = f"{base(frame.object)}+{frame.offset:#x}" if frame.object else f"{frame.offset:#x}"
    if frame.object == PYTHON:
        where = "Python"
    note = f" - {frame.note}" if frame.note else ""
    return f"    at {frame.function or '??'}{source} [{where}]{note}"


def _summary(report: Report) -> str:
    count = len(report.findings)
    parts = [
        f"{n} {severity}{'s' if n != 1 and severity != 'info' else ''}"
        for severity in ("error", "warning", "info")
        if (n := sum(finding.severity == severity for finding in report.findings))
    ]
    found = f"{count} finding{'s' if count != 1 else ''} ({', '.join(parts)})" if count else "no findings"
    hidden = f", {report.suppressed} suppressed" if report.suppressed else ""
    return f"emu check: {report.program}: {found}{hidden}; it ended with {report.exit_code}"


def suppressions(findings: Sequence[Finding]) -> str:
    """Return the TOML that would suppress the findings."""
    pairs = dict.fromkeys(
        (finding.rule, base(finding.objects[0]) if finding.objects else "*") for finding in findings
    )
    return "".join(
        f"[[suppression]]\nrule = {json.dumps(rule)}\nobject = {json.dumps(name)}\n\n" for rule, name in pairs
    )
