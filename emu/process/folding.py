"""What of a long backtrace is shown: frames that repeat, and runs of frames in a
language's own library, are told in one line.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_PERIOD = 8
"""Frames of the longest cycle of calls that is looked for."""
_REPEATS = 3
_RUN = 3
_LIBRARY_SOURCE = re.compile(
    r"^/rustc/[0-9a-f]+/|/rustlib/src/rust/library/|^/usr/src/rustc-[^/]+/library/|/include/([^/]+/)?c\+\+/v?[0-9]"
)
"""Where the sources of Rust's own crates (as rustc maps their paths, or
installed), of libstdc++ and of libc++ lie.
"""


class Framed(Protocol):
    """What folding looks at in a frame."""

    @property
    def function(self) -> str:
        """The function's name."""

    @property
    def file(self) -> str:
        """The source file."""

    @property
    def line(self) -> int:
        """The source line."""

    @property
    def object(self) -> str:
        """The object."""


_Frame = TypeVar("_Frame", bound=Framed)


def is_library_source(file: str) -> bool:
    """Whether a source file belongs to a language's own library:
    its code is in the program's objects by inlining, or as a template or generic.
    """
    return _LIBRARY_SOURCE.search(file) is not None


def repeated(frames: Sequence[_Frame]) -> Sequence[_Frame]:
    """Return the first cycle of calls, innermost first: the frames of a recursion; empty if there is none."""
    for at in range(len(frames)):
        period, times = _cycle(frames, at)
        if times:
            return frames[at : at + period]
    return ()


def folded(frames: Sequence[_Frame], *, everything: bool = False) -> Iterator[_Frame | str]:
    """Yield the frames that are worth a line, and a text for those between them;
    all of them with `everything`.

    Repeated calls (a recursion, also through several functions) are shown once; of a run of frames in a
    language's library the first.
    """
    at = 0
    while at < len(frames):
        if everything:
            yield frames[at]
            at += 1
            continue
        period, times = _cycle(frames, at)
        if times:
            yield from frames[at : at + period]
            calls = "this frame" if period == 1 else f"these {period} frames"
            yield f"... {calls} {times - 1} more times"
            at += period * times
            continue
        end = at
        while end < len(frames) and is_library_source(frames[end].file):
            end += 1
        if end - at >= _RUN:
            yield frames[at]
            yield f"... {end - at - 1} more frames in the language's own library"
            at = end
            continue
        yield frames[at]
        at += 1


def _cycle(frames: Sequence[Framed], at: int) -> tuple[int, int]:
    """Return length and number of a cycle of calls that begins at a frame;
    (0, 0) if there is none worth folding.
    """
    keys = [(f.function, f.file, f.line, f.object) for f in frames[at : at + _PERIOD * _REPEATS]]
    for period in range(1, _PERIOD + 1):
        block = keys[:period]
        if len(block) < period or not block[0][0] or keys[period : 2 * period] != block:
            continue
        times = 2
        while _keys(frames, at + period * times, period) == block:
            times += 1
        if times >= _REPEATS:
            return period, times
    return 0, 0


def _keys(frames: Sequence[Framed], at: int, count: int) -> list[tuple[str, str, int, str]]:
    return [(f.function, f.file, f.line, f.object) for f in frames[at : at + count]]
