"""The dynamic linker's state, and start-up in phases with walls between them.

map -> TLS layout fixed -> relocated -> RELRO protected -> initialised -> running. Nothing here knows the CPU: guest code runs when
a generator yields `CallGuest`.

Source: glibc elf/rtld.c:dl_main.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

from emu.core.effects import CallGuest
from emu.core.errors import EmuError, LoaderError
from emu.elf import constants as c
from emu.rtld.deps import map_deps, map_named, set_up_scopes
from emu.rtld.heap import Heap
from emu.rtld.link_map import LT_EXECUTABLE, LT_LIBRARY, LinkMap
from emu.rtld.lookup import DYNAMIC_WEAK, Found, lookup_symbol
from emu.rtld.map_object import finish_map
from emu.rtld.relocate import emit_binding, reference_version
from emu.rtld.scope import Namespace, Scope
from emu.rtld.search_path import SearchPath
from emu.rtld.tls import Tls
from emu.rtld.version import VersionWarning, check_map_versions

if TYPE_CHECKING:
    from emu.core.events import EventBus
    from emu.core.files import FileSystem
    from emu.core.types import Mappings, Memory
    from emu.elf.header import Phdr


class Entries(NamedTuple):
    """Guest addresses that relocation puts into slots: the lazy resolver and the TLS descriptor functions."""

    runtime_resolve: int
    tlsdesc_return: int
    tlsdesc_undefweak: int
    tlsdesc_dynamic: int


class MirrorView(Protocol):
    """What the loader tells of its state to whoever keeps the guest's copy."""

    def new_map(self, map_: LinkMap, address: int = 0) -> None:
        """A new map exists."""

    def sync(self, map_: LinkMap) -> None:
        """A map changed."""

    def flags(self, map_: LinkMap) -> None:
        """A flag of a map changed."""

    def relocated(self, map_: LinkMap) -> None:
        """A map is relocated."""

    def dependencies(self, root: LinkMap) -> None:
        """The search list and init order of a closure are settled."""


class MappedObject(NamedTuple):
    """An object that the kernel mapped: the program, the interpreter, the vDSO."""

    path: str
    bias: int
    entry: int
    phdr: int
    phdrs: list[Phdr]
    file_id: tuple[int, int]


class VersionErrors(EmuError):
    """Symbol versions that are missing at start-up: ld.so names each and exits with 1."""

    exit_code = 1

    def __init__(self, errors: list[LoaderError]) -> None:
        super().__init__("\n".join(map(str, errors)))
        self.errors = errors


