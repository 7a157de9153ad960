"""Thread-local storage, variant II: module ids, the static area below the thread pointer, the DTV.

Layout of a thread, from low to high addresses: surplus for later modules, the blocks of the modules (a block's `tls_offset` is its
distance below the thread pointer), the thread pointer with the TCB (libc's `struct pthread`) above it. The DTV is an array of 16-byte
entries: [-1] its length, [0] its generation, [module id] block address and the pointer to free.

Source: psABI 3.4.6 and "ELF Handling for Thread-Local Storage"; glibc elf/dl-tls.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.errors import LoaderError
from emu.core.events import TlsBlockAllocated, TlsModuleAssigned, TlsStaticLayout
from emu.rtld.link_map import FORCED_DYNAMIC_TLS_OFFSET, NO_TLS_OFFSET, LinkMap

if TYPE_CHECKING:
    from emu.rtld.rtld import Rtld

DTV_SURPLUS = 14
UNALLOCATED = (1 << 64) - 1
TCB_ALIGN = 64
SURPLUS = 1664
"""Static TLS kept for modules that come later: 3 x 192 + 4 x 144 + 512 bytes with glibc's default tunables."""
OPTIONAL_SURPLUS = 512
"""The part of the surplus that may be used where dynamic TLS would do as well (TLSDESC)."""


def _round_up(value: int, align: int) -> int:
    return (value + align - 1) // align * align


