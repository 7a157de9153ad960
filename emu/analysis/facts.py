"""Facts about one symbol in one process: where its name occurs, and what a symbol table says of it there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from emu.analysis.answer import Definition
from emu.analysis.data import Address
from emu.elf import constants as c

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.process import Process
    from emu.process.symbols import Symbols
    from emu.rtld.found import Found
    from emu.rtld.link_map import LinkMap
    from emu.rtld.rtld import Rtld

_M64 = (1 << 64) - 1
_INTERNAL = re.compile(rb"L\d|12_GLOBAL__N_1")
"""In a mangled name: of internal linkage.

Source: Itanium C++ ABI 5.1.2 (`L`), GCC and clang for anonymous namespaces.
"""
_BINDINGS = {c.STB_LOCAL: "LOCAL", c.STB_GLOBAL: "GLOBAL", c.STB_WEAK: "WEAK", c.STB_GNU_UNIQUE: "UNIQUE"}
_TYPES = {
    c.STT_NOTYPE: "NOTYPE", c.STT_OBJECT: "OBJECT", c.STT_FUNC: "FUNC", c.STT_SECTION: "SECTION", c.STT_FILE: "FILE",
    c.STT_COMMON: "COMMON", c.STT_TLS: "TLS", c.STT_GNU_IFUNC: "IFUNC",
}  # fmt: skip
_VISIBILITIES = ("DEFAULT", "INTERNAL", "HIDDEN", "PROTECTED")


def binding_name(info: int) -> str:
    """Return STB_* without its prefix, from st_info."""
    return _BINDINGS.get(info >> 4, f"BINDING {info >> 4}")


def type_name(info: int) -> str:
    """Return STT_* without its prefix, from st_info."""
    return _TYPES.get(info & 15, f"TYPE {info & 15}")


def visibility_name(other: int) -> str:
    """Return STV_* without its prefix, from st_other."""
    return _VISIBILITIES[other & 3]


class Facts:
    """What is asked again and again while one symbol of one process is explained; `name` is the symbol's,
    as bytes.
    """

    def __init__(self, process: Process, rtld: Rtld, name: bytes) -> None:
        self.process, self.rtld, self.name = process, rtld, name
        self.symbols: Symbols = process.symbols
        self._indexes: dict[LinkMap, list[int]] = {}

    def objects(self) -> Iterator[LinkMap]:
        """Yield every loaded object in load order, namespace by namespace;
        the stand-ins for ld.so are no objects of their own.
        """
        for namespace in self.rtld.namespaces:
            yield from (map_ for map_ in namespace.maps if map_.real is map_)

    def indexes(self, map_: LinkMap) -> list[int]:
        """Return the indexes of the symbols of that name in an object's table."""
        known = self._indexes.get(map_)
        if known is None:
            table = map_.symtab
            strings, terminated = table.strings, self.name + b"\0"
            known = self._indexes[map_] = [
                index for index in range(1, table.count) if strings.holds(terminated, table.entry(index).name)
            ]
        return known

    def definition(self, found: Found) -> Definition:
        """Return what was found as data."""
        map_, index, info, other, shndx, value, size = found
        version, kind = self.version(map_, index)
        address = None if found.type == c.STT_TLS else found.address
        return Definition(
            map_.display_name, map_.ns, version, kind, binding_name(info), type_name(info), visibility_name(other), size,
            Address(value), None if address is None else Address(address),
            self.symbols.source(address) if address is not None and info & 15 in (c.STT_FUNC, c.STT_GNU_IFUNC) and shndx else "",
        )  # fmt: skip

    def version(self, map_: LinkMap, index: int) -> tuple[str, str]:
        """Return the version of a definition and its kind: none, base, default or hidden."""
        versym = map_.symtab.versym
        if versym is None:
            return "", "none"
        number = versym[index]
        at = number & 0x7FFF
        version = map_.versions[at] if at < len(map_.versions) else None
        if version is None:
            return "", "base"
        return version.name.decode(errors="replace"), "hidden" if number & 0x8000 else "default"

    def remark(self, map_: LinkMap) -> str:
        """Return what a look-up that finds nothing in an object does not say of it."""
        for index in self.indexes(map_)[:1]:
            _, info, _, shndx, _, _ = map_.symtab.entry(index)
            if shndx == c.SHN_UNDEF:
                return "it refers to the name itself" + (" (weakly)" if info >> 4 == c.STB_WEAK else "")
            return "its symbol table has one, but no hash table leads there"
        found = self.symbols.unexported(map_, self.name)
        if found is None:
            return ""
        if found.visibility == c.STV_DEFAULT and found.bind != c.STB_LOCAL:
            return "it defines it, but does not export it"
        if found.visibility != c.STV_DEFAULT:
            return f"it has a {visibility_name(found.visibility).lower()} one, which it does not export"
        external = self.external(map_)
        if external is None:
            return "it has a local one, which it does not export: static, or made local when it was linked"
        if external:
            return "it has one that is not static: -fvisibility=hidden, its version script (local:) or --exclude-libs keeps it from being exported"
        return "it has a static one, which it does not export"

    def external(self, map_: LinkMap) -> bool | None:
        """Whether the definition that an object keeps to itself has external linkage in its source;
        None if nothing tells.

        What a version script or --exclude-libs makes local looks like a static one in .symtab; only the
        debugging information knows.
        """
        found = self.symbols.unexported(map_, self.name)
        if found is None:
            return None
        if self.name.startswith(b"_Z"):
            return _INTERNAL.search(self.name) is None
        return self.symbols.is_external(map_, found)

    def unexported(self, map_: LinkMap) -> Definition | None:
        """Return the definition of the name that only an object's static symbol table has,
        as it would be if it were exported.
        """
        found = self.symbols.unexported(map_, self.name)
        if found is None:
            return None
        info = found.bind << 4 | found.type
        tls = found.type == c.STT_TLS
        address = None if tls else Address(found.value + map_.addr & _M64)
        return Definition(
            map_.display_name, map_.ns, "", "none", binding_name(info), type_name(info), visibility_name(found.visibility), found.size,
            Address(found.value), address,
            self.symbols.source(address) if address is not None and found.type in (c.STT_FUNC, c.STT_GNU_IFUNC) else "",
        )  # fmt: skip
