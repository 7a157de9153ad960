"""Our own standard descriptors: some may be closed, and standard output may refuse what is written."""

from __future__ import annotations

import io
import os
import sys

from emu.core.errors import EmuError

_closed: set[int] = set()


class OutputError(EmuError):
    """Standard output does not take what is written."""


class _Output(io.FileIO):
    """Standard output, whose failures are errors of ours."""

    def write(self, data: object, /) -> int | None:  # type: ignore[override]
        """Write as a file does. Raises OutputError; BrokenPipeError where the reader has gone."""
        try:
            return super().write(data)  # type: ignore[arg-type]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"standard output: {error.strerror}") from None


def prepare() -> None:
    """Fill the numbers of closed descriptors, so that no file of ours gets one of them, and take over `sys.stdout`."""
    for number, unusable in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(number)
        except OSError:
            _closed.add(number)
            os.open(
                os.devnull, unusable
            )  # the lowest free number; what is tried with it fails as if it were closed
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_Output(1, "w", closefd=False)),
        encoding=getattr(sys.stdout, "encoding", "utf-8"),
        errors="backslashreplace",
        line_buffering=os.isatty(1),
    )
    if 2 in _closed:
        sys.stderr = io.StringIO()  # there is nobody to tell


def descriptors() -> tuple[int | None, int | None, int | None]:
    """Return the standard descriptors, None for one that is closed: so is the guest's."""
    zero, one, two = (None if number in _closed else number for number in range(3))
    return zero, one, two


def discard() -> None:
    """Standard output is of no use any more: what the interpreter still holds must not be written at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
