"""The contract with one libc: plants the hosted entries, fills `_rtld_global_ro`
and the TCB, and starts a program as ld.so does.

One piece: what is planted, filled in and started is one libc, in the order that it needs.

Source: glibc elf/rtld.c:dl_main, sysdeps/unix/sysv/linux/dl-sysdep.c.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import TYPE_CHECKING

from emu.core.effects import CallGuest, Effect, Hosted, Jump
from emu.core.errors import MemoryFault, UnsupportedError, WildPointerError
from emu.core.events import Initializer
from emu.core.record import NamedTuple
from emu.glibc import hosted, libpthread
from emu.glibc.auditing import load_with_auditors
from emu.glibc.call import Handler, HostedCall
from emu.glibc.call_page import CallPage, build_call_page
from emu.glibc.choose_layout import choose_layout
from emu.glibc.cpu_features import fill_cpu_features
from emu.glibc.cxa_thread_atexit_impl import ThreadAtexit
from emu.glibc.debug_files import DebugSystem
from emu.glibc.errors import Errors
from emu.glibc.execstack import make_stacks_executable
from emu.glibc.fingerprint import build_of, misfit
from emu.glibc.first_thread import first_thread, prepare_stack_lists
from emu.glibc.layout import newest
from emu.glibc.mirror_global import GlobalMirror
from emu.glibc.probe import find_own
from emu.glibc.release import rules_of
from emu.glibc.rseq import extra_tls
from emu.glibc.rtld_global_ro import fill_rtld_global_ro
from emu.glibc.stubs import Stubs, build_stubs
from emu.glibc.system_dirs import system_dirs
from emu.glibc.tunables import set_tunables, tunables_are_pointers
from emu.kernel.uname import UNAME
from emu.machine.arena import Arena
from emu.rtld.audit import LA_ACT_CONSISTENT, activity
from emu.rtld.given import Entries, MappedObject
from emu.rtld.init import init
from emu.rtld.kept_lookups import open_kept
from emu.rtld.kernel_asked import known_kernel
from emu.rtld.link_map import LT_LIBRARY, LinkMap
from emu.rtld.map_object import RT_ADD, RT_CONSISTENT
from emu.rtld.relocate import relocate_bootstrap, relocate_object
from emu.rtld.rtld import Rtld
from emu.rtld.scope import Scope
from emu.rtld.startup import relocate_again, relocation_order, tell_scopes, tell_statistics

if TYPE_CHECKING:
    from emu.glibc.dlsym import DlsymCall
    from emu.glibc.layout import Layout
    from emu.machine.address_space import AddressSpace
    from emu.machine.features import Features

_POINTERS_FOUND = {"_dl_catch_error": b"_dl_catch_error", "_dl_mcount": b"_dl_mcount"}


class StartInfo(NamedTuple):
    """What the kernel left for ld.so: the stack pointer at argc, and the auxiliary vector."""

    stack_pointer: int
    auxv: dict[int, int]
    auxv_address: int
    argc: int
    argv: int
    envp: int


class ContractOptions(NamedTuple):
    """What a contract is made with.

    - `model_dtors`: whether libc's two functions for thread_local destructors are taken over
    - `features`: what the engine's CPU can do
    - `sysroot`: the host directory that messages name
    - `debug_mask`, `debug_fd`: what LD_DEBUG and LD_DEBUG_OUTPUT set, for libc to see
    - `source`: returns the source line of an address
    - `on_linked`, `on_dtors_planted`: are told that libc is there; that its functions for destructors were
      found
    - `instead`: what a user may do where emu does not know the libc
    - `cached`: whether the user's cache may tell of the look-ups of earlier starts
    """

    model_dtors: bool
    features: Features
    sysroot: str
    debug_mask: int
    debug_fd: int
    source: Callable[[int], str]
    on_linked: Callable[[Contract], None]
    on_dtors_planted: Callable[[ThreadAtexit], None]
    instead: str
    cached: bool = True


class Contract:
    """One libc's view of the loader.

    - `rtld`, `arena`, `space`: the linker, the guest's memory and its address space
    - `thread_pointer`: returns the running thread's
    - `options`: what it was made with
    - `traps`: the handlers by the guest addresses of their traps
    - `preserving`, `auditing`: the traps whose callers expect every register kept (lazy binding, TLS
      descriptors); those that call auditors with arguments on the stack
    - `linked`: whether the program's own libc is there to be called
    - `refusal`: why no guest code may run, None if it may
    - `layout`, `mirror`: where this libc's structures have their members; who keeps the guest's copy of the
      linker's state
    - `stubs`, `pointer_stubs`: the stub page; the addresses of the traps in it by name
    - `start_stub`, `fini_stub`: those of ld.so's start and of `_dl_fini`
    - `errors`: how ld.so's errors get to libc
    - `close_callers`, `dlsym_calls`: where each thread called dlclose; the dlsym that each is in, by thread
      pointer
    - `atexit`: the thread_local destructors, None without a libc
    - `info`: what the kernel left for ld.so, once its entries are planted
    - `patched`: is told of code that was written
    - `relocation_time`: how long relocation took, in virtual nanoseconds
    - `call_page`: the code by which the host calls the guest, if it does
    """

    def __init__(
        self,
        rtld: Rtld,
        arena: Arena,
        space: AddressSpace,
        thread_pointer: Callable[[], int],
        options: ContractOptions,
    ) -> None:
        self.rtld, self.arena, self.space, self.thread_pointer = rtld, arena, space, thread_pointer
        self.options = options
        self.traps: dict[int, Handler] = {}
        self.preserving: set[int] = set()
        self.auditing: set[int] = set()
        self.linked = self._entered = False
        self.refusal: UnsupportedError | None = None
        self.layout: Layout
        self.mirror: GlobalMirror
        self.stubs: Stubs
        self.errors: Errors = Errors(self)
        self.close_callers: dict[int, int] = {}
        self.dlsym_calls: dict[int, DlsymCall] = {}
        self._when_linked: list[Callable[[], None]] = [lambda: options.on_linked(self)]
        self.atexit: ThreadAtexit | None = None
        self.patched: Callable[[int, int], None] = lambda address, size: None
        self.pointer_stubs: dict[str, int] = {}
        self.start_stub = self.fini_stub = 0
        self.relocation_time = 0
        self.call_page: CallPage | None = None

    def when_linked(self, told: Callable[[], None]) -> None:
        """Let `told` know, once, that libc is there to be called."""
        self._when_linked.append(told)

    # -- set-up ----------------------------------------------------------------------------------------------

    def prepare(self, interpreter: MappedObject) -> int:
        """Choose the layout for the libc that `interpreter` (its ld.so) belongs to and plant the stubs.

        Returns where ld.so keeps its own link map. Without a table for it the objects can still be mapped and
        looked at, with structures that nobody reads; `link` then raises `refusal`. Raises UnsupportedError
        for an interpreter that is not glibc's.
        """
        probe = LinkMap(interpreter.path, interpreter.path, LT_LIBRARY, 0, None)
        probe.addr, probe.phdrs = interpreter.bias, interpreter.phdrs
        probe.read_dynamic(self.arena)
        self.rtld.search.use(system_dirs(probe, self.arena, self.rtld.cpu_level))
        build = build_of(probe, self.arena)
        try:
            self.layout = choose_layout(
                probe, build, self.arena, DebugSystem(self.rtld.files, self.options.sysroot)
            )
        except UnsupportedError as error:
            self.refusal, self.layout = error.or_else(self.options.instead), newest()
        rules = rules_of(build.release or self.layout.version)
        # Red Hat's 2.34 has it, too: it came with this function.
        second = rules.second_audit_interface or find_own(probe, b"_dl_audit_preinit") is not None
        # Releases to 2.38 that have it from their branches have this member, for what was taken back since.
        branch = self.layout.has("link_map", "l_init_called_next")
        once, told = rules.finalised_once or branch, rules.empty_ends_told or branch
        self.rtld.obey(
            replace(rules, second_audit_interface=second, finalised_once=once, empty_ends_told=told)
        )
        if rules.kernel_asked:
            self.rtld.search.kernel = known_kernel(UNAME[2], self.rtld.env.get("LD_ASSUME_KERNEL", ""))
        self.mirror = GlobalMirror(self.layout, self.arena, self.rtld.heap, self.rtld)
        if self.refusal is None:
            self.mirror.rtld_global = self._data(probe, b"_rtld_global")
            self.mirror.rtld_global_ro = self._data(probe, b"_rtld_global_ro")
        else:
            self.mirror.rtld_global = self.rtld.heap.allocate(self.layout.size("rtld_global"))
            self.mirror.rtld_global_ro = self.rtld.heap.allocate(self.layout.size("rtld_global_ro"))
        self.mirror.r_debug = self._data(probe, b"_r_debug")
        entries = self._plant_stubs()
        debug_break = self._data(probe, b"_dl_debug_state")
        self.rtld.attach(self.mirror, entries, debug_break, lambda: make_stacks_executable(self))
        return self.mirror.place_of_ld_so()

    def _data(self, map_: LinkMap, name: bytes) -> int:
        symbol = find_own(map_, name)
        if symbol is None:
            raise UnsupportedError(f"ld.so without {name.decode()}", map_.display_name)
        return map_.addr + symbol.value

    def _plant_stubs(self) -> Entries:
        """Map the stub page; return what relocation needs of it."""
        handlers: list[tuple[str, Handler]] = [
            ("start", lambda contract, call: contract.start(call)),
            ("fini", hosted.run_fini),
            ("resolve", hosted.runtime_resolve),
            ("profile", hosted.runtime_profile),
            ("pltexit", hosted.runtime_pltexit),
            ("operate", lambda contract, call: contract.errors.operate(call)),
            *hosted.HOSTED_POINTERS.items(),
            *libpthread.POINTERS.items(),
        ]
        generation = self.mirror.global_address("_dl_tls_generation")
        names = [name for name, _ in handlers]
        image, _ = build_stubs(0, names, generation, self.options.features.trap_code)
        base = self.space.mmap(0, len(image), 5, name="[emu]")
        image, self.stubs = build_stubs(base, names, generation, self.options.features.trap_code)
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
        return Entries(
            self.pointer_stubs["resolve"], self.stubs.profile, self.stubs.tlsdesc_return, self.stubs.tlsdesc_undefweak,
            self.stubs.tlsdesc_dynamic,
        )  # fmt: skip

    def plant_call_page(self, callbacks: int) -> CallPage:
        """Map the page by which the host calls the guest, with room for `callbacks`
        functions that the guest can call.
        """
        image, _ = build_call_page(0, callbacks, self.options.features.trap_code)
        base = self.space.mmap(0, len(image), 5, name="[emu]")
        image, page = build_call_page(base, callbacks, self.options.features.trap_code)
        self.arena.write(base, image)
        self.call_page = page
        return page

    def plant(self, address: int, handler: Handler) -> None:
        """Replace the function at `address` by a trap and `ret`."""
        self.arena.write(address, self.options.features.trap_code + b"\xc3")
        self.traps[address] = handler
        self.patched(address, 3)

    def plant_entries(self, info: StartInfo) -> None:
        """Host ld.so's functions at their own addresses, and libc's two for thread_local destructors where
        they are modelled. `info` is what the kernel left for ld.so.
        """
        self.info = info
        ld_so = self.rtld.ld_so
        assert ld_so is not None
        for name, handler in hosted.HOSTED_SYMBOLS.items():
            symbol = find_own(ld_so, name)
            if symbol is not None:
                self.plant(ld_so.addr + symbol.value, handler)
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
            self.rtld, self.arena, libc, offset, self.thread_pointer, self.options.source
        )
        self.options.on_dtors_planted(atexit)
        if self.options.model_dtors:
            self.plant(atexit.register_at[0], lambda contract, call: atexit.register(*call.args[:3]))
            self.plant(atexit.run_at[0], lambda contract, call: atexit.run())

    # -- start-up --------------------------------------------------------------------------------------------

    def lay_out_tls(self) -> None:
        """Fix the static TLS layout (the wall after mapping), once the libc
        there is known to be the table's.
        """
        self.check_libc()
        if self.rtld.auditor_names is not None:
            self.rtld.tls.reserve_for_auditors(len(self.rtld.auditor_names))
        self.rtld.tls.determine_offsets(self.layout.size("pthread"), extra_tls(self))
        self.mirror_base()

    def check_libc(self) -> None:
        """Refuse to run a program whose libc is laid out otherwise than the table says."""
        libc = self.rtld.namespaces[0].libc_map
        if libc is not None and self.refusal is None:
            self.refusal = misfit(self.layout, libc, self.arena)

    def mirror_base(self) -> None:
        """Write what the guest sees of the base namespace, once its objects are all there."""
        for map_ in self.rtld.namespaces[0].maps:
            self.mirror.flags(map_)
            self.mirror.tls_offset(map_)
        self.mirror.chain(self.rtld.namespaces[0])
        self.mirror.tls()

    def start(self, call: HostedCall) -> Hosted:
        """Everything between the kernel and the program's entry point: a hosted function at ld.so's place."""
        yield from self.link()
        yield from self.initialise()
        main = self.rtld.namespaces[0].maps[0]
        # The ABI wants rdx to hold a function for atexit; the other argument registers are unspecified.
        yield Jump(main.entry, (0, 0, self.fini_stub))
        return 0

    def link(self) -> Generator[Effect, int, None]:
        """Set up the thread, relocate everything, copy the TLS images.

        Raises LoaderError; UnsupportedError before anything has run.
        """
        if self.refusal is not None:
            raise self.refusal
        if self._entered:
            raise MemoryFault(self.start_stub, "execute")  # no function for the guest to call again
        self._entered = True
        rtld, mirror, info = self.rtld, self.mirror, self.info
        ld_so = rtld.ld_so
        assert ld_so is not None
        # Its resolvers read the CPU's features, which tunables mask; but up to 2.32 the list holds pointers.
        late = tunables_are_pointers(self.layout)
        if not late:
            set_tunables(self.layout, self.arena, rtld.heap, ld_so, rtld.env)
        yield from relocate_bootstrap(rtld, ld_so)
        if late:
            set_tunables(self.layout, self.arena, rtld.heap, ld_so, rtld.env)
        ld_so.relocated = True
        fill_rtld_global_ro(self, info)
        fill_cpu_features(mirror, self.options.features)
        self._initial_searchlist()
        prepare_stack_lists(self)
        yield from first_thread(self, info)
        base = rtld.namespaces[0]
        main = base.maps[0]
        audited = rtld.auditor_names is not None
        if audited:
            yield from load_with_auditors(self)
            self._initial_searchlist()
            if rtld.keep_going:
                return  # the objects are only to be listed
        rtld.set_state(base, RT_ADD)
        mirror.debug_pointer(main)
        tell_scopes(rtld)
        started = rtld.bus.now()
        maps = relocation_order(rtld, main)
        if self.options.cached:
            rtld.use_kept(open_kept(rtld, main))
        # So many are relocated before the thread hears of their TLS modules.
        first = int(maps[0] is base.libc_map) if audited and rtld.rules.tls_known_after_libc else len(maps)
        yield from self._relocate(maps[:first])
        if audited:
            self._enter_late_modules(maps)
        yield from rtld.tls.fill_dtv(self.thread_pointer())
        yield from self._relocate(maps[first:])
        rtld.tls.copy_images(self.thread_pointer(), again=audited)
        rtld.tls.tell_limit()
        self.plant_dtors()
        if ld_so in base.maps:
            yield from relocate_again(rtld, main, ld_so)
        rtld.use_kept(None)
        self.relocation_time = rtld.bus.now() - started
        mirror.opencount(main)
        mirror.tls()
        if not audited:
            rtld.set_state(base, RT_CONSISTENT)
        self._start_serving()

    def _relocate(self, maps: list[LinkMap]) -> Generator[Effect, int, None]:
        for map_ in maps:
            if map_ is not self.rtld.ld_so:
                yield from relocate_object(self.rtld, map_, not self.rtld.bind_now)

    def _enter_late_modules(self, maps: list[LinkMap]) -> None:
        """Make the program's TLS modules known that came after the layout was
        fixed, since auditors needed it.
        """
        for map_ in maps:
            self.rtld.tls.enter_initial(map_)
        self.rtld.tls.settle_initial()
        self.mirror.tls()

    def _start_serving(self) -> None:
        """From here on the guest may call for more objects:
        give the run-time linker what it needs of libc.
        """
        rtld, mirror = self.rtld, self.mirror
        libc = rtld.namespaces[0].libc_map
        names = ("_dl_load_lock", "_dl_load_write_lock", "_dl_load_tls_lock")
        locks = {name: mirror.global_address(name) for name in names if self.layout.has("rtld_global", name)}
        lock, unlock = (
            rtld.lookup(name, libc) or 0 if libc is not None else 0
            for name in (b"pthread_mutex_lock", b"pthread_mutex_unlock")
        )
        rtld.use_locks(locks, lock, unlock)
        rtld.search.unload_cache()
        rtld.index.know_initial(rtld.namespaces[0].maps)
        rtld.serve(self.thread_pointer, mirror.threads, self.errors.catching, self.errors.uncaught)
        self.linked = True
        for member, symbol_name in _POINTERS_FOUND.items():
            found = rtld.lookup(symbol_name)
            if (
                found is not None
            ):  # else nobody exports it, and what ld.so's own relocation has put there is right
                mirror.set_ro_if_there(member, found)
        for told in self._when_linked:
            told()

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

    def _initial_searchlist(self) -> None:
        searchlist = self.rtld.namespaces[0].maps[0].searchlist
        words = self.rtld.heap.words([map_.address for map_ in searchlist])
        self.mirror.set_ro("_dl_initial_searchlist.r_list", words)
        self.mirror.set_ro("_dl_initial_searchlist.r_nlist", len(searchlist), 4)

    info: StartInfo

    # -- services for the handlers ---------------------------------------------------------------------------

    def caller(self, address: int) -> int:
        """Return where natively a call comes from that came from `address`:
        our stubs stand for ld.so's code.
        """
        ld_so = self.rtld.ld_so
        return (
            ld_so.map_start if ld_so is not None and self.stubs.start <= address < self.stubs.end else address
        )

    def scope_at(self, address: int) -> Scope:
        """Return the scope that a guest `struct r_scope_elem` mirrors."""
        listed, count = struct.unpack("<QI", self.arena.read(address, 12))
        return Scope([self.link_map(self.arena.read_u64(listed + 8 * index)) for index in range(count)])

    def link_map(self, address: int) -> LinkMap:
        """Return the object whose `struct link_map` is at a guest address. Raises WildPointerError."""
        map_ = self.rtld.by_address.get(address)
        if map_ is None:
            raise WildPointerError(address, "link map")
        return map_

    def guest_function(self, name: bytes) -> int:
        """Return what `name` binds to in the program's scope; as long as auditors are alone, in ld.so.

        Raises UnsupportedError.
        """
        address = self.rtld.lookup(name, None if self.linked else self.rtld.ld_so)
        if address is None:
            raise UnsupportedError(f"program without {name.decode()}", self.rtld.program)
        return address
