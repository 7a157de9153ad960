"""What happens to files and directories, told to those who watch them: the middle between the calls that
change something and inotify or dnotify.

A file is told of twice: to the watches of its directory, with its name there, and to its own. The name is
the one that it was opened by, and follows renames. Nothing is kept before the first watcher is there.

Source: inotify(7); Linux include/linux/fsnotify.h, fs/notify/fsnotify.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from emu.kernel import abi

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.kernel.fs.stat import Stat

IN_ACCESS, IN_MODIFY, IN_ATTRIB, IN_CLOSE_WRITE, IN_CLOSE_NOWRITE, IN_OPEN = 1, 2, 4, 8, 16, 32
IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE, IN_DELETE_SELF, IN_MOVE_SELF = (
    64, 128, 256, 512, 1024, 2048,
)  # fmt: skip
IN_EXCL_UNLINK, IN_ISDIR, IN_ONESHOT = 1 << 26, 1 << 30, 1 << 31
RENAMED = 1 << 12
"""Beside MOVED_FROM and MOVED_TO, for dnotify."""
MAX_QUEUED, MAX_INSTANCES, MAX_WATCHES = 16384, 128, 65536
"""What inotify keeps to, and /proc/sys/fs/inotify tells."""
Key = tuple[int, int]


class WatchedNode(Protocol):
    """An inode, as watches know it."""

    def stat(self) -> Stat:
        """Return the attributes."""


class NamedPlace(Protocol):
    """The end of a path: a directory and a name in it."""

    @property
    def parent(self) -> WatchedNode:
        """The directory."""

    @property
    def name(self) -> str:
        """The name; empty for the directory itself."""

    def found(self) -> WatchedNode:
        """Return the inode that is there."""


class WatchedFile(Protocol):
    """An open file; `inode` is None for what has no name."""

    path: str

    @property
    def inode(self) -> WatchedNode | None:
        """What was opened."""

    @property
    def writable(self) -> bool:
        """Whether the access mode allows writing."""


class FileWatch:
    """One inode that a listener watches: `mask` says for what, `number` is the listener's own."""

    __slots__ = ("inode", "key", "listener", "mask", "number")

    def __init__(self, listener: FileListener, inode: WatchedNode, number: int, mask: int) -> None:
        st = inode.stat()
        self.listener, self.inode, self.key = listener, inode, (st.dev, st.ino)
        self.number, self.mask = number, mask

    def change(self, mask: int) -> None:
        """Watch for other events from now on."""
        self.mask = mask


class FileListener(Protocol):
    """Who watches."""

    def tell(self, watch: FileWatch, mask: int, name: str, cookie: int) -> None:
        """IN_* `mask` has happened: to the entry `name` of a watched directory, or (empty) to what is
        watched itself; `cookie` ties both halves of a move together.
        """

    def ended(self, watch: FileWatch) -> None:
        """The watch is over: the inode is gone, or has been told of once."""


class _Spot:
    """The name that a file was opened by, as it is now."""

    __slots__ = ("linked", "name", "parent")

    def __init__(self, parent: WatchedNode, name: str, linked: bool = True) -> None:
        self.parent, self.name, self.linked = parent, name, linked


class MovedEntry(NamedTuple):
    """One half of a rename: the entry that moves, with its attributes, and where to."""

    old: NamedPlace
    new: NamedPlace
    st: Stat


def _key(inode: WatchedNode) -> Key:
    st = inode.stat()
    return st.dev, st.ino


