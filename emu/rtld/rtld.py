"""The dynamic linker's state, and start-up in phases with walls between them.

map -> TLS layout fixed -> relocated -> RELRO protected -> initialised -> running. Nothing here knows the CPU: guest code runs when
a generator yields `CallGuest`.

Source: glibc elf/rtld.c:dl_main.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from emu.core.effects import CallGuest, Effect
from emu.core.errors import EmuError, LoaderError
from emu.elf import constants as c
from emu.rtld.address_index import AddressIndex
from emu.rtld.audit import objopen, objsearch
from emu.rtld.dependency import RETURN_NEWEST
from emu.rtld.deps import map_deps, map_named
from emu.rtld.heap import Heap
from emu.rtld.link_map import LT_EXECUTABLE, LT_LIBRARY, LinkMap
from emu.rtld.lookup import find_symbol
from emu.rtld.map_object import adopt
from emu.rtld.mirror_view import MirrorView
from emu.rtld.scope import Namespace, Scope
from emu.rtld.search_path import SearchPath
from emu.rtld.startup import auditor_names, refuse_profiling
from emu.rtld.tls import Tls
from emu.rtld.vdso import bind_vdso
from emu.rtld.version import VersionWarning, check_map_versions

if TYPE_CHECKING:
    from emu.core.events import EventBus
    from emu.core.files import FileSystem
    from emu.core.types import Mappings, Memory
    from emu.elf.header import Phdr
    from emu.rtld.audit import Auditor
    from emu.rtld.search_view import MapView


Work = Generator[Effect, int, None]


class Entries(NamedTuple):
    """Guest addresses that relocation puts into slots: the lazy resolver and the TLS descriptor functions."""

    runtime_resolve: int
    runtime_profile: int
    tlsdesc_return: int
    tlsdesc_undefweak: int
    tlsdesc_dynamic: int


class MappedObject(NamedTuple):
    """An object that the kernel mapped: the program, the interpreter, the vDSO."""

    path: str
    bias: int
    entry: int
    phdr: int
    phdrs: list[Phdr]
    file_id: tuple[int, int]


class Caught(Protocol):
    """An error that ld.so's own machinery caught, to be looked at or passed on."""

    def text(self) -> str:
        """Return what dlerror would say of it."""

    def reason(self) -> str:
        """Return the message alone."""

    def signal(self) -> Work:
        """Leave the hosted function by raising it again."""


class Closing(Enum):
    """Whether a collection is going on, and whether it was asked to start over. Source: glibc elf/dl-close.c:dl_close_state."""

    NO = 0
    PENDING = 1
    RERUN = 2


UnloadRule = Literal["dtor-count", "nodelete-flag"]
"""What keeps an object with pending thread_local destructors: the count (2.23 and later), or NODELETE (2.18 to 2.22)."""


class VersionErrors(EmuError):
    """Symbol versions that are missing at start-up: ld.so names each and exits with 1."""

    exit_code = 1

    def __init__(self, errors: list[LoaderError]) -> None:
        super().__init__("\n".join(map(str, errors)))
        self.errors = errors


