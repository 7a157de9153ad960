"""When, who and where of something that happened in a run, as data."""

from __future__ import annotations

from dataclasses import dataclass

from emu.analysis.frames import CallFrame


@dataclass(frozen=True, slots=True)
class Stamp:
    """When, who and where: the number of the event in the run, virtual nanoseconds, the thread, the place of
    the call in the user's code.

    `place` is file:line, or a function, or object+offset; empty where nothing is known. It is in the
    program's own source where there is a frame of that: not in headers of the C++ library, nor in Rust's.
    `backtrace` is complete; it is empty before the program runs.
    """

    sequence: int
    time_ns: int
    thread: int
    thread_name: str
    place: str
    function: str
    backtrace: tuple[CallFrame, ...]
