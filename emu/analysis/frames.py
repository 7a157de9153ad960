"""Frames of backtraces in answers: as data, and which of them are the program's own."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emu.analysis.data import Address

if TYPE_CHECKING:
    from collections.abc import Iterable

    from emu.process.backtrace import FrameInfo

_RUNTIME = ("libc.so", "libc-", "libpthread", "libdl", "ld-linux", "libstdc++", "libgcc_s", "linux-vdso")
_LIBRARY_SOURCE = re.compile(
    r"^/rustc/[0-9a-f]+/|/rustlib/src/rust/library/|^/usr/src/rustc-[^/]+/library/|/include/([^/]+/)?c\+\+/v?[0-9]"
)
"""Where the sources of Rust's own crates (as rustc maps their paths, or installed), of libstdc++ and of libc++ lie."""


_STRING = "std::__cxx11::basic_string<char, std::char_traits<char>, std::allocator<char> >"


@dataclass(frozen=True, slots=True)
class CallFrame:
    """One frame of a backtrace, the innermost first. Names are empty and `line` is 0 where they are unknown.

    `offset` is the link-time address in `object`, or the address itself where no object is; `note` what else there is to know, such as when the
    object was unloaded (`emu.process.backtrace.FrameInfo`).
    """

    function: str
    file: str
    line: int
    object: str
    offset: Address
    inlined: bool
    note: str


def call_frames(frames: Iterable[FrameInfo]) -> tuple[CallFrame, ...]:
    """Return frames as data."""
    return tuple(
        CallFrame(
            "<signal handler called>" if f.signal else f.function, f.file, f.line, f.object, Address(f.offset if f.object else f.pc),
            f.inlined, f.note,
        )
        for f in frames
    )  # fmt: skip


def is_runtime(name: str) -> bool:
    """Whether an object is the C or C++ run-time library, or part of the loader."""
    return name == "[emu]" or os.path.basename(name).startswith(_RUNTIME)


def is_user(name: str, function: str) -> bool:
    """Whether a frame of `function` in object `name` is the program's own, not the run-time libraries' or the start-up code's."""
    return bool(name) and not is_runtime(name) and function != "_start"


def is_library_source(file: str) -> bool:
    """Whether a source file belongs to a language's own library: its code is in the program's objects by inlining, or as a template or generic."""
    return _LIBRARY_SOURCE.search(file) is not None


def user_frame(frames: Iterable[FrameInfo]) -> FrameInfo | None:
    """Return the innermost frame of the program's own: one of its own source if there is any, or else of its objects."""
    mine = [frame for frame in frames if is_user(frame.object, frame.function)]
    return next((frame for frame in mine if not is_library_source(frame.file)), mine[0] if mine else None)


def where(frame: FrameInfo) -> str:
    """Return file:line of a frame, or what else there is."""
    return f"{frame.file}:{frame.line}" if frame.file else f"{frame.object}+{frame.offset:#x}"


def readable(text: str) -> str:
    """Return a text with std::string called so."""
    return text.replace(_STRING, "std::string")
