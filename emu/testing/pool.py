"""Processes that tests use one after another:
each begins where a snapshot was taken, right behind the set-up.

Making a process takes 0.2 s, going back 1 ms. A process is used again only for the same arguments,
environment and folder, and only while the files that are mapped in it are those on the disk.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from emu.core.errors import EmuError
from emu.core.record import NamedTuple
from emu.testing.host_files import Signature, signature, unchanged

if TYPE_CHECKING:
    from collections.abc import Hashable

    from emu.api import Process, Snapshot
    from emu.testing.schedules import ScheduledRun
    from emu.testing.setups import SetUpProcess

_MOST = 4
"""Processes that are kept, the longest unused given up first."""
_OF_PYTEST = "PYTEST_CURRENT_TEST"
"""It changes with every test, and is nothing to the guest."""


class _Kept(NamedTuple):
    process: SetUpProcess
    start: Snapshot
    files: dict[str, Signature]


class Pool:
    """Makes processes, and keeps those that can be used again."""

    def __init__(self) -> None:
        self._free: dict[Hashable, _Kept] = {}
        self._used: dict[int, tuple[Hashable, _Kept]] = {}
        self._setting_up = False

    def set_up(self, begins: bool) -> None:
        """The set-up of a test begins, or it is over and the test's own part begins."""
        self._setting_up = begins
        for _, kept in self._used.values():
            kept.process.set_up(begins)

    def take(self, program: Any, args: Any, run: ScheduledRun, options: dict[str, Any]) -> Process:
        """Return a process that nobody has touched, for a run of a test. Raises what emu.Process does."""
        from emu.testing.setups import SetUpProcess

        policy = run.policy()
        given = dict(options)
        if given.get("env") is None:
            given["env"] = {name: value for name, value in os.environ.items() if name != _OF_PYTEST}
        key = _key(program, args, given)
        kept = self._free.pop(key, None) if key is not None else None
        if kept is not None and unchanged(kept.files):
            try:
                kept.process.begin_at(kept.start, run, policy)
            except EmuError:
                kept = None  # it was left where there is no way back: in a handler, or broken off
        else:
            kept = None
        if kept is None:
            process = SetUpProcess(program, args, **{**given, "schedule": policy})
            if key is None:
                return process
            kept = _Kept(process, process.snapshot(), _files(process))
            process.begin(run)
        self._used[id(kept.process)] = key, kept
        kept.process.set_up(self._setting_up)
        return kept.process

    def give_back(self, process: Process) -> None:
        """Keep a process whose test is over."""
        used = self._used.pop(id(process), None)
        if used is not None and not used[1].start.lost:
            key, kept = used
            self._free.pop(key, None)
            self._free[key] = kept
            while len(self._free) > _MOST:
                del self._free[next(iter(self._free))]


def _key(program: Any, args: Any, options: dict[str, Any]) -> Hashable | None:
    """Return what two processes must have in common to be one;
    None for what cannot be compared (open files).
    """
    if any(options.get(name) is not None for name in ("stdin", "stdout", "stderr")):
        return None
    given = {**options, "env": tuple(sorted(options["env"].items())), "here": os.getcwd()}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    key = (os.fspath(program) if program is not None else None, tuple(args), tuple(sorted(given.items())))
    try:
        hash(key)
    except TypeError:
        return None
    return key


def _files(process: Process) -> dict[str, Signature]:
    """Return the files that the process has mapped at its start, as they are on the disk."""
    named = [os.path.join(process.inner.config.cwd, map_.path) for map_ in process.link_maps]
    # The vdso and the empty program are nowhere, and stay so.
    return {path: signature(path) for path in (*named, *map(os.path.realpath, named))}
