"""The past of a guest under a debugger: snapshots taken as the run goes, and
deterministic re-execution from them.

A place of the past is reached by the last snapshot before it and by running on from there; what came from
outside comes from the journal. So any place can be reached, also where no snapshot can be taken (inside
dlopen, in a destructor that _dl_fini calls). Snapshots are some milliseconds of run apart; older ones are
thinned out, so that their number goes with the logarithm of the run's length once memory is short. What the
user changes is kept with its place, and done again when the run comes by.

One piece: going forwards leaves the marks that going backwards needs.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from emu.core.errors import UnsupportedError
from emu.core.record import NamedTuple
from emu.gdb.stop import Stop
from emu.gdb.watches import Watches
from emu.machine import regs
from emu.machine.arena import PAGE_SIZE
from emu.machine.engine import FAR
from emu.process.snapshot import ProcessSnapshot, Reopen, SnapshotError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from emu.gdb.catches import Catches
    from emu.gdb.execution import Execution, Key
    from emu.gdb.watches import Watch

_APART = 0.012
"""Seconds of run between two snapshots."""
_SHARE = 8
"""A snapshot may cost that part of the run between two."""
_FIRST_STEP, _MOST_STEP = 50_000, 50_000_000
_OVERHEAD = 1 << 20
"""What a snapshot holds beside the guest's memory, about, in bytes."""
_NEAR, _FAR_OFF = 300, 30_000
"""Who goes that many blocks leaves a snapshot so many blocks before the place:
whoever steps back will step back again.
"""
BEGIN = "begin"


class _Mark(NamedTuple):
    """A snapshot in the run: where it is, and how far the journal and the events were."""

    key: Key
    blocks: int
    cursor: int
    events: int
    changes: int
    snapshot: ProcessSnapshot
    size: int


class _Change(NamedTuple):
    """What the user changed at a place."""

    key: Key
    do: Callable[[], None]


class _Hit(NamedTuple):
    """Something that would have stopped the run at a place of the past."""

    key: Key
    stop: Stop


