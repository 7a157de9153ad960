"""What a linker that runs as guest code tells a debugger: the list of its objects, and when that has changed.

The contract is older than glibc and kept by every libc for ELF: the linker writes its list into a `struct
r_debug` and calls an empty function after each change. So glibc's and musl's tell the same, in this form:
objects come and go; those that go at once are told in the list's order. Who needed an object and what its
symbols bound to they do not tell; constructors are seen in another way (`init_fini.py`).

Source: glibc elf/link.h, elf/rtld-debugger-interface.txt, elf/dl-debug.c; musl ldso/dynlink.c:_dl_debug_addr;
gdb solib-svr4.c.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from emu.core.dl_events import Unloaded
from emu.core.errors import MemoryFault
from emu.core.events import LibraryLoad
from emu.core.record import NamedTuple
from emu.glibc.probe import find_own
from emu.process.init_fini import InitFini
from emu.rtld.address_index import Departed
from emu.rtld.link_map import LT_LIBRARY, LinkMap

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.kernel.exec import ExecImage
    from emu.process.process import Process

_RT_CONSISTENT = 0
_VERSION, _MAP, _STATE, _NEXT = 0, 8, 24, 40
"""Members of `struct r_debug`, and of `struct r_debug_extended` that version 2 has."""
_ADDR, _NAME, _LD, _LINK = 0, 8, 16, 24
"""The public members of `struct link_map`: l_addr, l_name, l_ld, l_next."""
_LONGEST = 1 << 16


class SeenObject(NamedTuple):
    """An object in the linker's list; [start, end) is its range, `file_id` its device
    and inode (0, 0 for the vDSO).
    """

    name: str
    path: str
    bias: int
    start: int
    end: int
    namespace: int
    rule: str
    file_id: tuple[int, int] = (0, 0)


class Rendezvous:
    """Watches the linker of one process.

    `objects` are those of its list, by the address of their link maps; `departed` those that went.

    A linker that has no such list tells nothing.
    """

    def __init__(self, process: Process, interpreter: ExecImage) -> None:
        self._process, self._interpreter = process, interpreter
        self.objects: dict[int, SeenObject] = {}
        self._init_fini = InitFini(process) if process.bus.init or process.bus.fini else None
        self.departed: list[Departed] = []
        probe = LinkMap(interpreter.path, interpreter.path, LT_LIBRARY, 0, None)
        probe.addr, probe.phdrs = interpreter.bias, list(interpreter.phdrs)
        probe.read_dynamic(process.arena)
        self._debug = self._symbol(probe, b"_r_debug")
        self._pointer = 0 if self._debug else self._symbol(probe, b"_dl_debug_addr")
        called = self._symbol(probe, b"_dl_debug_state")
        if called and (self._debug or self._pointer):
            process.cpu.watch(called, self._changed)

    @staticmethod
    def _symbol(probe: LinkMap, name: bytes) -> int:
        symbol = find_own(probe, name)
        return probe.addr + symbol.value if symbol is not None else 0

    def name(self, start: int) -> str:
        """Return the linker's name for the object that begins at `start`, empty if it has none."""
        return next((seen.name for seen in self.objects.values() if seen.start == start), "")

    def find_departed(self, address: int) -> Departed | None:
        """Return the object that was the last to be unloaded from `address`."""
        return next((gone for gone in reversed(self.departed) if gone.start <= address < gone.end), None)

    # -- the list --------------------------------------------------------------------------------------------

    def _changed(self) -> None:
        """The linker says that its list changes or has changed."""
        arena = self._process.arena
        debug = self._debug or arena.read_u64(self._pointer)
        try:
            lists = list(self._lists(debug))
        except MemoryFault:
            return  # in the middle of a change, or a list that the guest has damaged
        if any(arena.read_u32(at + _STATE) != _RT_CONSISTENT for at, _ in lists):
            return
        present = {address: namespace for namespace, (_, maps) in enumerate(lists) for address in maps}
        for address in [address for address in self.objects if address not in present]:
            self._gone(self.objects.pop(address))
        for address, namespace in present.items():
            known = self.objects.get(address)
            bias = arena.read_u64(address + _ADDR)
            if known is not None and known.bias != bias:
                self._gone(self.objects.pop(address))  # another object's link map lies where an old one was
            if address not in self.objects:
                self.objects[address] = seen = self._look(address, namespace)
                self._come(seen, arena.read_u64(address + _LD))

    def _lists(self, debug: int) -> Iterator[tuple[int, list[int]]]:
        """Yield each namespace's `struct r_debug` and the link maps of its list. Raises MemoryFault."""
        arena = self._process.arena
        while debug:
            maps: list[int] = []
            at = arena.read_u64(debug + _MAP)
            while at and len(maps) < _LONGEST:
                maps.append(at)
                at = arena.read_u64(at + _LINK)
            yield debug, maps
            debug = arena.read_u64(debug + _NEXT) if arena.read_u32(debug + _VERSION) >= 2 else 0

    def _look(self, address: int, namespace: int) -> SeenObject:
        """Read what a link map says, and find the file behind it."""
        process, arena = self._process, self._process.arena
        bias, dynamic = arena.read_u64(address + _ADDR), arena.read_u64(address + _LD)
        name = os.fsdecode(arena.read_cstr(arena.read_u64(address + _NAME)))
        image, loaded = process.images.find(dynamic), process.loaded
        assert loaded is not None
        if image is None:
            area = process.space.find(dynamic)
            start, end = (area.start, area.end) if area is not None else (bias, bias)
            return SeenObject(
                name, name, bias, start, end, namespace, "vdso" if start == loaded.vdso else "ld.so"
            )
        rule, known = "ld.so", None
        if image.start == self._interpreter.start:
            rule, known = "interpreter", self._interpreter
        elif image.start == loaded.program.start:
            rule, known = "program", loaded.program
        path = known.path if known is not None else image.path
        return SeenObject(name or path, path, bias, image.start, image.end, namespace, rule, image.file_id)

    def _come(self, seen: SeenObject, dynamic: int) -> None:
        bus = self._process.bus
        image = self._process.images.find(dynamic)
        if self._init_fini is not None and image is not None:
            self._init_fini.come(seen, image.file, image.phdrs)
        if bus.libs:
            bus.emit(
                LibraryLoad(
                    seen.name, seen.path, seen.bias, seen.start, seen.end, "", seen.rule, seen.namespace
                )
            )

    def _gone(self, seen: SeenObject) -> None:
        process = self._process
        bus = process.bus
        sequence = bus.upcoming if bus.dl else 0
        self.departed.append(
            Departed(
                seen.start,
                seen.end,
                seen.name,
                seen.path,
                seen.bias,
                bus.now(),
                sequence,
                self._by(),
                seen.file_id,
            )  # fmt: skip
        )
        if bus.dl:
            bus.emit(Unloaded(seen.name, seen.namespace, seen.start, seen.end))
        if self._init_fini is not None:
            self._init_fini.gone(seen)
        process.forget(seen.start, seen.end)

    def _by(self) -> str:
        """Name the call of dlclose that is running."""
        frames = self._process.backtrace()
        for frame, caller in zip(frames, frames[1:], strict=False):
            if frame.function in ("dlclose", "__dlclose"):
                place = f" ({caller.file}:{caller.line})" if caller.file else ""
                return f"dlclose in {caller.function or caller.object}{place}"
        return "ld.so"
