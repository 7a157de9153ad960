"""Frames of backtraces in answers: as data, and which of them are the program's own."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emu.analysis.data import Address
from emu.process.folding import is_library_source

if TYPE_CHECKING:
    from collections.abc import Iterable

    from emu.process.backtrace import FrameInfo

_RUNTIME = (
    "libc.so",
    "libc-",
    "libpthread",
    "libdl",
    "ld-linux",
    "libstdc++",
    "libc++",
    "libgcc_s",
    "linux-vdso",
)
PLUMBING = frozenset(
    ("_dl_catch_exception", "_dl_catch_error", "_dlerror_run", "dlerror_run", "dlopen_doit", "dlopen_implementation", "dlmopen_doit",
     "dlmopen_implementation")
)  # fmt: skip
"""What lies between libc's dlopen and the linker's own work: glibc's way to catch errors."""


_STANDARD = re.compile(
    r"(?:(?:(?:construction )?vtable|VTT|typeinfo(?: name)?|guard variable|reference temporary #\d+) for )?"
    r"(?:std|__gnu_cxx|__cxxabiv1|core|alloc)::"
)
_LISTED = 5
_STRING = "std::__cxx11::basic_string<char, std::char_traits<char>, std::allocator<char> >"


@dataclass(frozen=True, slots=True)
class CallFrame:
    """One frame of a backtrace, the innermost first. Names are empty and `line` is 0 where they are unknown.

    `offset` is the link-time address in `object`, or the address itself where no object is; `note` what else
    there is to know, such as when the object was unloaded (`emu.process.backtrace.FrameInfo`).
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
    """Whether a frame of `function` in object `name` is the program's own, not the
    run-time libraries' or the start-up code's.
    """
    return bool(name) and not is_runtime(name) and function != "_start"


def is_standard(symbol: str) -> bool:
    """Whether a demangled name is one of the language's own library, which is nobody's to change:
    C++'s or Rust's.
    """
    return _STANDARD.match(symbol) is not None


def listed(names: Iterable[str]) -> str:
    """Return names as people read them: the first few, and how many more there are."""
    different = list(dict.fromkeys(names))
    more = len(different) - _LISTED
    return ", ".join(different) if more <= 1 else f"{', '.join(different[:_LISTED])} and {more} more"


def user_frame(frames: Iterable[FrameInfo]) -> FrameInfo | None:
    """Return the innermost frame of the program's own:
    one of its own source if there is any, or else of its objects.
    """
    mine = [frame for frame in frames if is_user(frame.object, frame.function)]
    return next((frame for frame in mine if not is_library_source(frame.file)), mine[0] if mine else None)


def where(frame: FrameInfo) -> str:
    """Return file:line of a frame, or what else there is."""
    return f"{frame.file}:{frame.line}" if frame.file else f"{frame.object}+{frame.offset:#x}"


def readable(text: str) -> str:
    """Return a text with std::string called so."""
    return text.replace(_STRING, "std::string")
