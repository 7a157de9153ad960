"""Rules about the life-times of static objects:
those that are destroyed twice, and those that are used after exit has destroyed them.

Each registration by `__cxa_atexit` is noted. Which handlers have run is seen at one instruction of exit, the
call of a handler; the pages of what was destroyed are guarded from then on (`emu.machine.guard`), so that
nothing before exit pays for it.

Source: Itanium C++ ABI 3.3.6 (DSO Object Destruction API); C++ [basic.start.term].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.analysis.check_data import ERROR
from emu.analysis.check_notes import NOWHERE, Notes, Occasion, base
from emu.core.errors import MemoryFault
from emu.core.record import NamedTuple
from emu.machine import regs
from emu.machine.arena import PAGE_SIZE
from emu.machine.engine import PageGuards
from emu.process.faults import instruction_at

if TYPE_CHECKING:
    from emu.core.events import Record
    from emu.core.tls_events import DtorRegistered, DtorRun
    from emu.rtld.address_index import Departed
    from emu.rtld.link_map import LinkMap

_CALLS = {
    bytes((0xFF, 0xD0 + r)): n
    for r, n in enumerate(("RAX", "RCX", "RDX", "RBX", "", "RBP", "RSI", "RDI"))
    if n
}
_CALLS |= {bytes((0x41, 0xFF, 0xD0 + r)): f"R{8 + r}" for r in range(8)}
"""`call *REGISTER`. Source: Intel SDM 2, CALL (FF /2)."""
_CANDIDATES = 8
"""The handlers registered last, one of which exit calls first: by its return address the call is found."""
_UNKNOWN_SIZE = 8
"""Bytes that count as an object without a symbol."""
_PATIENCE = 20_000
"""Accesses to a guarded page, none of them to a destroyed object, after which it is guarded no more."""


class _Static(NamedTuple):
    """A registration of an object's destructor for the DSO `owner`."""

    function: int
    owner: str
    place: Occasion


class _Destroyed(NamedTuple):
    start: int
    end: int
    object: int


