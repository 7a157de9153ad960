"""The guest's view of a loaded object: `struct link_map` with its names, scopes and lists.

The Python objects are the truth; what is written here is for libc and for debuggers. Only `l_tls_dtor_count`
is the guest's own: it is never written. What cannot change after an object is mapped is written once;
everything else has a small writer of its own, so that opening one object does not cost a pass over all of
them.

One piece: every member of `struct link_map` that emu keeps up to date.

Source: glibc include/link.h, elf/get-dynamic-info.h, elf/dl-object.c.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from emu.core.errors import LoaderError
from emu.elf import constants as c
from emu.rtld.link_map import LT_EXECUTABLE, SCOPE_ROOM
from emu.rtld.scope import DL_NNS

if TYPE_CHECKING:
    from emu.glibc.layout import Layout
    from emu.machine.arena import Arena
    from emu.rtld.heap import Heap
    from emu.rtld.link_map import LinkMap
    from emu.rtld.rtld import Rtld
    from emu.rtld.scope import Scope

_DT_NUM = {77: 35, 80: 38, 84: 38}
"""How many tags from 0 on `l_info` has room for, by its words:
77 up to 2.35, 80 with DT_RELR, 84 since 2.39, with four of the processor's.
"""
_DT_X86_64_NUM = 4
_RANGES = ((0x6FFFFFFF, 16), (0x7FFFFFFF, 3), (0x6FFFFDFF, 12), (0x6FFFFEFF, 11))
"""What follows, each counted down from its highest tag: version, extra, value and address tags."""
_COUNTED_DOWN = sum(count for _, count in _RANGES)
_POINTER_TAGS = frozenset(
    (
        c.DT_HASH,
        c.DT_PLTGOT,
        c.DT_STRTAB,
        c.DT_SYMTAB,
        c.DT_RELA,
        c.DT_JMPREL,
        c.DT_RELR,
        c.DT_VERSYM,
        c.DT_GNU_HASH,
    )
)
_FLAGS = (
    "relocated", "init_called", "global_", "faked", "removed", "contiguous", "main_map", "need_tls_init", "phdr_allocated", "auditing",
    "audit_any_plt",
)  # fmt: skip
"""The single-bit flags of `struct link_map`, as LinkMap names them."""


def info_index(tag: int, words: int) -> int | None:
    """Return the index that glibc gives to a dynamic tag in an `l_info` of so many words, or None.

    Source: elf/get-dynamic-info.h.
    """
    first = _DT_NUM[words]
    if 0 <= tag < first:
        return tag
    processor = words - first - _COUNTED_DOWN
    if 0 <= tag - c.DT_LOPROC < processor:
        return first + tag - c.DT_LOPROC
    first += processor
    for highest, count in _RANGES:
        if highest - count < tag <= highest:
            return first + highest - tag
        first += count
    return None


class _Blocks:
    """The guest memory that belongs to one object's mirror, by what it is for."""

    __slots__ = ("arrays", "readonly", "strings")

    def __init__(self, readonly: bool) -> None:
        self.readonly = readonly
        self.arrays: dict[str, tuple[int, int]] = {}
        self.strings: dict[str, int] = {}


