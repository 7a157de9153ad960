"""A process at one moment, to go back to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.api.errors import ArgumentError, StateError
from emu.process.snapshot import ProcessSnapshot, SnapshotError

if TYPE_CHECKING:
    from emu.api.process import Process

_UNDONE = "was opened after the snapshot that was restored"


class Snapshot:
    """What `Process.snapshot` returns. It can be restored any number of times, in milliseconds.

    What is Python's stays as it is: interpositions, breakpoints, callbacks. Libraries and threads are again
    what they were: those closed since are open, those opened since are not to be used. Events told since are
    forgotten.

    >>> import ctypes, emu
    >>> with emu.Process() as p:
    ...     libc = p.dlopen("libc.so.6")
    ...     libc.rand(), libc.rand()
    ...     with p.snapshot() as before:
    ...         libc.rand()
    ...         p.restore(before)
    ...         libc.rand()
    (1804289383, 846930886)
    1681692777
    1681692777
    """

    def __init__(self, process: Process) -> None:
        engine = process.engine
        engine.check_idle("a snapshot")
        if engine.broken:
            engine.check()
        self._process = process
        try:
            self._state: ProcessSnapshot | None = ProcessSnapshot(
                process.inner,
                engine.reopen,
                roots=[engine, process.place, process.memory.given],
                apart=process.aside,
            )
        except SnapshotError as error:
            raise StateError(str(error)) from None
        self._libraries = {library: library.refusal for library in process.libraries}
        self._threads = {thread: thread.station for thread in process.driven}
        self.size = self._state.size

    def restore(self) -> None:
        """See `Process.restore`."""
        if self._state is None:
            raise ArgumentError("the snapshot is closed")
        process = self._process
        process.engine.check_idle("a restore")
        try:
            self._state.restore()
        except SnapshotError as error:
            raise StateError(str(error)) from None
        for library in process.libraries:
            library.refusal = self._libraries.get(library, _UNDONE)
        for thread in process.driven:
            thread.station = self._threads.get(thread)

    @property
    def lost(self) -> bool:
        """Whether there is no way back, since the process has executed another program."""
        return self._state is None or self._state.lost

    def close(self) -> None:
        """Give its memory back."""
        self._state = None

    @property
    def process(self) -> Process:
        """Whose state it is."""
        return self._process

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = f"{self.size >> 10} KiB" if self._state is not None else "closed"
        return f"<emu.Snapshot of {self._process.inner.config.program}, {state}>"
