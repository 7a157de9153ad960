"""The guest's view of the loader's state: `struct link_map`, `_rtld_global`, scopes, slotinfo, `_r_debug`.

The Python objects are the truth; what is written here is for libc and for debuggers. Only `l_tls_dtor_count` is the guest's own:
it is never overwritten.

Source: glibc include/link.h, sysdeps/generic/ldsodefs.h, elf/get-dynamic-info.h.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from emu.elf import constants as c

if TYPE_CHECKING:
    from emu.glibc.layout import Layout
    from emu.machine.arena import Arena
    from emu.rtld.heap import Heap
    from emu.rtld.link_map import LinkMap
    from emu.rtld.rtld import Rtld
    from emu.rtld.scope import Namespace, Scope

_DT_NUM = 38
_VERSION_BASE, _EXTRA_BASE, _VAL_BASE, _ADDR_BASE = _DT_NUM, _DT_NUM + 16, _DT_NUM + 19, _DT_NUM + 31
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
_FLAGS = ("l_relocated", "l_init_called", "l_global", "l_faked", "l_removed", "l_contiguous", "l_main_map")


def info_index(tag: int) -> int | None:
    """Return the index in `l_info` that glibc gives to a dynamic tag, or None. Source: elf/get-dynamic-info.h."""
    if 0 <= tag < _DT_NUM:
        return tag
    if 0x6FFFFFF0 <= tag <= 0x6FFFFFFF:
        return _VERSION_BASE + 0x6FFFFFFF - tag
    if 0x7FFFFFFD <= tag <= 0x7FFFFFFF:
        return _EXTRA_BASE + 0x7FFFFFFF - tag
    if 0x6FFFFDF4 <= tag <= 0x6FFFFDFF:
        return _VAL_BASE + 0x6FFFFDFF - tag
    if 0x6FFFFEF5 <= tag <= 0x6FFFFEFF:
        return _ADDR_BASE + 0x6FFFFEFF - tag
    return None


class Mirror:
    """Writes the mirrors. Guest addresses; `rtld_global` and `rtld_global_ro` are set once ld.so is mapped."""

    def __init__(self, layout: Layout, arena: Arena, heap: Heap, rtld: Rtld) -> None:
        self.layout, self.arena, self.heap, self.rtld = layout, arena, heap, rtld
        self.rtld_global = self.rtld_global_ro = self.r_debug = 0
        self._at = layout.offsets("link_map")
        self._global_at = layout.offsets("rtld_global")
        self._ro_at = layout.offsets("rtld_global_ro")
        self._size = layout.size("link_map")
        self._bits = {name: layout.bits("link_map", name) for name in _FLAGS}
        self._type = layout.bits("link_map", "l_type")
        self._readonly_bit = layout.bits("link_map", "l_ld_readonly")
        self._names: dict[tuple[int, str], int] = {}
        self._infos: dict[int, bytes] = {}
        self._arrays: dict[int, tuple[int, int]] = {}
        self._slotinfo = 0
        self._slotinfo_room = 0

    # -- single fields ----------------------------------------------------------------------------------------------

    def set_global(self, member: str, value: int, size: int = 8) -> None:
        """Store a member of `_rtld_global`."""
        self.arena.write(self.rtld_global + self._global_at[member], value.to_bytes(size, "little"))

    def global_address(self, member: str) -> int:
        """Return the guest address of a member of `_rtld_global`."""
        return self.rtld_global + self._global_at[member]

    def set_ro(self, member: str, value: int, size: int = 8) -> None:
        """Store a member of `_rtld_global_ro`."""
        self.arena.write(self.rtld_global_ro + self._ro_at[member], value.to_bytes(size, "little"))

    def ro_address(self, member: str) -> int:
        """Return the guest address of a member of `_rtld_global_ro`."""
        return self.rtld_global_ro + self._ro_at[member]

    def dtor_count_address(self, map_: LinkMap) -> int:
        """Return the guest address of `l_tls_dtor_count`."""
        return map_.address + self._at["l_tls_dtor_count"]

    # -- link maps --------------------------------------------------------------------------------------------------

    def new_map(self, map_: LinkMap, address: int = 0) -> None:
        """Give a map its `struct link_map` (at `address` if that is not 0) and relocate its dynamic section's pointers."""
        map_.address = address or self.heap.allocate(self._size)
        self.rtld.by_address[map_.address] = map_
        writable = any(
            p.type == c.PT_LOAD and p.flags & c.PF_W and p.vaddr <= map_.ld - map_.addr < p.vaddr + p.memsz
            for p in map_.phdrs
        )
        self._infos[map_.address] = self._read_info(map_, writable)
        self.sync(map_)

    def _read_info(self, map_: LinkMap, writable: bool) -> bytes:
        info = [0] * ((self._at["l_phdr"] - self._at["l_info"]) // 8)
        done = set()
        for number, (tag, _) in enumerate(map_.dynamic.entries):
            index = info_index(tag)
            place = map_.ld + 16 * number
            if index is not None:
                info[index] = place
        for number, (tag, value) in enumerate(map_.dynamic.entries):
            if writable and tag in _POINTER_TAGS and tag not in done and map_.addr:
                place = map_.ld + 16 * number
                index = info_index(tag)
                if index is not None and info[index] == place:
                    done.add(tag)
                    self.arena.write_u64(place + 8, value + map_.addr)
        return struct.pack(f"<{len(info)}Q", *info) + (b"\0" if writable else b"\1")

    def name_address(self, map_: LinkMap, text: str) -> int:
        """Return the address of a NUL-terminated copy of a name, kept as long as the map."""
        key = (map_.address, text)
        if key not in self._names:
            self._names[key] = self.heap.string(text.encode(errors="surrogateescape"))
        return self._names[key]

    def sync(self, map_: LinkMap) -> None:
        """Write everything but the destructor count."""
        at, raw = self._at, bytearray(self._size)
        info = self._infos[map_.address]

        def put(member: str, value: int, size: int = 8) -> None:
            raw[at[member] : at[member] + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")

        namespace = self.rtld.namespaces[map_.ns]
        index = namespace.maps.index(map_) if map_ in namespace.maps else -1
        put("l_addr", map_.addr)
        put("l_name", self.name_address(map_, map_.name))
        put("l_ld", map_.ld)
        if index >= 0:
            put("l_next", namespace.maps[index + 1].address if index + 1 < len(namespace.maps) else 0)
            put("l_prev", namespace.maps[index - 1].address if index else 0)
        put("l_real", map_.address)
        put("l_ns", map_.ns)
        put("l_libname", self._libnames(map_))
        raw[at["l_info"] : at["l_info"] + len(info) - 1] = info[:-1]
        put("l_phdr", map_.phdr)
        put("l_entry", map_.entry)
        put("l_phnum", len(map_.phdrs), 2)
        put("l_ldnum", len(map_.dynamic.entries) + 1, 2)
        put("l_searchlist.r_list", self.array(id(map_.searchlist), [m.address for m in map_.searchlist]))
        put("l_searchlist.r_nlist", len(map_.searchlist), 4)
        put("l_loader", map_.loader.address if map_.loader is not None else 0)
        self._hash(map_, put)
        put("l_direct_opencount", map_.direct_opencount, 4)
        self._pack_flags(map_, raw, info[-1])
        put("l_nodelete_active", map_.nodelete_active, 1)
        put("l_nodelete_pending", map_.nodelete_pending, 1)
        versym = map_.dynamic.get(c.DT_VERSYM)
        put("l_versyms", map_.addr + versym if versym is not None else 0)
        put("l_versions", self._versions(map_))
        put("l_nversions", len(map_.versions), 4)
        origin = map_.origin
        put("l_origin", self.name_address(map_, origin) if origin is not None else (1 << 64) - 1)
        put("l_map_start", map_.map_start)
        put("l_map_end", map_.map_end)
        put("l_text_end", map_.text_end)
        scopes = [self._scope(scope) for scope in map_.scopes]
        put("l_scope", self.array(id(map_.scopes), [*scopes, 0], at_least=5))
        put("l_scope_max", max(4, len(scopes) + 1))
        put("l_local_scope[]", map_.address + at["l_searchlist"])
        put("l_file_id.dev", map_.file_id[0])
        put("l_file_id.ino", map_.file_id[1])
        initfini = map_.initfini or []
        put("l_initfini", self.array(id(map_), [*(m.address for m in initfini), 0]) if initfini else 0)
        put("l_used", 1, 4)
        put("l_flags_1", map_.dynamic.flags_1, 4)
        put("l_flags", map_.dynamic.flags, 4)
        put("l_tls_initimage", map_.tls_initimage)
        put("l_tls_initimage_size", map_.tls_initimage_size)
        put("l_tls_blocksize", map_.tls_blocksize)
        put("l_tls_align", map_.tls_align if map_.tls_blocksize else 0)
        put("l_tls_firstbyte_offset", map_.tls_firstbyte_offset)
        put("l_tls_offset", map_.tls_offset)
        put("l_tls_modid", map_.tls_modid)
        put("l_tls_dtor_count", self.arena.read_u64(self.dtor_count_address(map_)))
        if map_.relro is not None:
            put("l_relro_addr", map_.relro[0] - map_.addr)
            put("l_relro_size", map_.relro[1])
        put("l_serial", map_.serial)
        self.arena.write(map_.address, raw)

    def _hash(self, map_: LinkMap, put) -> None:  # type: ignore[no-untyped-def]
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

    def _pack_flags(self, map_: LinkMap, raw: bytearray, readonly: int) -> None:
        byte, bit = self._type
        raw[byte] |= map_.type << bit
        values = (
            map_.relocated,
            map_.init_called,
            map_.global_,
            map_.faked,
            map_.removed,
            map_.contiguous,
            map_.main_map,
        )
        for name, value in zip(_FLAGS, values, strict=True):
            if value:
                byte, bit = self._bits[name]
                raw[byte] |= 1 << bit
        if readonly:
            byte, bit = self._readonly_bit
            raw[byte] |= 1 << bit

    def flags(self, map_: LinkMap) -> None:
        """Write the flag bits only: three bytes that change often."""
        first = min(self._type[0], *(byte for byte, _ in self._bits.values()))
        last = max(self._readonly_bit[0], *(byte for byte, _ in self._bits.values()))
        raw = bytearray(self._size)
        self._pack_flags(map_, raw, self._infos[map_.address][-1])
        self.arena.write(map_.address + first, raw[first : last + 1])

    relocated = flags

    def dependencies(self, root: LinkMap) -> None:
        """Write the maps of a closure whose search list and init order have been settled."""
        for map_ in root.searchlist:
            self.sync(map_)

    def _libnames(self, map_: LinkMap) -> int:
        """The chain of further names (`struct libname_list`), newest last."""
        following = 0
        for number in range(len(map_.lib_names) - 1, -1, -1):
            key = (map_.address, f"libname {number}")
            if key not in self._names:
                self._names[key] = self.heap.allocate(self.layout.size("libname_list"))
            node = self._names[key]
            self.arena.write(
                node, struct.pack("<QQQ", self.name_address(map_, map_.lib_names[number]), following, 1)
            )
            following = node
        return following

    def _versions(self, map_: LinkMap) -> int:
        """The table of `struct r_found_version` by version index, written once: versions are settled when they are checked."""
        key = (map_.address, "versions")
        if map_.versions and key not in self._names:
            raw = bytearray()
            for version in map_.versions:
                if version is None:
                    raw += bytes(24)
                    continue
                name, file = (
                    self.name_address(map_, os.fsdecode(text)) if text else 0
                    for text in (version.name, version.file)
                )
                raw += struct.pack("<QIIQ", name, version.hash, version.hidden and 0x8000, file)
            self._names[key] = self.heap.allocate(len(raw))
            self.arena.write(self._names[key], raw)
        return self._names.get(key, 0)

    def array(self, key: int, values: list[int], at_least: int = 1) -> int:
        """Return the guest array kept under `key`, with `values` in it; it moves when it must grow."""
        address, room = self._arrays.get(key, (0, 0))
        if len(values) > room:
            if address:
                self.heap.free(address)
            room = max(len(values), at_least)
            address = self.heap.allocate(8 * room, 8)
            self._arrays[key] = (address, room)
        if values:
            self.arena.write(address, struct.pack(f"<{len(values)}Q", *values))
        return address

    def _scope(self, scope: Scope) -> int:
        """Return the `struct r_scope_elem` of a scope: the search list of the map that owns it, or one of its own."""
        for map_ in scope.maps[:1]:
            if map_.searchlist is scope.maps:
                scope.address = map_.address + self._at["l_searchlist"]
        if not scope.address:
            scope.address = self.heap.allocate(self.layout.size("r_scope_elem"))
        listed = self.array(id(scope.maps), [m.address for m in scope.maps])
        self.arena.write(scope.address, struct.pack("<QI", listed, len(scope.maps)))
        return scope.address

    # -- namespaces, TLS --------------------------------------------------------------------------------------------

    def namespace(self, namespace: Namespace) -> None:
        """Write the `_dl_ns` element of a namespace and the chain of its maps."""
        base = (
            self.rtld_global
            + self._global_at["_dl_ns[]"]
            + self.layout.size("link_namespaces") * namespace.index
        )
        at = self.layout.offsets("link_namespaces")
        first = namespace.maps[0].address if namespace.maps else 0
        self.arena.write_u64(base + at["_ns_loaded"], first)
        self.arena.write_u32(base + at["_ns_nloaded"], len(namespace.maps))
        self.arena.write_u64(
            base + at["_ns_main_searchlist"], self._scope(namespace.global_scope) if first else 0
        )
        self.arena.write_u64(base + at["libc_map"], namespace.libc_map.address if namespace.libc_map else 0)
        for map_ in namespace.maps:
            self.sync(map_)

    def tls(self) -> None:
        """Write the TLS state: slotinfo, generation, sizes."""
        tls = self.rtld.tls
        count = max(len(tls.modules), 64)
        if count > self._slotinfo_room:
            self._slotinfo_room = count * 2
            self._slotinfo = self.heap.allocate(16 + 16 * self._slotinfo_room)
        words = [self._slotinfo_room, 0]
        for index, map_ in enumerate(tls.modules):
            words += [tls.generations[index], map_.address if map_ is not None else 0]
        self.arena.write(self._slotinfo, struct.pack(f"<{len(words)}Q", *words))
        self.set_global("_dl_tls_dtv_slotinfo_list", self._slotinfo)
        self.set_global("_dl_tls_max_dtv_idx", tls.max_dtv_idx)
        self.set_global("_dl_tls_static_nelem", tls.static_modules)
        self.set_global("_dl_tls_static_used", tls.static_used)
        self.set_global("_dl_tls_static_optional", tls.optional_left)
        self.set_global("_dl_tls_generation", tls.generation)

    def debug_pointer(self, main: LinkMap) -> None:
        """Put the address of `_r_debug` where debuggers look for it: the program's DT_DEBUG entry."""
        for number, (tag, _) in enumerate(main.dynamic.entries):
            if tag == c.DT_DEBUG:
                self.arena.write_u64(main.ld + 16 * number + 8, self.r_debug)

    def debug_state(self, state: int) -> None:
        """Write `_r_debug`: the list head and RT_CONSISTENT (0), RT_ADD (1) or RT_DELETE (2)."""
        maps = self.rtld.namespaces[0].maps
        ld_so = self.rtld.ld_so
        self.arena.write(
            self.r_debug,
            struct.pack(
                "<iiQQiiQ", 1, 0, maps[0].address, self.rtld.debug_break, state, 0, ld_so.addr if ld_so else 0
            ),
        )