class Mirror:
    """Writes `struct link_map`s. Addresses are the guest's."""

    def __init__(self, layout: Layout, arena: Arena, heap: Heap, rtld: Rtld) -> None:
        self.layout, self.arena, self.heap, self.rtld = layout, arena, heap, rtld
        self._at = layout.offsets("link_map")
        self._size = layout.size("link_map")
        type_ = layout.bits("link_map", "l_type")
        bits = {
            name: layout.bits("link_map", member)
            for name in (*_FLAGS, "ld_readonly")
            if layout.has("link_map", member := f"l_{name.rstrip('_')}")
        }
        flag_bytes = [type_[0], *(byte for byte, _ in bits.values())]
        self._first_flag = first = min(flag_bytes)
        self._flag_bytes = max(flag_bytes) + 1 - first
        self._type_shift = 8 * (type_[0] - first) + type_[1]
        masks = {name: 1 << 8 * (byte - first) + bit for name, (byte, bit) in bits.items()}
        self._readonly = masks.pop("ld_readonly", 0)
        self._masks = tuple(masks.items())
        self._blocks: dict[int, _Blocks] = {}

    # -- life of a map ---------------------------------------------------------------------------------------

    def size_of_map(self) -> int:
        """Return the size of a link map of an object that comes now, with the record of its first name, but
        for the name.
        """
        return self._size + 16 * len(self.rtld.auditors) + self.layout.size("libname_list")

    def new_map(self, map_: LinkMap, address: int = 0) -> None:
        """Give a map its `struct link_map` (at `address` if that is not 0) and
        relocate its dynamic section's pointers.
        """
        # The program and the vDSO come before it is known how many auditors there are.
        early = map_.type == LT_EXECUTABLE or map_.found_by == "vdso"
        states = DL_NNS if early else len(self.rtld.auditor_names or ())
        map_.address = address or map_.lent.get("map") or self.heap.allocate(self._size + 16 * states)
        self.rtld.by_address[map_.address] = map_
        self.rtld.departed.pop(map_.address, None)
        writable = any(
            p.type == c.PT_LOAD and p.flags & c.PF_W and p.vaddr <= map_.ld - map_.addr < p.vaddr + p.memsz
            for p in map_.phdrs
        )
        self._blocks[map_.address] = _Blocks(not writable)
        self._write_constants(map_, self._relocate_dynamic(map_, writable), own_place=bool(address))
        self.names(map_)
        self.flags(map_)
        self.opencount(map_)
        self.nodelete(map_)
        self.loader(map_)
        self.scopes(map_)
        self.tls_offset(map_)
        # An auditor that came after an object finds nothing in its cookie: ld.so has not even room for it.
        for index in range(0 if address else DL_NNS if early else len(self.rtld.auditors)):
            first = map_.address if self.rtld.rules.second_audit_interface else 0
            self.arena.write_u64(self.audit_cookie(map_, index), first)

    def free_map(self, map_: LinkMap) -> None:
        """Take back everything of a map that is gone."""
        blocks = self._blocks.pop(map_.address)
        for address, _ in blocks.arrays.values():
            self.heap.free(address)
        for address in blocks.strings.values():
            self.heap.free(address)
        del self.rtld.by_address[map_.address]
        self.rtld.departed[map_.address] = map_
        self.heap.free(map_.address)

    def _relocate_dynamic(self, map_: LinkMap, writable: bool) -> bytes:
        """Return `l_info`; add the load address to the pointers of a writable dynamic section,
        as ld.so does.
        """
        info = [0] * ((self._at["l_phdr"] - self._at["l_info"]) // 8)
        entries = map_.dynamic.entries
        for number, (tag, _) in enumerate(entries):
            index = info_index(tag, len(info))
            if index is not None:
                info[index] = map_.ld + 16 * number
        if writable and map_.addr:
            for tag in _POINTER_TAGS:
                index = info_index(tag, len(info))
                if index is not None and info[index]:
                    value = entries[(info[index] - map_.ld) // 16][1]
                    self.arena.write_u64(info[index] + 8, value + map_.addr)
        return struct.pack(f"<{len(info)}Q", *info)

    def _write_constants(self, map_: LinkMap, info: bytes, *, own_place: bool) -> None:
        at, raw = self._at, bytearray(self._size)

        def put(member: str, value: int, size: int = 8) -> None:
            raw[at[member] : at[member] + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")

        put("l_addr", map_.addr)
        put("l_name", self._lent_string(map_, "name", map_.name))
        put("l_ld", map_.ld)
        put("l_real", map_.real.address or map_.address)
        put("l_ns", map_.ns)
        raw[at["l_info"] : at["l_info"] + len(info)] = info
        put("l_phdr", map_.phdr)
        put("l_entry", map_.entry)
        put("l_phnum", len(map_.phdrs), 2)
        put("l_ldnum", len(map_.dynamic.entries) + 1 if map_.real is map_ else 0, 2)
        self._hash(map_, put)
        versym = map_.dynamic.get(c.DT_VERSYM)
        put("l_versyms", map_.addr + versym if versym is not None else 0)
        put("l_origin", self._lent_string(map_, "origin", map_.origin) if map_.origin is not None else -1)
        put("l_map_start", map_.map_start)
        put("l_map_end", map_.map_end)
        if "l_text_end" in at:
            put("l_text_end", map_.text_end)
        if not own_place:
            # ld.so's own map was never made by _dl_new_object: dlsym on its handle has no scope to look in.
            put("l_local_scope[]", map_.address + at["l_searchlist"])
        put("l_file_id.dev", map_.file_id[0])
        put("l_file_id.ino", map_.file_id[1])
        put("l_used", 1, 4)
        put("l_flags_1", map_.dynamic.flags_1, 4)
        put("l_flags", map_.dynamic.flags, 4)
        put("l_tls_initimage", map_.tls_initimage)
        put("l_tls_initimage_size", map_.tls_initimage_size)
        put("l_tls_blocksize", map_.tls_blocksize)
        put("l_tls_align", map_.tls_align if map_.tls_blocksize else 0)
        put("l_tls_firstbyte_offset", map_.tls_firstbyte_offset)
        if map_.relro is not None:
            put("l_relro_addr", map_.relro[0] - map_.addr)
            put("l_relro_size", map_.relro[1])
        put("l_serial", map_.serial)
        self.arena.write(map_.address, raw)

    def _hash(self, map_: LinkMap, put: Callable[..., None]) -> None:
        gnu = map_.symtab.gnu_hash
        vaddr = map_.dynamic.get(c.DT_GNU_HASH)
        if gnu is not None and vaddr is not None:
            table = map_.addr + vaddr
            buckets = table + 16 + 8 * (gnu.bloom_mask + 1)
            put("l_nbuckets", gnu.nbuckets, 4)
            put("l_gnu_bitmask_idxbits", gnu.bloom_mask, 4)
            put("l_gnu_shift", gnu.shift, 4)
            put("l_gnu_bitmask", table + 16)
            put("l_gnu_buckets", buckets)
            put("l_gnu_chain_zero", buckets + 4 * gnu.nbuckets - 4 * gnu.symoffset)
            return
        sysv = map_.symtab.sysv_hash
        vaddr = map_.dynamic.get(c.DT_HASH)
        if sysv is not None and vaddr is not None:
            table = map_.addr + vaddr
            put("l_nbuckets", sysv.nbuckets, 4)
            put("l_buckets", table + 8)
            put("l_chain", table + 8 + 4 * sysv.nbuckets)

    # -- members that change ---------------------------------------------------------------------------------

    def _put(self, map_: LinkMap, member: str, value: int, size: int = 8) -> None:
        data = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
        self.arena.write(map_.address + self._at[member], data)

    def flags(self, map_: LinkMap) -> None:
        """Write `l_type` and the single-bit flags."""
        value = map_.type << self._type_shift
        for name, mask in self._masks:
            if getattr(map_, name):
                value |= mask
        if self._blocks[map_.address].readonly:
            value |= self._readonly
        self.arena.write(map_.address + self._first_flag, value.to_bytes(self._flag_bytes, "little"))

    def audit_cookie(self, map_: LinkMap, index: int) -> int:
        """Return where the `struct auditstate` of an object for an auditor lies,
        which begins with the cookie: behind its link map.
        """
        return map_.address + self._size + 16 * index

    def audit(self, map_: LinkMap) -> None:
        """Write what auditors want to hear of its bindings, and where that is remembered of its PLT slots."""
        self.flags(map_)
        self._put(map_, "l_reloc_result", map_.reloc_result)
        for index, flags in map_.bind_flags.items():
            self.arena.write_u32(self.audit_cookie(map_, index) + 8, flags)

    def opencount(self, map_: LinkMap) -> None:
        """Write `l_direct_opencount`."""
        self._put(map_, "l_direct_opencount", map_.direct_opencount, 4)

    def nodelete(self, map_: LinkMap) -> None:
        """Write `l_nodelete_active` and `l_nodelete_pending`;
        before 2.31 the mark is DF_1_NODELETE among the object's own flags.
        """
        if "l_nodelete_active" in self._at:
            self._put(map_, "l_nodelete_active", map_.nodelete_active, 1)
            self._put(map_, "l_nodelete_pending", map_.nodelete_pending, 1)
        else:
            kept = map_.nodelete_active or map_.nodelete_pending
            flags = map_.dynamic.flags_1 & ~c.DF_1_NODELETE | (c.DF_1_NODELETE if kept else 0)
            self._put(map_, "l_flags_1", flags, 4)

    def tls_offset(self, map_: LinkMap) -> None:
        """Write `l_tls_modid` and `l_tls_offset`."""
        self._put(map_, "l_tls_modid", map_.tls_modid)
        self._put(map_, "l_tls_offset", map_.tls_offset)

    def dtor_count(self, map_: LinkMap) -> int:
        """Return `l_tls_dtor_count`: the one member whose truth is the guest's."""
        return self.arena.read_u64(map_.address + self._at["l_tls_dtor_count"])

    def loader(self, map_: LinkMap) -> None:
        """Write `l_loader`."""
        self._put(map_, "l_loader", map_.loader.address if map_.loader is not None else 0)

    def links(self, map_: LinkMap, before: LinkMap | None, after: LinkMap | None) -> None:
        """Write `l_prev` and `l_next`."""
        self._put(map_, "l_next", after.address if after is not None else 0)
        self._put(map_, "l_prev", before.address if before is not None else 0)

    def initfini(self, map_: LinkMap) -> None:
        """Write `l_initfini`."""
        listed = map_.initfini or []
        words = [*(m.address for m in listed), 0]
        self._put(map_, "l_initfini", self._array(map_, "initfini", words) if listed else 0)

    def reldeps(self, map_: LinkMap) -> None:
        """Write `l_reldeps` (a count, then the maps)."""
        listed = map_.reldeps or []
        words = [len(listed), *(m.address for m in listed)]
        self._put(map_, "l_reldeps", self._array(map_, "reldeps", words))
        room = map_.reldeps_room or self._blocks[map_.address].arrays["reldeps"][1] - 1
        self._put(map_, "l_reldepsmax", room, 4)

    def searchlist(self, map_: LinkMap) -> None:
        """Write `l_searchlist`, which is also the scope that others refer to."""
        listed = map_.searchlist
        words = [m.address for m in listed]
        if "initfini" in map_.lent and map_.initfini is not None:  # it lies behind that, in the same block
            place = map_.lent["initfini"] + 8 * (len(map_.initfini) + 1)
            self.arena.write(place, struct.pack(f"<{len(words)}Q", *words))
        else:
            place = self._array(map_, "global", words) if listed else 0
        self._put(map_, "l_searchlist.r_list", place)
        self._put(map_, "l_searchlist.r_nlist", len(listed), 4)

    def dependencies(self, root: LinkMap) -> None:
        """Write the search list and init order of an object that has been opened."""
        self.searchlist(root)
        self.initfini(root)

    def scopes(self, map_: LinkMap) -> None:
        """Write `l_scope`."""
        elements = [self.scope_element(scope) for scope in map_.scopes]
        if not elements:  # ld.so itself
            self._put(map_, "l_scope", 0)
            return
        self._put(map_, "l_scope", self._array(map_, "scope", [*elements, 0], at_least=SCOPE_ROOM))
        arrays = self._blocks[map_.address].arrays
        self._put(map_, "l_scope_max", map_.scope_room if "scope" in map_.lent else arrays["scope"][1])

    def scope_element(self, scope: Scope) -> int:
        """Return the `struct r_scope_elem` of a scope, which lies in the map that owns it."""
        owner = scope.owner
        assert owner is not None
        if not scope.symbolic:
            return owner.address + self._at["l_searchlist"]
        self._put(owner, "l_symbolic_searchlist.r_list", self._array(owner, "symbolic", [owner.address]))
        self._put(owner, "l_symbolic_searchlist.r_nlist", 1, 4)
        return owner.address + self._at["l_symbolic_searchlist"]

    def versions(self, map_: LinkMap) -> None:
        """Write `l_versions`, the table of `struct r_found_version` by version index, once the object's
        versions have been checked.
        """
        if not map_.versions:
            return
        raw = bytearray()
        for version in map_.versions:
            if version is None:
                raw += bytes(24)
                continue
            name, file = (
                self._string(map_, os.fsdecode(text)) if text else 0 for text in (version.name, version.file)
            )
            raw += struct.pack("<QIIQ", name, version.hash, version.hidden and 0x8000, file)
        table = self._block(map_, "versions", len(raw))
        self.arena.write(table, raw)
        self._put(map_, "l_versions", table)
        self._put(map_, "l_nversions", len(map_.versions), 4)

    def names(self, map_: LinkMap) -> None:
        """Write the chain of names that the object is known by (`struct libname_list`)."""
        following = 0
        for number in range(len(map_.lib_names) - 1, -1, -1):
            node, name = self._name_record(map_, number, map_.lib_names[number])
            self.arena.write(
                node, struct.pack("<QQQ", name, following, 0 if f"libname {number}" in map_.lent else 1)
            )
            following = node
        self._put(map_, "l_libname", following)

    # -- memory of a map -------------------------------------------------------------------------------------

    def _string(self, map_: LinkMap, text: str) -> int:
        strings = self._blocks[map_.address].strings
        if text not in strings:
            strings[text] = self.heap.string(text.encode(errors="surrogateescape"))
        return strings[text]

    def _name_record(self, map_: LinkMap, number: int, name: str) -> tuple[int, int]:
        """Return where the record of one of an object's names lies, and where the name: behind the link map,
        in memory of its own, or ours.

        Memory of its own is owed from the moment on that ld.so notes the name.
        """
        what, size = f"libname {number}", self.layout.size("libname_list")
        text = os.fsencode(name) + b"\0"
        node = map_.lent.get(what, 0)
        if not number and "map" in map_.lent:
            node = map_.lent["map"] + self.size_of_map() - size + 8
        if node:
            self.arena.write(node + size, text)
            return node, node + size
        if number and what not in self._blocks[map_.address].arrays:
            self.rtld.owed.malloc(size + len(text), partial(self._note_name, map_, number))
        return self._block(map_, what, size), self._string(map_, name)

    def _note_name(self, map_: LinkMap, number: int, block: int) -> None:
        if not block:
            name = map_.lib_names.pop(number)
            self.rtld.owed.fail(LoaderError(name, "cannot allocate name record", errno.ENOMEM))
            return
        map_.lent[f"libname {number}"] = block
        self.names(map_)

    def _lent_string(self, map_: LinkMap, what: str, text: str) -> int:
        block = map_.lent.get(what, 0)
        if not block:
            return self._string(map_, text)
        self.arena.write(block, os.fsencode(text) + b"\0")
        return block

    def _block(self, map_: LinkMap, purpose: str, size: int) -> int:
        if purpose in map_.lent:
            return map_.lent[purpose]
        arrays = self._blocks[map_.address].arrays
        if purpose not in arrays:
            arrays[purpose] = self.heap.allocate(size), size // 8
        return arrays[purpose][0]

    def _array(self, map_: LinkMap, purpose: str, values: list[int], at_least: int = 1) -> int:
        """Return the array of words kept for `purpose`, with `values` in it; it moves when it must grow."""
        if purpose in map_.lent:
            self.arena.write(map_.lent[purpose], struct.pack(f"<{len(values)}Q", *values))
            return map_.lent[purpose]
        arrays = self._blocks[map_.address].arrays
        address, room = arrays.get(purpose, (0, 0))
        if len(values) > room:
            if address:
                self.heap.free(address)
            room = max(len(values) + room, at_least)
            address = self.heap.allocate(8 * room, 8)
            arrays[purpose] = (address, room)
        self.arena.write(address, struct.pack(f"<{len(values)}Q", *values))
        return address
