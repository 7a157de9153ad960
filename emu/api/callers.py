"""Who called the guest: Python's own frames, in the guest's backtraces and as the place of a call."""

from __future__ import annotations

import sys
import sysconfig
from typing import TYPE_CHECKING

from emu.process.backtrace import PYTHON, Captured, FrameInfo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from emu.api.engine import Engine

_INSTALLED = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))


class Callers:
    """The Python callers of one process's guest."""

    def __init__(self, engine: Engine, main: int | None) -> None:
        """`main` is the trap that stands for the empty program's, None where there is a program."""
        self._engine, self._main = engine, main

    def entered(self, one: Captured) -> list[Captured]:
        """Return the frames of Python that called the guest, if that is what the frame is."""
        if not self._is_call(one.known):
            return []
        return [Captured(one.frame, frame) for frame in python_frames()]

    def _is_call(self, frame: FrameInfo) -> bool:
        """Whether the frame is one of a station: of a function of ours from which Python calls the guest."""
        process = self._engine.process
        contract, runner = process.contract, process.runner
        if contract is None or runner is None or contract.call_page is None:
            return False
        stubs, page = contract.stubs, contract.call_page
        if page.start <= frame.pc < page.end:
            return True
        if self._main is not None and frame.object == process.config.program:
            return True  # the empty program itself, at its end: it is we who let it go there
        if frame.pc == stubs.return_start:  # a program that Python calls before it runs
            return bool(self._engine.stations) and self._engine.stations[0].task is not None
        entry = runner.hosted_entry(frame.cfa - 8) if frame.pc == stubs.return_call else None
        return entry is not None and (entry == self._main or entry in page.traps)


def python_frames() -> list[FrameInfo]:
    """Return the frames of Python that called us, the innermost first:
    from the first one outside `emu` to where installed packages begin.
    """
    return [
        FrameInfo(0, 0, 0, PYTHON, 0, f.f_code.co_qualname, f.f_code.co_filename, f.f_lineno)
        for f in _users()
    ]


def place() -> str:
    """Return the line of Python that called us."""
    frames = python_frames()
    return f"Python ({frames[0].file}:{frames[0].line})" if frames else "Python"


def _users() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe()
    first = True
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] != "emu":
            if not first and _installed(frame.f_code.co_filename):
                return
            yield frame
            first = False
        frame = frame.f_back


def _installed(file: str) -> bool:
    return file.startswith((*_INSTALLED, "<frozen"))
