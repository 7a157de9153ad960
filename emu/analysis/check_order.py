"""Rules about the order of constructors and destructors of whole objects:
cycles, and use of what is finalised.

An object counts where it has something to construct or destroy: more than what every object has from the
compiler.
Source: gABI, "Initialization and Termination Functions": objects that depend on each other are initialised in
an undefined order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.analysis.check_notes import Notes, Occasion, base
from emu.core.events import FiniStarted, InitStarted
from emu.elf import constants as c
from emu.elf.constants import PF_W, PT_LOAD, STB_WEAK
from emu.glibc.release import since
from emu.machine import regs
from emu.machine.engine import MemoryWatch

if TYPE_CHECKING:
    from emu.core.events import Record
    from emu.rtld.link_map import LinkMap

_COMPILERS_OWN = 8
"""Bytes of an init or fini array that hold only frame_dummy or __do_global_dtors_aux."""


_ALLOCATORS = frozenset((
    "malloc", "free", "calloc", "realloc", "reallocarray", "memalign", "aligned_alloc", "posix_memalign", "valloc", "pvalloc", "malloc_usable_size",
))  # fmt: skip
"""Functions that a program may define in libc's place.

Source: glibc manual, "Replacing malloc"; C++ [replacement.functions].
"""


def has_constructors(map_: LinkMap) -> bool:
    """Whether an object has constructors of its own."""
    return map_.dynamic.table(c.DT_INIT_ARRAY)[1] > _COMPILERS_OWN


def has_destructors(map_: LinkMap) -> bool:
    """Whether an object has destructor functions of its own, those of static
    objects (exit handlers) left aside.
    """
    return map_.dynamic.table(c.DT_FINI_ARRAY)[1] > _COMPILERS_OWN


class OrderChecks:
    """Looks for cycles when constructors begin, and watches the code of what has been finalised."""

    def __init__(self, notes: Notes, memory: MemoryWatch | None) -> None:
        self._memory = memory
        self._notes = notes
        self._checked: set[int] = set()
        self._finalising: LinkMap | None = None
        self._with_handlers: set[int] = set()
        self._told: set[int] = set()
        self._finalised_at: dict[int, Occasion] = {}

    # -- cycles ----------------------------------------------------------------------------------------------

    def init_started(self, _record: Record, _event: InitStarted) -> None:
        """Constructors begin: look at the objects that are new."""
        new = [map_ for map_ in self._notes.maps() if map_.serial not in self._checked]
        if not new:
            return
        self._checked.update(map_.serial for map_ in new)
        for component in _components(new):
            members = [map_ for map_ in component if has_constructors(map_) or has_destructors(map_)]
            if len(component) > 1 and len(members) > 1:
                ring = _ring(component)
                needs = ", which ".join(f"needs {map_.display_name}" for map_ in ring[1:])
                what = " and ".join(sorted(base(map_.display_name) for map_ in members))
                self._notes.report(
                    "init-order-cycle",
                    f"{ring[0].display_name} {needs}: no dependency defines the order of the constructors and destructors of {what} "
                    f"({since('sort_by_depth')} it is another than before)",
                    objects=[map_.display_name for map_ in members],
                )  # fmt: skip

    # -- finalised objects -----------------------------------------------------------------------------------

    def handler_registered(self, dso: int) -> None:
        """A static object's destructor was registered for the object that contains `dso`."""
        rtld = self._notes.process.rtld
        map_ = rtld.find_map(dso) if rtld is not None and dso else None
        if map_ is not None:
            self._with_handlers.add(map_.serial)

    def fini_started(self, _record: Record, event: FiniStarted) -> None:
        """The next object is being finalised: the one before is done."""
        done = self._finalising
        self._finalising = self._notes.map_named(event.name, event.namespace)
        if done is not None and (has_destructors(done) or done.serial in self._with_handlers):
            self._finalised_at[done.serial] = self._notes.here()
            self._watch(done)

    def _watch(self, done: LinkMap) -> None:
        """Notice the first function that is entered in an object that is done;
        and, with --watch, the first access to its data from elsewhere.
        """
        rtld = self._notes.process.rtld
        assert rtld is not None
        libcs = [namespace.libc_map for namespace in rtld.namespaces]
        if (
            "finalised-use" not in self._notes.rules
            or done in libcs
            or rtld.find_map(done.map_start) is not done
        ):
            return  # libc itself goes on after its own destructors
        self._notes.process.cpu.watch_code(
            done.map_start, done.text_end, lambda address: self._runs(done, address)
        )
        if self._memory is not None:
            for phdr in done.phdrs:
                if phdr.type == PT_LOAD and phdr.flags & PF_W:
                    start = done.addr + phdr.vaddr
                    self._memory.add(
                        start, start + phdr.memsz, lambda address, write: self._touched(done, address, write)
                    )

    def _runs(self, done: LinkMap, address: int) -> None:
        process = self._notes.process
        rtld = process.rtld
        assert rtld is not None
        if self._is_idle(done) or rtld.find_map(address) is not done:
            return
        function = process.symbols.describe(address)
        caller = rtld.find_map(process.arena.read_u64(process.cpu.get(regs.RSP)))
        if "+0x" in function or caller is None or caller is done:
            return  # not the entry of a function, or not from outside
        if is_weak(done, address - done.addr):
            # an inline function that many objects have: which copy runs says nothing of whose objects are
            # used
            return
        if is_allocator(function):
            return  # whoever replaces these does so for the whole program, to its end
        self._tell(
            done,
            caller,
            f"{caller.display_name} calls {function} of {done.display_name}, whose destructors have run",
        )

    def _touched(self, done: LinkMap, address: int, write: bool) -> None:
        process = self._notes.process
        rtld = process.rtld
        assert rtld is not None
        user = rtld.find_map(process.cpu.get(regs.RIP))
        libcs = [namespace.libc_map for namespace in rtld.namespaces]
        if (
            self._is_idle(done)
            or rtld.find_map(address) is not done
            or user in (None, done, rtld.ld_so, *libcs)
        ):
            return
        assert user is not None
        verb = "writes to" if write else "reads"
        what = f"{done.display_name}+{address - done.addr:#x}"
        self._tell(
            done, user, f"{user.display_name} {verb} {what}, data of an object whose destructors have run"
        )

    def _is_idle(self, done: LinkMap) -> bool:
        """Whether a hook for an object has nothing to tell:
        that was done, or a snapshot has been restored in which it is not finalised.
        """
        return done.serial in self._told or done.serial not in self._finalised_at

    def _tell(self, done: LinkMap, user: LinkMap, message: str) -> None:
        self._told.add(done.serial)
        related = [("finalised before", self._finalised_at[done.serial])]
        self._notes.report(
            "finalised-use", message, self._notes.here(), related, [done.display_name, user.display_name], key=(done.serial,)
        )  # fmt: skip


