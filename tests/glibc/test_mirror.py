"""The guest's `struct link_map`, read back by the layout that it was written with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

import emu.glibc.layout
from emu.elf import constants as c
from emu.elf.builder import ElfBuilder
from emu.glibc.layout import Layout
from emu.glibc.mirror import Mirror, info_index
from emu.rtld.link_map import LT_EXECUTABLE, LT_LOADED, LinkMap, MapType
from tests.rtld.fakes import Linker

_ALL = sorted((Path(emu.glibc.layout.__file__).parent / "layouts").glob("*.json"))
_TABLES = (_ALL[0], _ALL[-1])


class Guest:
    """A mirror over memory that is bytes, and a reader of it."""

    def __init__(self, table: Path) -> None:
        self.linker = Linker()
        self.layout = Layout(table.stem, json.loads(table.read_text()))
        rtld = self.linker.rtld
        self.mirror = Mirror(self.layout, cast("Any", self.linker.memory), rtld.heap, rtld)

    def map(self, name: str, type_: MapType, builder: ElfBuilder | None = None) -> LinkMap:
        map_ = self.linker.load(builder or ElfBuilder(soname=name.encode()), name, type_)
        self.mirror.new_map(map_)
        return map_

    def member(self, map_: LinkMap, name: str, size: int = 8) -> int:
        at = map_.address + self.layout.offset("link_map", name)
        return int.from_bytes(self.linker.memory.read(at, size), "little")

    def flag(self, map_: LinkMap, name: str) -> int:
        byte, bit = self.layout.bits("link_map", name)
        return self.linker.memory.read(map_.address + byte, 1)[0] >> bit & 1

    def array(self, address: int, count: int) -> list[int]:
        return [self.linker.memory.read_u64(address + 8 * number) for number in range(count)]


@pytest.fixture(params=_TABLES, ids=lambda table: table.stem)
def guest(request: pytest.FixtureRequest) -> Guest:
    return Guest(request.param)


def test_constants_of_a_map(guest: Guest) -> None:
    map_ = guest.map("liba.so", LT_LOADED)
    assert guest.member(map_, "l_addr") == map_.addr
    assert guest.member(map_, "l_ld") == map_.ld
    assert guest.linker.memory.read_cstr(guest.member(map_, "l_name")) == b"liba.so"
    assert [guest.member(map_, name) for name in ("l_map_start", "l_map_end")] == [
        map_.map_start,
        map_.map_end,
    ]
    assert guest.linker.rtld.by_address[map_.address] is map_


def test_info_points_to_the_entries_whose_pointers_are_relocated(guest: Guest) -> None:
    map_ = guest.map("liba.so", LT_LOADED)
    count = (guest.layout.offset("link_map", "l_phdr") - guest.layout.offset("link_map", "l_info")) // 8
    index = info_index(c.DT_STRTAB, count)
    assert index is not None
    entry = guest.linker.memory.read_u64(map_.address + guest.layout.offset("link_map", "l_info") + 8 * index)
    assert guest.array(entry, 2) == [c.DT_STRTAB, (map_.dynamic.get(c.DT_STRTAB) or 0) + map_.addr]


def test_flags_share_bytes_and_leave_each_other_alone(guest: Guest) -> None:
    map_ = guest.map("liba.so", LT_LOADED)
    assert [guest.flag(map_, name) for name in ("l_relocated", "l_init_called", "l_global")] == [0, 0, 0]
    map_.relocated = True
    guest.mirror.flags(map_)
    assert [guest.flag(map_, name) for name in ("l_relocated", "l_init_called", "l_global")] == [1, 0, 0]
    map_.global_, map_.relocated = True, False
    guest.mirror.flags(map_)
    assert [guest.flag(map_, name) for name in ("l_relocated", "l_init_called", "l_global")] == [0, 0, 1]
    byte, bit = guest.layout.bits("link_map", "l_type")
    assert guest.linker.memory.read(map_.address + byte, 1)[0] >> bit & 3 == LT_LOADED


def test_numbers_that_change(guest: Guest) -> None:
    map_ = guest.map("liba.so", LT_LOADED)
    map_.direct_opencount, map_.tls_modid, map_.tls_offset = 3, 5, 0x40
    guest.mirror.opencount(map_)
    guest.mirror.tls_offset(map_)
    assert guest.member(map_, "l_direct_opencount", 4) == 3
    assert [guest.member(map_, name) for name in ("l_tls_modid", "l_tls_offset")] == [5, 0x40]


def test_lists_of_maps_are_arrays_of_their_addresses(guest: Guest) -> None:
    main, other = guest.map("main", LT_EXECUTABLE), guest.map("liba.so", LT_LOADED)
    guest.mirror.searchlist(main)
    assert guest.member(main, "l_searchlist.r_nlist", 4) == 2
    assert guest.array(guest.member(main, "l_searchlist.r_list"), 2) == [main.address, other.address]
    main.initfini = [main, other]
    guest.mirror.initfini(main)
    assert guest.array(guest.member(main, "l_initfini"), 3) == [main.address, other.address, 0]
    other.reldeps = [main]
    guest.mirror.reldeps(other)
    assert guest.array(guest.member(other, "l_reldeps"), 2) == [1, main.address]


def test_scopes_refer_to_the_search_lists_of_their_owners(guest: Guest) -> None:
    main, other = guest.map("main", LT_EXECUTABLE), guest.map("liba.so", LT_LOADED)
    other.scopes = [main.local_scope, other.local_scope]
    guest.mirror.scopes(other)
    at = guest.layout.offset("link_map", "l_searchlist")
    assert guest.array(guest.member(other, "l_scope"), 3) == [main.address + at, other.address + at, 0]


def test_links_and_loader(guest: Guest) -> None:
    main, other = guest.map("main", LT_EXECUTABLE), guest.map("liba.so", LT_LOADED)
    other.loader = main
    guest.mirror.loader(other)
    guest.mirror.links(other, main, None)
    members = [guest.member(other, name) for name in ("l_loader", "l_prev", "l_next")]
    assert members == [main.address, main.address, 0]


def test_a_map_that_is_gone_gives_its_memory_back(guest: Guest) -> None:
    map_ = guest.map("liba.so", LT_LOADED)
    address = map_.address
    guest.mirror.free_map(map_)
    assert guest.linker.rtld.by_address == {}
    assert guest.map("libb.so", LT_LOADED).address == address
