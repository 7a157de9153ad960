"""What files and sockets ask for, without a kernel:
a volume with a clock that stands still, a network without a file system.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emu.kernel.fs.file import Content, Inode
    from emu.kernel.fs.notices import Notices
    from emu.kernel.net.socket import Socket


class Volume:
    """Numbers inodes from 100 on, at second 5 (`emu.kernel.fs.file.Volume`)."""

    uid = gid = 7
    privileged = False
    notices: Notices | None = None

    def __init__(self) -> None:
        self.ino = 100
        self.charged = 0

    def now(self) -> int:
        return 5_000_000_000

    def new_ino(self) -> int:
        self.ino += 1
        return self.ino

    def keep(self, inode: Inode) -> None:
        """Nothing forgets here."""

    def stored(self, dev: int, ino: int, data: bytes, offset: int) -> None:
        """Nobody maps files."""

    def resized(self, dev: int, ino: int) -> None:
        """Nobody maps files."""

    def grant(self, what: str) -> None:
        """Nothing reaches the host."""

    def holds(self, inode: Content) -> None:
        """Nobody asks."""

    def charge(self, size: int) -> None:
        self.charged += size


class Watcher:
    """Notes what it is woken with (`emu.kernel.fs.watch.Watcher`)."""

    def __init__(self) -> None:
        self.heard: list[int] = []

    def wake(self, events: int) -> None:
        self.heard.append(events)


class Wire:
    """A network that knows nobody (`emu.kernel.net.socket.Wire`)."""

    def __init__(self) -> None:
        self.volume = Volume()
        self.under_way = self.in_flight = 0
        self.sender: Callable[[], tuple[int, int, int]] = lambda: (1, 2, 3)
        self.caller: Callable[[], tuple[int, int, int]] = lambda: (1, 2, 3)
        self.forgotten: list[Socket] = []

    def forget(self, socket: Socket) -> None:
        self.forgotten.append(socket)
