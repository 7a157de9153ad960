"""Addresses in the user's terms: object and offset, function, source line. DWARF is read only when a line is asked for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from emu.core.errors import EmuError
from emu.elf.demangle import demangle

if TYPE_CHECKING:
    from emu.elf.dwarf import DebugInfo, Function, StaticSymbol
    from emu.elf.inlined import Inlined
    from emu.process.process import Process
    from emu.rtld.address_index import Departed
    from emu.rtld.link_map import LinkMap


class Symbols:
    """Names for guest addresses of one process. Answers are kept: the same address is asked for again and again.

    What is called the file of an object below is a word for it: its path, or where another file was there before (a plugin that was built
    again), the path and a number. The names in a file that has taken another's place are not that one's.
    """

    def __init__(self, process: Process, sysroot: str) -> None:
        self._process, self._sysroot = process, sysroot
        self._debug: dict[str, DebugInfo | None] = {}
        self._files: dict[str, list[tuple[int, int]]] = {}
        self._described: dict[int, str] = {}
        self._sources: dict[int, str] = {}
        self._code: dict[tuple[str, int], tuple[tuple[str, str, int], ...]] = {}
        self._dynamic: dict[int, list[Function]] = {}

    def place(self, address: int) -> tuple[str, int, str] | None:
        """Return (object's name, link-time address, its file) for an address in a mapped object."""
        process = self._process
        if process.rtld is not None:
            map_ = process.rtld.find_map(address)
            if map_ is not None:
                return map_.display_name, address - map_.addr, self.file(map_.path, map_.file_id)
        elif (
            process.loaded is not None
            and process.loaded.program.start <= address < process.loaded.program.end
        ):
            program = process.loaded.program
            return program.path, address - program.bias, program.path
        return None

    def file(self, path: str, identity: tuple[int, int]) -> str:
        """Return the word for the file that was mapped from `path` with this device and inode."""
        known = self._files.setdefault(path, [])
        if identity not in known:
            known.append(identity)
        number = known.index(identity)
        return f"{path}\0{number}" if number else path

    def _info(self, path: str) -> DebugInfo | None:
        if path not in self._debug:
            from emu.elf.dwarf import DebugInfo

            info = None
            name, _, number = path.partition("\0")
            known = self._files.get(name)
            try:
                file = self._process.kernel.fs.open_for_loading(name)  # its descriptor lives as long as it
                same = known is None or known[int(number or 0)] in ((file.dev, file.ino), (0, 0))
                descriptor = file.host_fd()
                if descriptor is not None and same:
                    info = DebugInfo(os.readlink(f"/proc/self/fd/{descriptor}"), root=self._sysroot)
            except (EmuError, OSError):
                info = None  # a file that is gone or without usable names still has offsets
            self._debug[path] = info
        return self._debug[path]

    def function(self, address: int) -> str:
        """Return the demangled name of the function at `address`, with the offset into it if any; empty if unknown."""
        place = self.place(address)
        found = self._find(address, place[2], place[1]) if place is not None else None
        if place is None or found is None:
            return ""
        offset = place[1] - found[1]
        return demangle(found[0]) + (f"+{offset:#x}" if offset else "")

    def _find(self, address: int, path: str, vaddr: int) -> tuple[str, int] | None:
        """Return (linkage name, link-time start) of a function: from the object's file, or its .dynsym in memory where there is no file."""
        info = self._info(path)
        if info is not None:
            try:
                return info.function(vaddr)
            except EmuError:
                return None
        map_ = self._process.rtld.find_map(address) if self._process.rtld is not None else None
        if map_ is None:
            return None
        if map_.map_start not in self._dynamic:
            from emu.elf.dwarf import read_functions

            self._dynamic[map_.map_start] = read_functions(map_.symtab.data, map_.symtab.strings, [])
        from emu.elf.dwarf import find_function

        return find_function(self._dynamic[map_.map_start], vaddr)

    def source(self, address: int) -> str:
        """Return file:line of the code at `address`, empty if unknown."""
        if address not in self._sources:
            place = self.place(address)
            info = self._info(place[2]) if place is not None else None
            line = None
            if place is not None and info is not None:
                try:
                    line = info.line(place[1])
                except EmuError:
                    line = None
            self._sources[address] = f"{line[0]}:{line[1]}" if line is not None else ""
        return self._sources[address]

    def section(self, map_: LinkMap, vaddr: int) -> str:
        """Return the name of the section at a link-time address of an object, empty if unknown."""
        info = self._info(self.file(map_.path, map_.file_id))
        try:
            return info.section(vaddr) if info is not None else ""
        except EmuError:
            return ""

    def unexported(self, map_: LinkMap, name: bytes) -> StaticSymbol | None:
        """Return the definition under `name` that only the static symbol table of an object has, if there is one."""
        info = self._info(self.file(map_.path, map_.file_id))
        try:
            return next(iter(info.static_symbols(name)), None) if info is not None else None
        except EmuError:
            return None

    def tls_variable(self, map_: LinkMap, offset: int) -> tuple[str, int, int] | None:
        """Return (demangled name, offset, size) of the variable at an offset in an object's TLS block, None if no symbol tells."""
        info = self._info(self.file(map_.path, map_.file_id))
        try:
            found = info.tls_symbol(offset) if info is not None else None
        except EmuError:
            return None
        return (demangle(found[0]), *found[1:]) if found is not None else None

    def section_address(self, path: str, name: str) -> int:
        """Return the link-time address of a section of an object's file, 0 if that cannot be told."""
        info = self._info(path)
        try:
            return info.section_address(name) if info is not None else 0
        except EmuError:
            return 0

    def code(self, path: str, vaddr: int, address: int = 0) -> tuple[tuple[str, str, int], ...]:
        """Return (function, file, line) of the code at a link-time address, innermost first: functions inlined there, then the one that has them.

        `path` is the object's file, which need not be mapped any more; `address` is where the code lies, for an object without a file. Unknown
        parts are empty or 0.
        """
        key = path, vaddr
        if key not in self._code:
            found = self._find(address, path, vaddr)
            place = ("", 0)
            inlined: list[Inlined] = []
            if (info := self._info(path)) is not None:
                try:
                    place = info.line(vaddr) or place
                    inlined = info.inlined(vaddr)
                except EmuError:
                    pass  # what was found until then holds
            frames = []
            for function in inlined:
                frames.append((demangle(function.name), *place))
                place = function.file, function.line
            self._code[key] = (*frames, (demangle(found[0]) if found is not None else "", *place))
        return self._code[key]

    def describe(self, address: int) -> str:
        """Return the function at `address`, or object+offset where it has no name."""
        if address not in self._described:
            place = self.place(address)
            plain = f"{place[0]}+{place[1]:#x}" if place is not None else f"{address:#x}"
            self._described[address] = self.function(address) or plain
        return self._described[address]

    def call_site(self, return_address: int) -> str:
        """Return the place of a call (function and source line, as far as known), from the address that it returns to."""
        place = self.place(return_address)
        if place is None:
            return f"{return_address:#x}"
        function = self.function(return_address - 1).partition("+0x")[0]
        source = self.source(return_address - 1)
        name = function or f"{place[0]}+{place[1]:#x}"
        return f"{name} ({source})" if source else name

    def forget(self, map_: LinkMap) -> None:
        """Drop what is known of the addresses of an object that goes."""
        self._dynamic.pop(map_.map_start, None)
        for known in (self._described, self._sources):
            for address in [a for a in known if map_.map_start <= a < map_.map_end]:
                del known[address]

    def where(self, address: int) -> str:
        """Return object+offset, function and source line, as far as they are known."""
        place = self.place(address)
        if place is None:
            if (gone := self.departed(address)) is not None:
                return gone
            area = self._process.space.find(address)
            return (
                f"{area.name or 'anonymous memory'} at {address:#x}" if area is not None else f"{address:#x}"
            )
        text = f"{place[0]}+{place[1]:#x}"
        if function := self.function(address):
            text += f" in {function}"
        if source := self.source(address):
            text += f" ({source})"
        return text

    def departed(self, address: int) -> str | None:
        """Return what used to be at an address where nothing is now: the object and offset, when it went and by which call."""
        gone = self._gone(address)
        return f"{gone.name}+{address - gone.addr:#x}, {_when(gone)}" if gone is not None else None

    def departed_place(self, address: int) -> tuple[str, int, str, str] | None:
        """Return (name, link-time address, its file, when it went) for an address in an object that is gone."""
        gone = self._gone(address)
        if gone is None:
            return None
        return gone.name, address - gone.addr, self.file(gone.path, gone.file_id), _when(gone)

    def _gone(self, address: int) -> Departed | None:
        process = self._process
        if process.rtld is None or process.space.find(address) is not None:
            return None
        return process.rtld.index.find_departed(address)

    def near_stack(self, address: int) -> bool:
        """Whether `address` lies in the guard below the main stack."""
        for area in self._process.space:
            if area.name == "[stack]":
                return area.start - (1 << 20) <= address < area.start
        return False

    def area_name(self, address: int) -> str:
        """Return what the mapping at `address` belongs to."""
        place = self.place(address)
        if place is not None:
            return f"{place[0]}+{place[1]:#x}"
        area = self._process.space.find(address)
        return area.name or "anonymous memory" if area is not None else "nothing"


def _when(gone: Departed) -> str:
    seconds, rest = divmod(gone.time, 1_000_000_000)
    when = f"#{gone.sequence}, " if gone.sequence else ""
    return f"unloaded at {when}{seconds}.{rest:09d} s by {gone.by}"
