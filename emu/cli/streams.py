"""The command's own standard output and error: one that cannot be written to is an error with an exit code,
as any other.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

from emu.core.errors import EmuError
from emu.core.text import harmless

if TYPE_CHECKING:
    from typing_extensions import Buffer

EXIT_SIGPIPE = 128 + 13
_NAMES = {1: "standard output", 2: "standard error"}


class StreamError(EmuError):
    """A standard stream cannot be written to: the disk is full, or it was closed before `emu` began.

    `number` is its descriptor.
    """

    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.number = number


class ReaderGoneError(StreamError):
    """The reader of a standard stream has gone, as with `| head`: the command ends silently,
    as by SIGPIPE.
    """

    exit_code = EXIT_SIGPIPE


class _Text(io.TextIOWrapper):
    """The one place that all text of ours passes:
    names of files and symbols are the guest's, and must not reach a terminal as they are.
    """

    raw_text = False

    def write(self, text: str, /) -> int:
        super().write(text if self.raw_text else harmless(text, colour=self.isatty()))
        return len(text)


def allow_escapes() -> None:
    """Let a prompt or a page have the terminal to itself: what it writes is the user's own, or ours."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, _Text):
            stream.raw_text = True


class _StandardStream(io.FileIO):
    def write(self, data: Buffer, /) -> int | None:  # type: ignore[override]  # as FileIO itself
        try:
            return super().write(data)
        except BrokenPipeError:
            raise ReaderGoneError(self.fileno(), "") from None
        except OSError as error:
            number = self.fileno()
            raise StreamError(number, f"{_NAMES[number]}: {error.strerror}") from None


def install() -> None:
    """Make sys.stdout and sys.stderr raise StreamError, and keep closed
    descriptors 0 to 2 from becoming those of other files.

    Such a number is taken with O_PATH, which can neither be read nor written, and which the guest does not
    get.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_PATH), True)
    sys.stdout = _stream(1, sys.stdout)
    sys.stderr = _stream(2, sys.stderr)


def abandon(number: int) -> None:
    """Let what the interpreter still holds for a descriptor vanish, since it must not be written at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def _stream(number: int, old: TextIO | None) -> io.TextIOWrapper:
    raw = _StandardStream(number, "w", closefd=False)
    lines = number == 2 or raw.isatty()
    encoding = old.encoding if old is not None else "utf-8"
    return _Text(io.BufferedWriter(raw), encoding=encoding, errors="backslashreplace", line_buffering=lines)