def is_allocator(function: str) -> bool:
    """Whether a function, by its demangled name, is one that a program may replace for all its objects."""
    return function.startswith(("operator new", "operator delete")) or function in _ALLOCATORS


def is_weak(map_: LinkMap, vaddr: int) -> bool:
    """Whether a function that an object exports is weak (C++'s vague linkage)."""
    return any(s.value == vaddr and s.defined and s.bind == STB_WEAK for s in map_.symtab.symbols())


def _components(maps: list[LinkMap]) -> list[list[LinkMap]]:
    """Return the strongly connected components over static dependencies (Tarjan, without recursion)."""
    wanted = list(maps)
    index: dict[LinkMap, int] = {}
    low: dict[LinkMap, int] = {}
    stack: list[LinkMap] = []
    on_stack: set[LinkMap] = set()
    found = []
    for root in maps:
        if root in index:
            continue
        work = [(root, iter(_needed(root, wanted)))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            map_, rest = work[-1]
            for needed in rest:
                if needed not in index:
                    index[needed] = low[needed] = len(index)
                    stack.append(needed)
                    on_stack.add(needed)
                    work.append((needed, iter(_needed(needed, wanted))))
                    break
                if needed in on_stack:
                    low[map_] = min(low[map_], index[needed])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[map_])
                if low[map_] == index[map_]:
                    at = stack.index(map_)
                    found.append(stack[at:])
                    on_stack.difference_update(stack[at:])
                    del stack[at:]
    return found


def _needed(map_: LinkMap, wanted: list[LinkMap]) -> list[LinkMap]:
    names = set(map_.needed_names())
    return [needed for needed in wanted if needed.soname in names or not names.isdisjoint(needed.lib_names)]


def _ring(component: list[LinkMap]) -> list[LinkMap]:
    """Return a shortest way from a component's first member back to it."""
    wanted, start = component, component[0]
    ways = [[start]]
    seen = set()
    for way in ways:
        for needed in _needed(way[-1], wanted):
            if needed is start:
                return [*way, start]
            if needed not in seen:
                seen.add(needed)
                ways.append([*way, needed])
    return component
