"""What a schedule does, for people: each place where a thread loses the CPU though
it could go on, and what it was about to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from emu.analysis.frames import CallFrame, call_frames, user_frame, where
from emu.exploration.choosers import Request

if TYPE_CHECKING:
    from emu.exploration.data import Ran
    from emu.exploration.session import ExplorationSession
    from emu.process import Process
    from emu.process.backtrace import FrameInfo
    from emu.process.steps import Chooser, Point, Step
    from emu.process.visible import Operation


@dataclass(frozen=True, slots=True)
class Preemption:
    """Thread `thread` (`name`) loses the CPU to `next` before `operation`;
    `place` is where it is in the program's own code, `frames` how it got there.
    """

    step: int
    thread: int
    name: str
    next: int
    place: str
    operation: str
    frames: tuple[CallFrame, ...]


class Teller:
    """Directs a run as `chooser` does, and notes its preemptions."""

    def __init__(self, process: Process, chooser: Chooser) -> None:
        self._process, self._chooser = process, chooser
        self.preemptions: list[Preemption] = []

    def choose(self, point: Point) -> int:
        """Return what the other chooser does."""
        chosen = self._chooser.choose(point)
        if point.current and chosen != point.current:
            self._note(point, chosen)
        return chosen

    def made(self, step: Step) -> None:
        """Pass it on."""
        self._chooser.made(step)

    def _note(self, point: Point, chosen: int) -> None:
        process = self._process
        operation = point.pending[point.current]
        frames = process.resolve(process.capture(pc=operation.pc))
        task = process.kernel.tasks[point.current]
        self.preemptions.append(
            Preemption(
                point.number, task.tid, task.name, chosen, place_of(frames), describe(process, operation, frames),
                call_frames(frames),
            )
        )  # fmt: skip


def place_of(frames: list[FrameInfo]) -> str:
    """Return where a thread is in the program's own code: function (file:line)."""
    frame = user_frame(frames)
    return f"{frame.function or '??'} ({where(frame)})" if frame is not None else "??"


def describe(process: Process, operation: Operation, frames: list[FrameInfo]) -> str:
    """Return what an operation is, in a few words:
    the function of a library that the program has called, or the operation itself.
    """
    mine = user_frame(frames)
    called = ""
    if mine is not None:
        inner = [f for f in frames[: frames.index(mine)] if f.function and not f.inlined]
        called = inner[-1].function if inner else ""
    thing = next((t for t in (*operation.writes, *operation.reads) if isinstance(t, int)), None)
    variable = process.symbols.variable(thing << 3) if thing is not None else ""
    name = f"{operation.name} of {variable}" if variable else operation.name
    return f"{called}: {name}" if called and called != operation.name else name


def tell(session: ExplorationSession, ran: Ran) -> tuple[Preemption, ...]:
    """Make a run again, and return its preemptions."""
    request = Request("guided", tuple(step.tid for step in ran.steps))
    teller = Teller(session.process, request.chooser())
    session.run(teller)
    return tuple(teller.preemptions)
