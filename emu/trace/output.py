"""Where a trace or an answer goes: standard error or a file, without ever destroying a
file that is something else.

A trace is streamed, and an earlier one in its place is emptied when the first line goes out, not before; an
answer takes the place of an earlier one when it is complete.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
from _thread import allocate_lock
from contextlib import contextmanager
from typing import TYPE_CHECKING

from emu.core.errors import EmuError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from emu.core.events import Record

EXIT_SIGPIPE = 128 + 13
STANDARD_OUTPUT = "-"
STREAMS = {None: (2, "standard error"), STANDARD_OUTPUT: (1, "standard output")}
"""The descriptors of outputs that are no files, and their names."""
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

    Unbuffered, so that the lines stand among the guest's own, unless `buffered`. `fresh`: what the file has
    is dropped when the first line is written. `flush` may be called from another thread. Raises TraceError or
    TraceClosed.
    """

    __slots__ = ("_buffered", "_fd", "_fresh", "_lines", "_lock", "_render", "_size", "_what", "_where")

    def __init__(
        self,
        fd: int,
        where: str,
        render: Callable[[Record], str],
        *,
        buffered: bool,
        what: str = "trace",
        fresh: bool = False,
    ) -> None:
        self._fd, self._where, self._render, self._buffered = fd, where, render, buffered
        self._what, self._fresh = what, fresh
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
            text = "".join(line + "\n" for line in lines)
            if text and self._fresh:
                self._fresh = False
                if stat.S_ISREG(os.fstat(self._fd).st_mode):
                    os.ftruncate(self._fd, 0)
            _write(self._fd, text)
        except BrokenPipeError:
            raise TraceClosed from None
        except OSError as error:
            raise TraceError(self._where, str(error.strerror), self._what) from None
        finally:
            self._lock.release()


def open_output(path: str, beginnings: tuple[str, ...], *, force: bool = False, what: str = "trace") -> int:
    """Open `path` for a trace, or `what` else, and return the descriptor;
    what the file has stays until a `fresh` TraceWriter writes.

    A file that exists may be written to only if it is empty or begins like a trace (with one of
    `beginnings`), or with `force`; so may a FIFO or character device. Raises TraceError.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY, 0o666)
    except OSError as error:
        raise TraceError(path, str(error.strerror), what) from None
    try:
        _check(path, os.fstat(fd), beginnings, force=force, what=what)
    except TraceError:
        os.close(fd)
        raise
    return fd


@contextmanager
def ended_by(flush: Callable[[], None], begun: Callable[[], bool]) -> Iterator[None]:
    """Call `flush` at the end, but not after an error that came before anything `begun`:
    an earlier file then stays as it is.
    """
    try:
        yield
    except BaseException:  # Ctrl-C, too: it is raised again
        if begun():
            flush()
        raise
    flush()


def check_output(
    path: str, beginnings: tuple[str, ...] = (), *, force: bool = False, what: str = "trace"
) -> None:
    """Look before the run whether `write_output` may and can write to `path`, by the rules of `open_output`.

    Raises TraceError.
    """
    if path == STANDARD_OUTPUT:
        return
    folder = os.path.dirname(os.path.realpath(path))
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        if not os.path.isdir(folder):
            raise TraceError(path, str(error.strerror), what) from None
        if not os.access(folder, os.W_OK | os.X_OK):
            raise TraceError(path, "Permission denied", what) from None
        return
    except OSError as error:
        raise TraceError(path, str(error.strerror), what) from None
    if not os.access(path, os.W_OK):
        raise TraceError(path, "Permission denied", what)
    _check(path, status, beginnings, force=force, what=what)


def write_output(path: str, text: str, what: str = "trace") -> None:
    """Write all of an answer.

    A file is replaced when the new one is complete, so that there is always the old or the new one.

    Where no file can be made beside it, or it cannot be renamed (a mount point), it is written in place.
    Raises TraceError.
    """
    try:
        status = os.stat(path) if os.path.exists(path) else None
        special = os.path.abspath(path).startswith(
            ("/dev/", "/proc/")
        )  # who has it open reads or writes there, too
        if not special and (status is None or stat.S_ISREG(status.st_mode)):
            if _replace(os.path.realpath(path), text, status):  # a symbolic link stays one
                return
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOCTTY, 0o666)
        try:
            _write(fd, text)
        finally:
            os.close(fd)
    except OSError as error:
        raise TraceError(path, str(error.strerror), what) from None


def write_answer(path: str | None, text: str) -> None:
    """Write an answer to `path`, or to standard error, behind what the guest wrote. Raises TraceError."""
    sys.stdout.flush()
    if path is not None and path != STANDARD_OUTPUT:
        write_output(path, text, "answer")
        return
    number, where = STREAMS[path]
    try:
        _write(number, text)
    except OSError as error:
        raise TraceError(where, str(error.strerror), "answer") from None


def _replace(target: str, text: str, before: os.stat_result | None) -> bool:
    """Put a new file in the place of `target`; return whether that could be done.

    Raises OSError for a disk that is full.
    """
    beside = f"{target}.{os.getpid()}.tmp"
    with _signals_wait():
        try:
            fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except OSError:
            return False
        try:
            try:
                if before is not None:
                    os.fchmod(fd, stat.S_IMODE(before.st_mode))
                _write(fd, text)
            finally:
                os.close(fd)
        except OSError:
            os.unlink(beside)
            raise
        try:
            os.rename(beside, target)
        except OSError:
            os.unlink(beside)
            return False
    return True


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Let Ctrl-C and its like end us a little later: no half-written file is to be left behind."""
    deadly = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, deadly)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _write(fd: int, text: str) -> None:
    data = memoryview(text.encode("utf-8", "backslashreplace"))
    while data:
        data = data[os.write(fd, data) :]


def _check(path: str, status: os.stat_result, beginnings: tuple[str, ...], *, force: bool, what: str) -> None:
    """Raise TraceError for what must not be written to."""
    if stat.S_ISFIFO(status.st_mode) or stat.S_ISCHR(status.st_mode):
        return
    if stat.S_ISDIR(status.st_mode):
        raise TraceError(path, "Is a directory", what)
    if not stat.S_ISREG(status.st_mode):
        raise TraceError(path, "is neither a file nor a FIFO nor a character device", what)
    if status.st_size and beginnings and not force and not _begins_like(path, beginnings):
        hint = "--force overwrites it" if what != "schedule" else "choose another file"
        raise TraceError(path, f"exists and is no {what}; not overwritten ({hint})", what)


def _begins_like(path: str, beginnings: tuple[str, ...]) -> bool:
    longest = max(len(text.encode()) for text in beginnings)
    try:
        with open(path, "rb") as file:
            head = file.read(longest)
    except OSError as error:
        raise TraceError(path, str(error.strerror)) from None
    return any(head.startswith(text.encode()) for text in beginnings)
