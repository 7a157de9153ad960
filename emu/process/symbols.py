"""Addresses in the user's terms: object and offset, function, source line.

DWARF is read only when a line is asked for.

One piece: object, function and line are asked together, and kept and forgotten together.
"""

from __future__ import annotations

import os
import posixpath
from typing import TYPE_CHECKING

from emu.core.errors import EmuError, MemoryFault
from emu.elf import constants as c
from emu.elf.demangle import demangle
from emu.elf.functions import DebugFunction, find_function, read_functions
from emu.elf.header import Phdr, parse_ehdr, parse_phdrs
from emu.machine.arena import PAGE_SIZE

if TYPE_CHECKING:
    from emu.core.files import Backing
    from emu.elf.dwarf import DebugInfo, StaticSymbol
    from emu.elf.inlined import Inlined
    from emu.elf.prototypes import DebugPrototype
    from emu.kernel.fs.inodes import RegularFile
    from emu.process.process import Process
    from emu.rtld.address_index import Departed
    from emu.rtld.link_map import LinkMap


class FileMemory:
    """What memory held of an object before it was unmapped, as its file has it (without relocations)."""

    def __init__(self, file: Backing, phdrs: list[Phdr], bias: int) -> None:
        self._file, self._bias = file, bias
        self._loads = [phdr for phdr in phdrs if phdr.type == c.PT_LOAD]

    def read(self, address: int, size: int) -> bytes:
        """Return `size` bytes at a guest address.

        Raises MemoryFault outside of the file's part of a segment.
        """
        for phdr in self._loads:
            start = address - self._bias - phdr.vaddr
            if start >= 0 and start + size <= phdr.filesz:
                return self._file.pread(size, phdr.offset + start)
        raise MemoryFault(address, "read")


