"""The rule about threads that run in the code of a DSO that is being closed.

When an object is about to be unmapped, its own destructors having had their say, each other thread's
backtrace is looked at.
Source: dlclose(3): nothing stops or joins a thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.analysis.check_data import ERROR
from emu.analysis.check_notes import NOWHERE, Notes, Occasion, base
from emu.core.record import NamedTuple

if TYPE_CHECKING:
    from emu.core.dl_events import Unloading
    from emu.core.events import Record
    from emu.core.task_events import ThreadCreated
    from emu.process.backtrace import Captured
    from emu.rtld.address_index import Departed

RULE = "thread-runs-in-closed"
_NOT_BEGUN = 2
"""Frames of a thread that has not reached its start routine yet."""


class _Left(NamedTuple):
    """A thread that was in an object when that went: what is said of it, and where it was."""

    message: str
    place: Occasion
    related: tuple[tuple[str, Occasion], ...]
    objects: tuple[str, ...]


class ThreadChecks:
    """Knows where each thread was started, and which were left in an object that is gone."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._started: dict[int, Occasion] = {}
        self._routines: dict[int, int] = {}
        self._asked: dict[int, int] = {}
        self._before: dict[tuple[int, str], list[Captured]] = {}
        self._left: dict[int, dict[tuple[int, int], _Left]] = {}

    def linked(self) -> None:
        """Watch pthread_create; libc is linked and has not run."""
        if RULE in self._notes.rules:
            self._notes.watch_libc(b"pthread_create", self._creates)

    def _creates(self) -> None:
        self._asked[self._notes.task()] = self._notes.argument(2)

    def created(self, record: Record, event: ThreadCreated) -> None:
        """A thread began: keep the place."""
        self._started[event.thread] = self._notes.here()
        self._routines[event.thread] = self._asked.pop(record.task, 0)

    def unloading(self, event: Unloading) -> None:
        """An object is going to be finalised and unmapped: keep the backtraces that lead through it,
        which can be walked for the last time.
        """
        notes, process = self._notes, self._notes.process
        map_ = notes.map_named(event.name, event.namespace)
        if RULE not in notes.rules or map_ is None:
            return
        for task in list(process.kernel.tasks.values()):
            if task.tid != notes.task() and task.context is not None:
                frames = process.capture(task)
                if any(map_.contains(frame.frame.pc) for frame in frames):
                    self._before[task.tid, event.name] = frames

    def unloaded(self, gone: Departed) -> None:
        """An object has been finalised and is about to be unmapped: who is still in it?"""
        notes, process = self._notes, self._notes.process
        if RULE not in notes.rules:
            return
        for task in list(process.kernel.tasks.values()):
            if task.tid == notes.task() or task.context is None:
                continue
            before = self._before.pop((task.tid, gone.name), [])
            frames = process.capture(task)
            inside = next(
                (frame.frame.place for frame in frames if gone.start <= frame.frame.pc < gone.end), 0
            )
            routine = self._routines.get(task.tid, 0)
            if not inside and len(frames) <= _NOT_BEGUN and gone.start <= routine < gone.end:
                inside = routine
            if not inside:
                continue
            started = self._started.get(task.tid, NOWHERE)
            line = notes.line(started)
            begun = f", started at {line} in {notes.function(started)}," if line else ""
            message = f"thread {task.tid}{begun} was in {notes.function_in(gone, inside)} of {base(gone.name)} when that was unloaded"
            unloaded = notes.unloaded.get((gone.start, gone.end), NOWHERE)
            place = Occasion(task.tid, tuple(before or frames), notes.now())
            left = _Left(message, place, (("started by", started), ("unloaded by", unloaded)), (gone.name,))
            self._left.setdefault(task.tid, {})[gone.start, gone.end] = left
            self._report(left, task.tid, gone, "")

    def _report(self, left: _Left, tid: int, gone: Departed, severity: str) -> None:
        self._notes.report(
            RULE, left.message, left.place, left.related, left.objects, key=(tid, gone.start, gone.name), severity=severity,
            remedies=[f"join the thread before {base(gone.name)} is closed, in a function that the host calls first (in a destructor only if the thread calls"
                      " no dlopen, dlsym or dlclose by then: dlclose holds the loader's lock)",
                      f"do not close {base(gone.name)} as long as the thread runs"],
        )  # fmt: skip

    def returned(self, gone: Departed, signal: str) -> bool:
        """A fault in an object that is gone: was the running thread left in it?

        Then that is an error, and it is said so.
        """
        tid = self._notes.task()
        left = self._left.get(tid, {}).get((gone.start, gone.end))
        if left is None:
            return False
        self._report(left._replace(message=f"{left.message}: {signal}"), tid, gone, ERROR)
        return True
