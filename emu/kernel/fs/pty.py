"""Pseudo-terminals: /dev/ptmx, /dev/pts, and the files of the two ends.

Source: pty(7), pts(4), ioctl_tty(2).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.fs.directory import Directory
from emu.kernel.fs.file import Inode, Meta, OpenFile, fresh
from emu.kernel.fs.terminal import ROOM, TERMIOS, Terminal
from emu.kernel.fs.watch import wake

if TYPE_CHECKING:
    from emu.kernel.fs.file import Volume
    from emu.kernel.fs.terminal import Jobs
    from emu.kernel.fs.vfs import FileSystem
    from emu.kernel.fs.watch import Watcher
    from emu.machine.arena import Arena

_TCGETS, _TCSETS, _TCSETSW, _TCSETSF, _TCSBRK, _TCXONC, _TCFLSH = (
    0x5401,
    0x5402,
    0x5403,
    0x5404,
    0x5409,
    0x540A,
    0x540B,
)
_SCTTY, _GPGRP, _SPGRP, _OUTQ, _GWINSZ, _SWINSZ, _FIONREAD, _NOTTY, _GSID = (
    0x540E, 0x540F, 0x5410, 0x5411, 0x5413, 0x5414, 0x541B, 0x5422, 0x5429,
)  # fmt: skip
_GPTN, TIOCSPTLCK, _GPTLCK, TIOCGPTPEER = 0x80045430, 0x40045431, 0x80045439, 0x5441
_PTMX, _PTS_MAJOR = 5 << 8 | 2, 136


class _End(OpenFile):
    """One end of a pair, which shares modes and size with the other."""

    __slots__ = ("terminal",)
    tells_owner = True

    def __init__(self, terminal: Terminal, path: str, flags: int, inode: Inode) -> None:
        super().__init__(path, flags, inode)
        self.terminal = terminal

    def ioctl(self, arena: Arena, request: int, argument: int) -> int:
        """Serve what a terminal is asked for."""
        terminal = self.terminal
        if request == _TCGETS:
            arena.copy_out(argument, terminal.termios)
        elif request in (_TCSETS, _TCSETSW, _TCSETSF):
            if request == _TCSETSF:
                terminal.flush()
            terminal.set_termios(arena.copy_in(argument, TERMIOS.size))
        elif request == _GWINSZ:
            arena.copy_out(argument, terminal.size)
        elif request == _SWINSZ:
            size = arena.copy_in(argument, 8)
            if size != terminal.size and terminal.group:
                terminal.jobs.signal_group(terminal.group, abi.SIGWINCH)
            terminal.size = size
        elif request == _TCFLSH:
            if argument in (0, 2):
                terminal.flush()
            if argument in (1, 2):
                terminal.shown.clear()
        elif request not in (_TCSBRK, _TCXONC):  # nothing is under way: output is there at once
            return self._job(arena, request, argument)
        return 0

    def _job(self, arena: Arena, request: int, argument: int) -> int:
        terminal = self.terminal
        group, session = terminal.jobs.caller()
        if request == _SPGRP:
            self._set_group(int.from_bytes(arena.copy_in(argument, 4), "little", signed=True))
        elif request == _SCTTY:
            terminal.control(group, session)
        elif request == _NOTTY:
            if terminal.session != session:
                raise fail(errno.ENOTTY)
            if group == session:
                terminal.leave()
        elif request in (_GPGRP, _GSID):
            if not terminal.session and not terminal.group:
                raise fail(errno.ENOTTY)
            value = terminal.group if request == _GPGRP else terminal.session
            arena.copy_out(argument, value.to_bytes(4, "little"))
        else:
            raise fail(errno.ENOTTY)
        return 0

    def _set_group(self, group: int) -> None:
        """Put a process group into the foreground. Source: Linux drivers/tty/tty_jobctrl.c:tiocspgrp."""
        terminal = self.terminal
        session = terminal.jobs.caller()[1]
        if terminal.session != session:
            raise fail(errno.ENOTTY)
        if group < 0:
            raise fail(errno.EINVAL)
        of = terminal.jobs.session_of(group)
        if of != session:
            raise fail(errno.ESRCH if of is None else errno.EPERM)
        terminal.group = group


class MasterFile(_End):
    """The end of whoever shows the terminal."""

    __slots__ = ()

    def read(self, size: int) -> bytes:
        """Return what is shown. Raises OSError: EAGAIN, EIO once nobody has the other end open any more."""
        terminal = self.terminal
        if not terminal.shown:
            raise fail(errno.EIO if terminal.used and not terminal.slaves else errno.EAGAIN)
        data = bytes(terminal.shown[:size])
        del terminal.shown[:size]
        wake(terminal.slave_watchers, abi.POLLOUT)
        return data

    def write(self, data: bytes) -> int:
        """Type. Raises OSError(EAGAIN) while too much is not read."""
        room = ROOM - self.terminal.waiting()
        if room <= 0:
            raise fail(errno.EAGAIN)
        self.terminal.type(data[:room])
        return min(len(data), room)

    def poll(self) -> int:
        """Readable while something is shown."""
        terminal = self.terminal
        held = abi.POLLIN | abi.POLLRDNORM if terminal.shown else 0
        held |= abi.POLLHUP if terminal.used and not terminal.slaves else 0
        return held | (abi.POLLOUT | abi.POLLWRNORM if terminal.waiting() < ROOM else 0)

    def watchers(self) -> list[Watcher]:
        """Return who watches this end."""
        return self.terminal.master_watchers

    def ioctl(self, arena: Arena, request: int, argument: int) -> int:
        """Serve what the master alone is asked for, and what both are."""
        terminal = self.terminal
        if request == TIOCSPTLCK:
            terminal.locked = arena.copy_in(argument, 4) != bytes(4)
        elif request in (_GPTN, _GPTLCK, _FIONREAD):
            values = {_GPTN: terminal.number, _GPTLCK: int(terminal.locked), _FIONREAD: len(terminal.shown)}
            arena.copy_out(argument, values[request].to_bytes(4, "little"))
        else:
            return super().ioctl(arena, request, argument)
        return 0

    def slave_path(self) -> str:
        """Return the path of the other end."""
        return f"/dev/pts/{self.terminal.number}"

    def closed(self) -> None:
        """Hang the terminal up: its master is closed."""
        self.terminal.hang_up()


class SlaveFile(_End):
    """The end of the programs that run in the terminal."""

    __slots__ = ()

    def read(self, size: int) -> bytes:
        """Return what was typed: a line, or bytes. Raises OSError(EIO) in the background."""
        self.terminal.check_reader()
        return self.terminal.take(size)

    def write(self, data: bytes) -> int:
        """Show bytes. Raises OSError: EIO after a hang-up, EAGAIN while too much is not read."""
        terminal = self.terminal
        if not terminal.master:
            raise fail(errno.EIO)
        room = ROOM - len(terminal.shown)
        if room <= 0:
            raise fail(errno.EAGAIN)
        terminal.show(data[:room])
        return min(len(data), room)

    def poll(self) -> int:
        """Readable with a line, or with enough bytes."""
        terminal = self.terminal
        held = abi.POLLIN | abi.POLLRDNORM if terminal.ready() or not terminal.master else 0
        held |= 0 if terminal.master else abi.POLLHUP
        return held | (abi.POLLOUT | abi.POLLWRNORM if len(terminal.shown) < ROOM else 0)

    def watchers(self) -> list[Watcher]:
        """Return who watches this end."""
        return self.terminal.slave_watchers

    def ioctl(self, arena: Arena, request: int, argument: int) -> int:
        """Serve what the slave alone is asked for, and what both are."""
        if request in (_FIONREAD, _OUTQ):
            value = self.terminal.waiting() if request == _FIONREAD else 0
            arena.copy_out(argument, value.to_bytes(4, "little"))
            return 0
        return super().ioctl(arena, request, argument)

    def closed(self) -> None:
        """Count one opener fewer."""
        self.terminal.slaves -= 1
        if not self.terminal.slaves:
            wake(self.terminal.master_watchers, abi.POLLHUP)


class _Slave(Inode):
    """/dev/pts/N."""

    __slots__ = ("_terminal",)
    fmt = abi.S_IFCHR

    def __init__(self, volume: Volume, terminal: Terminal) -> None:
        super().__init__(
            volume, None, Meta(fresh(volume, abi.S_IFCHR | 0o620, _PTS_MAJOR << 8 | terminal.number))
        )
        self._terminal = terminal

    def open(self, path: str, flags: int) -> OpenFile:
        """Open the slave's end. Raises OSError(EIO) while it is locked, or after a hang-up."""
        terminal = self._terminal
        if terminal.locked or not terminal.master:
            raise fail(errno.EIO)
        group, session = terminal.jobs.caller()
        if not flags & abi.O_NOCTTY and not terminal.session and group == session:
            terminal.control(group, session)
        return open_slave(terminal, path, flags, self)


