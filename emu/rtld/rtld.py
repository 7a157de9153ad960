"""The dynamic linker's state, and start-up in phases with walls between them.

map -> TLS layout fixed -> relocated -> RELRO protected -> initialised -> running. Nothing here knows the CPU:
guest code runs when a generator yields `CallGuest`.

One piece: the linker's state and the phases that fill it.

Source: glibc elf/rtld.c:dl_main.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from emu.core.effects import CallGuest, Effect
from emu.core.errors import EmuError, Inconsistency, LoaderError
from emu.rtld import exec_stack
from emu.rtld.address_index import AddressIndex
from emu.rtld.audit import objopen, objsearch
from emu.rtld.dependency import RETURN_NEWEST
from emu.rtld.deps import map_deps, map_named
from emu.rtld.given import Closing, Options, Services, VersionErrors
from emu.rtld.heap import Heap
from emu.rtld.link_map import LT_EXECUTABLE, LT_LIBRARY, LinkMap, MapType
from emu.rtld.lookup import Query, find_symbol
from emu.rtld.map_object import adopt
from emu.rtld.mirror_view import MirrorView
from emu.rtld.object_memory import ObjectTable
from emu.rtld.owed import Owed
from emu.rtld.rules import Rules
from emu.rtld.scope import Namespace, Scope
from emu.rtld.search_path import SearchPath
from emu.rtld.sort_maps import SORT_DFS, SORT_ORIGINAL
from emu.rtld.startup import auditor_names, refuse_profiling
from emu.rtld.tls import Tls
from emu.rtld.vdso import bind_vdso
from emu.rtld.version import VersionWarning, check_map_versions

if TYPE_CHECKING:
    from emu.core.events import Binding, EventBus
    from emu.core.files import FileSystem
    from emu.core.types import Mappings, Memory
    from emu.rtld.asked import SymbolAsked
    from emu.rtld.audit import Auditor
    from emu.rtld.failure import Failing
    from emu.rtld.given import Caught, Entries, MappedObject, Work
    from emu.rtld.kept_lookups import KeptLookups
    from emu.rtld.search_view import MapView


_NO_OPTIONS, _NO_SERVICES = Options(), Services()


class Rtld:
    """All that the dynamic linker knows.

    - `memory`, `mappings`, `files`, `bus`: the guest's memory, mappings and file system, and where events go
    - `env`, `program`: the guest's environment; argv[0], as messages show it
    - `namespaces`: the lists of loaded objects, the base namespace first
    - `heap`, `tls`, `search`: memory for its own structures; TLS modules and blocks; the search for libraries
    - `mirror`: who is told of each change that the guest's copy of the state must show
    - `entries`: the guest addresses that relocation puts into slots
    - `by_address`: the objects by the addresses of their `struct link_map`
    - `departed`: those that are closed, as long as the address is nobody else's: a program may hold a handle
      too long
    - `index`: which object an address lies in, and who was there before
    - `ld_so`, `vdso`, `vdso_functions`: the maps of ld.so and of the vDSO; the addresses of the latter's
      functions by name
    - `init_first`: the object marked DF_1_INITFIRST whose constructors have yet to run
    - `keep_going`, `missing`: whether libraries that are not found are only noted, and those (name, who needs
      it)
    - `refused`: preloads that could not be loaded, and auditors that are none: name, who asked, the error
    - `write_error`: writes a text to the guest's standard error
    - `describe`, `describe_caller`: name the function at an address; the place of a call, by its return
      address
    - `cpu_level`: N of the x86-64-vN that the CPU has
    - `object_table`: what dlopen has entered for `_dl_find_object`, as far as its memory shows
    - `secure`: AT_SECURE; the environment is then without what a user must not say
    - `verbose`, `dynamic_weak`, `bind_now`, `bind_not`: what LD_WARN, LD_DYNAMIC_WEAK, LD_BIND_NOW and
      LD_BIND_NOT ask for
    - `lookups`, `cached_lookups`: counts for LD_DEBUG=statistics
    - `kept`: the look-ups of earlier starts, while this one relocates
    - `auditor_names`, `auditors`: the auditors that are asked for (None: no auditing); those that take part
    - `allocator`: the program's malloc, calloc, realloc and free by name, which ld.so calls once they are
      there; `owed`: such calls
    - `accept_undefined`, `trace`: what LD_DEBUG=unused and LD_TRACE_LOADED_OBJECTS ask for
    - `receive`: takes the errors that ld.so can go on after, None where they end the process
    - `rules`, `sort_algorithm`: what this release of glibc does otherwise; how it sorts objects for their
      constructors
    - `debug_break`: the address of `_dl_debug_state`, where debuggers stop
    - `load_adds`: how many objects were ever loaded
    - `started`: whether the program's own code may run: what is loaded from then on can fail without ending
      the process
    - `failing`: the open that fails, while `OpenFailed` is told
    - `unbound`: the error of the last call that found no function when it was first made: the end of the
      process, but inside of a catch
    - `asked`: the dlsym, while its `Binding` is told
    - `working`: for each thread what it has the linker do (dlopen of a file, dlclose), the latest last, with
      the return addresses
    - `resolving`: the IFUNC resolver that relocation has called: for which object, by which type of
      relocation, its address
    - `closing`: whether a collection is going on
    - `executable_stack`, `make_stacks_executable`: whether stacks can be executed; makes them so for the
      first object that wants it
    - `locks`, `mutex_lock`, `mutex_unlock`: ld.so's locks by member of `_rtld_global`; libc's functions that
      take them (0: not yet)
    - `catching`, `uncaught`: run a generator, and return the error that ended it; run one in which errors are
      fatal
    - `on_unload`: is told of an object before it is unmapped
    - `thread_pointer`, `threads`: the running thread's pointer; those of all threads
    - `unload_rule`: what keeps an object with pending thread_local destructors
    """

    def __init__(
        self,
        memory: Memory,
        mappings: Mappings,
        files: FileSystem,
        bus: EventBus,
        env: Mapping[str, str],
        program: str,
        options: Options = _NO_OPTIONS,
        services: Services = _NO_SERVICES,
    ) -> None:
        self.memory, self.mappings, self.files, self.bus, self.program = memory, mappings, files, bus, program
        self.env = env
        self.namespaces = [Namespace(0)]
        self.heap = Heap(mappings, memory)
        self.owed = Owed(self)
        self.object_table = ObjectTable()
        self.tls = Tls(self)
        self.search = SearchPath(files, bus, env, options.secure)
        self.search.owed = self.owed
        self.mirror: MirrorView
        self.entries: Entries
        self.by_address: dict[int, LinkMap] = {}
        self.departed: dict[int, LinkMap] = {}
        self.ld_so: LinkMap | None = None
        self.vdso: LinkMap | None = None
        self.vdso_functions: dict[bytes, int] = {}
        self.init_first: LinkMap | None = None
        self.keep_going, self.accept_undefined, self.trace, self.unload_rule = options[:4]
        self.cpu_level, self.secure = options.cpu_level, options.secure
        self.write_error, self.describe, self.describe_caller, self.on_unload = services
        self.missing: list[tuple[str, LinkMap]] = []
        self.unbound: LoaderError | None = None
        self.refused: list[tuple[str, str, EmuError]] = []
        self.verbose = bool(env.get("LD_WARN"))
        self.dynamic_weak = "LD_DYNAMIC_WEAK" in env
        self.bind_now = bool(env.get("LD_BIND_NOW")) or self.accept_undefined
        self.bind_not = bool(env.get("LD_BIND_NOT"))
        self.lookups = self.cached_lookups = 0
        self.kept: KeptLookups | None = None
        self.auditor_names: list[str] | None = None
        self.resolving: tuple[LinkMap, int, int] | None = None
        self.auditors: list[Auditor] = []
        self.allocator: dict[bytes, int] = {}
        self._strings: dict[str, int] = {}
        self.receive: Callable[[LoaderError], None] | None = None
        self.rules = Rules()
        self.sort_algorithm = SORT_ORIGINAL
        self.debug_break = 0
        self.load_adds = 0
        self.index = AddressIndex()
        self.started = False
        self.failing: Failing | None = None
        self.asked: SymbolAsked | None = None
        self.working: dict[int, list[tuple[str, int]]] = {}
        self.closing = Closing.NO
        self.executable_stack = False
        self.make_stacks_executable: Callable[[], None] = lambda: None
        self.locks: dict[str, int] = {}
        self.mutex_lock = self.mutex_unlock = 0
        self.catching: Callable[[Work], Generator[Effect, int, Caught | None]]
        self.uncaught: Callable[[Work], Work]
        self.thread_pointer: Callable[[], int] = lambda: 0
        self.threads: Callable[[], Iterable[int]] = lambda: ()

    def obey(self, rules: Rules) -> None:
        """Follow the rules of the libc at hand; before anything is mapped."""
        self.rules = rules
        tunables = self.env.get("GLIBC_TUNABLES", "").split(":")
        by_depth = rules.sort_by_depth and "glibc.rtld.dynamic_sort=1" not in tunables
        self.sort_algorithm = SORT_DFS if by_depth else SORT_ORIGINAL

    @contextmanager
    def as_if(self, rules: Rules) -> Iterator[None]:
        """Answer look-ups by other rules meanwhile."""
        own, self.rules = self.rules, rules
        try:
            yield
        finally:
            self.rules = own

    def attach(
        self,
        mirror: MirrorView,
        entries: Entries,
        debug_break: int,
        make_stacks_executable: Callable[[], None],
    ) -> None:
        """Let the guest's copy of the state be kept from now on; before anything is mapped."""
        self.mirror, self.entries, self.debug_break = mirror, entries, debug_break
        self.make_stacks_executable = make_stacks_executable

    def serve(
        self,
        thread_pointer: Callable[[], int],
        threads: Callable[[], Iterable[int]],
        catching: Callable[[Work], Generator[Effect, int, Caught | None]],
        uncaught: Callable[[Work], Work],
    ) -> None:
        """From now on the guest's code may run and ask for more."""
        self.thread_pointer, self.threads, self.catching, self.uncaught = (
            thread_pointer, threads, catching, uncaught,
        )  # fmt: skip
        self.started = True

    def use_locks(self, locks: dict[str, int], lock: int, unlock: int) -> None:
        """Take ld.so's locks, at these addresses by member of `_rtld_global`, by
        libc's functions (0: there are none).
        """
        self.locks, self.mutex_lock, self.mutex_unlock = locks, lock, unlock

    def go_on_after_errors(self, receive: Callable[[LoaderError], None]) -> None:
        """Tell `receive` of the errors that ld.so can go on after, from now on."""
        self.receive = receive

    def use_kept(self, kept: KeptLookups | None) -> None:
        """Let relocation use the look-ups of earlier starts from now on, or (None) keep those of this one."""
        if self.kept is not None:
            self.kept.keep()
        self.kept = kept

    def tell_asked(self, event: Binding, asked: SymbolAsked) -> None:
        """Tell of a dlsym; whoever hears of it may ask `asked` again,
        which has all that the look-up was made of.
        """
        self.asked = asked
        self.bus.emit(event)
        self.asked = None

    def next_serial(self) -> int:
        """Return the next load serial number: how many objects were ever loaded before."""
        self.load_adds += 1
        return self.load_adds - 1

    def guest_string(self, text: str) -> int:
        """Return the address of a string that stays: auditors may keep what they are shown."""
        if text not in self._strings:
            self._strings[text] = self.heap.string(text.encode(errors="surrogateescape"))
        return self._strings[text]

    # -- phase 1: map ----------------------------------------------------------------------------------------

    def adopt(
        self,
        mapped: MappedObject,
        name: str,
        type_: MapType,
        found_by: str,
        mirror_address: int = 0,
        origin: str | None = None,
    ) -> LinkMap:
        """Make the link map of an object that the kernel has mapped;
        ld.so does not know what file that came from.
        """
        map_ = LinkMap(name, mapped.path, type_, 0, None)
        map_.addr, map_.entry, map_.phdr, map_.phdrs = mapped.bias, mapped.entry, mapped.phdr, mapped.phdrs
        map_.found_by, map_.origin = found_by, origin
        adopt(self, map_, mirror_address)
        return map_

    def begin(
        self, program: MappedObject, interpreter: MappedObject, vdso: MappedObject | None, ld_so_map: int
    ) -> None:
        """Begin the base namespace with what the kernel has mapped; find out about auditors.

        Raises LoaderError, ElfError.

        `ld_so_map` is where the interpreter's own `struct link_map` lies (in its `_rtld_global`).
        """
        base = self.namespaces[0]
        try:
            origin = self.files.realpath(program.path).rpartition("/")[0] or "/"
        except OSError:
            origin = None  # a program that is no file
        main = self.adopt(program, "", LT_EXECUTABLE, "program", origin=origin)
        refuse_profiling(self)
        self.auditor_names = auditor_names(self, main)
        exec_stack.begin(self, main.phdrs)
        base.main = main
        main.searchlist.append(main)
        if vdso is not None:
            self.vdso = self.adopt(vdso, "linux-vdso.so.1", LT_LIBRARY, "vdso")
            self.vdso.relocated = True
            self.vdso.searchlist.append(self.vdso)
            self.mirror.searchlist(self.vdso)
            bind_vdso(self, self.vdso)
        self.search.initialise(main)
        self.ld_so = self.adopt(interpreter, interpreter.path, LT_LIBRARY, "interpreter", ld_so_map)
        self.ld_so.origin = origin  # ld.so takes the program's for its own, once it asks
        self.ld_so.scopes = []
        self.mirror.scopes(self.ld_so)
        if self.auditor_names is not None:
            base.maps.insert(1, base.maps.pop())

    def load(self) -> Work:
        """Build the rest of the base namespace: preloads, everything needed. Raises LoaderError, ElfError."""
        base = self.namespaces[0]
        main = base.maps[0]
        preloads = yield from self._preload(main)
        if self.vdso is not None and self.rules.second_audit_interface:
            yield from objopen(self, self.vdso)
        yield from map_deps(self, main, preloads)
        self._place_ld_so(main)
        for map_ in main.searchlist:
            map_.global_ = True
        main.direct_opencount += 1
        self._check_versions(base)

    def _preload(self, main: LinkMap) -> Generator[Effect, int, list[LinkMap]]:
        """Load what LD_PRELOAD and /etc/ld.so.preload name;
        one that cannot be loaded is reported and left out.
        """
        names = [(name, "LD_PRELOAD") for name in self.env.get("LD_PRELOAD", "").replace(":", " ").split()]
        try:
            file = self.files.open_for_loading("/etc/ld.so.preload")
            text = file.pread(file.size(), 0).decode(errors="surrogateescape")
            lines = (line.partition("#")[0] for line in text.splitlines())
            words = (word for line in lines for word in line.replace(":", " ").split())
            names += [(name, "/etc/ld.so.preload") for name in words]
        except OSError:
            pass
        maps: list[LinkMap] = []
        for name, source in names:
            try:
                map_ = yield from map_named(self, name, main, LT_LIBRARY, 0, 0, source)
            except EmuError as error:
                self.refused.append((name, source, error))
                reason = error.reason if hasattr(error, "reason") else getattr(error, "text", str(error))
                self.write_error(
                    f"ERROR: ld.so: object '{name}' from {source} cannot be preloaded ({reason}): ignored.\n"
                )
                continue
            if map_ is not None and map_ not in maps and map_ is not main:
                maps.append(map_)
        return maps

    def warn(self, text: str) -> None:
        """Say something on the guest's standard error as ld.so does, after the program's name."""
        self.write_error(f"{self.program}: {text}\n")

    def _place_ld_so(self, main: LinkMap) -> None:
        """Put the interpreter where the search list first refers to it;
        take it off the list if nothing does.
        """
        maps, ld_so = self.namespaces[0].maps, self.ld_so
        assert ld_so is not None
        maps.remove(ld_so)
        if ld_so in main.searchlist:
            at = main.searchlist.index(ld_so)
            before = main.searchlist[at - 1]
            following = main.searchlist[at + 1] if at + 1 < len(main.searchlist) else None
            if not self.trace and before is main and following is not self.vdso and self.vdso is not None:
                before = self.vdso
            maps.insert(maps.index(before) + 1, ld_so)

    def _check_versions(self, namespace: Namespace) -> None:
        errors: list[LoaderError] = []

        def report(error: LoaderError) -> None:
            # Words about what ends the process come at its end, and so does all that follows them.
            fatal = not isinstance(error, VersionWarning) and not self.trace
            if fatal or errors:
                errors.append(error)
            elif not self.keep_going:
                self.warn(str(error))

        for map_ in namespace.maps:
            if map_.faked:
                continue
            find = lambda name: self.find_loaded(name, namespace)  # noqa: E731
            try:
                check_map_versions(
                    map_,
                    self.memory,
                    find,
                    self.program,
                    self.bus,
                    report,
                    relr=self.rules.relative_words_read,
                )
            except EmuError as error:
                if errors:
                    raise VersionErrors(errors, error) from None
                raise
            self.mirror.versions(map_)
        if self.ld_so is not None and self.ld_so not in namespace.maps:
            check_map_versions(self.ld_so, self.memory, lambda name: None)
        if errors and not self.keep_going:
            raise VersionErrors(errors)

    def find_loaded(self, name: str, namespace: Namespace) -> LinkMap | None:
        """Return the object of the namespace that is known as `name`."""
        for map_ in namespace.maps:
            if not map_.removed and not map_.faked:
                known = len(map_.lib_names)
                if map_.matches_name(name):
                    if len(map_.lib_names) != known:
                        self.mirror.names(map_)
                    return map_
        return None

    # -- look-up ---------------------------------------------------------------------------------------------

    def lookup(self, name: bytes, map_: LinkMap | None = None) -> int | None:
        """Return the address of a symbol as the program's global scope (or one object alone) defines it."""
        main = self.namespaces[0].main
        assert main is not None
        scopes = [Scope([map_])] if map_ is not None else main.scopes
        found = find_symbol(self, Query(name, map_ or main, flags=RETURN_NEWEST), scopes)
        return found.address if found is not None else None

    def find_map(self, address: int) -> LinkMap | None:
        """Return the object that contains `address`, in any namespace."""
        return self.index.find(address)

    def objsearch(self, name: str, map_: MapView, code: int) -> Generator[Effect, int, str | None]:
        """Ask the auditors what to open in place of `name`."""
        return objsearch(self, name, map_, code)

    # -- locks -----------------------------------------------------------------------------------------------

    def lock(self, name: str) -> Work:
        """Take one of ld.so's recursive locks (by its member of `_rtld_global`) as libc takes it:
        by libc's own code.

        Nothing for one that this release has not.
        """
        if self.mutex_lock and name in self.locks:
            yield CallGuest(self.mutex_lock, (self.locks[name],))

    def unlock(self, name: str) -> Work:
        """Give a lock back."""
        if self.mutex_lock and name in self.locks:
            yield CallGuest(self.mutex_unlock, (self.locks[name],))

    # -- lists -----------------------------------------------------------------------------------------------

    def set_state(self, namespace: Namespace, state: int) -> None:
        """Set `_r_debug.r_state` of a namespace: RT_CONSISTENT, RT_ADD or RT_DELETE."""
        namespace.state = state
        self.mirror.debug_state(namespace)

    def move_before(self, map_: LinkMap, other: LinkMap) -> None:
        """Move an object right before another in the list of its namespace.

        ld.so's list goes on beginning with the program, so it loses what is moved before that; here it
        stays. Raises Inconsistency for the assertion in which a module with TLS that is lost so ends.
        Source: glibc elf/rtld.c:init_tls.
        """
        namespace = self.namespaces[map_.ns]
        if other is namespace.main:
            if map_.tls_blocksize and not self.started:
                raise Inconsistency("rtld.c", 776, "init_tls", "i == GL(dl_tls_max_dtv_idx)")
            return
        namespace.maps.remove(map_)
        namespace.maps.insert(namespace.maps.index(other), map_)
        if self.started:
            self.mirror.chain(namespace)
