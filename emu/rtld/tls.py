"""Thread-local storage, variant II: module ids, the static area below the thread pointer, the DTV.

Layout of a thread, from low to high addresses: surplus for later modules, the blocks of the modules (a
block's `tls_offset` is its distance below the thread pointer), the thread pointer with the TCB (libc's
`struct pthread`) above it. The DTV is an array of 16-byte entries: [-1] its length, [0] its generation,
[module id] block address and the pointer to free.

One piece: module ids, the static area and the DTV change together.

Source: psABI 3.4.6 and "ELF Handling for Thread-Local Storage"; glibc elf/dl-tls.c.
"""

from __future__ import annotations

from collections.abc import Generator
from itertools import takewhile
from typing import TYPE_CHECKING

from emu.core.dl_events import TlsGeneration
from emu.core.effects import Effect
from emu.core.errors import Inconsistency, LinkError, LoaderError, MemoryFault
from emu.core.ldso_events import TlsStep
from emu.core.tls_events import DtvResized, TlsBlockAllocated, TlsModuleAssigned, TlsStaticLayout
from emu.rtld.link_map import FORCED_DYNAMIC_TLS_OFFSET, LT_EXECUTABLE, LT_LIBRARY, NO_TLS_OFFSET, LinkMap
from emu.rtld.tls_surplus import surplus

if TYPE_CHECKING:
    from emu.rtld.given import Work
    from emu.rtld.rtld import Rtld

DTV_SURPLUS = 14
_AHEAD = 2
"""The first generation, where there is any before the program starts."""
UNALLOCATED = _M64 = (1 << 64) - 1
TCB_ALIGN = 64
_PAGE = 4096
_MALLOC_ALIGN = 16
"""_Alignof (max_align_t): what malloc promises."""
_LOAD_LOCK, _TLS_LOCK = "_dl_load_lock", "_dl_load_tls_lock"
_OUT_OF_MEMORY = "cannot allocate memory for thread-local data: ABORT"
_LARGE = 1 << 18
"""The block size above which zeros are not written."""


def _round_up(value: int, align: int) -> int:
    return (value + align - 1) // align * align


class Slot:
    """What is known of one module id: its map (None: free, or not settled yet) and
    the generation in which that last changed.
    """

    __slots__ = ("generation", "map")

    def __init__(self) -> None:
        self.map: LinkMap | None = None
        self.generation = 0