def open_slave(terminal: Terminal, path: str, flags: int, inode: Inode) -> SlaveFile:
    """Return one more open file of a slave's end, by whatever name."""
    terminal.slaves += 1
    terminal.used = True
    return SlaveFile(terminal, path, flags, inode)


class TerminalDirectory(Directory):
    """/dev/pts: a slave for each master that is open."""

    __slots__ = ("_slaves",)

    def __init__(self, volume: Volume, parent: Directory, name: str) -> None:
        meta = Meta(fresh(volume, abi.S_IFDIR | 0o755))
        meta.nlink = 2
        super().__init__(volume, None, meta, parent, name)
        self._slaves: dict[int, _Slave] = {}

    def _gone(self) -> None:
        for number in [number for number, slave in self._slaves.items() if not slave._terminal.master]:
            del self._slaves[number]

    def add(self, jobs: Jobs) -> Terminal:
        """Return a new pair, which has the lowest number that is free."""
        self._gone()
        number = next(number for number in range(1 << 20) if number not in self._slaves)
        terminal = Terminal(jobs, number)
        self._slaves[number] = _Slave(self.volume, terminal)
        return terminal

    def lookup(self, name: str) -> Inode | None:
        """Return a slave."""
        self._gone()
        return self._slaves.get(int(name)) if name.isascii() and name.isdigit() else None

    def listing(self) -> list[tuple[str, int, int]]:
        """Return the numbers in use."""
        self._gone()
        return [
            (str(number), slave.stat().ino, abi.S_IFCHR) for number, slave in sorted(self._slaves.items())
        ]


class Multiplexer(Inode):
    """/dev/ptmx: each open makes a pair."""

    __slots__ = ("_directory", "_jobs")
    fmt = abi.S_IFCHR

    def __init__(self, volume: Volume, directory: TerminalDirectory, jobs: Jobs) -> None:
        super().__init__(volume, None, Meta(fresh(volume, abi.S_IFCHR | 0o666, _PTMX)))
        self._directory, self._jobs = directory, jobs

    def open(self, path: str, flags: int) -> OpenFile:
        """Return the master's end of a new pair."""
        return MasterFile(self._directory.add(self._jobs), path, flags, self)


def mount_terminals(fs: FileSystem, jobs: Jobs) -> None:
    """Put /dev/ptmx and /dev/pts into /dev."""
    found: list[TerminalDirectory] = []

    def directory(parent: Directory, name: str) -> Inode:
        found.append(TerminalDirectory(fs, parent, name))
        return found[0]

    fs.mount("/dev/pts", directory)
    fs.mount("/dev/ptmx", lambda parent, name: Multiplexer(fs, found[0], jobs))
