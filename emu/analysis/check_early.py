"""The rule about code that is called before the constructors of its DSO have run.

When constructors begin, the code of each object that still waits for its own is guarded: the first call into
it is seen, at no cost.
Source: gABI, "Initialization and Termination Functions": only what an object needs (DT_NEEDED) is initialised
before it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from emu.analysis.check_notes import Notes, base
from emu.analysis.check_order import has_constructors, is_allocator, is_weak
from emu.analysis.meant import PRELOADS, is_runtime

if TYPE_CHECKING:
    from emu.core.events import Initializer, InitStarted, Record
    from emu.machine.engine import PageGuards
    from emu.rtld.link_map import LinkMap

RULE = "used-before-constructors"


class Early:
    """Guards the code of objects that are linked and not yet initialised."""

    def __init__(self, notes: Notes, guards: PageGuards) -> None:
        self._notes, self._guards = notes, guards
        self._seen: set[int] = set()
        self._waiting: dict[int, LinkMap] = {}
        self._opened = False
        self._told: dict[int, tuple[object, ...]] = {}

    def linked(self) -> None:
        """Libc is linked and has not run: who asks dlsym in an early call makes up for its constructor."""
        for name in (b"dlsym", b"dlvsym") if RULE in self._notes.rules else ():
            self._notes.watch_libc(name, self._asks)

    def _asks(self) -> None:
        map_ = self._notes.caller() if self._told else None
        if map_ is not None and not map_.init_called:
            self._notes.drafts.pop((RULE, *self._told.pop(map_.serial, ())), None)

    def init_started(self, _record: Record, event: InitStarted) -> None:
        """An object's constructors are about to run:
        it waits no more, and the new ones that do are guarded.
        """
        if RULE not in self._notes.rules:
            return
        for map_ in self._notes.maps():
            if map_.serial in self._seen or not map_.relocated:
                continue
            self._seen.add(map_.serial)
            if not map_.init_called and has_constructors(map_) and not self._is_system(map_):
                self._waiting[map_.map_start] = map_
                self._guards.guard_code(map_.map_start, map_.text_end, partial(self._runs, map_))
        self._release(self._notes.map_named(event.name, event.namespace))

    def initializer(self, _record: Record, _event: Initializer) -> None:
        """One more constructor begins: pages that were opened for calls that do
        not count are looked at again.
        """
        if self._opened:
            self._opened = False
            self._guards.watch_again()

    def unloaded(self, start: int) -> None:
        """The object that began there goes: its constructors may never have run."""
        if self._waiting.pop(start, None) is not None:
            self._guards.release_code(start)

    def _is_system(self, map_: LinkMap) -> bool:
        rtld = self._notes.process.rtld
        assert rtld is not None
        return map_ is rtld.ld_so or map_ in [namespace.libc_map for namespace in rtld.namespaces]

    def _release(self, map_: LinkMap | None) -> None:
        if map_ is not None and self._waiting.pop(map_.map_start, None) is not None:
            self._guards.release_code(map_.map_start)

    def _runs(self, map_: LinkMap, pc: int) -> None:
        """Code of an object that waits is fetched."""
        notes = self._notes
        if self._waiting.get(map_.map_start) is not map_ or not map_.contains(pc):
            return
        caller = notes.caller()
        self._opened = True
        if caller is None or caller is map_ or map_.init_called:
            if map_.init_called and caller is not map_:
                self._release(map_)  # the program's start, or its own constructors
            return
        function = notes.process.symbols.describe(pc)
        if is_runtime(caller) and is_runtime(map_):
            return  # one C++ run-time library in the place of another: their guards and tables need no start
        if "+0x" in function or is_allocator(function) or is_weak(map_, pc - map_.addr):
            return
        here = notes.here()
        self._release(map_)
        if map_.found_by in PRELOADS:
            self._told[map_.serial] = map_.serial, function
        why, remedies = why_early(caller, map_, interposed=_interposed(caller, map_, pc - map_.addr))
        line = notes.line(here._replace(frames=here.frames[1:]))
        where = f"at {line}" if line else f"by {base(caller.display_name)}"
        notes.report(
            RULE,
            f"{function} of {base(map_.display_name)} is called {where} before the constructors of {base(map_.display_name)} have run: {why}",
            here, (), [map_.display_name, caller.display_name], key=(map_.serial, function), remedies=remedies,
        )  # fmt: skip


def _interposed(caller: LinkMap, map_: LinkMap, vaddr: int) -> bool:
    """Whether the caller has a function of the same name, which that of `map_` has come before."""
    names = {s.name for s in map_.symtab.symbols() if s.defined and s.value == vaddr}
    return bool(names) and any(s.defined and s.name in names for s in caller.symtab.symbols())


def why_early(caller: LinkMap, map_: LinkMap, *, interposed: bool) -> tuple[str, list[str]]:
    """Return why the constructors of `map_` come after those of who uses it already, and what would help."""
    who, name = base(caller.display_name), base(map_.display_name)
    if interposed:
        return f"{who} has that function itself, but {name}'s comes first in the search order", [
            f"build {who} and {name} so that neither exports its copy: -fvisibility=hidden, or link with -Wl,--exclude-libs,ALL",
            "link the code that both contain as one shared library, which both need",
        ]
    if map_.type == 0:
        return f"the program's own come last, after those of {who}", [
            f"call it later than in a constructor of {who}, or move it into a library that {who} needs"
        ]
    if _needs(caller, map_):
        return f"{who} and {name} need each other, so no order is defined", [
            f"break the cycle, so that {who} needs {name} and not the other way round"
        ]
    if map_.found_by in PRELOADS:
        return (
            f"{name} is preloaded ({map_.found_by}), and {who} does not need it: nothing says that its constructors come first",
            [
                f"let {name} ask for what it wraps when it is called, not in a constructor alone",
                f"link {name} with -z initfirst: its constructors then come before all others",
            ],
        )
    soname = map_.soname or name
    return f"{who} does not need it (no DT_NEEDED)", [
        f"link {who} with {soname}: what an object needs is initialised before it"
    ]


def _needs(user: LinkMap, other: LinkMap) -> bool:
    """Whether an object needs another, directly or not."""
    seen, waiting = {user}, [user]
    while waiting:
        for needed in (waiting.pop().initfini or ())[1:]:
            if needed is other:
                return True
            if needed not in seen:
                seen.add(needed)
                waiting.append(needed)
    return False
