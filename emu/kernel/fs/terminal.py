"""A terminal between two ends: modes, what was typed, what is shown, and the line discipline.

Source: pty(7), pts(4), termios(3), ioctl_tty(2); Linux drivers/tty/n_tty.c for echo and editing.
"""

from __future__ import annotations

import errno
import struct
from collections import deque
from typing import TYPE_CHECKING, Protocol

from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.fs.watch import wake

if TYPE_CHECKING:
    from emu.kernel.fs.watch import Watcher

TERMIOS = struct.Struct("<4IB19s")
_ICRNL, _INLCR, _IGNCR, _IXON = 0x100, 0x40, 0x80, 0x400
_OPOST, _ONLCR = 1, 4
_ISIG, _ICANON, _ECHO, _ECHOE, _ECHOK, _ECHONL, _NOFLSH, _ECHOCTL = 1, 2, 8, 0x10, 0x20, 0x40, 0x80, 0x200
_INTR, _QUIT, _ERASE, _KILL, _EOF, _MIN, _START, _STOP, _SUSP, _EOL = 0, 1, 2, 3, 4, 6, 8, 9, 10, 11
_DEFAULT = TERMIOS.pack(0x500, 5, 0xBF, 0x8A3B, 0, bytes.fromhex("031c7f150400010011131a00120f1716000000"))
_SIGNALS = ((_INTR, abi.SIGINT), (_QUIT, abi.SIGQUIT), (_SUSP, abi.SIGTSTP))
ROOM = 4096
"""How many bytes an end holds that the other has not taken."""


class Jobs(Protocol):
    """What a terminal asks of the processes."""

    def caller(self) -> tuple[int, int]:
        """Return process group and session of the process that runs."""

    def signal_group(self, group: int, signo: int) -> None:
        """Send a signal to all of a process group."""

    def session_of(self, group: int) -> int | None:
        """Return the session of a process group, None if there is no such group."""

    def refuses(self, signo: int) -> bool:
        """Whether the thread that runs ignores or blocks a signal, or its group is an orphan."""

    def controls(self, session: int, terminal: Terminal | None) -> None:
        """A session has a controlling terminal now, or (None) none any more."""


