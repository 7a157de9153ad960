"""Where a trace goes: standard error or a file, without ever destroying a file that is something else."""

from __future__ import annotations

import os
import stat
from _thread import allocate_lock
from typing import TYPE_CHECKING

from emu.core.errors import EmuError

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.core.events import Record

EXIT_SIGPIPE = 128 + 13
_BLOCK = 1 << 16


class TraceError(EmuError):
    """A trace (or `what` else) cannot be written: `where` it goes and why."""

    def __init__(self, where: str, reason: str, what: str = "trace") -> None:
        super().__init__(f"{what} output {where}: {reason}")


class TraceClosed(EmuError):
    """The reader of the trace has gone, as with `| head`: the run ends silently, as by SIGPIPE."""

    exit_code = EXIT_SIGPIPE

    def __init__(self) -> None:
        super().__init__("")


class TraceWriter:
    """A sink of records: renders each and writes it to `fd`.

    Unbuffered, so that the lines stand among the guest's own, unless `buffered`. `flush` may be called from
    another thread. Raises TraceError or TraceClosed.
    """

    __slots__ = ("_buffered", "_fd", "_lines", "_lock", "_render", "_size", "_what", "_where")

    def __init__(
        self, fd: int, where: str, render: Callable[[Record], str], *, buffered: bool, what: str = "trace"
    ) -> None:
        self._fd, self._where, self._render, self._buffered = fd, where, render, buffered
        self._what = what
        self._lines: list[str] = []
        self._size = 0
        self._lock = allocate_lock()

    def __call__(self, record: Record) -> None:
        """Take one record."""
        self.line(self._render(record))

    def line(self, text: str) -> None:
        """Take one line of text, without its newline."""
        self._lines.append(text)
        self._size += len(text)
        if not self._buffered or self._size >= _BLOCK:
            self.flush()

    def flush(self) -> None:
        """Write what was held back."""
        # Not for ever: a flush that hangs on a full pipe must not keep a signal from ending the process.
        if not self._lock.acquire(timeout=1):
            return
        try:
            lines, self._lines, self._size = self._lines, [], 0
            data = memoryview("".join(line + "\n" for line in lines).encode("utf-8", "backslashreplace"))
            while data:
                data = data[os.write(self._fd, data) :]
        except BrokenPipeError:
            raise TraceClosed from None
        except OSError as error:
            raise TraceError(self._where, str(error.strerror), self._what) from None
        finally:
            self._lock.release()


def open_output(path: str, beginnings: tuple[str, ...], *, force: bool = False, what: str = "trace") -> int:
    """Open `path` for a trace, or `what` else, and return the descriptor.

    A file that exists is overwritten only if it is empty or begins like one (with one of `beginnings`), or with
    `force`; a FIFO or character device is written to. Raises TraceError.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY, 0o666)
    except OSError as error:
        raise TraceError(path, str(error.strerror), what) from None
    status = os.fstat(fd)
    if stat.S_ISFIFO(status.st_mode) or stat.S_ISCHR(status.st_mode):
        return fd
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise TraceError(path, "is neither a file nor a FIFO nor a character device", what)
    if status.st_size and not force and not _begins_like(path, beginnings):
        os.close(fd)
        hint = " (--force overwrites it)" if what == "trace" else ""
        raise TraceError(path, f"exists and is no {what}; not overwritten{hint}", what)
    os.ftruncate(fd, 0)
    return fd


def _begins_like(path: str, beginnings: tuple[str, ...]) -> bool:
    longest = max(len(text.encode()) for text in beginnings)
    try:
        with open(path, "rb") as file:
            head = file.read(longest)
    except OSError as error:
        raise TraceError(path, str(error.strerror)) from None
    return any(head.startswith(text.encode()) for text in beginnings)
