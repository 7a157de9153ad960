"""Rules about destructors of thread_local objects:
those that never run, keep an object loaded, or have lost their code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.analysis.check_notes import Dangling, Notes, Occasion, base
from emu.core.dl_events import Unloaded
from emu.core.record import NamedTuple
from emu.core.task_events import ProcessCreated, ProgramExecuted, ThreadExited
from emu.core.tls_events import DtorDone, DtorRegistered, DtorRun
from emu.machine import regs

if TYPE_CHECKING:
    from emu.core.events import Record
    from emu.machine.engine import MemoryWatch
    from emu.rtld.address_index import Departed

_SHOWN = 3
_RUNTIME = ("libc.so.6", "ld-linux-x86-64.so.2")


class _PendingDtor(NamedTuple):
    """An object in a thread's list. `late`: the list had been run to its end before."""

    event: DtorRegistered
    place: Occasion
    late: bool


class Dtors:
    """Follows the lists of all threads."""

    def __init__(self, notes: Notes, memory: MemoryWatch | None) -> None:
        self._notes, self._memory = notes, memory
        self._pending: dict[int, list[_PendingDtor]] = {}
        self._done: dict[str, list[tuple[str, Occasion]]] = {}
        self._ran: set[int] = set()
        self._left: list[tuple[int, str, _PendingDtor]] = []
        self._pinned: dict[str, list[_PendingDtor]] = {}
        self._lost: dict[int, tuple[int, Occasion, list[tuple[int, _PendingDtor]]]] = {}

    def list_run(self, task: int) -> None:
        """A thread begins to run its list, in `__call_tls_dtors`."""
        self._ran.add(task)

    def registered_event(self, record: Record, event: DtorRegistered) -> None:
        """An object enters its thread's list. While the list is being run, it is run next and not late."""
        place = self._notes.here()
        self._pending.setdefault(record.task, []).append(_PendingDtor(event, place, record.task in self._ran))
        known = self._done.setdefault(event.owner, [])
        if len(known) < _SHOWN:
            known.append(("registered by", place))

    def run(self, record: Record, event: DtorRun) -> None:
        """An object leaves its list."""
        pending = self._pending.get(record.task, [])
        for at in range(len(pending) - 1, -1, -1):
            if (pending[at].event.address, pending[at].event.object) == (event.address, event.object):
                del pending[at]
                return

    def done(self, record: Record, event: DtorDone) -> None:
        """A destructor has run: with --watch, the object must not be touched by its thread any more."""
        notes, process = self._notes, self._notes.process
        if self._memory is None or "tls-used-after-dtor" not in notes.rules or process.rtld is None:
            return
        thread = process.thread_pointer()
        for map_ in notes.maps():
            block = process.rtld.tls.soft_block(thread, map_)
            if block and block <= event.object < block + map_.tls_blocksize:
                break
        else:
            return  # not in a TLS block: registered for something else
        offset = event.object - block
        name, start, size = process.symbols.tls_variable(map_, offset) or (
            f"a thread_local of {map_.display_name}",
            offset,
            1,
        )
        here, owner, task = notes.here(), map_, record.task
        told: list[int] = []

        def touched(address: int, write: bool) -> None:
            assert process.rtld is not None and process.runner is not None
            user = process.rtld.find_map(process.cpu.get(regs.RIP))
            ours = process.runner.task.tid == task and process.rtld.tls.soft_block(thread, owner) == block
            if told or not ours or user is None or user.soname in _RUNTIME:
                return  # another thread's block by now, or libc clearing the memory
            told.append(address)
            verb = "writes to" if write else "reads"
            notes.report(
                "tls-used-after-dtor", f"thread {task} {verb} {name} after its destructor ran", notes.here(),
                [("destroyed by", here)], [owner.display_name], key=(task, event.object),
            )  # fmt: skip

        self._memory.add(block + start, block + start + size, touched)

    def thread_exited(self, record: Record, event: ThreadExited) -> None:
        """What is in the list now never runs."""
        for pending in self._pending.pop(event.thread, ()):
            self._left.append((event.thread, event.name, pending))
            self._never(event.thread, pending, f"thread {event.thread} ({event.name})")

    def unloaded(self, _record: Record, event: Unloaded, gone: Departed) -> None:
        """Destructors in the object that goes: registered for another object, which did not keep this one."""
        here = None
        for task, pending in self._pending.items():
            for item in pending:
                address = item.event.address
                if not gone.start <= address < gone.end:
                    continue
                here = here or self._notes.unloaded[gone.start, gone.end]
                what = f"the thread_local destructor {self._notes.function_in(gone, address)} of thread {task}, registered for {base(item.event.owner)}"
                related = (("registered by", item.place), ("unloaded by", here))
                key = (address, task, item.event.object)
                self._notes.leave_behind(
                    address, Dangling("tls-dtor-unloaded", what, key, related, (event.name, item.event.owner)), here
                )  # fmt: skip

    # -- children --------------------------------------------------------------------------------------------

    def forked(self, record: Record, event: ProcessCreated) -> None:
        """The child has the forking thread alone, and its list."""
        others = [(tid, item) for tid, items in self._pending.items() if tid != record.task for item in items]
        if others:
            self._lost[event.process] = record.task, self._notes.here(), others

    def inherit(self, forker: int, thread: int) -> None:
        """These are a child's lists from here on, in which `forker` is called `thread`: what the others'
        hold stays, and is never run.
        """
        self._lost.clear()
        self._left += [
            (tid, "", item) for tid, items in self._pending.items() if tid != forker for item in items
        ]
        self._pending = {thread: self._pending.get(forker, [])}
        self._ran = {thread} if forker in self._ran else set()

    def executed(self, event: ProgramExecuted) -> None:
        """A child is another program's: nothing is lost on it."""
        self._lost.pop(event.process, None)

    def _tell_lost(self) -> None:
        for child, (forker, here, others) in self._lost.items():
            threads = ", ".join(str(tid) for tid in dict.fromkeys(tid for tid, _ in others))
            noun = "object" if len(others) == 1 else "objects"
            self._notes.report(
                "fork-loses-dtors",
                f"thread {forker} forks process {child}, which never destroys {len(others)} thread_local {noun} of thread {threads}",
                here,
                [("registered by", item.place) for _, item in others[:_SHOWN]],
                list(dict.fromkeys(item.event.owner for _, item in others)),
                key=(child,),
            )

    # -- the end ---------------------------------------------------------------------------------------------

    def finish(self, task: int) -> None:
        """The process has ended; `task` was the last to run."""
        self._tell_lost()
        for pending in self._pending.get(task, ()):
            if pending.late:
                self._never(task, pending, f"thread {task}")
        keeping = [(tid, item) for tid, _, item in self._left]
        keeping += [(tid, item) for tid, items in self._pending.items() for item in items]
        owners = dict.fromkeys(item.event.owner for _, item in keeping)
        for owner in owners:
            if self._closed(owner):
                mine = [(tid, item) for tid, item in keeping if item.event.owner == owner]
                self._pinned[owner] = [item for _, item in mine]
                threads = ", ".join(str(tid) for tid in dict.fromkeys(tid for tid, _ in mine))
                noun = "object" if len(mine) == 1 else "objects"
                self._notes.report(
                    "dso-pinned-at-exit",
                    f"{owner} was closed, but {len(mine)} thread_local {noun} of thread {threads} kept it to the end",
                    related=[*(("registered by", item.place) for _, item in mine[:_SHOWN]), *self._notes.closed_by(owner)],
                    objects=[owner],
                )  # fmt: skip

    def pins(self, owner: str) -> bool:
        """Whether an object is kept to the end by objects whose destructors have not run."""
        return owner in self._pinned

    def registered(self, owner: str) -> list[tuple[str, Occasion]]:
        """Return places where objects of a DSO were registered, the first few."""
        return self._done.get(owner, [])

    def _closed(self, owner: str) -> bool:
        return any(
            map_.display_name == owner and map_.type == 2 and not map_.direct_opencount and map_.searchlist
            for map_ in self._notes.maps()
        )

    def _never(self, thread: int, pending: _PendingDtor, who: str) -> None:
        event, notes = pending.event, self._notes
        rule = "tls-dtor-too-late" if pending.late else "tls-dtor-never-run"
        when = "after the destructors of the thread had run" if pending.late else "and they are not run"
        noun = f"a thread_local of {base(event.owner)} ({event.function})"
        if pending.late:
            message = f"{noun} is built {when}: {who} never destroys it"
        else:
            message = f"{who} ends with {noun} in its list, {when}"
        notes.report(
            rule, message, pending.place, (), [event.owner], key=(thread, event.object, event.address)
        )
        if self._closed(event.owner) and thread in {tid for tid, _, _ in self._left}:
            notes.report(
                "thread-left-objects", f"{who} ended with {noun}, which was closed, in its list",
                related=[("registered by", pending.place), *notes.closed_by(event.owner)], objects=[event.owner], key=(thread, event.object, event.address),
            )  # fmt: skip