class Notices:
    """Who watches which inode, and the names of open files.

    `is_open(key)` tells whether some process has an inode open, or works in it; `spot_of(path)` returns
    directory and name of a path that was opened before there were watchers.
    """

    def __init__(
        self, is_open: Callable[[Key], bool], spot_of: Callable[[str], tuple[WatchedNode, str] | None]
    ) -> None:
        self._is_open, self._spot_of = is_open, spot_of
        self._watches: dict[Key, list[FileWatch]] = {}
        self._spots: dict[WatchedFile, _Spot] = {}
        self._cookie = 0

    # -- who watches -----------------------------------------------------------------------------------------

    def add(self, watch: FileWatch) -> None:
        """Enter a watcher."""
        self._watches.setdefault(watch.key, []).append(watch)

    def drop(self, watch: FileWatch) -> None:
        """Remove a watcher."""
        watches = self._watches[watch.key]
        watches.remove(watch)
        if not watches:
            del self._watches[watch.key]

    def _deliver(self, key: Key, mask: int, name: str = "", cookie: int = 0, *, linked: bool = True) -> None:
        for watch in tuple(self._watches.get(key, ())):
            if watch.mask & mask & ~IN_ISDIR and (linked or not watch.mask & IN_EXCL_UNLINK):
                watch.listener.tell(watch, mask, name, cookie)
                if watch.mask & IN_ONESHOT:
                    self._end(watch)

    def _end(self, watch: FileWatch) -> None:
        self.drop(watch)
        watch.listener.ended(watch)

    def _gone(self, key: Key) -> None:
        """The last name of an inode is gone, and nobody has it open."""
        self._deliver(key, IN_DELETE_SELF)
        for watch in tuple(self._watches.get(key, ())):
            self._end(watch)

    # -- what happens to files -------------------------------------------------------------------------------

    def opened(self, file: WatchedFile, place: NamedPlace) -> None:
        """A file was opened by a name."""
        self._spots[file] = _Spot(place.parent, place.name)
        self.of_file(file, IN_OPEN)

    def of_file(self, file: WatchedFile, mask: int) -> None:
        """IN_* `mask` has happened to a file, through a descriptor."""
        if not self._watches or file.inode is None:
            return
        self._of_inode(self._spot(file), file.inode, mask)

    def at(self, place: NamedPlace, mask: int) -> None:
        """IN_* `mask` has happened to a file, by a path."""
        if self._watches:
            self._of_inode(_Spot(place.parent, place.name), place.found(), mask)

    def _spot(self, file: WatchedFile) -> _Spot | None:
        spot = self._spots.get(file)
        if spot is None and (known := self._spot_of(file.path)) is not None:
            spot = self._spots[file] = _Spot(*known)
        return spot

    def _of_inode(self, spot: _Spot | None, inode: WatchedNode, mask: int) -> None:
        st = inode.stat()
        mask |= IN_ISDIR if st.mode & abi.S_IFMT == abi.S_IFDIR else 0
        if spot is not None and spot.name:
            self._deliver(_key(spot.parent), mask, spot.name, linked=spot.linked)
        self._deliver((st.dev, st.ino), mask)

    def closed(self, file: WatchedFile) -> None:
        """The last descriptor of an open file is closed."""
        self.of_file(file, IN_CLOSE_WRITE if file.writable else IN_CLOSE_NOWRITE)
        self._spots.pop(file, None)
        if self._watches and file.inode is not None:
            st = file.inode.stat()
            if not st.nlink and not self._is_open((st.dev, st.ino)):
                self._gone((st.dev, st.ino))

    # -- what happens to names -------------------------------------------------------------------------------

    def created(self, parent: WatchedNode, name: str, inode: WatchedNode | None) -> None:
        """A name was made; another one of an inode that was there changes that as well."""
        if not self._watches or inode is None:
            return
        st = inode.stat()
        folder = st.mode & abi.S_IFMT == abi.S_IFDIR
        if st.nlink > 1 and not folder:
            self._deliver((st.dev, st.ino), IN_ATTRIB)
        self._deliver(_key(parent), IN_CREATE | (IN_ISDIR if folder else 0), name)

    def removed(self, place: NamedPlace, st: Stat) -> None:
        """A name is gone; `st` are the attributes that its inode had before."""
        for spot in self._at(place):
            spot.linked = False
        key, folder = (st.dev, st.ino), st.mode & abi.S_IFMT == abi.S_IFDIR
        last = folder or st.nlink <= 1
        if not folder:
            self._deliver(key, IN_ATTRIB)
        if last and not self._is_open(key):
            self._gone(key)
        self._deliver(_key(place.parent), IN_DELETE | (IN_ISDIR if folder else 0), place.name)

    def moved(self, half: MovedEntry, victim: Stat | None = None) -> None:
        """An entry has moved; `victim` are the attributes that the inode had whose name it took."""
        old, new, st = half
        folder = IN_ISDIR if st.mode & abi.S_IFMT == abi.S_IFDIR else 0
        self._cookie += 1
        self._deliver(_key(old.parent), RENAMED, old.name)
        self._deliver(_key(old.parent), IN_MOVED_FROM | folder, old.name, self._cookie)
        self._deliver(_key(new.parent), IN_MOVED_TO | folder, new.name, self._cookie)
        if victim is not None:
            key = victim.dev, victim.ino
            last = victim.mode & abi.S_IFMT == abi.S_IFDIR or victim.nlink <= 1
            self._deliver(key, IN_ATTRIB)
        self._deliver((st.dev, st.ino), IN_MOVE_SELF)
        if victim is not None and last and not self._is_open(key):
            self._gone(key)

    def renamed(self, old: NamedPlace, new: NamedPlace, *, exchange: bool) -> None:
        """Names of open files: what was open by the old one has the new one from now on."""
        first, second = self._at(old), self._at(new)
        for spot in first:
            spot.parent, spot.name = new.parent, new.name
        for spot in second:
            spot.linked = exchange
            if exchange:
                spot.parent, spot.name = old.parent, old.name

    def _at(self, place: NamedPlace) -> list[_Spot]:
        """Return the spots of open files that have a name now."""
        return [
            spot
            for spot in self._spots.values()
            if spot.name == place.name and spot.parent is place.parent and spot.linked
        ]