class Symbols:
    """Names for guest addresses of one process.

    Answers are kept: the same address is asked for again and again.

    An object's file is identified by a text: its path, or where another file had that path before (a plugin
    that was built again), the path and a number. So nobody reads the old file's names in the new one.
    """

    HOST_SIDE = frozenset(("_debug", "_files"))
    """What files of the host say is as true after a snapshot is restored (`emu.core.memento`)."""

    def __init__(self, process: Process, sysroot: str) -> None:
        self._process, self._sysroot = process, sysroot
        self._debug: dict[str, DebugInfo | None] = {}
        self._files: dict[str, list[tuple[int, int]]] = {}
        self._described: dict[int, str] = {}
        self._sources: dict[int, str] = {}
        self._code: dict[tuple[str, int], tuple[tuple[str, str, int], ...]] = {}
        self._dynamic: dict[int, list[DebugFunction]] = {}

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
        elif (image := process.images.find(address)) is not None:
            known = process.rendezvous.name(image.start) if process.rendezvous is not None else ""
            return known or image.path, address - image.bias, self.file(image.path, image.file_id)
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
                wanted = (0, 0) if known is None else known[int(number or 0)]
                file = self._open(name, wanted)  # its descriptor lives as long as it
                same = wanted in ((file.dev, file.ino), (0, 0))
                descriptor = file.host_fd()
                if descriptor is not None and same:
                    info = DebugInfo(os.readlink(f"/proc/self/fd/{descriptor}"), root=self._sysroot)
            except (EmuError, OSError):
                info = None  # a file that is gone or without usable names still has offsets
            self._debug[path] = info
        return self._debug[path]

    def _open(self, path: str, wanted: tuple[int, int]) -> RegularFile:
        """Open the file that was mapped from `path`, with that device and inode if they are known: a relative
        name is taken from where the process is, or began (one that serves goes elsewhere).

        Raises OSError.
        """
        fs = self._process.kernel.fs
        first = posixpath.join(self._process.config.cwd, path)
        try:
            file = fs.look_at(path)
        except OSError:
            if first == path:
                raise
            return fs.look_at(first)
        if first != path and wanted not in ((file.dev, file.ino), (0, 0)):
            return fs.look_at(first)
        return file

    def function(self, address: int) -> str:
        """Return the demangled name of the function at `address`, with the offset into it if any;
        empty if unknown.
        """
        place = self.place(address)
        found = self._find(address, place[2], place[1]) if place is not None else None
        if place is None or found is None:
            return ""
        offset = place[1] - found[1]
        return demangle(found[0]) + (f"+{offset:#x}" if offset else "")

    def _find(self, address: int, path: str, vaddr: int) -> tuple[str, int] | None:
        """Return (linkage name, link-time start) of a function:
        from the object's file, or its .dynsym in memory where there is no file.
        """
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
            table = map_.symtab  # what lies behind its last symbol may be anything
            known = table.data[: table.count * c.SYM_SIZE]
            self._dynamic[map_.map_start] = read_functions(known, table.strings, [])
        found = find_function(self._dynamic[map_.map_start], vaddr)
        return (found.name, found.start) if found is not None else None

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

    def section_at(self, address: int) -> str:
        """Return the name of the section at an address of a mapped object, empty if unknown."""
        place = self.place(address)
        info = self._info(place[2]) if place is not None else None
        try:
            return info.section(place[1]) if place is not None and info is not None else ""
        except EmuError:
            return ""

    def unexported(self, map_: LinkMap, name: bytes) -> StaticSymbol | None:
        """Return the definition under `name` that only the static symbol table of an
        object has, if there is one.
        """
        info = self._info(self.file(map_.path, map_.file_id))
        try:
            return next(iter(info.static_symbols(name)), None) if info is not None else None
        except EmuError:
            return None

    def is_external(self, map_: LinkMap, symbol: StaticSymbol) -> bool | None:
        """Whether a function or variable of the static symbol table has external linkage in its source;
        None if nothing tells.
        """
        info = self._info(self.file(map_.path, map_.file_id))
        try:
            return info.is_external(symbol) if info is not None else None
        except EmuError:
            return None

    def data_symbol(self, path: str, vaddr: int) -> tuple[str, int, int] | None:
        """Return (demangled name, link-time start, size) of the variable at a link-time address;
        `path` is the object's file.
        """
        info = self._info(path)
        try:
            found = info.data_symbol(vaddr) if info is not None else None
        except EmuError:
            return None
        return (demangle(found[0]), *found[1:]) if found is not None else None

    def tls_variable(self, map_: LinkMap, offset: int) -> tuple[str, int, int] | None:
        """Return (demangled name, offset, size) of the variable at an offset in an
        object's TLS block, None if no symbol tells.
        """
        info = self._info(self.file(map_.path, map_.file_id))
        try:
            found = info.tls_symbol(offset) if info is not None else None
        except EmuError:
            return None
        return (demangle(found[0]), *found[1:]) if found is not None else None

    def variable(self, address: int) -> str:
        """Return the demangled name of the variable or constant at an address in a mapped object, with the
        offset into it; empty if unknown.
        """
        place = self.place(address)
        return self._variable(place[2], place[1]) if place is not None else ""

    def _variable(self, path: str, vaddr: int) -> str:
        info = self._info(path)
        try:
            found = info.data_symbol(vaddr) if info is not None else None
        except EmuError:
            return ""
        if found is None:
            return ""
        offset = vaddr - found[1]
        return demangle(found[0]) + (f"+{offset:#x}" if offset else "")

    def departed_variable(self, address: int) -> str:
        """Return the variable or constant that was at an address of an object that is gone;
        empty if unknown.
        """
        gone = self._gone(address)
        return (
            self._variable(self.file(gone.path, gone.file_id), address - gone.addr)
            if gone is not None
            else ""
        )

    def function_start(self, address: int) -> int:
        """Return the guest address at which the function at `address` begins, in an object that is mapped;
        0 if unknown.
        """
        place = self.place(address)
        found = self._find(address, place[2], place[1]) if place is not None else None
        return address - place[1] + found[1] if place is not None and found is not None else 0

    def departed_image(self, address: int) -> tuple[FileMemory, int, list[Phdr], str] | None:
        """Return the content of the file of an object that is gone,
        as it lay in memory, with its bias, its program headers and its name.
        """
        gone = self._gone(address)
        if gone is None:
            return None
        try:
            file = self._open(gone.path, gone.file_id)
            if (file.dev, file.ino) != gone.file_id:
                return None
            header = file.pread(PAGE_SIZE, 0)
            phdrs = parse_phdrs(header, parse_ehdr(header, gone.name), gone.name)
        except (OSError, EmuError):
            return None
        return FileMemory(file, phdrs, gone.addr), gone.addr, phdrs, gone.name

    def unexported_like(self, map_: LinkMap, part: bytes) -> list[tuple[bytes, StaticSymbol]]:
        """Return the definitions of the static symbol table of an object whose names have `part` in them."""
        info = self._info(self.file(map_.path, map_.file_id))
        try:
            return info.named_symbols(part) if info is not None else []
        except EmuError:
            return []

    def code_of_line(self, map_: LinkMap, file: str, line: int) -> list[int]:
        """Return the link-time addresses in an object at which a source line's code
        begins, `file` being the end of its path.
        """
        info = self._info(self.file(map_.path, map_.file_id))
        try:
            return info.addresses(file, line) if info is not None else []
        except EmuError:
            return []

    def hidden(self, path: str, functions: frozenset[bytes]) -> dict[bytes, int]:
        """Return what an object's file has and does not export, with link-time addresses:
        its C++ objects, and those functions.
        """
        info = self._info(path)
        try:
            return info.hidden(functions) if info is not None else {}
        except EmuError:
            return {}

    def tls_section_alignment(self, path: str) -> int:
        """Return the largest alignment of a TLS section in an object's file; 0 if that cannot be told."""
        info = self._info(path)
        try:
            return info.tls_section_alignment() if info is not None else 0
        except EmuError:
            return 0

    def section_address(self, path: str, name: str) -> int:
        """Return the link-time address of a section of an object's file, 0 if that cannot be told."""
        info = self._info(path)
        try:
            return info.section_address(name) if info is not None else 0
        except EmuError:
            return 0

    def build_id(self, map_: LinkMap) -> str:
        """Return the build ID of an object's file in hexadecimal digits, empty if that cannot be told."""
        info = self._info(self.file(map_.path, map_.file_id))
        try:
            return info.build_id() if info is not None else ""
        except EmuError:
            return ""

    def is_atomic_variable(self, address: int) -> bool:
        """Whether a static variable of an atomic type lies at an address; false, too, where nothing tells."""
        place = self.place(address)
        info = self._info(place[2]) if place is not None else None
        try:
            return place is not None and info is not None and info.is_atomic_variable(place[1])
        except EmuError:
            return False

    def prototype(self, address: int) -> DebugPrototype | None:
        """Return how the function at an address is declared, None if that is not known."""
        place = self.place(address)
        info = self._info(place[2]) if place is not None else None
        try:
            return info.prototype(place[1]) if place is not None and info is not None else None
        except EmuError:
            return None

    def called(self, back: int) -> str:
        """Return the demangled name of the function that the call before `back` is of, as the debugging
        information has it; empty if that is not known.
        """
        place = self.place(back - 1)
        info = self._info(place[2]) if place is not None else None
        try:
            return demangle(info.called(place[1] + 1)) if place is not None and info is not None else ""
        except EmuError:
            return ""

    def code(self, path: str, vaddr: int, address: int = 0) -> tuple[tuple[str, str, int], ...]:
        """Return (function, file, line) of the code at a link-time address, innermost first:
        functions inlined there, then the one that has them.

        `path` is the object's file, which need not be mapped any more; `address` is where the code lies, for
        an object without a file. Unknown parts are empty or 0.
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
        """Return the place of a call (function and source line, as far as known),
        from the address that it returns to.
        """
        place = self.place(return_address)
        if place is None:
            return f"{return_address:#x}"
        function = self.function(return_address - 1).partition("+0x")[0]
        source = self.source(return_address - 1)
        name = function or f"{place[0]}+{place[1]:#x}"
        return f"{name} ({source})" if source else name

    def forget(self, start: int, end: int) -> None:
        """Drop what is known of the addresses of an object that goes."""
        self._dynamic.pop(start, None)
        for known in (self._described, self._sources):
            for address in [a for a in known if start <= a < end]:
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
        """Return what used to be at an address where nothing is now:
        object and offset, a variable by its name, when it went and by which call.
        """
        gone = self._gone(address)
        if gone is None:
            return None
        name = self.departed_variable(address)
        return f"{gone.name}+{address - gone.addr:#x}{f' in {name}' if name else ''}, {_when(gone)}"

    def departed_place(self, address: int) -> tuple[str, int, str, str] | None:
        """Return (name, link-time address, its file, when it went) for an
        address in an object that is gone.
        """
        gone = self._gone(address)
        if gone is None:
            return None
        return gone.name, address - gone.addr, self.file(gone.path, gone.file_id), _when(gone)

    def _gone(self, address: int) -> Departed | None:
        process = self._process
        if process.space.find(address) is not None:
            return None
        index = process.rtld.index if process.rtld is not None else process.rendezvous
        return index.find_departed(address) if index is not None else None

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
    """Return who unloaded an object, and the number of the event where a trace has it."""
    when = f"at #{gone.sequence} " if gone.sequence else ""
    return f"unloaded {when}by {gone.by}"
