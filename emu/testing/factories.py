"""What the fixtures `emu_library` and `emu_program` are:
functions that make something and remember to end it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.api import Library, Process

_NOW = 2


class LibraryFactory:
    """Opens objects in one process: `emu_library("./libplugin.so")`.

    What is still open at the end of the test is closed, the last one first.
    """

    def __init__(self, process: Process) -> None:
        self.process = process
        self._opened: list[Library] = []

    def __call__(self, path: str | os.PathLike[str], flags: int = _NOW) -> Library:
        """Open an object, as `Process.dlopen` does. Raises OpenError."""
        library = self.process.dlopen(path, flags)
        self._opened.append(library)
        return library

    def close(self) -> None:
        """Close what is open, if the process can still be asked to."""
        while self._opened:
            library = self._opened.pop()
            if not library.closed and self.process.engine.usable:
                library.close()


class ProgramFactory:
    """Makes processes of programs: `emu_program("./main", "argument")`.

    They stand before their first instruction; the end of the test ends them.
    """

    def __init__(self, start: Callable[..., Process], over: Callable[[Process], None]) -> None:
        """`over` is told of each process whose test is over."""
        self._start, self._over = start, over
        self._started: list[Process] = []

    def __call__(self, program: str | os.PathLike[str], *args: str, **options: Any) -> Process:
        """Make a process of a program and its arguments;
        `options` are those of `emu.Process`, before those of the marker. Raises Error.
        """
        process = self._start(program, args, **options)
        self._started.append(process)
        return process

    def close(self) -> None:
        """End the processes."""
        while self._started:
            process = self._started.pop()
            try:
                process.close()
            finally:
                self._over(process)
