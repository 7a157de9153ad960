"""epoll instances: what each watches, and the list of those that are ready, in the
order in which Linux tells of them.

A file that knows when something happens to it keeps the interests in it (`OpenFile.watchers`) and wakes them,
the last comer first; that puts them on their instance's list. Other files are asked when somebody waits.

Source: epoll(7); Linux fs/eventpoll.c: ep_poll_callback, ep_send_events.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.fs.file import OpenFile, fresh
from emu.kernel.fs.watch import wake

if TYPE_CHECKING:
    from emu.kernel.fs.file import Volume
    from emu.kernel.fs.stat import Stat
    from emu.kernel.fs.watch import Watcher

EPOLLET, EPOLLONESHOT = 1 << 31, 1 << 30
_INTEREST_COST = 512
"""What watching a file is charged with; Linux has a limit to it, too (fs.epoll.max_user_watches)."""
_WAYS = (1000, 500, 100, 50, 10)
"""How many ways there may be from a file to instances that watch it, directly,
through one other, and so on.
"""
_ALWAYS = abi.POLLERR | abi.POLLHUP


class Interest:
    """One file that an epoll instance watches.

    `armed` goes with EPOLLONESHOT, `reported` and `occasions` with EPOLLET where the file wakes nobody.
    """

    __slots__ = ("armed", "data", "epoll", "events", "file", "occasions", "reported")

    def __init__(self, epoll: EpollFile, file: OpenFile) -> None:
        self.epoll, self.file = epoll, file
        self.events = self.data = self.reported = self.occasions = 0
        self.armed = True

    def set(self, events: int, data: int) -> None:
        """Change what is asked for; what holds now counts as having just happened."""
        self.events, self.data = events, data
        self.armed = True
        self.reported, self.occasions = self.ready(), self.file.occasions()
        if self.reported:
            self.epoll.queue(self)

    def ready(self) -> int:
        """Return the conditions that hold and were asked for."""
        return self.file.poll() & (self.events & 0xFFFF | _ALWAYS) if self.armed else 0

    def wake(self, events: int) -> None:
        """The conditions `events` have come about."""
        if self.armed and events & (self.events | _ALWAYS):
            self.epoll.queue(self)

    def look(self) -> None:
        """Ask a file that wakes nobody."""
        found, occasions = self.ready(), self.file.occasions()
        if found and (not self.events & EPOLLET or found & ~self.reported or occasions != self.occasions):
            self.epoll.queue(self)
        self.reported, self.occasions = found, occasions


def _few_ways(level: Counter[EpollFile]) -> bool:
    """Whether so many ways to instances, and from there on up, are few enough."""
    for most in _WAYS:
        if level.total() > most:
            return False
        higher: Counter[EpollFile] = Counter()
        for epoll, ways in level.items():
            for above in epoll.above():
                higher[above] += ways
        level = higher
    return True


class EpollFile(OpenFile):
    """An epoll instance."""

    __slots__ = ("interests", "_charge", "_ready", "_stat", "_watchers")

    def __init__(self, volume: Volume) -> None:
        super().__init__("anon_inode:[eventpoll]", abi.O_RDWR)
        self.interests: dict[tuple[int, OpenFile], Interest] = {}
        self._ready: list[Interest] = []
        self._watchers: list[Watcher] = []
        self._stat = fresh(volume, 0o600)
        self._charge = volume.charge

    def stat(self) -> Stat:
        """Return the attributes of an anonymous inode."""
        return self._stat

    def add(self, key: tuple[int, OpenFile]) -> Interest:
        """Watch a file, under a descriptor number. Raises OSError(ENOSPC) at the memory limit."""
        self._charge(_INTEREST_COST)
        interest = self.interests[key] = Interest(self, key[1])
        watchers = interest.file.watchers()
        if watchers is not None:
            watchers.append(interest)
        return interest

    def drop(self, key: tuple[int, OpenFile]) -> bool:
        """Watch no longer; false if it was not watched."""
        interest = self.interests.pop(key, None)
        if interest is None:
            return False
        self._charge(-_INTEREST_COST)
        watchers = interest.file.watchers()
        if watchers is not None:
            watchers.remove(interest)
        if interest in self._ready:
            self._ready.remove(interest)
        return True

    def watched(self) -> list[tuple[OpenFile, int]]:
        """Return what it waits for; files that were closed fall out."""
        for key in [key for key, interest in self.interests.items() if not interest.file.references]:
            self.drop(key)
        return [(i.file, i.events & 0xFFFF) for i in self.interests.values() if i.armed]

    def instances(self) -> list[EpollFile]:
        """Return the instances nested in this one and itself, each once, after those in it:
        there may be many ways to one.
        """
        found: dict[EpollFile, None] = {}
        self._collect_instances(found)
        return list(found)

    def _collect_instances(self, found: dict[EpollFile, None]) -> None:
        for file, _ in self.watched():
            if isinstance(file, EpollFile) and file not in found:
                file._collect_instances(found)
        found[self] = None

    def depth(self) -> int:
        """Return how many epoll instances are nested in this one."""
        depths: dict[OpenFile, int] = {}
        for one in self.instances():
            depths[one] = 1 + max((depths.get(file, 0) for file, _ in one.watched()), default=0)
        return depths[self]

    def ways_fit(self, file: OpenFile) -> bool:
        """Whether no file that is watched through `file` wakes too many instances,
        counted by the ways to them.

        Source: Linux fs/eventpoll.c:reverse_path_check, path_limits.
        """
        if not isinstance(file, EpollFile):
            return not self._watchers or _few_ways(self._watching(file))
        bottom = {inner for one in file.instances() for inner, _ in one.watched()} - {file}
        return all(_few_ways(self._watching(inner)) for inner in bottom if not isinstance(inner, EpollFile))

    def _watching(self, file: OpenFile) -> Counter[EpollFile]:
        """Return the instances that watch a file, at least this one: some files do not know."""
        known = file.watchers()
        return Counter([self] if known is None else [i.epoll for i in known if isinstance(i, Interest)])

    def above(self) -> list[EpollFile]:
        """Return the instances that watch this one."""
        return [interest.epoll for interest in self._watchers if isinstance(interest, Interest)]

    def queue(self, interest: Interest) -> None:
        """Put an interest at the end of the list of those that are ready."""
        if interest not in self._ready:
            self._ready.append(interest)
            wake(self._watchers, abi.POLLIN | abi.POLLRDNORM)

    def collect(self, count: int) -> list[tuple[int, Interest]]:
        """Take up to `count` interests that are ready, with their conditions;
        the level-triggered go to the list's end.
        """
        self._look()
        waiting, self._ready = self._ready, []
        found: list[tuple[int, Interest]] = []
        while waiting and len(found) < count:
            interest = waiting.pop(0)
            conditions = interest.ready()
            if not conditions:
                continue
            found.append((conditions, interest))
            if interest.events & EPOLLONESHOT:
                interest.armed = False
            elif not interest.events & EPOLLET:
                self._ready.append(interest)
        self._ready[:0] = waiting
        return found

    def _look(self) -> None:
        for one in self.instances():
            for interest in one.interests.values():
                if interest.file.watchers() is None:
                    interest.look()

    def closed(self) -> None:
        """Nobody can ask it any more."""
        for key in list(self.interests):
            self.drop(key)

    def watchers(self) -> list[Watcher]:
        """Return the interests of other instances in this one."""
        return self._watchers

    def _outside(self) -> list[tuple[OpenFile, int]]:
        """Return what it waits for in the end: files that are no instances."""
        pairs = [pair for one in self.instances() for pair in one.watched()]
        return [pair for pair in pairs if not isinstance(pair[0], EpollFile)]

    def hosts(self, events: int) -> list[tuple[int, int]]:
        """Return the host descriptors of what it watches."""
        return [host for file, wanted in self._outside() for host in file.hosts(wanted)]

    def deadline(self) -> int | None:
        """Return when something next happens to what it watches."""
        return min((at for file, _ in self._outside() if (at := file.deadline()) is not None), default=None)

    def poll(self) -> int:
        """Readable when a watched file is ready."""
        self._look()
        self._ready = [interest for interest in self._ready if interest.ready()]
        return abi.POLLIN | abi.POLLRDNORM if self._ready else 0
