"""A linker without a machine: memory that is bytes, mappings that are numbers, a
mirror that notes what it is told.
"""

from __future__ import annotations

import struct
from typing import cast

from emu.core.errors import MemoryFault
from emu.core.events import EventBus
from emu.core.files import Backing, FileSystem
from emu.elf.builder import ElfBuilder
from emu.elf.header import parse_ehdr, parse_phdrs
from emu.rtld.given import Entries, Services
from emu.rtld.link_map import LT_LIBRARY, LinkMap, MapType
from emu.rtld.mirror_view import MirrorView
from emu.rtld.rtld import Rtld
from emu.rtld.rules import Rules

_WINDOW, _TOP = 0x10000000, 0x600000
PT_LOAD = 1
ENTRIES = Entries(0x100, 0x200, 0x300, 0x400, 0x500)


class Memory:
    """Six megabytes of zeroes at 0x10000000 (`emu.core.types.Memory`)."""

    def __init__(self) -> None:
        self._bytes = bytearray(_TOP)

    def view(self, address: int, size: int) -> memoryview:
        at = address - _WINDOW
        if at < 0 or at + size > _TOP:
            raise MemoryFault(address, "read")
        return memoryview(self._bytes)[at : at + size]

    span = view

    def read(self, address: int, size: int) -> bytes:
        return bytes(self.view(address, size))

    def write(self, address: int, data: bytes) -> None:
        self.view(address, len(data))[:] = data

    def read_u64(self, address: int) -> int:
        return int.from_bytes(self.read(address, 8), "little")

    def write_u64(self, address: int, value: int) -> None:
        self.write(address, struct.pack("<Q", value))

    def read_cstr(self, address: int, limit: int = 4096) -> bytes:
        return self.read(address, limit).partition(b"\0")[0]


class Mappings:
    """Gives out addresses one after the other and notes protections (`emu.core.types.Mappings`)."""

    def __init__(self) -> None:
        self.next = _WINDOW + 0x400000
        self.protected: list[tuple[int, int, int]] = []

    def mmap(
        self,
        address: int,
        length: int,
        prot: int,
        *,
        fixed: bool = False,
        backing: Backing | None = None,
        offset: int = 0,
        name: str = "",
    ) -> int:
        self.next += length
        return self.next - length

    def munmap(self, address: int, length: int) -> None:
        """Nothing is mapped."""

    def mprotect(self, address: int, length: int, prot: int) -> None:
        self.protected.append((address, length, prot))

    def discard(self, address: int, length: int) -> None:
        """Nothing is mapped."""

    def find_gap(self, length: int, *, align: int = 4096) -> int:
        return self.next


class Mirror:
    """Notes the names of what it is told of (`emu.rtld.mirror_view.MirrorView`)."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def __getattr__(self, name: str) -> object:
        return lambda *_: self.told.append(name)


class Linker:
    """An `rtld` over these fakes; `load` maps an object and gives it one scope,
    the list of all that were loaded before and it.
    """

    def __init__(self, env: dict[str, str] | None = None) -> None:
        self.memory, self.mappings, self.mirror = Memory(), Mappings(), Mirror()
        self.said: list[str] = []
        self.rtld = Rtld(
            self.memory,
            self.mappings,
            cast("FileSystem", None),
            EventBus(),
            env or {},
            "prog",
            services=Services(self.said.append),
        )
        self.rtld.obey(Rules(relative_words_read=True))
        self.rtld.attach(cast("MirrorView", self.mirror), ENTRIES, 0, lambda: None)
        self.next = _WINDOW

    def load(self, builder: ElfBuilder, name: str, type_: MapType = LT_LIBRARY) -> LinkMap:
        data = builder.build()
        map_ = LinkMap(name, name, type_, 0, None)
        map_.phdrs = parse_phdrs(data, parse_ehdr(data, name), name)
        map_.addr = self.next
        for phdr in map_.phdrs:
            if phdr.type == PT_LOAD:
                self.memory.write(map_.addr + phdr.vaddr, data[phdr.offset : phdr.offset + phdr.filesz])
        map_.read_phdrs()
        map_.read_dynamic(self.memory)
        self.next = -(-map_.map_end // 0x10000) * 0x10000
        namespace = self.rtld.namespaces[0]
        namespace.maps.append(map_)
        first = namespace.maps[0]
        namespace.main = first
        first.searchlist.append(map_)
        map_.scopes = [first.local_scope]
        return map_