class Statics:
    """Follows the static objects of the base namespace."""

    def __init__(self, notes: Notes, guards: PageGuards) -> None:
        self._notes, self._guards = notes, guards
        self._live: dict[int, _Static] = {}
        self._twice: dict[int, tuple[_Static, _Static]] = {}
        self._runs: dict[int, int] = {}
        self._thread_objects: dict[tuple[int, int], tuple[DtorRegistered, Occasion]] = {}
        self._exits = NOWHERE
        self._call = 0
        self._register = regs.RAX
        self._running: dict[int, tuple[int, int]] = {}
        self._destroyed: dict[int, list[_Destroyed]] = {}
        self._accesses: dict[int, int] = {}
        self._told: set[int] = set()

    def linked(self) -> None:
        """Watch exit; libc is linked and has not run."""
        if "static-used-after-exit" in self._notes.rules:
            self._notes.watch_libc(b"exit", self._exit)

    # -- registrations ---------------------------------------------------------------------------------------

    def registered(self, function: int, argument: int, dso: int, place: Occasion) -> None:
        """A destructor was registered for the object at `argument`, by the DSO of the handle `dso`."""
        rtld = self._notes.process.rtld
        assert rtld is not None
        owner = rtld.find_map(dso) if dso else rtld.namespaces[0].main
        if rtld.find_map(argument) is None or owner is None:
            return  # a function of atexit, or an object that is not static
        mine = _Static(function, owner.display_name, place)
        self._forget_destroyed(argument)
        earlier = self._live.get(argument)
        self._live[argument] = mine
        if earlier is not None and self._same(earlier.function, function):
            self._twice[argument] = earlier, mine
            self._tell_twice(argument, 0)
            for address in {earlier.function, function}:
                self._notes.process.cpu.watch_code(
                    address, address + 1, lambda _: self._destructor_runs(argument)
                )

    def _same(self, first: int, second: int) -> bool:
        """Whether two addresses are of one destructor: the same, or copies of it in two DSOs."""
        symbols = self._notes.process.symbols
        return first == second or symbols.describe(first) == symbols.describe(second)

    def _destructor_runs(self, object_: int) -> None:
        if object_ in self._twice and self._notes.argument(0) == object_:
            self._runs[object_] = self._runs.get(object_, 0) + 1
            if self._runs[object_] == 2:
                self._tell_twice(object_, 2)

    def _tell_twice(self, object_: int, runs: int) -> None:
        notes = self._notes
        rtld = notes.process.rtld
        first, second = self._twice[object_]
        home = rtld.find_map(object_) if rtld is not None else None
        if home is None or "static-registered-twice" not in notes.rules:
            return
        name = self._name(object_)
        places = f"by {base(first.owner)}{_at(notes.line(first.place))} and by {base(second.owner)}{_at(notes.line(second.place))}"
        stranger = second.owner if second.owner != home.display_name else first.owner
        if first.owner == second.owner:
            why, remedies = "", ["construct it once"]
        else:
            why = f", since {base(stranger)}'s own copy is interposed by {base(home.display_name)}'s: both construct and destroy the one object"
            remedies = [
                f"build {base(first.owner)} or {base(second.owner)} so that it does not export its copy:"
                " -fvisibility=hidden, or link with -Wl,--exclude-libs,ALL",
                "link the code that both contain as one shared library, which both need",
            ]
        end = "; it is destroyed twice" if runs else ": it will be destroyed twice"
        message = f"{name} of {base(home.display_name)} was constructed and registered for destruction twice, {places}{why}{end}"
        notes.report(
            "static-registered-twice", message, notes.here(), [("first registered by", first.place), ("registered again by", second.place)],
            [home.display_name, first.owner, second.owner], key=(object_,), severity=ERROR if runs else "", remedies=remedies,
        )  # fmt: skip

    def unloaded(self, gone: Departed) -> None:
        """An object goes: its statics are destroyed, and those that it registered elsewhere."""
        for address in [
            at
            for at, static in self._live.items()
            if gone.start <= at < gone.end or static.owner == gone.name
        ]:
            del self._live[address]
            self._twice.pop(address, None)
            self._forget_destroyed(address)

    # -- thread_local objects --------------------------------------------------------------------------------

    def thread_registered(self, record: Record, event: DtorRegistered) -> None:
        """A thread_local object was registered: perhaps not for the first time."""
        key, place = (record.task, event.object), self._notes.here()
        earlier = self._thread_objects.get(key)
        self._thread_objects[key] = event, place
        if earlier is None or earlier[0].address != event.address:
            return
        line = self._notes.line
        self._notes.report(
            "static-registered-twice",
            f"a thread_local ({event.function}) was constructed and registered for destruction twice in thread {record.task},"
            f" by {base(earlier[0].owner)}{_at(line(earlier[1]))} and by {base(event.owner)}{_at(line(place))}: it will be destroyed twice",
            place, [("first registered by", earlier[1])], [earlier[0].owner, event.owner], key=key,
        )  # fmt: skip

    def thread_destroyed(self, record: Record, event: DtorRun) -> None:
        """A thread_local object is destroyed."""
        self._thread_objects.pop((record.task, event.object), None)

    # -- use after exit's handlers ---------------------------------------------------------------------------

    def _exit(self) -> None:
        """Exit is called: find out where it calls its handlers, by the first of them."""
        if self._exits.frames:
            return
        self._exits = self._notes.here()
        rtld = self._notes.process.rtld
        assert rtld is not None
        last = list(dict.fromkeys(static.function for static in reversed(self._live.values())))[:_CANDIDATES]
        for function in last:
            self._notes.process.cpu.watch_code(function, function + 1, lambda _: self._find_call())

    def _find_call(self) -> None:
        """A destructor is entered, by exit if all is well:
        watch the instruction that called it, and the one behind.
        """
        process = self._notes.process
        rtld = process.rtld
        if self._call or rtld is None:
            return
        try:
            back = process.arena.read_u64(process.cpu.get(regs.RSP))
            code = process.arena.read(back - 3, 3)
        except MemoryFault:
            return
        libc = rtld.namespaces[0].libc_map
        found = next((n for call, n in _CALLS.items() if code.endswith(call)), None)
        if found is None or libc is None or not libc.contains(back):
            return
        if process.symbols.describe(back).startswith("__cxa_finalize"):
            return
        size = 3 if code[1:] not in _CALLS else 2
        self._register, self._call = getattr(regs, found), back - size
        self._running[self._notes.task()] = self._notes.argument(0), process.cpu.get(regs.RIP)
        process.cpu.watch_code(self._call, self._call + 1, lambda _: self._calls())
        process.cpu.watch_code(back, back + 1, lambda _: self._returned())

    def _calls(self) -> None:
        """Exit is about to call a handler."""
        process = self._notes.process
        self._running[self._notes.task()] = self._notes.argument(0), process.cpu.get(self._register)

    def _returned(self) -> None:
        """A handler has returned to exit: its object is no more."""
        object_, function = self._running.pop(self._notes.task(), (0, 0))
        static = self._live.get(object_)
        rtld = self._notes.process.rtld
        if static is None or static.function != function or rtld is None:
            return
        home = rtld.find_map(object_)
        if home is None or home in [namespace.libc_map for namespace in rtld.namespaces]:
            return
        _, start, size = self._variable(home, object_)
        for page in range(start & -PAGE_SIZE, start + size, PAGE_SIZE):
            known = self._destroyed.setdefault(page, [])
            known.append(_Destroyed(start, start + size, object_))
            if len(known) == 1:
                self._guards.guard_data(page, self._accessed)

    def _accessed(self, address: int, size: int, write: bool) -> None:
        """A guarded page is accessed."""
        page = address & -PAGE_SIZE
        for start, end, object_ in self._destroyed.get(page, ()):
            if start < address + size and address < end:
                if object_ not in self._told:
                    self._used(object_, address, write)
                return
        count = self._accesses[page] = self._accesses.get(page, 0) + 1
        if count == _PATIENCE:
            self._guards.release_data(page)

    def _used(self, object_: int, address: int, write: bool) -> None:
        notes, process = self._notes, self._notes.process
        rtld = process.rtld
        static = self._live.get(object_)
        running = self._running.get(notes.task())
        if rtld is None or static is None or (running is not None and running[0] == object_):
            return
        self._told.add(object_)
        here = notes.here(instruction_at(process.cpu, process.arena, address))
        user = rtld.find_map(here.frames[0].known.pc) if here.frames else None
        home = rtld.find_map(object_)
        whose = base(home.display_name) if home is not None else "?"
        who = notes.function(here) or (user.display_name if user is not None else "somebody")
        notes.report(
            "static-used-after-exit",
            f"{who}{_at(notes.line(here))} {'writes to' if write else 'reads'} {self._name(object_)} of {whose} after exit has destroyed it",
            here, [("registered for destruction by", static.place), ("destroyed by", self._exits)],
            [home.display_name if home is not None else "", static.owner], key=(object_,),
            remedies=[
                "construct it before whoever uses it at exit (a function-local static that the user's constructor calls): it is then destroyed later",
                "never destroy it: a reference to an object made with new",
                *(notes.naming(home) if home is not None and self._is_nameless(home, object_) else ()),
            ],
        )  # fmt: skip

    def _forget_destroyed(self, object_: int) -> None:
        """An object is constructed again, or its memory has gone."""
        self._told.discard(object_)
        self._runs.pop(object_, None)
        for page, known in list(self._destroyed.items()):
            left = [item for item in known if item.object != object_]
            if len(left) != len(known):
                self._destroyed[page] = left
                if not left:
                    del self._destroyed[page]
                    self._guards.release_data(page)

    # -- names -----------------------------------------------------------------------------------------------

    def _variable(self, home: LinkMap, object_: int) -> tuple[str, int, int]:
        symbols = self._notes.process.symbols
        vaddr = object_ - home.addr
        found = symbols.data_symbol(symbols.file(home.path, home.file_id), vaddr)
        if found is None:
            return self._notes.nameless(home, vaddr), object_, _UNKNOWN_SIZE
        return found[0], object_, found[1] + found[2] - vaddr

    def _is_nameless(self, home: LinkMap, object_: int) -> bool:
        symbols = self._notes.process.symbols
        return symbols.data_symbol(symbols.file(home.path, home.file_id), object_ - home.addr) is None

    def _name(self, object_: int) -> str:
        rtld = self._notes.process.rtld
        home = rtld.find_map(object_) if rtld is not None else None
        return self._variable(home, object_)[0] if home is not None else f"{object_:#x}"


def _at(line: str) -> str:
    return f" ({line})" if line else ""
