"""What the set-up of a test does in the guest (it opens a library, it calls a function), done once:
the next test whose set-up does the same finds the process as that has left it.

A process is deterministic: what is done in the same state gives the same state. So each thing done in a
set-up is a step in a tree, from a state to the next, with a snapshot of that one. A step is taken again only
by the same lines of Python, from a state that nobody has touched since, and only while the host has the same
files at all paths that were looked at. What it wrote to the host's standard output and error is written once
more. The step is left out of the tree where it asked the host for anything else, where threads could run in
several orders, where Python answered the guest, and where no snapshot can be taken.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from emu.api.callers import python_frames
from emu.api.errors import StateError
from emu.api.linking import RTLD_NOW
from emu.api.process import Process
from emu.core.record import NamedTuple
from emu.kernel.fs.hostfile import HostFile
from emu.testing.host_files import Signature, signature, unchanged

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Hashable, Iterator

    from emu.api.library import Library
    from emu.api.linking import Linking
    from emu.api.snapshot import Snapshot
    from emu.kernel.run.policy import Policy
    from emu.testing.schedules import ScheduledRun

T = TypeVar("T")
_MOST_STEPS = 12
"""Steps that a process keeps; each holds what memory the guest has written."""
_MOST_PATHS = 4096
_REPEATED, _HARMLESS = "write", "stat"
_PARTS = frozenset((
    "inner", "place", "memory", "engine", "calls", "libraries", "driven", "watch", "_bus", "_answers", "_linking", "_hooks",
    "_listeners", "_timeline",
))  # fmt: skip
"""Attributes of a process by which its state is read and changed."""


class _Seen:
    """What a step asked of the host: the files, as they were, and what is written when it is done again."""

    def __init__(self) -> None:
        self.files: dict[str, Signature] = {}
        self.writes: list[Callable[[], object]] = []
        self.repeatable = True

    def path(self, path: str) -> None:
        """The step looks at a path."""
        if len(self.files) < _MOST_PATHS:
            self.files.setdefault(path, signature(path))
        else:
            self.repeatable = False

    def ask(self, kind: str, act: Callable[[], object]) -> None:
        """The step asks something of a descriptor of the host's."""
        if kind == _REPEATED:
            self.writes.append(act)
        elif kind != _HARMLESS:
            self.repeatable = False

    def same(self) -> bool:
        """Whether the host still has these files."""
        return unchanged(self.files)


class _State:
    """A state that a set-up has brought about, and the steps from there."""

    def __init__(self, steps: dict[Hashable, _Step]) -> None:
        self.steps = steps


class _Step(NamedTuple):
    """A step: what Python got of it, the state behind it."""

    result: Any
    snapshot: Snapshot
    seen: _Seen
    state: _State


class _Due(NamedTuple):
    """The state that a process is to be in as soon as anybody looks, under which
    schedule, and the attributes of it that lead to the present one.
    """

    snapshot: Snapshot
    policy: Policy
    parts: dict[str, Any]


