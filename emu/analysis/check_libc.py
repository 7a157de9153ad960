"""Rules about what libc keeps for several DSOs:
a pthread key that another one deletes, handlers of fork, output of another namespace's libc.

Functions of libc are watched one by one; the streams of a namespace's libc are looked at when it goes, or at
the end.
Source: glibc nptl/pthread_key_delete.c, nptl/register-atfork.c, libio/bits/types/struct_FILE.h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.analysis.check_notes import NOWHERE, Notes, Occasion, base
from emu.core.errors import MemoryFault
from emu.core.record import NamedTuple

if TYPE_CHECKING:
    from emu.core.dl_events import OpenRequested, Unloading
    from emu.core.events import Record
    from emu.rtld.address_index import Departed
    from emu.rtld.link_map import LinkMap

KEY, FORK, OUTPUT = "key-deleted-by-another", "atfork-handler-unloaded", "output-never-flushed"
LEFT = "key-left-each-time"
_MOST_KEYS = 1024
"""PTHREAD_KEYS_MAX."""
_KINDS = ("prepare", "parent", "child")
_WRITE_BASE, _WRITE_PTR, _CHAIN, _FILENO = 0x20, 0x28, 0x68, 0x70
"""Members of struct _IO_FILE, which is ABI."""
_STREAMS = 1024
"""Streams of one libc that are followed at most: the list is the guest's."""


class _Key(NamedTuple):
    creator: LinkMap
    place: Occasion


class _AtFork(NamedTuple):
    """A registration: the handlers' addresses and the DSO whose unloading takes them back."""

    handlers: tuple[int, int, int]
    dso: int
    place: Occasion


