"""Every process of a run under the eyes of an observer of its own.

A child of fork has its parent's history: its observer is a copy of the parent's, made with the child. A
program that is executed begins a new one.
Nothing of that changes the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from emu.core.effects import Exit
from emu.kernel.run.signals import Killed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

    from emu.core.duplicate import Duplicate
    from emu.core.events import Record
    from emu.process import Process

_PACKAGE = "emu.analysis."
OUTLIVES = "it outlives the first process, and is ended with it"


class Observer(Protocol):
    """Watches one process, from before its linker begins."""

    def prepare(self, child: Process, copy: Duplicate) -> None:
        """Say what stands in a copy for what is not to be copied."""

    def of_child(self, child: Process, copy: Duplicate) -> Self:
        """Return the copy that watches a child from here on."""

    def loaded(self) -> None:
        """The linker has mapped what the program needs."""


T = TypeVar("T", bound=Observer)


@dataclass(slots=True)
class Followed(Generic[T]):
    """A process while it runs one program. `number` is its id in events (0: the first); `parent` the id
    of who made it; `forked`: without execve since.
    """

    number: int
    process: int
    parent: int
    program: str
    forked: bool
    observer: T


@dataclass(frozen=True, slots=True)
class FollowedEnd:
    """How a process, or its program, ended. `status` is as a shell has it, None for one that executes
    another; `text` tells of a signal.
    """

    status: int | None
    text: str = ""
    died: bool = False


class Follow(Generic[T]):
    """Follows the processes of a run whose first is about to load: `whom` is all, none, or the file name
    of programs.

    `begin` makes an observer for a process, `over` takes what is left when a process has ended or goes on
    with another program; it returns
    whether it will tell of a fault. The first process's own end is for the caller.
    """

    def __init__(
        self,
        first: Process,
        observer: T,
        whom: str,
        begin: Callable[[Process], T],
        over: Callable[[Followed[T], Process, FollowedEnd], bool],
    ) -> None:
        self._first, self._whom, self._begin, self._over = first, whom, begin, over
        pid = first.kernel.pid
        self._alive: dict[int, Followed[T]] = {
            0: Followed(0, pid, first.kernel.family.parent, first.config.program, False, observer)
        }
        first.tree.follower = self  # for "none", too: the first process may execute another program

    @property
    def first(self) -> T:
        """The observer of what the first process runs now."""
        return self._alive[0].observer

    # -- what the tree tells (emu.process.tree.Follower) -------------------------------------------------

    def follows(self, parent: Process) -> bool:
        """Whether children of `parent` are to be watched as it is."""
        return parent.number in self._alive and self._wants(parent.config.program)

    def _wants(self, program: str) -> bool:
        if self._whom in ("all", "none"):
            return self._whom == "all"
        return program.rpartition("/")[2] == self._whom

    def prepare(self, parent: Process, child: Process, copy: Duplicate) -> None:
        """Say what stands in a copy for what is not to be copied."""
        self._alive[parent.number].observer.prepare(child, copy)

    def forked(self, parent: Process, child: Process, copy: Duplicate) -> None:
        """A child of a process that is followed has come to be."""
        mine = self._alive[parent.number]
        twin = mine.observer.of_child(child, copy)
        for category, sink in _sinks(parent):
            child.bus.subscribe(copy.of(sink), (category,), child.number)
        self._alive[child.number] = Followed(
            child.number, child.kernel.pid, parent.kernel.pid, child.config.program, True, twin
        )

    def leaving(self, process: Process) -> None:
        """A process executes another program: the end of what was watched."""
        entry = self._alive.pop(process.number, None)
        if entry is not None:
            _forget(process)
            self._over(entry, process, FollowedEnd(None))

    def executed(self, process: Process) -> None:
        """Another program is mapped in a process."""
        program = process.config.program
        if process.number and not self._wants(program):
            return
        family = process.kernel.family
        self._alive[process.number] = Followed(
            process.number, process.kernel.pid, family.parent, program, False, self._begin(process)
        )

    def linked(self, process: Process) -> None:
        """The linker has mapped what that program needs."""
        entry = self._alive.get(process.number)
        if entry is not None:
            entry.observer.loaded()

    def ended(self, process: Process) -> bool:
        """A process is over, or is about to be ended; whether a fault that has killed it will be told."""
        entry = self._alive.pop(process.number, None)
        if entry is None:
            return False
        _forget(process)
        return self._over(entry, process, _ending(process))


def _ending(process: Process) -> FollowedEnd:
    ended = process.runner.ended if process.runner is not None else None
    if isinstance(ended, Exit):
        return FollowedEnd(ended.status & 0xFF)
    if not isinstance(ended, Killed):
        return FollowedEnd(None, OUTLIVES)
    fault = process.ending.fault_report()
    died = bool(fault) or ended.info.pid == process.kernel.pid
    return FollowedEnd(128 + ended.signo, fault or process.ending.report(), died)


def _sinks(process: Process) -> Iterator[tuple[str, Callable[[Record], None]]]:
    """Yield the categories and sinks of a process's events that are observers'."""
    for category, sink in process.bus.sinks(process.number):
        if type(getattr(sink, "__self__", sink)).__module__.startswith(_PACKAGE):
            yield category, sink


def _forget(process: Process) -> None:
    for _, sink in list(_sinks(process)):
        process.bus.unsubscribe(sink)
