"""What the rules of `emu check` share: places kept for later, findings in the making,
what is left behind by an unloading.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from emu.analysis.check_data import ERROR, REMEDIES, RULES, Finding, Related
from emu.analysis.frames import call_frames, user_frame
from emu.analysis.meant import ALLOCATION_FUNCTIONS, is_libc
from emu.analysis.why_command import why_command
from emu.core.errors import MemoryFault
from emu.core.record import NamedTuple
from emu.elf import constants as c
from emu.elf.relocations import iter_rela
from emu.machine import regs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from emu.analysis.frames import CallFrame
    from emu.process import Process
    from emu.process.backtrace import Captured
    from emu.rtld.address_index import Departed
    from emu.rtld.link_map import LinkMap


_CALL_SLOT, _CALL = b"\xff\x15", b"\xe8"
_STUB = re.compile(rb"(?:\xf3\x0f\x1e\xfa)?\xf2?\xff\x25(....)", re.DOTALL)
"""A PLT entry: an ENDBR64 if need be, and a jump through a slot."""
_STUBS = 2


class Occasion(NamedTuple):
    """Where something happened: the thread, its frames with functions and lines still unread, and the number
    of the event that told of it last.
    """

    thread: int
    frames: tuple[Captured, ...]
    event: int = 0


NOWHERE = Occasion(0, ())


class Dangling(NamedTuple):
    """A pointer to code that is gone, kept by who will call it:
    `what` it is, and the places that led to it.
    """

    rule: str
    what: str
    key: tuple[object, ...]
    related: tuple[tuple[str, Occasion], ...]
    objects: tuple[str, ...]


class NotedFinding(NamedTuple):
    """A finding, and the numbers of the events at which it and each of its related places were noticed."""

    finding: Finding
    event: int
    related: tuple[int, ...]


@dataclass(slots=True)
class _Draft:
    rule: str
    severity: str
    message: str
    place: Occasion
    related: tuple[tuple[str, Occasion], ...]
    objects: tuple[str, ...]
    event: int
    remedies: tuple[str, ...]
    inherited: bool = False


@dataclass(slots=True)
class Notes:
    """The shared memory of one checked run.

    `unloaded` has the place of the dlclose that took an object, by its range;
    `last_close` that of the last dlclose of an object, by name and namespace.
    """

    process: Process
    rules: frozenset[str]
    drafts: dict[tuple[object, ...], _Draft] = field(default_factory=dict)
    dangling: dict[int, Dangling] = field(default_factory=dict)
    unloaded: dict[tuple[int, int], Occasion] = field(default_factory=dict)
    last_close: dict[tuple[str, int], Occasion] = field(default_factory=dict)
    hidden_symbols: dict[int, dict[bytes, int]] = field(default_factory=dict)

    def here(self, pc: int = 0) -> Occasion:
        """Return the place where the running thread is: in a hosted function, in a hook, or at a fault; `pc`:
        exactly there.
        """
        return Occasion(self.task(), tuple(self.process.capture(pc=pc)), self.now())

    def of_thread(self, tid: int) -> Occasion:
        """Return the place where a thread of the process is."""
        task = self.process.kernel.tasks[tid]
        return Occasion(tid, tuple(self.process.capture(None if tid == self.task() else task)), self.now())

    def call(self) -> Occasion:
        """Return the function that is just entered and where it was called, without what lies behind."""
        return Occasion(self.task(), tuple(self.process.backtraces.callers()), self.now())

    def now(self) -> int:
        """Return the number of the last event."""
        return self.process.bus.upcoming - 1

    def report(
        self,
        rule: str,
        message: str,
        place: Occasion = NOWHERE,
        related: Sequence[tuple[str, Occasion]] = (),
        objects: Sequence[str] = (),
        *,
        key: tuple[object, ...] = (),
        severity: str = "",
        remedies: Sequence[str] = (),
    ) -> None:
        """Note a finding.

        A later one with the same key takes the place of the first; without a key the message is the key.
        """
        if rule not in self.rules:
            return
        draft = _Draft(
            rule, severity or RULES[rule].severity, message, place,
            tuple((t, p) for t, p in related if p.frames), tuple(dict.fromkeys(objects)), place.event or self.now(),
            tuple(remedies) or tuple(_usual(self.process, rule, objects)),
        )  # fmt: skip
        self.drafts[(rule, *key) if key else (rule, message)] = draft

    def leave_behind(self, address: int, dangling: Dangling, place: Occasion) -> None:
        """Note a pointer to code that is going, held by who will call it:
        a finding now, and the name of the fault if it comes to that.
        """
        self.dangling[address] = dangling
        gone = dangling.objects[0]
        elsewhere = [(title, where) for title, where in dangling.related if where != place]
        self.report(
            dangling.rule, f"{dangling.what} is left behind by the unloading of {gone}", place, elsewhere,
            dangling.objects, key=dangling.key,
        )  # fmt: skip

    def crashed(self, dangling: Dangling, message: str, place: Occasion) -> None:
        """The dangling pointer was called: the finding becomes an error, in its own place in time."""
        self.drafts.pop((dangling.rule, *dangling.key), None)
        self.report(
            dangling.rule,
            message,
            place,
            dangling.related,
            dangling.objects,
            key=dangling.key,
            severity=ERROR,
        )

    def findings(self) -> list[NotedFinding]:
        """Return the findings in the order of their discovery, every line read."""
        return [
            NotedFinding(
                Finding(
                    d.rule, d.severity, d.message, d.place.thread, self.frames(d.place),
                    tuple(Related(title, place.thread, self.frames(place)) for title, place in d.related), d.objects,
                    d.remedies,
                ),
                d.event, tuple(place.event for _, place in d.related),
            )
            for d in self.drafts.values()
            if not d.inherited
        ]  # fmt: skip

    def inherit(self) -> None:
        """These are a child's notes from here on: what was found before is its parent's."""
        for draft in self.drafts.values():
            draft.inherited = True

    def frames(self, place: Occasion) -> tuple[CallFrame, ...]:
        """Return the frames of a place without the loader's own."""
        return call_frames(f for f in self.process.resolve(place.frames) if f.object != "[emu]")

    def closed_by(self, name: str) -> list[tuple[str, Occasion]]:
        """Return the place of the last dlclose of an object, as a related place, if there was one."""
        return [("closed by", place) for (closed, _), place in self.last_close.items() if closed == name]

    def line(self, place: Occasion) -> str:
        """Return file name and line of a place in the program's own source, or what else there is;
        empty for no place.
        """
        frame = user_frame(self.process.resolve(place.frames))
        if frame is None:
            return ""
        return f"{base(frame.file)}:{frame.line}" if frame.file else f"{base(frame.object)}+{frame.offset:#x}"

    def function(self, place: Occasion) -> str:
        """Return the name of the program's own function where a place is."""
        frame = user_frame(self.process.resolve(place.frames))
        return frame.function if frame is not None else ""

    def hidden(self, map_: LinkMap) -> dict[bytes, int]:
        """Return the C++ objects and the allocation functions that an object has and does not export, with
        their link-time addresses.
        """
        if map_.serial not in self.hidden_symbols:
            symbols = self.process.symbols
            file = symbols.file(map_.path, map_.file_id)
            self.hidden_symbols[map_.serial] = (
                {} if is_libc(map_) else symbols.hidden(file, ALLOCATION_FUNCTIONS)
            )
        return self.hidden_symbols[map_.serial]

    def nameless(self, map_: LinkMap, vaddr: int) -> str:
        """Return what to call an object of data that has no symbol: by its section, and where it lies."""
        symbols, place = self.process.symbols, f"{base(map_.display_name)}+{vaddr:#x}"
        section = symbols.section(map_, vaddr)
        start = symbols.section_address(symbols.file(map_.path, map_.file_id), section) if section else 0
        return (
            f"the object at {section}+{vaddr - start:#x} ({place})" if section else f"the object at {place}"
        )

    def naming(self, map_: LinkMap) -> Iterator[str]:
        """Yield what would give the objects of a stripped file their names."""
        number = self.process.symbols.build_id(map_)
        who = base(map_.display_name)
        file = (
            f", or have its debug file, /usr/lib/debug/.build-id/{number[:2]}/{number[2:]}.debug,"
            if number
            else ""
        )
        yield f"to have the object's name here, do not strip {who}{file}"

    def typeinfo(self, map_: LinkMap) -> dict[bytes, int]:
        """Return the typeinfo objects of an object by the symbols that they have or had, with link-time
        addresses: also of one that was stripped.

        Each begins with a relocation to the vtable of a class of the C++ run-time library, and the name of
        its type comes next. Source: Itanium C++ ABI 2.9.5.
        """
        rtld = self.process.rtld
        assert rtld is not None
        found: dict[bytes, int] = {}
        kinds: dict[int, bool] = {}
        for at, info, _ in iter_rela(map_.table(rtld.memory, c.DT_RELA), map_.display_name):
            if info & 0xFFFFFFFF != c.R_X86_64_64:
                continue
            symbol = info >> 32
            if symbol not in kinds:
                kinds[symbol] = map_.symtab.symbol_name(symbol).startswith(b"_ZTVN10__cxxabiv1")
            if kinds[symbol]:
                try:
                    name = rtld.memory.read_cstr(rtld.memory.read_u64(map_.addr + at + 8))
                except MemoryFault:
                    continue
                if not name.startswith(b"*"):
                    found[b"_ZTI" + name] = at
        return found

    # -- hooks -----------------------------------------------------------------------------------------------

    def watch_libc(self, name: bytes, callback: Callable[[], None]) -> None:
        """Call `callback` whenever a function of the program's libc is entered;
        libc is linked and has not run.
        """
        rtld = self.process.rtld
        libc = rtld.namespaces[0].libc_map if rtld is not None else None
        if rtld is not None and libc is not None and (address := rtld.lookup(name, libc)) is not None:
            self.process.cpu.watch(address, callback)

    def task(self) -> int:
        """Return the id of the running thread."""
        return self.process.runner.task.tid if self.process.runner is not None else 0

    def argument(self, number: int) -> int:
        """Return an integer argument (0 to 3) of the function that is just entered."""
        return self.process.cpu.get((regs.RDI, regs.RSI, regs.RDX, regs.RCX)[number])

    def return_address(self) -> int:
        """Return where the function that is just entered will go back to; 0 if its stack cannot be read."""
        try:
            return self.process.arena.read_u64(self.process.cpu.get(regs.RSP))
        except MemoryFault:
            return 0

    def caller(self) -> LinkMap | None:
        """Return the object that has called the function that is just entered."""
        assert self.process.rtld is not None
        return self.process.rtld.find_map(self.return_address())

    def calls(self) -> LinkMap | None:
        """As `caller`, but None if the call was of another function that jumped here:
        by a slot of the caller's, or to the function itself.

        Source: psABI 3.2.1, 5.2.3 (figure 5.3, the PLT); Intel SDM 2, CALL and JMP.
        """
        process, map_ = self.process, self.caller()
        cpu, arena = process.cpu, process.arena
        try:
            back = arena.read_u64(cpu.get(regs.RSP))
            code = arena.read(back - 6, 6)
            displacement = int.from_bytes(code[2:], "little", signed=True)
            target = back + displacement
            if code[:2] == _CALL_SLOT:
                target = arena.read_u64(target)
            elif code[1:2] != _CALL:
                return None
            for _ in range(_STUBS):
                if target == cpu.get(regs.RIP):
                    return map_
                stub = _STUB.match(arena.read(target, 16))
                if stub is None:
                    return None
                target = arena.read_u64(target + stub.end() + int.from_bytes(stub[1], "little", signed=True))
        except MemoryFault:
            return None
        return None

    # -- the state -------------------------------------------------------------------------------------------

    def maps(self) -> Iterator[LinkMap]:
        """Yield every loaded object, without the stand-ins for ld.so: none of a static program's."""
        for namespace in self.process.rtld.namespaces if self.process.rtld is not None else ():
            yield from (map_ for map_ in namespace.maps if map_.real is map_)

    def map_named(self, name: str, ns: int) -> LinkMap | None:
        """Return the loaded object of a namespace under the name that events give it."""
        return next((map_ for map_ in self.maps() if map_.ns == ns and map_.display_name == name), None)

    def function_in(self, gone: Departed, address: int) -> str:
        """Return the function at an address of an object that is going or gone,
        object+offset if it has no name.
        """
        symbols = self.process.symbols
        function = symbols.code(symbols.file(gone.path, gone.file_id), address - gone.addr)[-1][0]
        return function.partition("+0x")[0] or f"{gone.name}+{address - gone.addr:#x}"


def _usual(process: Process, rule: str, objects: Sequence[str]) -> Iterator[str]:
    """Yield what helps against findings of a rule, whatever the case."""
    text = REMEDIES.get(rule, "")
    if text and (objects or "{" not in text):
        who = base(objects[0]) if objects else ""
        yield text.format(who=who, why=why_command(process.tree.leader.config, who))


def base(path: str) -> str:
    """Return the file name of an object."""
    return os.path.basename(path) or path
