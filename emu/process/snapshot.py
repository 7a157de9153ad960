"""The whole state of a process at one moment, and the way back to it.

A snapshot is the guest's memory, the registers of all threads, and what the kernel and the linker know, put
back in the very same objects. Python generators cannot be copied, so one rule says when a snapshot can be
taken: every thread runs code of the guest, or waits in a system call that can be begun anew
(`emu.kernel.syscalls.waiting.resumable`), or stands at a hosted function that can be opened again, as those
are that wait for Python. A thread inside dlopen, for example, does not; the error names it.

What lies outside the guest does not come back: what was read from a pipe or terminal, what was written to
one, and what was changed in directories that the guest may write through to.
"""

from __future__ import annotations

import os
import types
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from mmap import mmap
from typing import TYPE_CHECKING

from emu.core.errors import EmuError
from emu.core.events import EventBus, Record
from emu.core.memento import Memento, Rule, Undo
from emu.kernel.fs.hostfile import HostFile
from emu.machine import regs
from emu.machine.arena import Arena
from emu.machine.engine import HostPart, Noted
from emu.machine.fork import own_pages
from emu.machine.shared_files import MemoryFile
from emu.machine.snapshot import MemorySnapshot
from emu.process.hosted_functions import hosted_name
from emu.process.runner import Runner

if TYPE_CHECKING:
    from emu.core.effects import Hosted
    from emu.kernel.run.task import Task
    from emu.process.frame import Frame
    from emu.process.process import Process

Reopen = Callable[["Hosted"], "Callable[[], Hosted] | None"]
"""Tells of a hosted function that has paused or waits in a system call how it is
opened again, None if it cannot be.
"""


class SnapshotError(EmuError):
    """A snapshot cannot be taken where the process is now."""


class ProcessSnapshot:
    """The state of `process` at the time this is made.

    Raises SnapshotError where none can be taken, see above.

    `roots` are further objects whose state belongs to it, `apart` are those that are the host's. `size` is
    the memory held, in bytes.
    """

    def __init__(
        self, process: Process, reopen: Reopen, roots: Iterable[object] = (), apart: Iterable[object] = ()
    ) -> None:
        self._process, self._space = process, process.space
        others = [
            f"{pid} ({other.task.name})"
            for pid, other in process.tree.processes.items()
            if other is not process
        ]
        if others:
            raise SnapshotError(
                f"no snapshot can be taken of more than one process: there is also {', '.join(others)}"
            )
        own_pages(process.space)
        self._frames = list(self._reopenable(reopen))
        self._tasks = [task for task in process.kernel.tasks.values() if task.call is not None]
        for task in self._tasks:
            if task.again is None and not any(frame.task is task for frame, _ in self._frames):
                assert task.call is not None
                raise SnapshotError(f"{_thread(task)} is in the middle of {task.call.entry.name}")
        contract = process.contract
        traps = [] if contract is None else [contract.traps]
        self._contents = frozenset(process.kernel.fs.contents)
        self._memory = MemorySnapshot(process.space)
        self._memento = Memento(
            [process, *roots],
            self._rules(),
            facts=("emu.elf.",),
            apart=[*traps, process.kernel.fs.contents, *apart],
        )
        self.size = self._memory.size

    @property
    def lost(self) -> bool:
        """Whether the process runs another program by now: there is no way back."""
        return self._process.space is not self._space

    def restore(self) -> None:
        """Put the process into this state again, whatever became of it:
        it may have ended, crashed or been stuck. Raises SnapshotError for one that is lost.
        """
        process = self._process
        if self.lost:
            raise SnapshotError("the program has executed another since, whose memory is another")
        for other in list(process.tree.processes.values()):
            self._abandon(other)
            if other is not process:
                process.tree.forget(other)
        for inode in set(process.kernel.fs.contents) - self._contents:
            # nobody will see it again; it must not give back, when it goes, what is not charged any more
            inode.charged = 0
        self._memory.restore(process.cpu)
        self._memento.restore()
        server = getattr(process.cpu.on_trap, "__self__", None)
        if isinstance(server, Runner) and process.runner is not None:
            process.runner.serve()  # a child of vfork may have had this CPU
        for task in self._tasks:
            if task.again is not None:
                assert task.call is not None
                task.call = task.call._replace(handler=task.again())
                task.resumed = True
        for frame, again in self._frames:
            frame.generator = again()

    def _reopenable(self, reopen: Reopen) -> Iterable[tuple[Frame, Callable[[], Hosted]]]:
        """Find how each hosted function in progress is opened again. Raises SnapshotError."""
        runner = self._process.runner
        if runner is None:
            return
        for frame in runner.standing():
            again = reopen(frame.generator)
            if again is None:
                raise self._inside(frame)
            yield frame, again
        for frame in runner.calling():
            if self._is_live(frame):
                raise self._inside(frame)

    def _inside(self, frame: Frame) -> SnapshotError:
        name = hosted_name(self._process, frame.entry)
        return SnapshotError(f"{_thread(frame.task)} is inside {name}, of which no snapshot can be taken")

    def _is_live(self, frame: Frame) -> bool:
        """Whether the guest may still return to a hosted function:
        not if its thread's stack, being the same, ends above it.
        """
        process, task = self._process, frame.task
        if task.tid not in process.kernel.tasks:
            return False
        runner = process.runner
        if runner is not None and task is runner.task:
            sp = process.cpu.get(regs.RSP)
        elif task.context is not None:
            sp = process.cpu.gprs_of(task.context)[regs.GPRS.index(regs.RSP)]
        else:
            return True
        area = process.space.find(sp)
        return area is None or not area.start <= frame.rsp < sp

    @staticmethod
    def _abandon(process: Process) -> None:
        """End what is in progress now: its clean-up must not come after the state is put back."""
        if process.runner is not None:
            for frame in (*process.runner.standing(), *process.runner.calling()):
                frame.generator.close()
        for task in process.kernel.tasks.values():
            if task.call is not None:
                task.call.handler.close()

    def _rules(self) -> dict[type, Rule]:
        nothing: Rule = lambda thing: None  # noqa: E731
        return {
            **dict.fromkeys((Record, Arena, HostPart, mmap, types.GeneratorType), nothing),
            weakref.WeakSet: nothing,
            Noted: lambda thing: thing.note(),
            EventBus: _note_bus,
            MemoryFile: lambda file: partial(file.set_content, file.content()),
            HostFile: _note_host_file,
        }


def _thread(task: Task) -> str:
    return f"thread {task.tid} ({task.name})"


def _note_bus(bus: EventBus) -> Undo:
    return partial(bus.rewind, bus.upcoming, bus.task)


def _note_host_file(file: HostFile) -> Undo:
    """Note flags and references; the offset, which is the host's, only of a regular file that is read."""
    names = ("path", "flags", "offset", "references", "locks")
    values = [getattr(file, name) for name in names]
    at = None
    if file.regular and not file.writable and file.journal is None:
        at = os.lseek(file.host, 0, os.SEEK_CUR)

    def undo() -> None:
        for name, value in zip(names, values, strict=True):
            setattr(file, name, value)
        if at is not None:
            os.lseek(file.host, at, os.SEEK_SET)

    return undo