class Tls:
    """The TLS modules of the process and the layout of the static area.

    `modules[i]` is the map with module id i, or None for a gap; `generations[i]` the generation in which that slot last changed.
    """

    def __init__(self, rtld: Rtld) -> None:
        self.rtld = rtld
        self.modules: list[LinkMap | None] = [None]
        self.generations: list[int] = [0]
        self.generation = 0
        self.static_used = self.static_size = 0
        self.static_align = TCB_ALIGN
        self.optional_left = OPTIONAL_SURPLUS
        self.static_modules = 0
        self.tcb_size = 0
        self.laid_out = False
        self.dynamic_blocks: dict[int, dict[int, int]] = {}
        """Addresses of the blocks of dynamic modules, by thread pointer and module id."""

    @property
    def max_dtv_idx(self) -> int:
        """The highest module id in use."""
        return len(self.modules) - 1

    def assign_module_id(self, map_: LinkMap) -> None:
        """Give an object with a TLS segment the lowest free module id. Source: dl-tls.c:_dl_assign_tls_modid."""
        for index in range(self.static_modules + 1, len(self.modules)):
            if self.modules[index] is None:
                self.modules[index] = map_
                map_.tls_modid = index
                return
        self.modules.append(map_)
        self.generations.append(0)
        map_.tls_modid = len(self.modules) - 1

    def determine_offsets(self, tcb_size: int) -> None:
        """Lay out the static area for the modules that are there at start-up. Source: dl-tls.c:_dl_determine_tlsoffset."""
        offset = free_top = free_bottom = 0
        max_align = TCB_ALIGN
        for map_ in self.modules[1:]:
            assert map_ is not None
            size, align = map_.tls_blocksize, map_.tls_align
            first_byte = -map_.tls_firstbyte_offset & (align - 1)
            max_align = max(max_align, align)
            if free_bottom - free_top >= size:
                place = _round_up(free_top + size - first_byte, align) + first_byte
                if place <= free_bottom:
                    free_top = map_.tls_offset = place
                    continue
            place = _round_up(offset + size - first_byte, align) + first_byte
            if place > offset + size + (free_bottom - free_top):
                free_top, free_bottom = offset, place - size
            offset = map_.tls_offset = place
        self.static_used, self.static_align, self.tcb_size = offset, max_align, tcb_size
        self.static_size = _round_up(offset + SURPLUS, max_align) + tcb_size
        self.static_modules = self.max_dtv_idx
        self.laid_out = True
        bus = self.rtld.bus
        if bus.tls:
            for map_ in self.modules[1:]:
                if map_ is not None:
                    bus.emit(
                        TlsModuleAssigned(
                            map_.display_name,
                            map_.tls_modid,
                            map_.tls_offset,
                            map_.tls_blocksize,
                            map_.tls_align,
                        )
                    )
            bus.emit(TlsStaticLayout(offset, self.static_size, max_align, SURPLUS))

    def allocate_thread(self) -> int:
        """Return the thread pointer of a new thread: static area and DTV allocated, blocks not yet initialised.

        Source: dl-tls.c:_dl_allocate_tls_storage, allocate_dtv.
        """
        block = self.rtld.heap.allocate(self.static_size, self.static_align)
        thread_pointer = block + self.static_size - self.tcb_size
        self.allocate_dtv(thread_pointer)
        return thread_pointer

    def allocate_dtv(self, thread_pointer: int) -> None:
        """Give the TCB at `thread_pointer` an empty DTV."""
        length = self.max_dtv_idx + DTV_SURPLUS
        dtv = self.rtld.heap.allocate((length + 2) * 16, 16)
        memory = self.rtld.memory
        memory.write_u64(dtv, length)
        memory.write_u64(thread_pointer + 8, dtv + 16)

    def initialise_thread(self, thread_pointer: int) -> None:
        """Copy the initialisation images into the static blocks of a thread and fill its DTV.

        Must come after relocation, since the images themselves are relocated. Source: dl-tls.c:_dl_allocate_tls_init.
        """
        memory = self.rtld.memory
        dtv = memory.read_u64(thread_pointer + 8)
        newest = 0
        for index, map_ in enumerate(self.modules):
            if map_ is None:
                continue
            newest = max(newest, self.generations[index])
            entry = dtv + 16 * index
            memory.write_u64(entry, UNALLOCATED)
            memory.write_u64(entry + 8, 0)
            if map_.tls_offset in (NO_TLS_OFFSET, FORCED_DYNAMIC_TLS_OFFSET):
                continue
            block = thread_pointer - map_.tls_offset
            memory.write_u64(entry, block)
            image = (
                memory.read(map_.tls_initimage, map_.tls_initimage_size) if map_.tls_initimage_size else b""
            )
            memory.write(block, image + bytes(map_.tls_blocksize - map_.tls_initimage_size))
            if self.rtld.bus.tls:
                self.rtld.bus.emit(TlsBlockAllocated(index, map_.display_name, block, True))
        memory.write_u64(dtv, newest)

    def allocate_static(self, map_: LinkMap, *, optional: bool) -> None:
        """Give a module that came later a place in the static surplus. Raises LoaderError when there is none.

        Source: glibc elf/dl-reloc.c:_dl_try_allocate_static_tls.
        """
        error = LoaderError(map_.display_name, "cannot allocate memory in static TLS block")
        if map_.tls_offset == FORCED_DYNAMIC_TLS_OFFSET or map_.tls_align > self.static_align:
            raise error
        room = self.static_size - self.tcb_size - self.static_used
        if room < map_.tls_blocksize:
            raise error
        blocks = (room - map_.tls_blocksize - map_.tls_firstbyte_offset) // map_.tls_align
        if blocks < 0:
            raise error
        use = room - blocks * map_.tls_align - map_.tls_firstbyte_offset
        if optional:
            if use > self.optional_left:
                raise error
            self.optional_left -= use
        map_.tls_offset = self.static_used = self.static_used + use

    def try_allocate_static(self, map_: LinkMap) -> None:
        """Use static TLS for a descriptor where the optional surplus allows; leave the module dynamic where not."""
        try:
            self.allocate_static(map_, optional=True)
        except LoaderError:
            map_.tls_offset = FORCED_DYNAMIC_TLS_OFFSET

    def dynamic_argument(self, map_: LinkMap, offset: int) -> int:
        """Return the guest address of the argument of a dynamic TLS descriptor: module id, offset, generation.

        Source: glibc elf/tlsdeschtab.h:_dl_make_tlsdesc_dynamic.
        """
        argument = self.rtld.heap.allocate(24, 8)
        for at, word in enumerate((map_.tls_modid, offset, self.generations[map_.tls_modid])):
            self.rtld.memory.write_u64(argument + 8 * at, word)
        return argument
