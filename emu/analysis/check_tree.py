"""`emu check` over all processes of a run: a checker for each, and one report."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from emu.analysis.check import Checker
from emu.analysis.check_data import Finding, OpenFailure, ProcessEnd, Report
from emu.analysis.follow import Follow

if TYPE_CHECKING:
    from emu.analysis.follow import Followed, FollowedEnd
    from emu.process import Process


class TreeChecker:
    """Checks the processes of a run, `whom` of `emu.analysis.follow`, whose first has not begun to load."""

    def __init__(self, process: Process, rules: frozenset[str], whom: str, *, watch: bool = False) -> None:
        self._rules, self._watch, self._program = rules, watch, process.config.program
        self._findings: list[Finding] = []
        self._processes: list[ProcessEnd] = []
        self._failed: list[OpenFailure] = []
        self._parents: dict[int, int] = {}
        self._watchable = False
        self._meant: dict[str, set[bytes]] = {}
        self._follow = Follow(process, self._begin(process), whom, self._begin, self._over)

    def _begin(self, process: Process) -> Checker:
        return Checker(process, process.bus, self._rules, watch=self._watch)

    @property
    def first(self) -> Checker:
        """The checker of what the first process runs now."""
        return self._follow.first

    def run(self) -> Report:
        """Load and run the program, and report. Raises EmuError for a program that cannot be loaded at
        all.
        """
        ended = self.first.go()
        return self._whole(
            self.first.close(*ended)
        )  # of another checker, if the first process has executed a program

    def report(self, status: int, ended: str) -> Report:
        """Return the report of a run that somebody else has made, see `Checker.report`."""
        return self._whole(self.first.report(status, ended))

    def findings(self) -> list[Finding]:
        """Return what was found so far, in processes that go on only in the first."""
        first = [*(found for found in self._findings if not found.process), *self.first.findings()]
        return [*first, *self._of_children(first)]

    def meant(self) -> dict[str, set[bytes]]:
        """Return by kind of intention the names that are interposed as they should be, in any process."""
        self._note_meant(self.first)
        return self._meant

    def _note_meant(self, checker: Checker) -> None:
        for kind, names in checker.conflicts.meant.items():
            self._meant.setdefault(kind, set()).update(names)

    def _whole(self, report: Report) -> Report:
        first = [*(found for found in self._findings if not found.process), *report.findings]
        return replace(
            report,
            program=self._program,
            findings=(*first, *self._of_children(first)),
            failed_opens=tuple(dict.fromkeys((*report.failed_opens, *self._failed))),
            watch_may_tell=report.watch_may_tell or self._watchable,
            processes=tuple(self._processes),
        )

    def _of_children(self, first: list[Finding]) -> list[Finding]:
        """Return the children's findings without what was found in who forked them as well, after the
        fork.
        """
        known = {0: {(found.rule, found.message) for found in first}}
        for found in self._findings:
            known.setdefault(found.process, set()).add((found.rule, found.message))
        kept = []
        for found in self._findings:
            parent = self._parents.get(found.process)
            if found.process and (found.rule, found.message) not in known.get(
                -1 if parent is None else parent, ()
            ):
                kept.append(found)
        return kept

    def _over(self, entry: Followed[Checker], process: Process, ending: FollowedEnd) -> bool:
        """Take what was found in a process that is over."""
        report = entry.observer.end(ending.status, ending.text, died=ending.died)
        self._note_meant(entry.observer)
        self._findings += [replace(found, process=entry.number) for found in report.findings]
        self._failed += report.failed_opens
        self._watchable |= report.watch_may_tell
        if entry.number:
            code = -1 if ending.status is None else ending.status
            end = ProcessEnd(entry.process, entry.parent, entry.program, code, ending.text)
            self._processes.append(end)
            if entry.forked:
                first = process.tree.leader.kernel.pid
                self._parents[entry.number] = 0 if entry.parent == first else entry.parent
        return any(found.rule == "died" for found in report.findings)
