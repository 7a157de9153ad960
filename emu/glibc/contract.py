"""The contract with one libc: plants the hosted entries, fills `_rtld_global_ro` and the TCB, and starts a program as ld.so does.

Source: glibc elf/rtld.c:dl_main, sysdeps/unix/sysv/linux/dl-sysdep.c.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, NamedTuple

from emu.core.effects import CallGuest, Effect, Hosted, Jump
from emu.core.errors import UnsupportedError
from emu.core.events import Initializer
from emu.elf import constants as c
from emu.glibc import hosted
from emu.glibc.auditing import load_with_auditors
from emu.glibc.call import Call, Handler
from emu.glibc.call_page import CallPage, build_call_page
from emu.glibc.cxa_thread_atexit_impl import ThreadAtexit
from emu.glibc.errors import Errors
from emu.glibc.first_thread import first_thread, prepare_stack_lists
from emu.glibc.layout import Layout, load_layout
from emu.glibc.mirror_global import GlobalMirror
from emu.glibc.probe import find_own, glibc_version
from emu.glibc.stubs import Stubs, build_stubs
from emu.glibc.tunables import set_tunables
from emu.machine.arena import Arena
from emu.rtld.audit import LA_ACT_CONSISTENT, activity
from emu.rtld.init import init
from emu.rtld.link_map import LinkMap
from emu.rtld.map_object import RT_ADD, RT_CONSISTENT
from emu.rtld.relocate import relocate_bootstrap, relocate_object
from emu.rtld.rtld import Entries, MappedObject, Rtld
from emu.rtld.scope import Scope
from emu.rtld.startup import bind_malloc, tell_scopes, tell_statistics

if TYPE_CHECKING:
    from emu.machine.address_space import AddressSpace

_AT_PLATFORM, _AT_CLKTCK, _AT_PAGESZ, _AT_MINSIGSTKSZ, _AT_HWCAP2 = 15, 17, 6, 51, 26
_RWX = 7
_POINTERS_FOUND = {"_dl_catch_error": b"_dl_catch_error", "_dl_mcount": b"_dl_mcount"}


class StartInfo(NamedTuple):
    """What the kernel left for ld.so: the stack pointer at argc, and the auxiliary vector."""

    stack_pointer: int
    auxv: dict[int, int]
    auxv_address: int
    argc: int
    argv: int
    envp: int


class Contract:
    """One libc's view of the loader. `traps` maps the guest address of each planted trap to its handler.

    `debug_mask` and `debug_fd` are what LD_DEBUG and LD_DEBUG_OUTPUT set, for libc to see. `pointer_stubs` are those in the stub page by
    name; `preserving` are the traps whose callers expect every register kept (lazy binding, TLS descriptors), `auditing` those that
    call auditors with arguments on the stack. `linked` tells that the program's own libc is there to be called.
    """

    def __init__(
        self,
        rtld: Rtld,
        arena: Arena,
        space: AddressSpace,
        thread_pointer: Callable[[], int],
        model_dtors: bool,
    ) -> None:
        self.rtld, self.arena, self.space, self.thread_pointer = rtld, arena, space, thread_pointer
        self.model_dtors = model_dtors
        self.traps: dict[int, Handler] = {}
        self.preserving: set[int] = set()
        self.auditing: set[int] = set()
        self.linked = False
        self.layout: Layout
        self.mirror: GlobalMirror
        self.stubs: Stubs
        self.errors: Errors = Errors(self)
        rtld.make_stacks_executable = self.make_stacks_executable
        self.close_callers: dict[int, int] = {}
        self.on_linked: Callable[[], None] = lambda: None
        self.atexit: ThreadAtexit | None = None
        self.on_dtors_planted: Callable[[ThreadAtexit], None] = lambda atexit: None
        self.source: Callable[[int], str] = lambda address: ""
        self.patched: Callable[[int, int], None] = lambda address, size: None
        self.pointer_stubs: dict[str, int] = {}
        self.start_stub = self.fini_stub = 0
        self.debug_mask, self.debug_fd = 0, 2
        self.relocation_time = 0
        self.call_page: CallPage | None = None

    # -- set-up -----------------------------------------------------------------------------------------------------

    def prepare(self, interpreter: MappedObject) -> int:
        """Choose the layout for the libc that `interpreter` (its ld.so) belongs to and plant the stubs.

        Returns where ld.so keeps its own link map. Raises UnsupportedError for a version without a layout table.
        """
        probe = LinkMap(interpreter.path, interpreter.path, 1, 0, None)
        probe.addr, probe.phdrs = interpreter.bias, interpreter.phdrs
        probe.read_dynamic(self.arena)
        self.layout = load_layout(glibc_version(probe, self.arena), interpreter.path)
        self.mirror = GlobalMirror(self.layout, self.arena, self.rtld.heap, self.rtld)
        self.mirror.rtld_global = self._data(probe, b"_rtld_global", self.layout.size("rtld_global"))
        self.mirror.rtld_global_ro = self._data(probe, b"_rtld_global_ro", self.layout.size("rtld_global_ro"))
        self.mirror.r_debug = self._data(probe, b"_r_debug", 0)
        self.rtld.debug_break = self._data(probe, b"_dl_debug_state", 0)
        self.rtld.mirror = self.mirror
        self._plant_stubs()
        return self.mirror.global_address("_dl_rtld_map")

    def _data(self, map_: LinkMap, name: bytes, size: int) -> int:
        symbol = find_own(map_, name)
        if symbol is None:
            raise UnsupportedError(f"ld.so without {name.decode()}", map_.display_name)
        if size and symbol[5] != size:
            raise UnsupportedError(
                f"build of glibc {self.layout.version}: {name.decode()} has {symbol[5]} bytes, the table says {size}",
                map_.display_name,
                "make a table for it with tools/gen_layout.py",
            )
        return map_.addr + symbol[4]

    def _plant_stubs(self) -> None:
        handlers: list[tuple[str, Handler]] = [
            ("start", lambda contract, call: contract.start(call)),
            ("fini", hosted.run_fini),
            ("resolve", hosted.runtime_resolve),
            ("profile", hosted.runtime_profile),
            ("pltexit", hosted.runtime_pltexit),
            ("operate", lambda contract, call: contract.errors.operate(call)),
            *hosted.HOSTED_POINTERS.items(),
        ]
        generation = self.mirror.global_address("_dl_tls_generation")
        names = [name for name, _ in handlers]
        image, _ = build_stubs(0, names, generation)
        base = self.space.mmap(0, len(image), 5, name="[emu]")
        image, self.stubs = build_stubs(base, names, generation)
        self.arena.write(base, image)
        for address, (name, handler) in zip(self.stubs.traps, handlers, strict=True):
            self.traps[address] = handler
            self.pointer_stubs[name] = address
        self.traps[self.stubs.tls_get_addr_slow] = hosted.tls_get_addr_slow
        self.traps[self.stubs.tlsdesc_slow] = hosted.tlsdesc_slow
        self.auditing = {self.pointer_stubs["profile"], self.pointer_stubs["pltexit"]}
        self.preserving = {self.pointer_stubs["resolve"], self.stubs.tlsdesc_slow}
        self.start_stub, self.fini_stub = self.pointer_stubs["start"], self.pointer_stubs["fini"]
        self.errors.operate_stub = self.pointer_stubs["operate"]
        self.rtld.entries = Entries(
            self.pointer_stubs["resolve"], self.stubs.profile, self.stubs.tlsdesc_return, self.stubs.tlsdesc_undefweak,
            self.stubs.tlsdesc_dynamic,
        )  # fmt: skip

    def plant_call_page(self, callbacks: int) -> CallPage:
        """Map the page by which the host calls the guest, with room for `callbacks` functions that the guest can call."""
        image, _ = build_call_page(0, callbacks)
        base = self.space.mmap(0, len(image), 5, name="[emu]")
        image, page = build_call_page(base, callbacks)
        self.arena.write(base, image)
        self.call_page = page
        return page

    def _plant(self, address: int, handler: Handler) -> None:
        """Replace the function at `address` by a trap: `syscall; ret`."""
        self.arena.write(address, b"\x0f\x05\xc3")
        self.traps[address] = handler
        self.patched(address, 3)

    def plant_entries(self) -> None:
        """Host ld.so's functions at their own addresses, and libc's two for thread_local destructors where they are modelled."""
        ld_so = self.rtld.ld_so
        assert ld_so is not None
        for name, handler in hosted.HOSTED_SYMBOLS.items():
            symbol = find_own(ld_so, name)
            if symbol is not None:
                self._plant(ld_so.addr + symbol[4], handler)
        tls_get_addr = find_own(ld_so, b"__tls_get_addr")
        if tls_get_addr is not None:
            jump = b"\xff\x25\0\0\0\0" + struct.pack("<Q", self.stubs.tls_get_addr)  # jmp *0(%rip)
            self.arena.write(ld_so.addr + tls_get_addr[4], jump)

    def plant_dtors(self) -> None:
        """Take over `__cxa_thread_atexit_impl` and `__call_tls_dtors`, once libc is relocated."""
        libc = self.rtld.namespaces[0].libc_map
        if libc is None:
            return
        offset = self.layout.offset("link_map", "l_tls_dtor_count")
        self.atexit = atexit = ThreadAtexit(
            self.rtld, self.arena, libc, offset, self.thread_pointer, self.source
        )
        self.on_dtors_planted(atexit)
        if self.model_dtors:
            self._plant(atexit.register_at[0], lambda contract, call: atexit.register(*call.args[:3]))
            self._plant(atexit.run_at[0], lambda contract, call: atexit.run())

    # -- start-up ---------------------------------------------------------------------------------------------------

    def lay_out_tls(self) -> None:
        """Fix the static TLS layout (the wall after mapping)."""
        if self.rtld.auditor_names is not None:
            self.rtld.tls.reserve_for_auditors(len(self.rtld.auditor_names))
        self.rtld.tls.determine_offsets(self.layout.size("pthread"))
        self.mirror_base()

    def mirror_base(self) -> None:
        """Write what the guest sees of the base namespace, once its objects are all there."""
        for map_ in self.rtld.namespaces[0].maps:
            self.mirror.flags(map_)
            self.mirror.tls_offset(map_)
        self.mirror.chain(self.rtld.namespaces[0])
        self.mirror.tls()

    def start(self, call: Call) -> Hosted:
        """Everything between the kernel and the program's entry point: a hosted function at ld.so's place."""
        yield from self.link()
        yield from self.initialise()
        main = self.rtld.namespaces[0].maps[0]
        # The ABI wants rdx to hold a function for atexit; the other argument registers are unspecified.
        yield Jump(main.entry, (0, 0, self.fini_stub))
        return 0

    def link(self) -> Generator[Effect, int, None]:
        """Set up the thread, relocate everything, copy the TLS images. Raises LoaderError."""
        rtld, mirror, info = self.rtld, self.mirror, self.info
        ld_so = rtld.ld_so
        assert ld_so is not None
        set_tunables(self.layout, self.arena, rtld.heap, ld_so, rtld.env)
        yield from relocate_bootstrap(rtld, ld_so)
        ld_so.relocated = True
        self._fill_ro(info)
        prepare_stack_lists(self)
        yield from first_thread(self, info)
        base = rtld.namespaces[0]
        main = base.maps[0]
        audited = rtld.auditor_names is not None
        if audited:
            yield from load_with_auditors(self)
            self._initial_searchlist()
        rtld.set_state(base, RT_ADD)
        mirror.debug_pointer(main)
        tell_scopes(rtld)
        started = rtld.bus.now()
        for map_ in reversed(main.initfini or [main]):
            if map_ is not ld_so:
                yield from relocate_object(rtld, map_, not rtld.bind_now)
            if audited:
                rtld.tls.enter_initial(map_)
        if audited:
            rtld.tls.settle_initial()
            mirror.tls()
        rtld.tls.initialise_thread(self.thread_pointer(), again=audited)
        self.plant_dtors()
        if ld_so in base.maps:
            # Something needs ld.so as a library: it is relocated again, now with everybody's symbols.
            yield from bind_malloc(rtld, main)
            ld_so.relocated = False
            yield from relocate_object(rtld, ld_so, False)
        self.relocation_time = rtld.bus.now() - started
        mirror.opencount(main)
        mirror.tls()
        if not audited:
            rtld.set_state(base, RT_CONSISTENT)
        self._start_serving()

    def _start_serving(self) -> None:
        """From here on the guest may call for more objects: give the run-time linker what it needs of libc."""
        rtld, mirror = self.rtld, self.mirror
        libc = rtld.namespaces[0].libc_map
        for name in ("_dl_load_lock", "_dl_load_write_lock", "_dl_load_tls_lock"):
            rtld.locks[name] = mirror.global_address(name)
        if libc is not None:
            rtld.mutex_lock = rtld.lookup(b"pthread_mutex_lock", libc) or 0
            rtld.mutex_unlock = rtld.lookup(b"pthread_mutex_unlock", libc) or 0
        rtld.thread_pointer, rtld.threads = self.thread_pointer, mirror.threads
        rtld.catching, rtld.uncaught = self.errors.catching, self.errors.uncaught
        rtld.search.unload_cache()
        rtld.started = True
        self.linked = True
        for member, symbol_name in _POINTERS_FOUND.items():
            mirror.set_ro(member, rtld.lookup(symbol_name) or 0)
        self.on_linked()

    def make_stacks_executable(self) -> None:
        """Let code run on every stack, now and later. Source: nptl/nptl-stack.c, elf/dl-execstack.c:_dl_make_stacks_executable."""
        for area in list(self.space):
            if area.name == "[stack]":
                self.space.mprotect(area.start, area.end - area.start, _RWX)
        if not self.rtld.started:
            return
        at = self.mirror.global_address("_dl_stack_flags")
        self.arena.write_u32(at, self.arena.read_u32(at) | c.PF_X)
        offsets = self.layout.offsets("pthread")
        for thread in self.mirror.stacks("_dl_stack_used", "_dl_stack_cache"):
            start = self.arena.read_u64(thread + offsets["stackblock"]) + self.arena.read_u64(
                thread + offsets["guardsize"]
            )
            end = self.arena.read_u64(thread + offsets["stackblock"]) + self.arena.read_u64(
                thread + offsets["stackblock_size"]
            )
            self.space.mprotect(start, end - start, _RWX)

    def close_caller(self) -> int:
        """Return where the running thread called dlclose, 0 if that was not seen (libc's own closes)."""
        return self.close_callers.pop(self.thread_pointer(), 0)

    def initialise(self) -> Generator[Effect, int, None]:
        """Call libc's early initialisation and the constructors of the libraries."""
        rtld, info = self.rtld, self.info
        libc = rtld.namespaces[0].libc_map
        if libc is not None:
            early = rtld.lookup(b"__libc_early_init", libc)
            if early is not None:
                if rtld.bus.init:
                    rtld.bus.emit(Initializer(libc.display_name, "early_init", early, rtld.describe(early)))
                yield CallGuest(early, (1,))
        yield from activity(rtld, rtld.namespaces[0], LA_ACT_CONSISTENT)
        rtld.set_state(rtld.namespaces[0], RT_CONSISTENT)
        if rtld.bus.ldso:
            tell_statistics(rtld, self.relocation_time)
        main = rtld.namespaces[0].maps[0]
        yield from init(rtld, main, (info.argc, info.argv, info.envp))

    def _fill_ro(self, info: StartInfo) -> None:
        mirror, rtld = self.mirror, self.rtld
        ro = mirror.set_ro
        ro("_dl_pagesize", info.auxv.get(_AT_PAGESZ, 4096))
        ro("_dl_clktck", info.auxv.get(_AT_CLKTCK, 100), 4)
        ro("_dl_minsigstacksize", info.auxv.get(_AT_MINSIGSTKSZ, 2048))
        ro("_dl_hwcap2", info.auxv.get(_AT_HWCAP2, 0))
        ro("_dl_auxv", info.auxv_address)
        ro("_dl_lazy", 0 if rtld.bind_now else 1, 4)
        ro("_dl_tls_static_size", rtld.tls.static_size)
        ro("_dl_tls_static_align", rtld.tls.static_align)
        ro("_dl_tls_static_surplus", rtld.tls.surplus)
        ro("_dl_dso_sort_algo", rtld.sort_algorithm, 4)
        ro("_dl_debug_fd", self.debug_fd, 4)
        ro("_dl_debug_mask", self.debug_mask, 4)
        ro("_dl_catch_error", self.guest_function(b"_dl_catch_error"))
        self._initial_searchlist()
        if rtld.vdso is not None:
            ro("_dl_sysinfo_dso", rtld.vdso.map_start)
            ro("_dl_sysinfo_map", rtld.vdso.address)
            for member, name in (
                ("_dl_vdso_clock_gettime64", b"__vdso_clock_gettime"),
                ("_dl_vdso_gettimeofday", b"__vdso_gettimeofday"),
                ("_dl_vdso_time", b"__vdso_time"),
                ("_dl_vdso_getcpu", b"__vdso_getcpu"),
                ("_dl_vdso_clock_getres_time64", b"__vdso_clock_getres"),
            ):
                ro(member, rtld.vdso_functions.get(name, 0))
        for member in hosted.HOSTED_POINTERS:
            ro(member, self.pointer_stubs[member])
        ld_so = rtld.ld_so
        assert ld_so is not None
        for name, value, size in (
            (b"__libc_stack_end", info.stack_pointer, 8),
            (b"_dl_argv", info.argv, 8),
            (b"__libc_enable_secure", 0, 4),
        ):
            symbol = find_own(ld_so, name)
            if symbol is not None:
                self.arena.write(ld_so.addr + symbol[4], value.to_bytes(size, "little"))

    def _initial_searchlist(self) -> None:
        searchlist = self.rtld.namespaces[0].maps[0].searchlist
        words = self.rtld.heap.words([map_.address for map_ in searchlist])
        self.mirror.set_ro("_dl_initial_searchlist.r_list", words)
        self.mirror.set_ro("_dl_initial_searchlist.r_nlist", len(searchlist), 4)

    info: StartInfo

    # -- services for the handlers ------------------------------------------------------------------------------------

    def caller(self, address: int) -> int:
        """Return where natively a call comes from that came from `address`: our stubs stand for ld.so's code."""
        ld_so = self.rtld.ld_so
        return (
            ld_so.map_start if ld_so is not None and self.stubs.start <= address < self.stubs.end else address
        )

    def scope_at(self, address: int) -> Scope:
        """Return the scope that a guest `struct r_scope_elem` mirrors."""
        listed, count = struct.unpack("<QI", self.arena.read(address, 12))
        words = struct.unpack(f"<{count}Q", self.arena.read(listed, 8 * count))
        return Scope([self.rtld.by_address[word] for word in words])

    def guest_function(self, name: bytes) -> int:
        """Return what `name` binds to in the program's scope; as long as auditors are alone, in ld.so. Raises UnsupportedError."""
        address = self.rtld.lookup(name, None if self.linked else self.rtld.ld_so)
        if address is None:
            raise UnsupportedError(f"program without {name.decode()}", self.rtld.program)
        return address
