"""The rule about data of a DSO that others use before the constructors of that DSO have set it.

What an object refers to in one that still waits for its constructors is guarded until they begin, and
compared when they have run: a use is a finding only if they have changed what was read, or written.
Source: gABI, "Initialization and Termination Functions"; C++ [basic.start.dynamic].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.analysis.check_early import RULE, why_early
from emu.analysis.check_notes import Notes, Occasion, base
from emu.analysis.check_order import has_constructors
from emu.analysis.meant import is_cxx_runtime, is_libc
from emu.core.errors import MemoryFault
from emu.core.record import NamedTuple
from emu.elf import constants as c
from emu.elf.demangle import demangle
from emu.machine.arena import PAGE_SIZE
from emu.process.faults import instruction_at

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from emu.analysis.bindings import Bindings
    from emu.core.events import InitStarted, Record
    from emu.machine.engine import PageGuards
    from emu.rtld.link_map import LinkMap

_OF_CLASSES = (b"_ZTV", b"_ZTI", b"_ZTS", b"_ZTT")
"""What the compiler makes for classes is set by the linker alone. Source: Itanium C++ ABI 5.1.4."""
_PATIENCE = 5_000
"""Accesses to a guarded page after which it is guarded no more."""
_WORD = 8


class _Variable(NamedTuple):
    map: LinkMap
    name: str
    start: int
    end: int
    copies: frozenset[LinkMap]
    """Who defines it too, and so constructs this one: other rules tell of that."""


class _Use(NamedTuple):
    caller: LinkMap
    place: Occasion
    write: bool


class EarlyData:
    """Guards the variables of objects that are linked and not yet initialised."""

    def __init__(self, notes: Notes, guards: PageGuards) -> None:
        self._notes, self._guards = notes, guards
        self._waiting: dict[int, list[_Variable]] = {}
        self._used: dict[_Variable, _Use] = {}
        self._counters: set[_Variable] = set()
        self._running: list[tuple[_Variable, _Use, bytes]] = []
        self._accesses: dict[int, int] = {}

    def linked(self) -> None:
        """The program is linked: when it begins, all that was there at start-up has been initialised."""
        rtld = self._notes.process.rtld
        main = rtld.namespaces[0].main if rtld is not None else None
        if main is not None and RULE in self._notes.rules:
            self._notes.process.cpu.watch(main.entry, lambda: self.judge(done=True))

    def look(self, bindings: Bindings, new: Sequence[LinkMap]) -> None:
        """Objects were linked: guard those variables of theirs that others refer to."""
        if RULE not in self._notes.rules:
            return
        waits = {m for m in new if not m.init_called and has_constructors(m) and not _is_system(m)}
        for map_ in new if waits else ():
            for variable in self._referred(bindings, map_, waits):
                for page in range(variable.start & -PAGE_SIZE, variable.end, PAGE_SIZE):
                    known = self._waiting.setdefault(page, [])
                    if variable in known:
                        continue
                    known.append(variable)
                    if len(known) == 1:
                        self._guards.guard_data(page, self._accessed)

    def _referred(self, bindings: Bindings, map_: LinkMap, waits: set[LinkMap]) -> Iterator[_Variable]:
        for index, (name, class_) in bindings.table(map_).references.items():
            known = bindings.definitions(map_.ns, name)
            if not any(
                one.type == c.STT_OBJECT and one.map in waits and one.map is not map_ for one in known
            ):
                continue
            winner = bindings.bound(map_, index, class_) if not name.startswith(_OF_CLASSES) else None
            if winner is None or winner.map not in waits or winner.map is map_ or not winner.size:
                continue
            start = winner.map.addr + winner.map.symtab.entry(winner.number).value
            if not _can_change(winner.map, start, start + winner.size):
                continue
            copies = frozenset(one.map for one in known if one.map is not winner.map)
            called = demangle(name.decode(errors="replace"))
            yield _Variable(winner.map, called, start, start + winner.size, copies)

    def init_started(self, _record: Record, event: InitStarted) -> None:
        """The constructors of an object begin: its variables are its own from here on."""
        self.judge()
        map_ = self._notes.map_named(event.name, event.namespace)
        for page, known in list(self._waiting.items()):
            left = [variable for variable in known if variable.map is not map_]
            if len(left) == len(known):
                continue
            self._waiting[page] = left
            if not left:
                del self._waiting[page]
                self._guards.release_data(page)
        for variable, use in list(self._used.items()):
            if variable.map is map_:
                del self._used[variable]
                self._running.append((variable, use, self._content(variable)))

    def judge(self, *, done: bool = False) -> None:
        """Tell what constructors have changed since it was used; `done`: all that began have ended."""
        left = []
        for variable, use, before in self._running:
            counts = variable in self._counters and variable.end - variable.start <= _WORD
            if self._content(variable) == before or counts:
                left.append((variable, use, before))
            else:
                self._tell(variable, use)
        self._running = [] if done else left

    def forget(self, start: int) -> None:
        """Drop the object that began there and goes."""
        for page, known in list(self._waiting.items()):
            if any(variable.map.map_start == start for variable in known):
                del self._waiting[page]
                self._guards.release_data(page)
        self._running = [one for one in self._running if one[0].map.map_start != start]

    def _content(self, variable: _Variable) -> bytes:
        try:
            return self._notes.process.arena.read(variable.start, variable.end - variable.start)
        except MemoryFault:
            return b""

    def _accessed(self, address: int, size: int, write: bool) -> None:
        """A guarded page is accessed."""
        page = address & -PAGE_SIZE
        count = self._accesses[page] = self._accesses.get(page, 0) + 1
        if count == _PATIENCE:
            self._guards.release_data(page)
        found = [v for v in self._waiting.get(page, ()) if v.start < address + size and address < v.end]
        for variable in found:
            if variable in self._used:
                if self._used[variable].write != write:
                    self._counters.add(variable)
                continue
            process = self._notes.process
            place = self._notes.here(instruction_at(process.cpu, process.arena, address))
            caller = self._caller(place)
            if caller is not None and caller is not variable.map and caller not in variable.copies:
                self._used[variable] = _Use(caller, place, write)

    def _caller(self, place: Occasion) -> LinkMap | None:
        """Return the object whose code uses a variable, be it through the language's library."""
        rtld = self._notes.process.rtld
        assert rtld is not None
        maps = (rtld.find_map(frame.known.pc) for frame in place.frames)
        return next((m for m in maps if m is not None and not is_libc(m) and not is_cxx_runtime(m)), None)

    def _tell(self, variable: _Variable, use: _Use) -> None:
        whose, notes = base(variable.map.display_name), self._notes
        why, remedies = why_early(use.caller, variable.map, interposed=False)
        done, then = ("written to", "overwrite") if use.write else ("read", "set")
        notes.report(
            RULE,
            f"{variable.name} of {whose} is {done} at {notes.line(use.place)} before the constructors of {whose} have run, which {then} it later: {why}",
            use.place, (), [variable.map.display_name, use.caller.display_name], key=(variable.map.serial, variable.name), remedies=remedies,
        )  # fmt: skip


def _can_change(map_: LinkMap, start: int, end: int) -> bool:
    """Whether constructors can write there: not to constants, nor to what is read-only since relocation."""
    low, size = map_.relro or (0, 0)
    writable = any(
        load.type == c.PT_LOAD
        and load.flags & c.PF_W
        and map_.addr + load.vaddr <= start
        and end <= map_.addr + load.vaddr + load.memsz
        for load in map_.phdrs
    )
    return writable and not low <= start < low + size


def _is_system(map_: LinkMap) -> bool:
    return is_libc(map_) or is_cxx_runtime(map_)