class Timeline:
    """The history of one execution, which holds at most `limit` bytes.

    `why_not` says why there is none, empty if there is.

    `in_past` tells whether the run has been further than it is now.

    `tell` takes lines for the user; `roots` are further objects whose state belongs to the guest's.
    """

    def __init__(
        self,
        execution: Execution,
        catches: Catches,
        limit: int,
        tell: Callable[[str], None],
        reopen: Reopen = lambda generator: None,
        roots: tuple[object, ...] = (),
    ) -> None:
        self.execution, self._catches, self._limit, self._tell, self._reopen = (
            execution,
            catches,
            limit,
            tell,
            reopen,
        )
        self._roots = roots
        self._pages: dict[Key, tuple[set[int], set[int]]] = {}
        self._observed: Key | None = None
        self._marks: list[_Mark] = []
        self._changes: list[_Change] = []
        self._changed = 0
        self._step = _FIRST_STEP
        self._since = time.perf_counter()
        self._place = self._horizon = self._before = (0, 0)
        self.in_past = False
        self._hits: list[_Hit] | None = None
        self.why_not = "" if limit else "--history 0"
        if execution.process.config.writable:
            self.why_not = "what is written to --writable directories cannot be taken back"
        execution.on_record = self._recorded
        execution.before_access = self._accessing
        execution.watch_stops = self._watch_stops
        if not self.why_not:
            self._mark()
        self._arrived(execution.standing())

    # -- forwards --------------------------------------------------------------------------------------------

    def resume(self, signal: int) -> Stop:
        """Run on, leaving snapshots, until something stops the guest."""
        execution = self.execution
        self._decide(signal)
        self._go_on_unseen()
        self._change_here()
        while True:
            until, change = self._next_count(), self._next_change()
            if change is not None:
                until = min(until, change.key[0])
            stop = execution.resume(signal, until)
            signal = 0
            if stop.reason != "reached":
                return self._arrived(stop)
            if change is not None and execution.port.count >= change.key[0]:
                self._finish_block(change.key)
                if execution.key[1] in execution.breakpoints:
                    return self._arrived(Stop(execution.task.tid, reason="swbreak"))
                self._change_here()
            elif not self.why_not:
                self._mark()

    def step(self, tid: int, signal: int, inside: tuple[int, int] | None) -> Stop:
        """Run one instruction of a thread, or until it leaves a range of code."""
        self._decide(signal)
        self._go_on_unseen()
        self._change_here()
        return self._arrived(self.execution.step(tid, signal, inside))

    def _arrived(self, stop: Stop) -> Stop:
        self._place = self.here
        if not self.in_past or self._place >= self._horizon:
            self.in_past, self._horizon = False, self._place
        return stop

    def _went(self) -> None:
        self._place = self.here
        self.in_past = self._place < self._horizon

    @property
    def here(self) -> Key:
        """Where the run is; behind all places once the process is over."""
        if self.execution.ended is not None:
            return self.execution.port.count + 1, 0
        return self.execution.key

    def _decide(self, signal: int) -> None:
        """Another answer to a signal than was given before makes another future."""
        execution = self.execution
        if execution.kept is not None and execution.journal.repeats:
            if execution.journal.peek() != signal:
                self._cut()

    # -- snapshots -------------------------------------------------------------------------------------------

    def _next_count(self) -> int:
        if self.why_not:
            return FAR
        here = self.execution.port.count
        ahead = next((mark.blocks for mark in self._marks if mark.blocks > here), FAR)
        return here + self._step if ahead > here + 2 * self._step else FAR

    def _mark(self) -> None:
        """Leave a snapshot here, if one can be taken."""
        execution = self.execution
        began = time.perf_counter()
        ran = began - self._since
        try:
            snapshot = ProcessSnapshot(execution.process, self._reopen, self._roots, [execution, self])
        except SnapshotError:
            self._since = time.perf_counter()
            return
        except UnsupportedError as error:
            self.why_not = str(error)
            return
        cost = time.perf_counter() - began
        wanted = max(_APART, cost * _SHARE)
        if len(self._marks) and ran > 0:
            factor = min(max(wanted / ran, 0.5), 2.0)
            self._step = int(min(max(self._step * factor, 1000), _MOST_STEP))
        mark = _Mark(
            execution.key,
            execution.port.count,
            execution.journal.cursor,
            self._catches.told,
            self._changed,
            snapshot,
            snapshot.size + _OVERHEAD,
        )
        index = next((n for n, other in enumerate(self._marks) if other.key >= mark.key), len(self._marks))
        self._observe()
        if index == len(self._marks) or self._marks[index].key != mark.key:
            self._marks.insert(index, mark)
            self._observed = mark.key if index == len(self._marks) - 1 else None
        self._thin()
        self._since = time.perf_counter()

    def _observe(self) -> None:
        """Note which pages were executed and written since the last snapshot, if
        the run has come straight from there.
        """
        fetched, stored = self.execution.port.touched()
        if self._observed is not None:
            before = self._pages.get(self._observed, (set(), set()))
            self._pages[self._observed] = before[0] | fetched, before[1] | stored

    def _go_on_unseen(self) -> None:
        """What comes behind the last snapshot is not known any more, if the run goes there a second time."""
        if self._observed is None and self._marks:
            self._pages.pop(self._marks[-1].key, None)

    def _skips(self, mark: _Mark) -> bool:
        """Whether nothing between a snapshot and the next can have stopped the run:
        no page of a breakpoint was executed, none watched was written.
        """
        pages, execution, catches = self._pages.get(mark.key), self.execution, self._catches
        if pages is None or catches.wanted:
            return False
        watched = execution.watches.pages()
        codes = {address & -PAGE_SIZE for address in execution.breakpoints}
        return not (any(watched.values()) or codes & pages[0] or watched.keys() & pages[1])

    def _thin(self) -> None:
        """Give up snapshots until the rest is small enough:
        of those that are old, every other one goes first.
        """
        held = sum(mark.size for mark in self._marks)
        while held > self._limit and len(self._marks) > 2:
            now = self._marks[-1].blocks + 1

            def worth(n: int, now: int = now) -> float:
                gap = self._marks[n + 1].blocks - self._marks[n - 1].blocks
                return gap / (now - self._marks[n].blocks)

            index = min(range(1, len(self._marks) - 1), key=worth)
            gone = self._marks.pop(index)
            held -= gone.size
            pages, before = self._pages.pop(gone.key, None), self._marks[index - 1].key
            if pages is not None and before in self._pages:
                self._pages[before] = self._pages[before][0] | pages[0], self._pages[before][1] | pages[1]
            else:
                self._pages.pop(before, None)

    @property
    def held(self) -> tuple[int, int]:
        """How many snapshots there are, and how many bytes they hold."""
        return len(self._marks), sum(mark.size for mark in self._marks)

    # -- changes by hand -------------------------------------------------------------------------------------

    def changes(self, do: Callable[[], None]) -> None:
        """Do something to the guest that its own run would not have done, now and
        whenever the run comes by.
        """
        if self.why_not:
            do()
            return
        if self.in_past:
            self._cut()
        do()
        self._changes.append(_Change(self._place, do))
        self._changed += 1

    def _cut(self) -> None:
        """Forget the future: another one begins here."""
        self._marks = [mark for mark in self._marks if mark.key <= self._place]
        self._pages.pop(self._marks[-1].key, None)
        del self._changes[self._changed :]
        self.execution.journal.cut()
        self._catches.cut()
        self._horizon, self.in_past = self._place, False
        self._tell("emu: the past was changed: what came after it is forgotten, a new future begins here")

    def _next_change(self) -> _Change | None:
        return self._changes[self._changed] if self._changed < len(self._changes) else None

    def _change_again(self, change: _Change) -> None:
        """Go on to the instruction where something was changed, and change it again."""
        self._finish_block(change.key)
        self._change_here()

    def _change_here(self) -> None:
        here = self.execution.key
        while (change := self._next_change()) is not None and change.key <= here:
            change.do()
            self._changed += 1

    # -- backwards -------------------------------------------------------------------------------------------

    def go(self, key: Key) -> None:
        """Go to a place of the past, or of the future as far as it is known."""
        self._restore(next((m for m in reversed(self._marks) if m.key <= key), self._marks[0]))
        self._run_to(key)
        if not key[1]:
            self.execution.leave_stub()
        self._went()

    def back(self) -> Stop:
        """Go back to the last place where a breakpoint, a watched access or a catchpoint would have stopped
        the run, or to its beginning.
        """
        execution, end = self.execution, self.here
        self._observe()
        for mark in [mark for mark in reversed(self._marks) if mark.key < end]:
            for hit in reversed([] if self._skips(mark) else self._replay(mark, end)):
                self.go(hit.key)
                if self.here < end:
                    return hit.stop._replace(tid=execution.task.tid)
            end = mark.key
        return self._at_begin()

    def step_back(self, tid: int) -> Stop:
        """Go back by one instruction of a thread."""
        here, distance = self.here, 1
        while True:
            start = max(here[0] - distance, self._marks[0].blocks)
            last = self._last_step(tid, (start, 0), here)
            if last is not None:
                self.go(last)
                return Stop(tid)
            if start == self._marks[0].blocks:
                return self._at_begin()
            distance *= 4

    def _last_step(self, tid: int, start: Key, end: Key) -> Key | None:
        """Return the last place before `end` where a thread is about to run an instruction;
        None if there is none behind `start`.
        """
        execution = self.execution
        if start[0] > self._marks[0].blocks:
            self.go(start)
        else:
            self._restore(self._marks[0])
        last: Key | None = None
        with self._alone(end[0] + 1):
            while self.here < end and execution.ended is None:
                if execution.task.tid == tid:
                    last = self.here
                if execution.kept is not None and not execution.journal.repeats:
                    break
                self._step_or_change(tid)
        return last

    def _step_or_change(self, tid: int) -> None:
        self._change_here()
        tasks = self.execution.process.kernel.tasks
        self.execution.step(tid if tid in tasks else self.execution.task.tid)

    def go_begin(self) -> Stop:
        """Go to the first instruction."""
        return self._at_begin()

    def _at_begin(self) -> Stop:
        self._restore(self._marks[0])
        self._went()
        return Stop(self.execution.task.tid, reason="replaylog", value=BEGIN)

    def _restore(self, mark: _Mark) -> None:
        execution = self.execution
        self._observe()
        self._observed = None
        mark.snapshot.restore()
        execution.port.count = mark.blocks
        execution.journal.cursor = mark.cursor
        self._catches.told = mark.events
        self._changed = mark.changes
        execution.moved(counted=True)

    def _run_to(self, key: Key) -> None:
        """Run on to a place without stopping for anything else."""
        execution = self.execution
        with self._alone(key[0] + 1):
            if key[0] - execution.port.count > _FAR_OFF:
                self._run_to_block(key[0] - _NEAR)
                if execution.ended is None:
                    self._mark()
            self._run_to_block(key[0])
            self._finish_block(key)

    def _run_to_block(self, count: int) -> None:
        """Run on to the beginning of a block, doing again what was changed on the way."""
        execution = self.execution
        while execution.port.count < count and execution.ended is None:
            change = self._next_change()
            until = min(count, change.key[0]) if change is not None else count
            stop = execution.resume(0, until)
            if execution.process.stuck or execution.kept is not None and not execution.journal.repeats:
                return
            if stop.reason == "reached" and change is not None and execution.port.count < count:
                self._change_again(change)

    def _finish_block(self, key: Key) -> None:
        """Run on to an instruction of the present block."""
        execution = self.execution
        pc = execution.process.cpu.get(regs.RIP)
        if key[1] and pc != key[1] and execution.ended is None and execution.key < key:
            execution.run_to(key[1])

    def _replay(self, mark: _Mark, end: Key) -> list[_Hit]:
        """Run from a snapshot to a place, and return what would have stopped the run before it."""
        self._restore(mark)
        hits = self._hits = []
        try:
            with self._alone(end[0] + 1, noting=True):
                self._run_to_block(end[0])
                self._finish_block(end)
        finally:
            self._hits = None
        return [hit for hit in hits if hit.key < end]

    @contextmanager
    def _alone(self, bound: int, *, noting: bool = False) -> Iterator[None]:
        """Let nothing stop the guest but what is asked for here, and nothing lead it to block `bound`;
        what would have may be noted.
        """
        execution, catches = self.execution, self._catches
        kept = execution.breakpoints, execution.watches
        if not noting:
            execution.breakpoints, execution.watches = set(), Watches(execution.process.arena)
        execution.bound, catches.quiet = bound, True
        try:
            yield
        finally:
            execution.breakpoints, execution.watches = kept
            execution.watches.look()
            execution.bound, catches.quiet = FAR, False

    # -- what is noted on the way ----------------------------------------------------------------------------

    def _recorded(self, address: int) -> bool:
        if self._hits is None:
            return True
        self._hits.append(
            _Hit((self.execution.port.count, address), Stop(self.execution.task.tid, reason="swbreak"))
        )
        return False

    def _accessing(self) -> None:
        self._before = self.execution.key

    def _watch_stops(self, watch: Watch) -> bool:
        if self._hits is None:
            return True
        stop = Stop(self.execution.task.tid, reason=watch.kind, value=f"{watch.address:x}")
        self._hits.append(_Hit(self._before, stop))
        return False

    def noted(self, stop: Stop) -> bool:
        """Note an event that is caught, which stops the guest behind the trap that it comes from;
        false if nothing is noted now.
        """
        if self._hits is None:
            return False
        self._hits.append(_Hit((self.execution.port.count + 1, 0), stop))
        return True

    def places(self) -> Iterator[Key]:
        """Yield where the snapshots are."""
        for mark in self._marks:
            yield mark.key
