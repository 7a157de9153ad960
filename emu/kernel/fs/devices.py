"""/dev: null, zero, full, random and the way back to standard input and output.

Source: null(4), full(4), random(4), tty(4).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.fs.directory import Directory, OverlayDirectory
from emu.kernel.fs.file import Inode, Meta, OpenFile, fresh
from emu.kernel.fs.inodes import Symlink
from emu.kernel.fs.pty import open_slave

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.kernel.fs.fdtable import FdTable
    from emu.kernel.fs.file import Volume
    from emu.kernel.fs.terminal import Terminal
    from emu.kernel.fs.vfs import FileSystem
    from emu.kernel.run.entropy import Entropy

_NAMES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
}


class Device(Inode):
    """A character device of the memory class, or the terminal."""

    __slots__ = ("name", "_entropy", "_fds", "_terminal")
    fmt = abi.S_IFCHR

    def __init__(
        self,
        volume: Volume,
        fds: FdTable,
        entropy: Entropy,
        name: str,
        terminal: Callable[[], Terminal | None],
    ) -> None:
        major, minor = _NAMES[name]
        super().__init__(volume, None, Meta(fresh(volume, abi.S_IFCHR | 0o666, major << 8 | minor)))
        self.name = name
        self._fds, self._entropy, self._terminal = fds, entropy, terminal
        self.own().uid = self.own().gid = 0

    def open(self, path: str, flags: int) -> OpenFile:
        """Return a description; of the terminal, that of the first standard descriptor that is one."""
        if self.name == "tty":
            terminal = self._terminal()
            if terminal is not None:
                return open_slave(terminal, path, flags, self)
            for fd in range(3):
                file = self._fds.files.get(fd)
                if file is not None and file.host_wait() is not None and _is_terminal(file):
                    return file
            raise fail(errno.ENXIO)
        return DeviceFile(self, self._entropy, path, flags)


def _is_terminal(file: OpenFile) -> bool:
    import os

    host = file.host_wait()
    return host is not None and os.isatty(host)


class DeviceFile(OpenFile):
    """An open memory device."""

    __slots__ = ("name", "_entropy")
    seekable = True

    def __init__(self, inode: Device, entropy: Entropy, path: str, flags: int) -> None:
        super().__init__(path, flags, inode)
        self.name = inode.name
        self._entropy = entropy

    @property
    def pollable(self) -> bool:
        """Whether epoll takes it: of these only the source of random numbers that could block."""
        return self.name == "random"

    def read(self, size: int) -> bytes:
        """Nothing, zeroes or random bytes."""
        match self.name:
            case "null":
                return b""
            case "zero" | "full":
                return bytes(min(size, 1 << 20))
            case _:
                return self._entropy.take(min(size, 1 << 20))

    def write(self, data: bytes) -> int:
        """Swallow the bytes; /dev/full has no room."""
        if self.name == "full":
            raise fail(errno.ENOSPC)
        return len(data)

    def pread(self, size: int, offset: int) -> bytes:
        """As read: there are no offsets."""
        return self.read(size)

    def pwrite(self, data: bytes, offset: int) -> int:
        """Do as write: a device has no offsets."""
        return self.write(data)

    def seek(self, offset: int, whence: int) -> int:
        """Accept any place and stay at 0."""
        return 0

    def sync(self) -> None:
        """Refuse, as Linux does for devices without storage."""
        raise fail(errno.EINVAL)


def mount_devices(
    fs: FileSystem, fds: FdTable, entropy: Entropy, terminal: Callable[[], Terminal | None]
) -> None:
    """Put /dev in place of whatever the sysroot has there; /dev/shm is a directory in memory.

    `terminal` returns the controlling terminal of the session that runs, where the guest has made one.
    """

    def directory(mode: int) -> Meta:
        meta = Meta(fresh(fs, abi.S_IFDIR | mode))
        meta.nlink = 2
        return meta

    def make(parent: Directory, name: str) -> Inode:
        dev = OverlayDirectory(fs, None, directory(0o755), parent, name)
        for device in _NAMES:
            dev.upper[device] = Device(fs, fds, entropy, device, terminal)
        for link, target in _LINKS.items():
            dev.upper[link] = Symlink(fs, None, Meta(fresh(fs, abi.S_IFLNK | 0o777)), target)
        dev.upper["shm"] = OverlayDirectory(fs, None, directory(0o1777), dev, "shm")
        return dev

    fs.mount("/dev", make)
