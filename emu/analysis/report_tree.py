"""`emu report` over all processes of a run: the data of each, those of the first with the others in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emu.analysis.follow import Follow
from emu.analysis.report import RunReport
from emu.kernel.abi import signal_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.analysis.follow import Followed, FollowedEnd
    from emu.process import Process, Result

MAX_PROCESSES = 100
"""So many other processes are told of."""

_SHARE = 10
"""A child's list of events has this part of the room that the first process's has."""
_SIGNAL = 128


class TreeReport:
    """Watches the processes of a run, `whom` of `emu.analysis.follow`, from before the first's `load` on."""

    def __init__(self, process: Process, limit: int, whom: str, version: str) -> None:
        self._limit, self._version = limit, version
        self._program, self._arguments = process.config.program, list(process.config.args)
        self._told: list[dict[str, Any]] = []
        self._left_out = 0
        self._follow = Follow(process, RunReport(process, limit), whom, self._begin, self._over)

    def _begin(self, process: Process) -> RunReport:
        return RunReport(process, max(self._limit // _SHARE, 1) if process.number else self._limit)

    def run(self, begun: Callable[[], None] = lambda: None) -> Result:
        """Load and run the program; `begun` is called before its first instruction. Raises EmuError."""
        return self._follow.first.run(begun)

    def data(self, ended: str) -> dict[str, Any]:
        """Return everything after the run; `ended` says how the first process ended."""
        data = self._follow.first.data(ended, self._version)
        processes = {"rows": self._told, "left_out": self._left_out}
        return {**data, "process": 0, "parent": 0, "processes": processes}

    def _over(self, entry: Followed[RunReport], process: Process, ending: FollowedEnd) -> bool:
        """Keep what was seen of a process that is over, or of a program that makes room for another."""
        if len(self._told) == MAX_PROCESSES:
            self._left_out += 1
            return False
        data = entry.observer.over(_said(ending), self._version, died=ending.died, report=ending.text)
        self._told.append(
            {**data, "program": entry.program, "process": entry.process, "parent": entry.parent}
        )
        return False


def _said(ending: FollowedEnd) -> str:
    """Return how a process ended, in a few words."""
    if ending.status is None:
        return ending.text or "it executed another program"
    if ending.text and ending.status > _SIGNAL:
        return f"killed by {signal_name(ending.status - _SIGNAL)} (exit code {ending.status})"
    return f"exit code {ending.status}"