class Rtld:
    """All that the dynamic linker knows. `env` is the guest's environment; `program` is argv[0] as messages show it.

    `cwd` makes $ORIGIN of an object with a relative name absolute.
    """

    def __init__(
        self,
        memory: Memory,
        mappings: Mappings,
        files: FileSystem,
        bus: EventBus,
        env: Mapping[str, str],
        program: str,
        cwd: str,
    ) -> None:
        self.memory, self.mappings, self.files, self.bus, self.program = memory, mappings, files, bus, program
        self.env, self.cwd = env, cwd
        self.namespaces = [Namespace(0)]
        self.heap = Heap(mappings, memory)
        self.tls = Tls(self)
        self.search = SearchPath(files, bus, env)
        self.mirror: MirrorView
        self.entries: Entries
        self.by_address: dict[int, LinkMap] = {}
        self.ld_so: LinkMap | None = None
        self.vdso: LinkMap | None = None
        self.init_first: LinkMap | None = None
        self.keep_going = False
        self.missing: list[tuple[str, LinkMap]] = []
        self.write_error: Callable[[str], None] = lambda text: None
        self.describe: Callable[[int], str] = hex
        self.verbose = bool(env.get("LD_VERBOSE"))
        self.dynamic_weak = "LD_DYNAMIC_WEAK" in env
        self.bind_now = bool(env.get("LD_BIND_NOW"))
        self.sort_algorithm = (
            1 if "glibc.rtld.dynamic_sort=1" in env.get("GLIBC_TUNABLES", "").split(":") else 2
        )
        self.debug_break = 0
        self._serial = 0

    def next_serial(self) -> int:
        """Return the next load serial number."""
        self._serial += 1
        return self._serial - 1

    # -- phase 1: map ------------------------------------------------------------------------------------------------

    def adopt(self, mapped: MappedObject, name: str, type_: int, found_by: str) -> LinkMap:
        """Make the link map of an object that the kernel has mapped."""
        map_ = LinkMap(name, mapped.path, type_, 0, None)
        map_.addr, map_.entry, map_.phdr, map_.phdrs = mapped.bias, mapped.entry, mapped.phdr, mapped.phdrs
        map_.file_id, map_.found_by = mapped.file_id, found_by
        map_.lib_names = [name]
        finish_map(self, map_)
        return map_

    def load(
        self, program: MappedObject, interpreter: MappedObject, vdso: MappedObject | None, ld_so_map: int
    ) -> None:
        """Build the base namespace: the program, the vDSO, preloads, everything needed. Raises LoaderError, ElfError.

        `ld_so_map` is where the interpreter's own `struct link_map` lies (in its `_rtld_global`).
        """
        base = self.namespaces[0]
        main = self.adopt(program, "", LT_EXECUTABLE, "program")
        main.origin = self.files.realpath(program.path).rpartition("/")[0] or "/"
        base.main = main
        base.global_scope = main.local_scope = Scope(main.searchlist)
        main.searchlist.append(main)
        main.scopes = [base.global_scope]
        self.mirror.new_map(main)
        if vdso is not None:
            self.vdso = self.adopt(vdso, "linux-vdso.so.1", LT_LIBRARY, "vdso")
            self.vdso.relocated = True
            self.vdso.searchlist.append(self.vdso)
            set_up_scopes(self, self.vdso)
            self.mirror.new_map(self.vdso)
        ld_so = self.adopt(interpreter, interpreter.path, LT_LIBRARY, "interpreter")
        ld_so.lib_names = [interpreter.path]
        set_up_scopes(self, ld_so)
        self.ld_so = ld_so
        self.mirror.new_map(ld_so, ld_so_map)
        preloads = self._preload(main)
        map_deps(self, main, preloads)
        self._place_ld_so(main)
        for map_ in main.searchlist:
            map_.global_ = True
            if map_.dynamic.flags_1 & c.DF_1_INITFIRST:
                self.init_first = map_
        main.direct_opencount += 1
        self._check_versions(base)

    def _preload(self, main: LinkMap) -> list[LinkMap]:
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
                map_ = map_named(self, name, main, LT_LIBRARY, 0, source)
            except EmuError as error:
                reason = error.reason if hasattr(error, "reason") else getattr(error, "text", str(error))
                self.write_error(
                    f"ERROR: ld.so: object '{name}' from {source} cannot be preloaded ({reason}): ignored.\n"
                )
                continue
            if map_ not in maps and map_ is not main:
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
            before = main.searchlist[main.searchlist.index(ld_so) - 1]
            maps.insert(maps.index(before) + 1, ld_so)

    def _check_versions(self, namespace: Namespace) -> None:
        errors: list[LoaderError] = []
        for map_ in namespace.maps:
            errors += check_map_versions(
                map_, self.memory, lambda name: self.find_loaded(name, namespace), self.program
            )
        if self.ld_so is not None and self.ld_so not in namespace.maps:
            check_map_versions(self.ld_so, self.memory, lambda name: None)
        if self.keep_going:
            return
        if any(not isinstance(error, VersionWarning) for error in errors):
            raise VersionErrors(errors)
        for warning in errors:
            self.warn(str(warning))

    def find_loaded(self, name: str, namespace: Namespace) -> LinkMap | None:
        """Return the object of the namespace that is known as `name`."""
        for map_ in namespace.maps:
            if map_.matches_name(name):
                return map_
        return None

    # -- look-up -----------------------------------------------------------------------------------------------------

    def resolve(self, map_: LinkMap, symbol: int, type_class: int) -> Found | None:
        """Return what symbol number `symbol` of `map_` binds to; None for a weak one that nobody defines.

        Raises LoaderError "undefined symbol". Source: glibc elf/dl-reloc.c:RESOLVE_MAP.
        """
        st_name, info, other, _, _, _ = map_.symtab.fields(symbol)
        if symbol == 0:
            return map_, 0
        if info >> 4 == c.STB_LOCAL or other & 3 in (c.STV_HIDDEN, c.STV_INTERNAL):
            return map_, symbol
        name = map_.symtab.strings.at(st_name)
        version = reference_version(map_, symbol)
        flags = DYNAMIC_WEAK if self.dynamic_weak else 0
        found = lookup_symbol(
            name, map_, symbol, map_.scopes, version, type_class, self.namespaces, flags=flags
        )
        if found is None and info >> 4 != c.STB_WEAK:
            text = f"undefined symbol: {name.decode(errors='replace')}"
            if version is not None:
                text += f", version {version.name.decode(errors='replace')}"
            raise LoaderError(map_.name or self.program, text, occasion="symbol lookup error")
        return found

    def lookup(self, name: bytes, map_: LinkMap | None = None) -> int | None:
        """Return the address of a symbol as the program's global scope (or one object alone) defines it."""
        main = self.namespaces[0].main
        assert main is not None
        scopes = [Scope([map_])] if map_ is not None else main.scopes
        found = lookup_symbol(name, map_ or main, 0, scopes, None, 0, self.namespaces, flags=2)
        if found is None:
            return None
        return found[0].addr + found[0].symtab.fields(found[1])[4]

    def find_map(self, address: int) -> LinkMap | None:
        """Return the object that contains `address`, in any namespace."""
        for namespace in self.namespaces:
            for map_ in namespace.maps:
                if map_.map_start <= address < map_.map_end and map_.contains(address):
                    return map_
        return None

    # -- lazy binding ------------------------------------------------------------------------------------------------

    def fixup(self, map_: LinkMap, index: int) -> Generator[CallGuest, int, int]:
        """Bind PLT slot `index` of `map_` and return the function's address. Source: glibc elf/dl-runtime.c:_dl_fixup."""
        table, _ = map_.dynamic.table(c.DT_JMPREL)
        entry = self.memory.read(map_.addr + table + 24 * index, 24)
        offset, info = int.from_bytes(entry[:8], "little"), int.from_bytes(entry[8:16], "little")
        symbol, kind = info >> 32, info & 0xFFFFFFFF
        found = self.resolve(map_, symbol, 1)
        value = 0
        if found is not None:
            _, st_info, _, shndx, value, _ = found[0].symtab.fields(found[1])
            if shndx != c.SHN_ABS:
                value += found[0].addr
            if st_info & 15 == c.STT_GNU_IFUNC:
                value = yield CallGuest(value)
        if self.bus.bindings:
            emit_binding(self, map_, symbol, found, kind, offset, True)
        self.memory.write_u64(map_.addr + offset, value)
        return value
