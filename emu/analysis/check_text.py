"""The report of `emu check` as text, and as suppressions."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from emu.analysis.check_notes import base
from emu.analysis.frames import PLUMBING, readable
from emu.core.text import printable
from emu.kernel.abi import PID
from emu.process.backtrace import PYTHON
from emu.process.folding import folded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.analysis.check_data import ConflictReport, Finding, ProcessEnd, Report
    from emu.analysis.frames import CallFrame

_OUTER = frozenset(
    ("__libc_start_call_main", "__libc_start_main", "_start", "start_thread", "clone3", "__clone3", "_dl_start_user")
)  # fmt: skip
_ENDS = ("died", "not-loaded", "not-finished")
"""Rules whose message is how the run ended."""
_NUMBERED = re.compile(r"unloaded at #\d+ by ")
"""A number of an event says nothing without a trace."""
_SHOWN = 24
_SIGNAL = 128


def render(report: Report, *, watched: bool = False, every: bool = False) -> str:
    """Return the findings and a summary line, with a next step for a run that died of what no rule has found;
    `watched`: with --watch.
    """
    first = [finding for finding in report.findings if not finding.process]
    texts = [finding_text(finding, every=every) + "\n" for finding in first]
    if report.ended and not any(finding.rule in _ENDS for finding in first):
        told = report.ended.splitlines()
        shown = (
            told
            if "deadlock:" in told[0]
            else [line for line in told if not line.startswith(("    #", "    ..."))]
        )
        texts.append("\n".join(shown) + "\n")
    text = "".join(f"{text}\n" if text.count("\n") > 1 else text for text in texts)
    text += of_children(report, every=every) + summary(report) + "\n"
    for one in report.failed_opens:
        text += f"emu check: dlopen of {one.file} failed at {one.place}: {one.error}\n"
        text += f"emu check: {one.command} tells why, and tries what helps\n"
    undiscovered = all(finding.rule == "died" and not finding.remedies for finding in first)
    if report.exit_code > _SIGNAL and report.watch_may_tell and not watched and undiscovered:
        text += "emu check: --watch may tell why it died: it also sees uses of destroyed thread_locals and of finalised DSOs' data\n"
    return readable(_NUMBERED.sub("unloaded by ", text))


def of_children(report: Report | ConflictReport, command: str = "emu check", *, every: bool = False) -> str:
    """Return a section for each other process in which something was found, told by `command`; `every`:
    with the libraries' own frames.
    """
    ends = {end.process: end for end in report.processes}
    text = ""
    for process in dict.fromkeys(finding.process for finding in report.findings if finding.process):
        end = ends[process]
        parent = ends[end.parent].program if end.parent in ends else report.program
        text += f"{command}: process {process} ({end.program}), child of {end.parent} ({parent}), {_ended(end)}:\n"
        mine = [finding for finding in report.findings if finding.process == process]
        text += "".join(finding_text(finding, command, every=every) + "\n\n" for finding in mine)
    return text


def _ended(end: ProcessEnd) -> str:
    if end.exit_code < 0:
        return "which outlives the first process"
    return f"which ended with {end.exit_code}"


def finding_text(finding: Finding, command: str = "emu check", *, every: bool = False) -> str:
    """Return one finding with its places and remedies, told by `command`; threads are named where one of
    them is not the first; `every`: with the library's own frames.
    """
    named = {finding.thread, *(place.thread for place in finding.related)} - {finding.process or PID, 0}
    thread = f" (thread {finding.thread})" if named and finding.thread and finding.frames else ""
    lines = [f"{command}: {finding.severity} [{finding.rule}]{thread}: {finding.message}"]
    lines += frame_lines(finding.frames, every)
    for place in finding.related:
        lines.append(f"  {place.title}" + (f" (thread {place.thread})" if named else ""))
        lines += frame_lines(place.frames, every)
    if finding.remedies:
        lines.append("  what would help (not tried here):")
        lines += [f"    * {remedy}" for remedy in finding.remedies]
    return _NUMBERED.sub("unloaded by ", "\n".join(lines))


def frame_lines(frames: Sequence[CallFrame], every: bool = False) -> list[str]:
    """Return the frames as indented lines, without those that start a program or a thread, and what lies
    between libc's dlopen and ours.

    What repeats, or runs in a language's own library, is folded; nothing is left out with `every`.
    """
    if every:
        return list(map(_frame, frames))
    frames = [frame for frame in frames if _name(frame) not in PLUMBING]
    while len(frames) > 1 and _name(frames[-1]) in _OUTER:
        frames.pop()
    lines = [f"      {frame}" if isinstance(frame, str) else _frame(frame) for frame in folded(frames)]
    if len(lines) > _SHOWN:
        lines[_SHOWN:] = [f"      ... {len(lines) - _SHOWN} more frames ..."]
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


def summary(report: Report | ConflictReport, command: str = "emu check") -> str:
    """Return the line about the whole run, told by `command`."""
    count = len(report.findings)
    parts = [
        f"{n} {severity}{'s' if n != 1 and severity != 'info' else ''}"
        for severity in ("error", "warning", "info")
        if (n := sum(finding.severity == severity for finding in report.findings))
    ]
    nothing = "nothing that the chosen rules find" if report.ended else "no findings"
    found = f"{count} finding{'s' if count != 1 else ''} ({', '.join(parts)})" if count else nothing
    hidden = f", {report.suppressed} suppressed" if report.suppressed else ""
    others = len({end.process for end in report.processes})
    more = f"; {others} more process{'es' if others > 1 else ''} checked" if others else ""
    return f"{command}: {printable(report.program)}: {found}{hidden}; it ended with {report.exit_code}{more}"


def suppressions(findings: Sequence[Finding]) -> str:
    """Return the TOML that would suppress the findings."""
    pairs = dict.fromkeys(
        (finding.rule, base(finding.objects[0]) if finding.objects else "*") for finding in findings
    )
    return "".join(suppression(rule, name) for rule, name in pairs)


def suppression(rule: str, name: str, symbol: str = "*") -> str:
    """Return the TOML that suppresses what a rule finds in the object of that name, and on that symbol."""
    on = f"symbol = {json.dumps(symbol)}\n" if symbol != "*" else ""
    return f"[[suppression]]\nrule = {json.dumps(rule)}\nobject = {json.dumps(name)}\n{on}\n"