class LibcState:
    """Follows keys, fork handlers and the libcs of other namespaces."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._creating: list[tuple[int, _Key]] = []
        self._keys: dict[int, _Key] = {}
        self._left: dict[str, list[_Key]] = {}
        self._forks: list[_AtFork] = []
        self._opened: dict[int, Occasion] = {}
        self._opening = NOWHERE

    def linked(self) -> None:
        """Watch libc's functions; it is linked and has not run."""
        rules, watch = self._notes.rules, self._notes.watch_libc
        if KEY in rules or LEFT in rules:
            watch(b"pthread_key_create", self._creates)
            watch(b"pthread_key_delete", self._deletes)
        if FORK in rules:
            watch(b"__register_atfork", self._at_fork)

    # -- keys ------------------------------------------------------------------------------------------------

    def _creates(self) -> None:
        self._settle()
        creator = self._notes.calls()
        if creator is not None:
            self._creating.append((self._notes.argument(0), _Key(creator, self._notes.here())))

    def _settle(self) -> None:
        """Read the keys that were made since the last time."""
        for address, key in self._creating:
            try:
                self._keys[self._notes.process.arena.read_u32(address)] = key
            except MemoryFault:
                continue  # whoever asked has gone, with the key's number
        self._creating.clear()

    def _deletes(self) -> None:
        self._settle()
        number = self._notes.argument(0) & 0xFFFFFFFF
        key = self._keys.pop(number, None)
        caller = self._notes.calls()
        if key is None or caller is None or caller is key.creator or key.creator.removed:
            return
        here, notes = self._notes.here(), self._notes
        mine = base(caller.display_name)
        inner = here._replace(frames=here.frames[1:])
        notes.report(
            KEY,
            f"pthread_key_delete({number}) in {notes.function(inner)} ({notes.line(inner)}) of {mine} deletes a key"
            f" that {base(key.creator.display_name)} created ({notes.line(key.place)})",
            here, [("created by", key.place)], [caller.display_name, key.creator.display_name], key=(number, caller.serial),
            remedies=[
                f"delete a key in {mine} only if {mine} has created it: 0 is a valid key, so a variable that was never set"
                " names somebody else's"
            ],
        )  # fmt: skip

    def _keys_left(self, gone: Departed) -> None:
        """An object has gone: does it leave a key behind each time?"""
        numbers = [
            n for n, key in self._keys.items() if key.creator.removed and key.creator.map_start == gone.start
        ]
        if not numbers:
            return
        left = self._left.setdefault(gone.name, [])
        again, name = bool(left), base(gone.name)
        left += [self._keys.pop(number) for number in numbers]
        if again:
            unloaded = self._notes.unloaded.get((gone.start, gone.end), NOWHERE)
            self._notes.report(
                LEFT,
                f"{name} leaves a pthread key behind each time it is unloaded: {len(left)} by now, of the {_MOST_KEYS} that a process may have",
                unloaded, [("created by", left[-1].place)], [gone.name], key=(gone.name,),
                remedies=[
                    f"call pthread_key_delete for it in a destructor function of {name}",
                    f"do not close {name}, so that it makes its key once",
                ],
            )  # fmt: skip

    # -- fork ------------------------------------------------------------------------------------------------

    def _at_fork(self) -> None:
        arguments = tuple(self._notes.argument(number) for number in range(4))
        self._forks.append(
            _AtFork((arguments[0], arguments[1], arguments[2]), arguments[3], self._notes.here())
        )

    def unloaded(self, gone: Departed) -> None:
        """An object goes: libc forgets the fork handlers that were registered for it, and no others."""
        self._keys_left(gone)
        self._forks = [fork for fork in self._forks if not gone.start <= fork.dso < gone.end]
        rtld = self._notes.process.rtld
        for fork in self._forks:
            for kind, handler in zip(_KINDS, fork.handlers, strict=True):
                if not gone.start <= handler < gone.end:
                    continue
                owner = rtld.find_map(fork.dso) if rtld is not None else None
                name = base(owner.display_name) if owner is not None else "the program"
                unloaded = self._notes.unloaded.get((gone.start, gone.end), NOWHERE)
                self._notes.report(
                    FORK,
                    f"the {kind} handler of fork, {self._notes.function_in(gone, handler)} in {gone.name}, is left behind"
                    f" by the unloading of {gone.name}: it was registered for {name}, which stays",
                    unloaded, [("registered by", fork.place)], [gone.name], key=(handler, kind),
                    remedies=[
                        f"call pthread_atfork in {base(gone.name)} itself: its dlclose then takes the handlers back",
                        f"do not close {base(gone.name)} as long as the program may fork",
                    ],
                )  # fmt: skip

    # -- other libcs -----------------------------------------------------------------------------------------

    def open_requested(self, _record: Record, _event: OpenRequested) -> None:
        """Keep the place of the open that may make a namespace."""
        self._opening = self._notes.here()

    def namespace_created(self, namespace: int) -> None:
        """A namespace was made."""
        self._opened[namespace] = self._opening

    def unloading(self, _record: Record, event: Unloading) -> None:
        """An object goes: if it is the libc of a namespace, its streams go with it."""
        self._settle()  # what the object keeps its keys' numbers in is still there
        map_ = self._notes.map_named(event.name, event.namespace)
        rtld = self._notes.process.rtld
        if (
            map_ is not None
            and rtld is not None
            and event.namespace
            and rtld.namespaces[event.namespace].libc_map is map_
        ):
            self._look(map_, "is unloaded")

    def finish(self) -> None:
        """The program has ended, by itself."""
        rtld = self._notes.process.rtld
        assert rtld is not None
        for namespace in rtld.namespaces[1:]:
            if namespace.libc_map is not None and not namespace.libc_map.auditing:
                self._look(namespace.libc_map, "ends")

    def _look(self, libc: LinkMap, how: str) -> None:
        arena, rtld = self._notes.process.arena, self._notes.process.rtld
        assert rtld is not None
        head = rtld.lookup(b"_IO_list_all", libc) if OUTPUT in self._notes.rules else None
        names = {
            rtld.lookup(b"_IO_2_1_stdout_", libc): "stdout",
            rtld.lookup(b"_IO_2_1_stderr_", libc): "stderr",
        }
        if head is None:
            return
        try:
            stream = arena.read_u64(head)
            for _ in range(_STREAMS):
                if not stream:
                    break
                waiting = arena.read_u64(stream + _WRITE_PTR) - arena.read_u64(stream + _WRITE_BASE)
                if 0 < waiting < 1 << 40:
                    self._tell(
                        libc,
                        how,
                        waiting,
                        names.get(stream) or f"stream of descriptor {arena.read_u32(stream + _FILENO)}",
                    )
                stream = arena.read_u64(stream + _CHAIN)
        except MemoryFault:
            return  # the guest broke the list

    def _tell(self, libc: LinkMap, how: str, waiting: int, stream: str) -> None:
        self._notes.report(
            OUTPUT,
            f"{base(libc.display_name)} of namespace {libc.ns} {how} with {waiting} bytes in its {stream}:"
            " nobody runs its exit handlers, so they are never written",
            NOWHERE, [("namespace made by", self._opened.get(libc.ns, NOWHERE))], [libc.display_name], key=(libc.ns, stream),
            remedies=[
                f"fflush({stream if stream in ('stdout', 'stderr') else '0'}) in the library before it returns",
                "setvbuf(stdout, 0, _IONBF, 0) in the library",
            ],
        )  # fmt: skip
