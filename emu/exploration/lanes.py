"""A schedule to look at: what each thread does in its turns, where it loses the CPU, and which operations and
accesses to memory of two threads meet, with nothing else that orders them.

The threads' lanes of `emu report` are drawn from that.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Any

from emu.exploration.intent import Intent
from emu.exploration.order import Order
from emu.exploration.races import Detector
from emu.exploration.telling import describe, place_of
from emu.exploration.telling_races import place_of_access, what_lies_at
from emu.machine import regs
from emu.process.steps_followed import FollowedSteps

if TYPE_CHECKING:
    from emu.exploration.races import Access, DataRace
    from emu.process import Process
    from emu.process.steps import Step
    from emu.process.visible import Operation, Thing

MAX_STEPS = 2_000
"""So many steps are drawn; the places of each are looked up."""
_MAX_PAIRS = 2_000
_MAX_ACCESSES = 1_000_000
"""Accesses to memory that are looked at: each takes some microseconds."""


class ScheduleLanes:
    """Watches a process that is about to run under a schedule; `data` tells what was seen. Raises
    UnsupportedError for an engine that does not tell of synchronisation.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._intent = Intent(process, ())
        self._detector = Detector(self._intent.kind, self._raced, most=_MAX_ACCESSES)
        self._steps: list[Step] = []
        self._rows: list[list[Any]] = []
        self._left_out = 0
        self._told: tuple[str, str, int] = ("", "", 0)
        self._preemptions: list[dict[str, Any]] = []
        self._races: list[tuple[Access, int, dict[str, Any]]] = []
        self._counts: dict[int, list[tuple[int, int]]] = {}
        """By thread: the accesses that it had made when it came to a step, and that step."""
        self._followed = FollowedSteps(process, self, self._detector)
        self._followed.watch_memory()

    # -- what the steps tell (emu.process.steps_followed) ----------------------------------------------------

    def reached(self, step: Step) -> None:
        """Look up where a thread is."""
        if len(self._rows) < MAX_STEPS:
            self._told = *self._place(step.operation), self._process.bus.upcoming

    def made(self, step: Step) -> None:
        """Note a step."""
        if len(self._rows) == MAX_STEPS:
            self._left_out += 1
            return
        operation, place, event = self._told if step.operation.pc else ("", "", 0)
        self._counts.setdefault(step.tid, []).append((self._detector.count(step.tid), len(self._rows)))
        self._steps.append(step)
        self._rows.append([step.tid, operation, place, event])

    def preempted(self, tid: int, by: int, before: Step | None) -> None:
        """Note a preemption."""
        if self._left_out:
            return
        operation, place = self._told[:2] if before is not None else ("", self._place(None)[1])
        self._preemptions.append(
            {"at": len(self._rows), "thread": tid, "next": by, "operation": operation, "place": place}
        )

    def _place(self, operation: Operation | None) -> tuple[str, str]:
        """Return what the running thread is about to do, and where it is in the program's own code."""
        process = self._process
        pc = operation.pc if operation is not None else process.cpu.get(regs.RIP)
        frames = process.resolve(process.capture(process.kernel.scheduler.current, pc=pc))
        return describe(process, operation, frames) if operation is not None else "", place_of(frames)

    def _raced(self, race: DataRace) -> bool:
        """Two accesses to memory are not ordered, unless they are meant to be so."""
        meant = [
            a.pc
            for a in race
            if self._intent.kind(a.pc) != "atomic" and self._intent.is_meant(a.pc, a.address)
        ]
        self._intent.learn(tuple(meant))
        if not meant and len(self._races) < _MAX_PAIRS:
            told = {
                "race": True, "of": what_lies_at(self._process, race.second.address),
                "first": self._access(race.first), "second": self._access(race.second),
            }  # fmt: skip
            self._races.append((race.first, max(len(self._rows) - 1, 0), told))
        return True

    def _access(self, access: Access) -> str:
        return f"{'writes' if access.write else 'reads'} {place_of_access(self._process, access)}"

    @property
    def lost(self) -> str:
        """Why the lanes are not whole; empty if they are."""
        return self._followed.lost

    # -- the answer ------------------------------------------------------------------------------------------

    def data(self) -> dict[str, Any]:
        """Return the lanes after the run: `rows` of steps (thread, operation, place, event; a turn begins
        with one that has no operation), `preemptions` before row `at`, and `conflicts` of two rows.
        """
        self._followed.flush()
        conflicts = [self._race(*one) for one in self._races]
        for first, second in Order(self._steps).races[: _MAX_PAIRS - len(conflicts)]:
            conflicts.append(
                {
                    "rows": [first, second], "race": False, "of": self._shared(self._steps[first], self._steps[second]),
                    "first": " in ".join(self._rows[first][1:3]), "second": " in ".join(self._rows[second][1:3]),
                }
            )  # fmt: skip
        return {
            "rows": self._rows, "left_out": self._left_out, "preemptions": self._preemptions, "conflicts": conflicts,
        }  # fmt: skip

    def _race(self, first: Access, second: int, told: dict[str, Any]) -> dict[str, Any]:
        counts = self._counts.get(first.tid, [])
        at = bisect_left(counts, (first.number, 0)) - 1
        return {"rows": [counts[max(at, 0)][1] if counts else 0, second], **told}

    def _shared(self, first: Step, second: Step) -> str:
        """Return what two operations have in common, for people."""
        ours, theirs = first.operation, second.operation
        written = {*ours.writes, *theirs.writes}
        both = {*ours.reads, *ours.writes} & {*theirs.reads, *theirs.writes} & written
        names = {self._thing(thing) for thing in both}
        return ", ".join(sorted(names))

    def _thing(self, thing: Thing) -> str:
        if isinstance(thing, int):
            return what_lies_at(self._process, thing << 3)
        if isinstance(thing, str):
            return thing
        kind, number = thing
        return (
            f"who waits for {what_lies_at(self._process, number)}"
            if kind == "futex"
            else f"descriptor {number}"
        )