class Rtld:
    """All that the dynamic linker knows. `env` is the guest's environment; `program` is argv[0] as messages show it.

    `started` is true once the program's own code may run: what is loaded from then on can fail without ending the process. Of the services,
    `catching` runs a generator and returns the error that ended it, `uncaught` runs one in which ld.so's errors are fatal, `describe_caller` names
    the place of a call by its return address, `make_stacks_executable` is called for the first object that wants to run code there,
    `receive` (if any) takes the errors that ld.so can go on after, `on_unload` is told of an object
    before it is unmapped, `threads` yields the thread pointers of all threads. `lookups` and `cached_lookups` are counts for LD_DEBUG=statistics;
    `auditor_names` is None where no auditor is asked for; `auditors` are those that take part, and `allocator` with them
    is the part of the guest's allocator that ld.so's own use of memory is to be seen at.
    `accept_undefined` and `trace` are what LD_DEBUG=unused and LD_TRACE_LOADED_OBJECTS ask for.
    """

    def __init__(
        self,
        memory: Memory,
        mappings: Mappings,
        files: FileSystem,
        bus: EventBus,
        env: Mapping[str, str],
        program: str,
    ) -> None:
        self.memory, self.mappings, self.files, self.bus, self.program = memory, mappings, files, bus, program
        self.env = env
        self.namespaces = [Namespace(0)]
        self.heap = Heap(mappings, memory)
        self.tls = Tls(self)
        self.search = SearchPath(files, bus, env)
        self.mirror: MirrorView
        self.entries: Entries
        self.by_address: dict[int, LinkMap] = {}
        self.ld_so: LinkMap | None = None
        self.vdso: LinkMap | None = None
        self.vdso_functions: dict[bytes, int] = {}
        self.init_first: LinkMap | None = None
        self.keep_going = False
        self.missing: list[tuple[str, LinkMap]] = []
        self.write_error: Callable[[str], None] = lambda text: None
        self.describe: Callable[[int], str] = hex
        self.describe_caller: Callable[[int], str] = hex
        self.verbose = bool(env.get("LD_WARN"))
        self.dynamic_weak = "LD_DYNAMIC_WEAK" in env
        self.bind_now = bool(env.get("LD_BIND_NOW"))
        self.bind_not = bool(env.get("LD_BIND_NOT"))
        self.lookups = self.cached_lookups = 0
        self.auditor_names: list[str] | None = None
        self.auditors: list[Auditor] = []
        self.allocator: dict[bytes, int] = {}
        self._strings: dict[str, int] = {}
        self.accept_undefined = self.trace = False
        self.receive: Callable[[LoaderError], None] | None = None
        self.sort_algorithm = (
            1 if "glibc.rtld.dynamic_sort=1" in env.get("GLIBC_TUNABLES", "").split(":") else 2
        )
        self.debug_break = 0
        self.load_adds = 0
        self.index = AddressIndex()
        self.started = False
        self.closing = Closing.NO
        self.executable_stack = False
        self.make_stacks_executable: Callable[[], None] = lambda: None
        self.locks: dict[str, int] = {}
        self.mutex_lock = self.mutex_unlock = 0
        self.catching: Callable[[Work], Generator[Effect, int, Caught | None]]
        self.uncaught: Callable[[Work], Work]
        self.on_unload: Callable[[LinkMap], None] = lambda map_: None
        self.thread_pointer: Callable[[], int] = lambda: 0
        self.threads: Callable[[], Iterable[int]] = lambda: ()
        self.unload_rule: UnloadRule = "dtor-count"

    def next_serial(self) -> int:
        """Return the next load serial number: how many objects were ever loaded before."""
        self.load_adds += 1
        return self.load_adds - 1

    def guest_string(self, text: str) -> int:
        """Return the address of a string that stays: auditors may keep what they are shown."""
        if text not in self._strings:
            self._strings[text] = self.heap.string(text.encode(errors="surrogateescape"))
        return self._strings[text]

    # -- phase 1: map ------------------------------------------------------------------------------------------------

    def adopt(
        self,
        mapped: MappedObject,
        name: str,
        type_: int,
        found_by: str,
        mirror_address: int = 0,
        origin: str | None = None,
    ) -> LinkMap:
        """Make the link map of an object that the kernel has mapped; ld.so does not know what file that came from."""
        map_ = LinkMap(name, mapped.path, type_, 0, None)
        map_.addr, map_.entry, map_.phdr, map_.phdrs = mapped.bias, mapped.entry, mapped.phdr, mapped.phdrs
        map_.found_by, map_.origin = found_by, origin
        adopt(self, map_, mirror_address)
        return map_

    def begin(
        self, program: MappedObject, interpreter: MappedObject, vdso: MappedObject | None, ld_so_map: int
    ) -> None:
        """Begin the base namespace with what the kernel has mapped; find out about auditors. Raises LoaderError, ElfError.

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
        stack = next((p for p in main.phdrs if p.type == c.PT_GNU_STACK), None)
        self.executable_stack = stack is None or bool(stack.flags & c.PF_X)
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
        if self.vdso is not None:
            yield from objopen(self, self.vdso)
        yield from map_deps(self, main, preloads)
        self._place_ld_so(main)
        for map_ in main.searchlist:
            map_.global_ = True
        main.direct_opencount += 1
        self._check_versions(base)

    def _preload(self, main: LinkMap) -> Generator[Effect, int, list[LinkMap]]:
        """Load what LD_PRELOAD and /etc/ld.so.preload name; one that cannot be loaded is reported and left out."""
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
        """Put the interpreter where the search list first refers to it; take it off the list if nothing does."""
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
            check_map_versions(
                map_,
                self.memory,
                lambda name: self.find_loaded(name, namespace),
                self.program,
                self.bus,
                report,
            )
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

    # -- look-up -----------------------------------------------------------------------------------------------------

    def lookup(self, name: bytes, map_: LinkMap | None = None) -> int | None:
        """Return the address of a symbol as the program's global scope (or one object alone) defines it."""
        main = self.namespaces[0].main
        assert main is not None
        scopes = [Scope([map_])] if map_ is not None else main.scopes
        found = find_symbol(self, name, map_ or main, 0, scopes, None, 0, flags=RETURN_NEWEST)
        if found is None:
            return None
        return found[0].addr + found[0].symtab.fields(found[1])[4]

    def find_map(self, address: int) -> LinkMap | None:
        """Return the object that contains `address`, in any namespace."""
        return self.index.find(address)

    def objsearch(self, name: str, map_: MapView, code: int) -> Generator[Effect, int, str | None]:
        """Ask the auditors what to open in place of `name`."""
        return objsearch(self, name, map_, code)

    # -- locks ---------------------------------------------------------------------------------------------------------

    def lock(self, name: str) -> Work:
        """Take one of ld.so's recursive locks (by its member of `_rtld_global`) as libc takes it: by libc's own code."""
        if self.mutex_lock:
            yield CallGuest(self.mutex_lock, (self.locks[name],))

    def unlock(self, name: str) -> Work:
        """Give a lock back."""
        if self.mutex_lock:
            yield CallGuest(self.mutex_unlock, (self.locks[name],))

    # -- lists ---------------------------------------------------------------------------------------------------------

    def set_state(self, namespace: Namespace, state: int) -> None:
        """Set `_r_debug.r_state` of a namespace: RT_CONSISTENT, RT_ADD or RT_DELETE."""
        namespace.state = state
        self.mirror.debug_state(namespace)

    def move_before(self, map_: LinkMap, other: LinkMap) -> None:
        """Move an object right before another in the list of its namespace."""
        namespace = self.namespaces[map_.ns]
        namespace.maps.remove(map_)
        namespace.maps.insert(namespace.maps.index(other), map_)
        if self.started:
            self.mirror.chain(namespace)
