"""The guest's view of the whole: `_rtld_global`, `_rtld_global_ro`, the lists
of namespaces, slotinfo, `_r_debug`.

Source: glibc sysdeps/generic/ldsodefs.h, elf/dl-debug.c, elf/dl-tls.c.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from emu.core.errors import WildPointerError
from emu.elf import constants as c
from emu.glibc.mirror import Mirror
from emu.rtld.audit import INTERFACE
from emu.rtld.scope import DL_NNS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.glibc.layout import Layout
    from emu.machine.arena import Arena
    from emu.rtld.heap import Heap
    from emu.rtld.link_map import LinkMap
    from emu.rtld.rtld import Rtld
    from emu.rtld.scope import Namespace

_MOST_STACKS = 1 << 16
"""More entries than a list of stacks can have: threads have 15 bits."""
_R_DEBUG_SIZE = 48
"""sizeof (struct r_debug_extended), which link.h fixes."""


class GlobalMirror(Mirror):
    """Writes what is not one object's own.

    `rtld_global`, `rtld_global_ro` and `r_debug` are set once ld.so is mapped.
    """

    rtld_global = rtld_global_ro = r_debug = 0
    _slotinfo = _slotinfo_room = _last_auditor = 0

    def __init__(self, layout: Layout, arena: Arena, heap: Heap, rtld: Rtld) -> None:
        super().__init__(layout, arena, heap, rtld)
        self.descriptors: dict[int, None] = {}
        """The thread descriptors that there are, oldest first, for a libc that keeps
        its lists of stacks to itself.
        """
        self._debugs: dict[int, int] = {}

    @property
    def vdso_getrandom(self) -> bool:
        """Whether this libc takes random bytes from the vDSO where there is a function for it."""
        return self.layout.has("rtld_global_ro", "_dl_vdso_getrandom")

    def place_of_ld_so(self) -> int:
        """Return where ld.so's own link map lies; since 2.41 libc is not to
        know, and it is ours to choose.
        """
        if self.layout.has("rtld_global", "_dl_rtld_map"):
            return self.global_address("_dl_rtld_map")
        return self.heap.allocate(self.layout.size("link_map") + 16 * DL_NNS)

    # -- single members --------------------------------------------------------------------------------------

    def set_global(self, member: str, value: int, size: int = 8) -> None:
        """Store a member of `_rtld_global`."""
        self.arena.write(self.global_address(member), value.to_bytes(size, "little"))

    def global_address(self, member: str) -> int:
        """Return the guest address of a member of `_rtld_global`."""
        return self.rtld_global + self.layout.offset("rtld_global", member)

    def set_ro(self, member: str, value: int, size: int = 8) -> None:
        """Store a member of `_rtld_global_ro`."""
        self.arena.write(self.ro_address(member), value.to_bytes(size, "little"))

    def set_ro_if_there(self, member: str, value: int, size: int = 8) -> None:
        """Store a member of `_rtld_global_ro` that not every release has."""
        if self.layout.has("rtld_global_ro", member):
            self.set_ro(member, value, size)

    def ro_address(self, member: str) -> int:
        """Return the guest address of a member of `_rtld_global_ro`."""
        return self.rtld_global_ro + self.layout.offset("rtld_global_ro", member)

    # -- auditors --------------------------------------------------------------------------------------------

    def audit_cookie(self, map_: LinkMap, index: int) -> int:
        """Return where the `struct auditstate` of an object for an auditor lies;
        ld.so's own may be in `_rtld_global`.
        """
        if map_ is self.rtld.ld_so and self.layout.has("rtld_global", "_dl_rtld_auditstate"):
            return self.global_address("_dl_rtld_auditstate") + 16 * index
        return super().audit_cookie(map_, index)

    def auditors(self) -> None:
        """Append the last auditor to the list of `struct audit_ifaces`:
        its functions, then the next auditor's.
        """
        auditors = self.rtld.auditors
        functions = [auditors[-1].functions.get(name, 0) for name in INTERFACE]
        element = self.heap.words([*functions, 0])
        before = (
            self._last_auditor + 8 * len(INTERFACE) if self._last_auditor else self.ro_address("_dl_audit")
        )
        self.arena.write_u64(before, element)
        self._last_auditor = element
        self.set_ro("_dl_naudit", len(auditors), 4)

    # -- namespaces ------------------------------------------------------------------------------------------

    def _namespace_at(self, namespace: Namespace, member: str) -> int:
        base = self.global_address("_dl_ns[]") + self.layout.size("link_namespaces") * namespace.index
        return base + self.layout.offset("link_namespaces", member)

    def namespace(self, namespace: Namespace) -> None:
        """Write the `_dl_ns` element of a namespace;
        the base namespace's global scope is the program's search list.
        """
        maps, arena = namespace.maps, self.arena
        first = maps[0].address if maps else 0
        arena.write_u64(self._namespace_at(namespace, "_ns_loaded"), first)
        arena.write_u32(self._namespace_at(namespace, "_ns_nloaded"), len(maps))
        if namespace.main is not None:
            element = self.scope_element(namespace.main.local_scope)
            arena.write_u64(self._namespace_at(namespace, "_ns_main_searchlist"), element)
        if self.layout.has("link_namespaces", "libc_map"):
            libc = namespace.libc_map.address if namespace.libc_map is not None else 0
            arena.write_u64(self._namespace_at(namespace, "libc_map"), libc)

    def chain(self, namespace: Namespace) -> None:
        """Write the links of all objects of a namespace."""
        maps = namespace.maps
        for before, map_, after in zip([None, *maps], maps, [*maps[1:], None], strict=False):
            self.links(map_, before, after)
        self.namespace(namespace)

    def appended(self, map_: LinkMap) -> None:
        """Link the last object of its namespace, just entered."""
        namespace = self.rtld.namespaces[map_.ns]
        maps = namespace.maps
        before = maps[-2] if len(maps) > 1 else None
        self.links(map_, before, None)
        if before is not None:
            self.links(before, maps[-3] if len(maps) > 2 else None, map_)
        self.namespace(namespace)
        self.set_global("_dl_load_adds", self.rtld.load_adds)

    def unlinked(self, namespace: Namespace, index: int) -> None:
        """Close the chain where the object at `index` has been taken out."""
        maps = namespace.maps
        for at in (index - 1, index):
            if 0 <= at < len(maps):
                self.links(
                    maps[at],
                    maps[at - 1] if at else None,
                    maps[at + 1] if at + 1 < len(maps) else None,
                )
        self.namespace(namespace)

    def namespaces(self) -> None:
        """Write how many namespaces there are."""
        self.set_global("_dl_nns", len(self.rtld.namespaces))

    # -- TLS -------------------------------------------------------------------------------------------------

    def tls(self) -> None:
        """Write the TLS state: slotinfo, generation, sizes."""
        tls = self.rtld.tls
        count = len(tls.slots)
        if count > self._slotinfo_room:
            if self._slotinfo:
                self.heap.free(self._slotinfo)
            self._slotinfo_room = max(2 * count, 64)
            self._slotinfo = self.heap.allocate(16 + 16 * self._slotinfo_room)
        words = [self._slotinfo_room, 0]
        for slot in tls.slots:
            words += [slot.generation, slot.map.address if slot.map is not None else 0]
        self.arena.write(self._slotinfo, struct.pack(f"<{len(words)}Q", *words))
        self.set_global("_dl_tls_dtv_slotinfo_list", self._slotinfo)
        self.set_global("_dl_tls_dtv_gaps", tls.gaps, 1)
        self.set_global("_dl_tls_max_dtv_idx", tls.max_dtv_idx)
        self.set_global("_dl_tls_static_nelem", tls.static_modules)
        self.set_global("_dl_tls_static_used", tls.static_used)
        if self.layout.has("rtld_global", "_dl_tls_static_optional"):
            self.set_global("_dl_tls_static_optional", tls.optional_left)
        self.set_global("_dl_tls_generation", tls.generation)
        if self.layout.has("rtld_global", "_dl_tls_static_size"):
            self.set_global("_dl_tls_static_size", tls.static_size)
            self.set_global("_dl_tls_static_align", tls.static_align)

    def threads(self) -> Iterator[int]:
        """Yield the thread pointer of every thread that is on libc's lists of stacks.

        Source: nptl/nptl-stack.c:_dl_init_static_tls.
        """
        return self.stacks("_dl_stack_used", "_dl_stack_user")

    def stacks(self, *lists: str) -> Iterator[int]:
        """Yield the thread descriptors (`struct pthread`) on libc's lists of stacks.

        Where these are not in `_rtld_global` (before 2.33), all that ld.so has given TLS to. Raises
        WildPointerError for a list that never ends.
        """
        if not self.layout.has("rtld_global", lists[0]):
            yield from list(self.descriptors)
            return
        offset = self.layout.offset("pthread", "list")
        for name in lists:
            head = self.global_address(name)
            node = self.arena.read_u64(head)
            seen: set[int] = set()
            while node != head:
                if node in seen:
                    raise WildPointerError(node, f"next stack: the list {name} goes in a circle")
                if len(seen) >= _MOST_STACKS:
                    raise WildPointerError(node, f"next stack: the list {name} has no end")
                seen.add(node)
                yield node - offset
                node = self.arena.read_u64(node)

    # -- for debuggers ---------------------------------------------------------------------------------------

    def debug_pointer(self, main: LinkMap) -> None:
        """Put the address of `_r_debug` where debuggers look for it: the program's DT_DEBUG entry."""
        for number, (tag, _) in enumerate(main.dynamic.entries):
            if tag == c.DT_DEBUG:
                self.arena.write_u64(main.ld + 16 * number + 8, self.r_debug)

    def debug_state(self, namespace: Namespace) -> None:
        """Write a namespace's `struct r_debug`; all of them are chained, and a
        second one makes the version 2.

        Source: glibc elf/dl-debug.c:_dl_debug_initialize.
        """
        ld_so = self.rtld.ld_so
        several = len(self.rtld.namespaces) > 1
        first = namespace.maps[0].address if namespace.maps else 0
        words = (
            2 if several else 1, 0, first, self.rtld.debug_break, namespace.state, 0, ld_so.addr if ld_so is not None else 0,
        )  # fmt: skip
        self.arena.write(self._r_debug(namespace), struct.pack("<iiQQiiQ", *words))

    def debug_chain(self) -> None:
        """Chain the `struct r_debug` of the namespaces."""
        if not self.layout.has("r_debug_extended", "r_next"):
            return  # before 2.35 debuggers were told of the base namespace alone
        places = [self._r_debug(namespace) for namespace in self.rtld.namespaces]
        following = self.layout.offset("r_debug_extended", "r_next")
        for place, after in zip(places, [*places[1:], 0], strict=True):
            self.arena.write_u64(place + following, after)
            self.arena.write_u32(place, 2 if len(places) > 1 else 1)

    def _r_debug(self, namespace: Namespace) -> int:
        if not namespace.index:
            return self.r_debug
        if self.layout.has("link_namespaces", "_ns_debug"):
            return self._namespace_at(namespace, "_ns_debug")
        if namespace.index not in self._debugs:
            self._debugs[namespace.index] = self.heap.allocate(_R_DEBUG_SIZE)
        return self._debugs[namespace.index]