class SetUpProcess(Process):
    """A process whose set-up is remembered; `begin_at` goes back to its start.

    That is done when somebody first looks at the process, by any of the attributes `_PARTS`. Where the first
    thing that is done in it is a known step, it goes at once to the state behind that.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self._due: _Due | None = None
        self._here: _State | None = None
        self._stamp = 0, 0
        self._run: ScheduledRun | None = None
        self._root = _State({})
        self._kept = 0
        self._remembers = False
        super().__init__(*args, **options)
        self._writes = bool(self.inner.config.writable)

    def begin(self, run: ScheduledRun) -> None:
        """The process is at its start, where nobody has done anything, for a run of a test."""
        self._run = run
        self._arrive(self._root)

    def begin_at(self, start: Snapshot, run: ScheduledRun, policy: Policy) -> None:
        """Be at a snapshot of the start, for another run of a test and under its schedule; see `renew`.

        Raises StateError where there is no way back: in a handler, or broken off.
        """
        self._settle()
        self.engine.check_idle("a restore")
        self._run, self._here = run, self._root
        self._due = _Due(start, policy, {name: self.__dict__.pop(name) for name in _PARTS})

    def set_up(self, begins: bool) -> None:
        """A test's set-up begins, or it is over: what is done from then on is the test's own."""
        run = self._run
        self._remembers = begins and run is not None and run.remembers and not self._writes

    def __getattr__(self, name: str) -> Any:
        """Be asked for what is not there: for a part, before the process is where it is to be."""
        if name in _PARTS:
            self._settle()
            return super().__getattribute__(name)
        return super().__getattr__(name)  # type: ignore[misc] # which checkers of types do not see

    def _settle(self) -> None:
        """Go where the process is to be."""
        if self._due is not None:
            snapshot, policy, here = self._due.snapshot, self._due.policy, self._here
            self._take_back()
            self.renew(snapshot, policy)
            self._arrive(here)

    def _take_back(self) -> None:
        due, self._due = self._due, None
        if due is not None:
            self.__dict__.update(due.parts)

    def dlopen(self, path: str | bytes | os.PathLike[str], flags: int = RTLD_NOW) -> Library:
        """See `Process.dlopen`."""
        linking: Linking = self._due.parts["_linking"] if self._due is not None else self._linking
        return linking.dlopen(path, flags)

    def restore(self, snapshot: Snapshot) -> None:
        """See `Process.restore`."""
        super().restore(snapshot)
        self._here = None

    def perform(self, told: Callable[[], Hashable], act: Callable[[], T]) -> T:
        """See `Process.perform`."""
        here, run = self._here, self._run
        if not self._remembers or here is None or run is None:
            self._settle()
            return act()
        key = told()
        if key is None or self._due is None and self._touched:
            self._settle()
            self._here = None  # nobody knows what it is now
            return act()
        key = key, *((frame.file, frame.line) for frame in python_frames())
        step = here.steps.get(key)
        if step is not None and step.seen.same():
            self._go_on(step.snapshot)
            for write in step.seen.writes:
                write()
            self._arrive(step.state)
            return step.result  # type: ignore[no-any-return] # what the same act gave
        self._settle()
        self._here = None
        before = run.choices, self.engine.requests
        with self._watched() as seen:
            result = act()
        if seen.repeatable and (run.choices, self.engine.requests) == before:
            self._remember(here, key, result, seen)
        return result

    @property
    def _touched(self) -> bool:
        """Whether anything was done in the process, or to it, behind the last step."""
        return self._stamp != (self.engine.turns, self.memory.changes) or self.hooked

    def _go_on(self, snapshot: Snapshot) -> None:
        """Go to the state behind a step; the libraries of this set-up, not those of
        the first one, are those that are open.
        """
        due = self._due
        self._take_back()
        mine = {library for library in self.libraries if not library.closed} if due is None else ()
        self.renew(snapshot, self.inner.kernel.scheduler.policy if due is None else due.policy)
        for library in self.libraries:
            library.refusal = "" if library in mine else library.refusal or "is another test's"

    def _remember(self, here: _State, key: Hashable, result: Any, seen: _Seen) -> None:
        if key not in here.steps:
            if self._kept == _MOST_STEPS:
                self._root.steps.clear()
                self._kept = 0
                return
            self._kept += 1
        try:
            step = _Step(result, self.snapshot(), seen, _State({}))
        except StateError:
            return
        here.steps[key] = step
        self._arrive(step.state)

    def _arrive(self, state: _State | None) -> None:
        self._here, self._stamp = state, (self.engine.turns, self.memory.changes)

    @contextmanager
    def _watched(self) -> Iterator[_Seen]:
        """Note what is asked of the host."""
        kernel, seen = self.inner.kernel, _Seen()
        files = {id(f): f for f in kernel.fds.files.values() if isinstance(f, HostFile)}.values()
        kernel.fs.watch_host(seen.path)
        for file in files:
            file.watch(seen.ask)
        try:
            yield seen
        finally:
            kernel.fs.watch_host(None)
            for file in files:
                file.watch(None)