class Terminal:
    """One pair.

    `lines` are for the slave to read in canonical mode, `typed` is what is not yet a line, or all there is in
    raw mode; `shown` is for the master.
    """

    def __init__(self, jobs: Jobs, number: int) -> None:
        self.jobs, self.number = jobs, number
        self.termios = _DEFAULT
        self.size = bytes(8)
        self.lines: deque[bytes] = deque()
        self.typed, self.shown = bytearray(), bytearray()
        self.group = self.session = 0
        self.locked = True
        self.master, self.slaves, self.used = True, 0, False
        self.master_watchers: list[Watcher] = []
        self.slave_watchers: list[Watcher] = []
        self._set(_DEFAULT)

    def _set(self, raw: bytes) -> None:
        self.termios = raw
        self.iflag, self.oflag, _, self.lflag, _, self.cc = TERMIOS.unpack(raw)

    # -- what is typed ---------------------------------------------------------------------------------------

    def type(self, data: bytes) -> None:
        """Take what the master has written."""
        for byte in data:
            self._key(byte)
        wake(self.slave_watchers, abi.POLLIN)

    def _key(self, byte: int) -> None:
        if self.lflag & _ISIG:
            for place, signo in _SIGNALS:
                if byte and byte == self.cc[place]:
                    if not self.lflag & _NOFLSH:
                        self.flush()
                    self._echo(byte)
                    if self.group:
                        self.jobs.signal_group(self.group, signo)
                    return
        if self.iflag & _IXON and byte and byte in (self.cc[_START], self.cc[_STOP]):
            return
        if byte == 13:
            if self.iflag & _IGNCR:
                return
            byte = 10 if self.iflag & _ICRNL else byte
        elif byte == 10 and self.iflag & _INLCR:
            byte = 13
        if not self.lflag & _ICANON:
            self.typed.append(byte)
            self._echo(byte)
        elif byte and byte in (self.cc[_ERASE], self.cc[_KILL]):
            self._rub_out(byte)
        elif byte and byte == self.cc[_EOF]:
            self._end_line()
        else:
            self.typed.append(byte)
            self._echo(byte)
            if byte == 10 or byte and byte == self.cc[_EOL]:
                self._end_line()

    def _end_line(self) -> None:
        self.lines.append(bytes(self.typed))
        self.typed.clear()

    def _rub_out(self, byte: int) -> None:
        kill = byte == self.cc[_KILL]
        count = len(self.typed) if kill else min(len(self.typed), 1)
        del self.typed[len(self.typed) - count :]
        if self.lflag & _ECHO and self.lflag & _ECHOE:
            self.show(b"\b \b" * count)
        elif kill and self.lflag & _ECHOK:
            self.show(b"\n")

    def _echo(self, byte: int) -> None:
        if not self.lflag & _ECHO:
            if byte == 10 and self.lflag & _ECHONL and self.lflag & _ICANON:
                self.show(b"\n")
            return
        if self.lflag & _ECHOCTL and (byte < 32 and byte not in (9, 10) or byte == 127):
            self.show(bytes((94, byte ^ 64)))
        else:
            self.show(bytes((byte,)))

    def show(self, data: bytes) -> None:
        """Let the master read what the slave has written, or an echo."""
        if self.oflag & _OPOST and self.oflag & _ONLCR:
            data = data.replace(b"\n", b"\r\n")
        self.shown += data
        wake(self.master_watchers, abi.POLLIN)

    # -- what the slave reads --------------------------------------------------------------------------------

    def ready(self) -> bool:
        """Whether a read at the slave's end would not wait."""
        if self.lflag & _ICANON:
            return bool(self.lines)
        return bool(len(self.typed) >= max(self.cc[_MIN], 1))

    def take(self, size: int) -> bytes:
        """Return what there is for the slave. Raises OSError(EAGAIN)."""
        if self.lflag & _ICANON:
            if not self.lines:
                if not self.master:
                    return b""
                raise fail(errno.EAGAIN)
            line = self.lines.popleft()
            if len(line) > size:
                self.lines.appendleft(line[size:])
            data = line[:size]
        else:
            if not self.ready() and self.cc[_MIN]:
                if not self.master:
                    return b""
                raise fail(errno.EAGAIN)
            data = bytes(self.typed[:size])
            del self.typed[:size]
        wake(self.master_watchers, abi.POLLOUT)
        return data

    def flush(self) -> None:
        """Forget what was typed."""
        self.lines.clear()
        self.typed.clear()

    def waiting(self) -> int:
        """Return how many bytes were typed and not read."""
        return len(self.typed) + sum(map(len, self.lines))

    def set_termios(self, raw: bytes) -> None:
        """Change the modes; what is being typed stays."""
        canonical = self.lflag & _ICANON
        self._set(raw)
        if canonical and not self.lflag & _ICANON:
            self.typed[:0] = b"".join(self.lines)
            self.lines.clear()
        elif not canonical and self.lflag & _ICANON and self.typed:
            self._end_line()

    def control(self, group: int, session: int) -> None:
        """Become the controlling terminal of a session."""
        self.group, self.session = group, session
        self.jobs.controls(session, self)

    def leave(self) -> None:
        """The session's leader gives the terminal up, or is over: who is in the foreground is told.

        Source: Linux drivers/tty/tty_jobctrl.c:disassociate_ctty.
        """
        self.jobs.controls(self.session, None)
        group, self.group, self.session = self.group, 0, 0
        if group:
            self.jobs.signal_group(group, abi.SIGHUP)
            self.jobs.signal_group(group, abi.SIGCONT)

    def check_reader(self) -> None:
        """Keep who is in the background from reading: it is stopped, and reads when it goes on. Raises
        OSError:
        EIO for one that cannot be stopped, EAGAIN after the signal.

        Source: Linux drivers/tty/tty_jobctrl.c:__tty_check_change.
        """
        group, session = self.jobs.caller()
        if session == self.session and self.group and group != self.group:
            if self.jobs.refuses(abi.SIGTTIN):
                raise fail(errno.EIO)
            self.jobs.signal_group(group, abi.SIGTTIN)
            raise fail(errno.EAGAIN)

    def hang_up(self) -> None:
        """Let reads end and writes fail from now on: the master is closed."""
        self.master = False
        if self.group:
            self.jobs.signal_group(self.group, abi.SIGHUP)
            self.jobs.signal_group(self.group, abi.SIGCONT)
        wake(self.slave_watchers, abi.POLLIN | abi.POLLHUP)