class Tls:
    """The TLS modules of the process and the layout of the static area.

    `slots` is indexed by module id (0 is not used) and never shrinks; ids above `max_dtv_idx` are free.
    `gaps` tells that there may be free ones below it. `generation` goes up whenever dlopen or dlclose changed
    the modules.
    """

    def __init__(self, rtld: Rtld) -> None:
        self.rtld = rtld
        self.slots: list[Slot] = [Slot()]
        self.max_dtv_idx = 0
        self.gaps = False
        self.generation = 0
        self.static_used = self.static_size = 0
        self.static_align = TCB_ALIGN
        self.surplus, self.optional_left = surplus(rtld.env.get("GLIBC_TUNABLES", ""))
        self.static_modules = 0
        self.tcb_size = 0
        self.laid_out = False
        self.extra_offset = 0
        """Where the block that belongs to no module lies (below the thread pointer,
        so negative), 0 without one.
        """
        self.allocating: dict[int, int] = {}
        """How many calls of the program's allocator are in progress here, by thread pointer."""

    # -- module ids ------------------------------------------------------------------------------------------

    def assign_module_id(self, map_: LinkMap) -> None:
        """Give an object with a TLS segment the lowest free module id above the static ones.

        Source: dl-tls.c:_dl_assign_tls_modid.
        """
        if self.gaps:
            for index in range(self.static_modules + 1, self.max_dtv_idx + 1):
                slot = self.slots[index]
                if slot.map is None:
                    # Else whoever comes in the same dlopen finds the place free, too, and takes it.
                    if self.rtld.rules.closed_ids_reused:
                        slot.map, slot.generation = map_, 0
                    map_.tls_modid = index
                    self._tell_module("assign", map_)
                    return
            self.gaps = False
        self.max_dtv_idx += 1
        if len(self.slots) == self.max_dtv_idx:
            self.slots.append(Slot())
        map_.tls_modid = self.max_dtv_idx
        if not self.laid_out:
            self.slots[map_.tls_modid].map = map_
        self._tell_module("assign", map_)

    def tell_release(self, map_: LinkMap) -> None:
        """Tell that an object goes that has an id; of one whose dependencies were not found nobody hears."""
        if map_.tls_blocksize and map_.initfini:
            self._tell_module("release", map_)

    def _tell_module(self, step: str, map_: LinkMap) -> None:
        if self.rtld.bus.ldso:
            module = map_.tls_modid
            self.rtld.bus.emit(TlsStep(step, module=module, name=map_.display_name, namespace=map_.ns))

    def tell(self, step: str, thread_pointer: int, module: int = 0, block: int = 0, value: int = 0) -> None:
        """Tell of a step that concerns a thread."""
        if self.rtld.bus.ldso:
            self.rtld.bus.emit(TlsStep(step, thread_pointer, module, block, value))

    def tell_limit(self) -> None:
        """Tell up to which id modules stay what they are: those of the program and of what came with it."""
        types = (LT_EXECUTABLE, LT_LIBRARY)
        stay = (slot.map is not None and slot.map.type in types for slot in self.slots[1:])
        self.tell("limit", 0, value=1 + sum(1 for _ in takewhile(bool, stay)))

    def add_module(self, map_: LinkMap) -> None:
        """Enter a module under its id, to be known from the next generation on.

        Source: dl-tls.c:_dl_add_to_slotinfo.
        """
        slot = self.slots[map_.tls_modid]
        slot.map, slot.generation = map_, self.generation + 1

    def remove_module(self, map_: LinkMap) -> None:
        """Free the id of a module that goes. Source: dl-close.c:remove_slotinfo."""
        index = map_.tls_modid
        slot = self.slots[index]
        if slot.map is not None:
            slot.map, slot.generation = None, self.generation + 1
        if index != self.max_dtv_idx:
            self.gaps = self.gaps or self.rtld.rules.closed_ids_reused
            return
        while index > self.static_modules + 1:
            index -= 1
            if self.slots[index].map is not None:
                break
        else:
            index = self.static_modules
        self.max_dtv_idx = index

    def next_generation(self, why: str) -> None:
        """Raise the generation: every thread's DTV is out of date now."""
        self.generation += 1
        if self.rtld.bus.dl:
            self.rtld.bus.emit(TlsGeneration(self.generation, why))

    def determine_offsets(self, tcb_size: int, extra: tuple[int, int] = (0, 1)) -> None:
        """Lay out the static area for the modules that are there at start-up, and for
        an `extra` block (size, alignment) behind them.

        Source: dl-tls.c:_dl_determine_tlsoffset.
        """
        offset = free_top = free_bottom = 0
        max_align = TCB_ALIGN
        for slot in self.slots[1:]:
            map_ = slot.map
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
        size, align = extra
        if size:
            offset = _round_up(offset + size, align)
            max_align = max(max_align, align)
            self.extra_offset = -offset
        self.static_used, self.static_align, self.tcb_size = offset, max_align, tcb_size
        self.static_size = (_round_up(offset + self.surplus, max_align) + tcb_size) & _M64
        self.static_modules = self.max_dtv_idx
        self.laid_out = True
        if self.rtld.rules.generations_ahead:
            self.generation = _AHEAD
        bus = self.rtld.bus
        if bus.tls:
            for slot in self.slots[1:]:
                if slot.map is not None:
                    self.announce(slot.map)
            bus.emit(TlsStaticLayout(offset, self.static_size, max_align, self.surplus))

    def announce(self, map_: LinkMap) -> None:
        """Emit what a module has been given."""
        self.rtld.bus.emit(
            TlsModuleAssigned(
                map_.display_name, map_.tls_modid, map_.tls_offset, map_.tls_blocksize, map_.tls_align
            )
        )

    # -- threads ---------------------------------------------------------------------------------------------

    def allocate_thread(self) -> int:
        """Return the thread pointer of a new thread:
        static area and DTV allocated, blocks not yet initialised.

        Raises OSError(ENOMEM), at start-up LinkError. Source: dl-tls.c:_dl_allocate_tls_storage,
        allocate_dtv; rtld.c:init_tls.
        """
        try:
            block = self.rtld.heap.allocate(self.static_size, self.static_align)
        except OSError:
            if self.rtld.started:
                raise
            raise LinkError("cannot allocate TLS data structures for initial thread") from None
        return block + self.static_size - self.tcb_size

    def allocate_dtv(self, thread_pointer: int) -> Generator[Effect, int, bool]:
        """Give the TCB at `thread_pointer` an empty DTV; False if there is no memory for it."""
        length, owed = self.max_dtv_idx + DTV_SURPLUS, self.rtld.owed
        if owed.active:
            dtv = yield from owed.call(b"calloc", length + 2, 16)
        else:
            dtv = self.rtld.heap.allocate((length + 2) * 16, 16)
        if not dtv:
            return False
        memory = self.rtld.memory
        memory.write_u64(dtv, length)
        memory.write_u64(thread_pointer + 8, dtv + 16)
        return True

    def reserve_for_auditors(self, auditors: int) -> None:
        """Keep room for what auditors need, before the layout is fixed. Raises LinkError for too many."""
        self.surplus, self.optional_left = surplus(self.rtld.env.get("GLIBC_TUNABLES", ""), auditors)

    def enter_initial(self, map_: LinkMap) -> None:
        """Give a start-up object its entry among the modules. With auditors the static layout is fixed before
        these objects are mapped, so they come one by one.
        """
        if map_.tls_blocksize:
            self.add_module(map_)

    def settle_initial(self) -> None:
        """End the start-up of modules: those that came after the static layout was fixed get a generation."""
        added = [slot for slot in self.slots if slot.generation > self.generation]
        if not added:
            return
        self.next_generation("start-up with auditors")
        for slot in added:
            if slot.map is not None and self.rtld.bus.tls:
                self.announce(slot.map)

    def initialise_thread(self, thread_pointer: int, *, again: bool = False) -> Work:
        """Copy the initialisation images into the static blocks of a thread and fill its DTV.

        `again` tells that auditors run in the thread already: their blocks stay what they have become. Must
        come after relocation, since the images themselves are relocated. Source:
        dl-tls.c:_dl_allocate_tls_init.
        """
        yield from self.fill_dtv(thread_pointer)
        self.copy_images(thread_pointer, again=again)

    def fill_dtv(self, thread_pointer: int) -> Work:
        """Enter into a thread's DTV the blocks of all modules that have a place in the static area, and that
        others have none.
        """
        memory = self.rtld.memory
        dtv = memory.read_u64(thread_pointer + 8)
        if memory.read_u64(dtv - 16) < self.max_dtv_idx:
            dtv = yield from self._resize_dtv(thread_pointer, dtv)
        newest = 0
        for index, slot in enumerate(self.slots[: self.max_dtv_idx + 1]):
            map_ = slot.map
            if map_ is None or slot.generation > self.generation:
                continue
            newest = max(newest, slot.generation)
            entry = dtv + 16 * index
            static = map_.tls_offset not in (NO_TLS_OFFSET, FORCED_DYNAMIC_TLS_OFFSET)
            memory.write_u64(entry, thread_pointer - map_.tls_offset if static else UNALLOCATED)
            memory.write_u64(entry + 8, 0)
        memory.write_u64(dtv, newest)

    def copy_images(self, thread_pointer: int, *, again: bool) -> None:
        """Give a thread's static blocks their first values; `again` as for `initialise_thread`."""
        for index, slot in enumerate(self.slots[: self.max_dtv_idx + 1]):
            map_ = slot.map
            if map_ is None or slot.generation > self.generation or (map_.ns and again):
                continue
            if map_.tls_offset in (NO_TLS_OFFSET, FORCED_DYNAMIC_TLS_OFFSET):
                continue
            block = thread_pointer - map_.tls_offset
            self.copy_image(map_, block)
            if self.rtld.bus.tls:
                self.rtld.bus.emit(TlsBlockAllocated(index, map_.display_name, block, True))

    def copy_image(self, map_: LinkMap, block: int) -> None:
        """Give a block its first values: the image, then zeros, for which a large one
        gives its pages back to the host.

        Raises `Inconsistency` for an image that is longer than its block.
        """
        memory, size = self.rtld.memory, map_.tls_blocksize
        if map_.tls_initimage_size > size:
            where = ("../elf/dl-tls.c", 622, "_dl_allocate_tls_init")
            raise Inconsistency(*where, "map->l_tls_blocksize >= map->l_tls_initimage_size")
        image = memory.read(map_.tls_initimage, map_.tls_initimage_size) if map_.tls_initimage_size else b""
        memory.write(block, image)
        at, end = block + len(image), block + size
        if size > _LARGE:
            first, last = -(-at // _PAGE) * _PAGE, end // _PAGE * _PAGE
            memory.write(at, bytes(first - at))
            self.rtld.mappings.discard(first, last - first)
            at = last
        memory.write(at, bytes(end - at))

    # -- static TLS for modules that come later --------------------------------------------------------------

    def try_allocate_static(self, map_: LinkMap, *, optional: bool) -> Generator[Effect, int, bool]:
        """Give a module that came later a place in the static surplus, if there is room; tell whether.

        With `optional` only the part of the surplus is used that is set aside for optimisation. The blocks of
        an object that is relocated already get their first values in every thread now, those of another one
        when its opening succeeds.
        Source: glibc elf/dl-reloc.c:_dl_try_allocate_static_tls.
        """
        if map_.tls_offset == FORCED_DYNAMIC_TLS_OFFSET or map_.tls_align > self.static_align:
            return False
        room = self.static_size - self.static_used - self.tcb_size
        block = map_.tls_blocksize + map_.tls_firstbyte_offset
        if room < block:
            return False
        use = room - (room - block) // map_.tls_align * map_.tls_align - map_.tls_firstbyte_offset
        if optional:
            if use > self.optional_left:
                return False
            self.optional_left -= use
        map_.tls_offset = self.static_used = self.static_used + use
        if map_.real.relocated and self.rtld.started:
            yield from self.update_slotinfo(self.rtld.thread_pointer())
            self.initialise_static(map_)
        else:
            map_.need_tls_init = True
        return True

    def allocate_static(self, map_: LinkMap) -> Work:
        """Give a module a place in the static surplus. Raises LoaderError when there is none.

        Source: glibc elf/dl-reloc.c:_dl_allocate_static_tls.
        """
        if not (yield from self.try_allocate_static(map_, optional=False)):
            raise LoaderError(map_.display_name, "cannot allocate memory in static TLS block")

    def initialise_static(self, map_: LinkMap) -> None:
        """Give the static block of a late module its first values in every thread.

        Source: glibc nptl/nptl-stack.c:_dl_init_static_tls.
        """
        map_.need_tls_init = False
        for thread_pointer in self.rtld.threads():
            block = thread_pointer - map_.tls_offset
            self.copy_image(map_, block)
            if self.rtld.bus.tls:
                self.rtld.bus.emit(TlsBlockAllocated(map_.tls_modid, map_.display_name, block, True))

    def reclaim_static(self, going: list[LinkMap]) -> int | None:
        """Return the value for `static_used` once the objects `going` (in the order of their unloading) are
        gone, None where it stays.

        Only one contiguous run of blocks is kept in mind; it can be given back where it ends the used area. A
        block that neither touches the run nor ends the area is lost, as in ld.so. Source: glibc
        elf/dl-close.c:_dl_close_worker.
        """
        start = end = 0
        for map_ in going:
            offset, size = map_.tls_offset, map_.tls_blocksize
            if not size or offset in (NO_TLS_OFFSET, FORCED_DYNAMIC_TLS_OFFSET):
                continue
            if start == 0 or offset == start:
                start, end = offset - size, end or offset
            elif offset - size == end:
                end = offset
            elif end == self.static_used:
                self.static_used = start
                start, end = offset - size, offset
            elif offset == self.static_used:
                self.static_used = offset - size
            elif end < offset:
                start, end = offset - size, offset
        return start if end == self.static_used and end else None

    # -- dynamic TLS -----------------------------------------------------------------------------------------

    def update_slotinfo(self, thread_pointer: int) -> Work:
        """Bring a thread's DTV up to the newest generation: forget the blocks of modules that changed.

        Source: dl-tls.c:_dl_update_slotinfo.
        """
        memory = self.rtld.memory
        dtv = memory.read_u64(thread_pointer + 8)
        seen, newest = memory.read_u64(dtv), self.generation
        if seen >= newest:
            return
        for index in range(1, self.max_dtv_idx + 1):
            slot = self.slots[index]
            if not seen < slot.generation <= newest:
                continue
            if memory.read_u64(dtv - 16) < index:
                if slot.map is None:
                    continue
                dtv = yield from self._resize_dtv(thread_pointer, dtv)
            stale = memory.read_u64(dtv + 16 * index + 8)
            if stale:
                self.tell("block stale", thread_pointer, index, stale)
            memory.write_u64(dtv + 16 * index, UNALLOCATED)
            memory.write_u64(dtv + 16 * index + 8, 0)
            if stale:
                yield from self._allocating(b"free", stale)
        memory.write_u64(dtv, newest)
        if self.rtld.bus.tls:
            self.rtld.bus.emit(DtvResized(dtv, memory.read_u64(dtv - 16), newest))

    def _resize_dtv(self, thread_pointer: int, dtv: int) -> Generator[Effect, int, int]:
        """Give a thread a larger DTV with the same contents; the first one was ld.so's own.

        Source: dl-tls.c:_dl_resize_dtv.
        """
        memory, heap, owed = self.rtld.memory, self.rtld.heap, self.rtld.owed
        length = memory.read_u64(dtv - 16)
        room = self.max_dtv_idx + DTV_SURPLUS
        size = (room + 2) * 16
        if not owed.active:
            fresh = heap.allocate(size, 16)
        elif heap.owns(dtv - 16):
            fresh = yield from self._allocating(b"malloc", size)
        else:
            fresh = yield from self._allocating(b"realloc", dtv - 16, size)
        if not fresh:
            raise LinkError(_OUT_OF_MEMORY)
        if not owed.active or heap.owns(dtv - 16):
            memory.write(fresh, memory.read(dtv - 16, 16 * (length + 2)))
            heap.free(dtv - 16)
        memory.write(fresh + 16 * (length + 2), bytes(16 * (room - length)))
        memory.write_u64(fresh, room)
        self.tell("resized", thread_pointer, block=length, value=room)
        memory.write_u64(thread_pointer + 8, fresh + 16)
        return fresh + 16

    def _allocating(self, name: bytes, *args: int) -> Generator[Effect, int, int]:
        """Call the program's allocator, which may use thread-local variables itself: those of start-up
        objects it can have meanwhile.
        """
        thread = self.rtld.thread_pointer()
        self.allocating[thread] = self.allocating.get(thread, 0) + 1
        try:
            return (yield from self.rtld.owed.call(name, *args))
        finally:
            self.allocating[thread] -= 1

    def _dynamic_block(self, size: int, align: int) -> Generator[Effect, int, tuple[int, int]]:
        """Return the address of a block and what is to be freed one day.

        Source: dl-tls.c:allocate_dtv_entry.
        """
        if not self.rtld.owed.active:
            return self.rtld.heap.allocate(size, max(align, 16)), 0
        fits = align <= _MALLOC_ALIGN and not align & align - 1
        start = yield from self._allocating(b"malloc", size if fits else (size + align) & _M64)
        if not start:
            raise LinkError(_OUT_OF_MEMORY)
        return start if fits else _round_up(start, align), start

    def block(self, thread_pointer: int, module: int) -> Generator[Effect, int, int]:
        """Return a thread's block for `module`, with its DTV brought up to date and the block allocated now
        if need be.

        The first dynamic access decides that the module stays out of static TLS.
        Source: dl-tls.c:update_get_addr, tls_get_addr_tail.
        """
        memory = self.rtld.memory
        late = False
        if module > self.static_modules or not self.allocating.get(thread_pointer):
            late = memory.read_u64(memory.read_u64(thread_pointer + 8)) < self.generation
            if late:
                self.tell("update", thread_pointer, module, value=self.generation)
            yield from self.update_slotinfo(thread_pointer)
        dtv = memory.read_u64(thread_pointer + 8)
        entry = dtv + 16 * module
        block = memory.read_u64(entry)
        if block != UNALLOCATED:
            return block
        if not late:
            self.tell("lazy", thread_pointer, module)
        map_ = self.slots[module].map if module < len(self.slots) else None
        if map_ is None:
            raise MemoryFault(entry, "read")  # ld.so would follow the null map of an unloaded module
        if map_.tls_offset != FORCED_DYNAMIC_TLS_OFFSET:
            yield from self._wait_for_dlopen()
        if map_.tls_offset not in (NO_TLS_OFFSET, FORCED_DYNAMIC_TLS_OFFSET):
            block = thread_pointer - map_.tls_offset
            self.tell("static", thread_pointer, module)
            memory.write_u64(entry, block)
            memory.write_u64(entry + 8, 0)
            return block
        map_.tls_offset = FORCED_DYNAMIC_TLS_OFFSET
        self.rtld.mirror.tls_offset(map_)
        block, to_free = yield from self._dynamic_block(map_.tls_blocksize, map_.tls_align)
        self.copy_image(map_, block)
        self.tell("block", thread_pointer, module, block, map_.tls_blocksize)
        entry = memory.read_u64(thread_pointer + 8) + 16 * module  # malloc may have used other blocks
        memory.write_u64(entry, block)
        memory.write_u64(entry + 8, to_free)
        if self.rtld.bus.tls:
            self.rtld.bus.emit(TlsBlockAllocated(module, map_.display_name, block, False))
        return block

    def _wait_for_dlopen(self) -> Work:
        """Wait until no other thread opens or closes, where ld.so has one lock for all.

        A constructor that waits for a thread with a first access to its object's TLS waits for ever then.

        Where it has a lock for TLS alone (2.35 and later, bug 28357) nobody holds that for long.
        Source: dl-tls.c:tls_get_addr_tail.
        """
        if _TLS_LOCK not in self.rtld.locks:
            yield from self.rtld.lock(_LOAD_LOCK)
            yield from self.rtld.unlock(_LOAD_LOCK)

    def soft_block(self, thread_pointer: int, map_: LinkMap) -> int:
        """Return a thread's block for the module of `map_`, 0 if it has none yet; nothing changes.

        Source: dl-tls.c:_dl_tls_get_addr_soft.
        """
        memory, module = self.rtld.memory, map_.tls_modid
        if not module:
            return 0
        dtv = memory.read_u64(thread_pointer + 8)
        seen = memory.read_u64(dtv)
        if seen != self.generation and (
            module >= memory.read_u64(dtv - 16) or seen < self.slots[module].generation
        ):
            return 0
        block = memory.read_u64(dtv + 16 * module)
        return 0 if block == UNALLOCATED else block

    def dynamic_argument(self, map_: LinkMap, offset: int) -> int:
        """Return the guest address of the argument of a dynamic TLS descriptor:
        module id, offset, generation.

        Source: glibc elf/tlsdeschtab.h:_dl_make_tlsdesc_dynamic.
        """
        argument = self.rtld.heap.allocate(24, 8)
        map_.tlsdesc_arguments.append(argument)
        for at, word in enumerate((map_.tls_modid, offset, self._needed_generation(map_))):
            self.rtld.memory.write_u64(argument + 8 * at, word)
        return argument

    def _needed_generation(self, map_: LinkMap) -> int:
        """Return the generation that a DTV must have to know the module:
        one that is not entered yet will come with the next.

        Source: glibc elf/tlsdeschtab.h:map_generation.
        """
        slot = self.slots[map_.tls_modid]
        return slot.generation if slot.map is map_ and slot.generation else self.generation + 1
