"""The references of one object while it is relocated: what each symbol binds to, looked up once.

Source: glibc sysdeps/x86_64/dl-machine.h:elf_machine_type_class, elf/dl-reloc.c:RESOLVE_MAP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.errors import LoaderError
from emu.elf import constants as c
from emu.rtld.dependency import FOR_RELOCATE
from emu.rtld.found import Found, symbol_of
from emu.rtld.lookup import CLASS_COPY, CLASS_EXTERN, CLASS_PLT
from emu.rtld.runtime import bind, emit_binding

if TYPE_CHECKING:
    from emu.rtld.link_map import LinkMap
    from emu.rtld.rtld import Rtld

_TYPE_CLASS = {
    c.R_X86_64_COPY: CLASS_COPY,
    c.R_X86_64_JUMP_SLOT: CLASS_PLT,
    c.R_X86_64_DTPMOD64: CLASS_PLT,
    c.R_X86_64_DTPOFF64: CLASS_PLT,
    c.R_X86_64_TPOFF64: CLASS_PLT,
    c.R_X86_64_TLSDESC: CLASS_PLT,
}


def type_class(kind: int) -> int:
    """Return the look-up's type class for a relocation type:
    a reference of a PLT slot or TLS, of a COPY, or any other.
    """
    return _TYPE_CLASS.get(kind, 0)


class References:
    """The results of an object's look-ups by symbol and class.

    ld.so remembers only the last look-up. To remember all gives the same results; `_last` is what ld.so would
    have, for the count of look-ups. `bootstrap` tells that ld.so relocates itself: there is nobody else yet.
    `count` is how many were resolved.
    """

    def __init__(self, rtld: Rtld, map_: LinkMap, *, bootstrap: bool) -> None:
        self._rtld, self._map, self._bootstrap = rtld, map_, bootstrap
        self.count = 0
        self._last: tuple[int, int] | None = None
        self._cache: dict[tuple[int, int], Found | None] = {}
        self._kept = rtld.kept if rtld.kept is not None and rtld.kept.knows(map_) else None

    def resolve(self, symbol: int, kind: int, offset: int) -> Found | None:
        """Return what symbol `symbol` of the object binds to; None for an undefined weak one.

        Raises LoaderError.
        """
        self.count += 1
        class_ = _TYPE_CLASS.get(kind, 0)
        if kind == c.R_X86_64_GLOB_DAT and self._rtld.rules.protected_data_copied:
            class_ = CLASS_EXTERN
        key = symbol, class_
        cache, rtld = self._cache, self._rtld
        if self._bootstrap:
            return symbol_of(self._map, symbol)
        known = key in cache
        if known and key == self._last:
            rtld.cached_lookups += 1
            return cache[key]
        if not known and self._kept is not None and (kept := self._kept.find(self._map, symbol, class_)):
            return self._take(key, kept[0], kind, offset)
        if not known and self.binds_locally(symbol):
            return symbol_of(self._map, symbol)
        self._last = key
        if known and not (rtld.bus.symbols or rtld.bus.lookups or rtld.receive):
            rtld.lookups += 1
            return cache[key]
        try:
            found = cache[key] = bind(rtld, self._map, symbol, class_, FOR_RELOCATE)
        except LoaderError:
            if rtld.bus.bindings:
                self.announce(symbol, None, kind, offset, lazy=False)
            raise
        if not known and self._kept is not None:
            self._kept.note(self._map, symbol, class_, found)
        if rtld.bus.bindings and not known:
            self.announce(symbol, found, kind, offset, lazy=False)
        return found

    def _take(self, key: tuple[int, int], found: Found | None, kind: int, offset: int) -> Found | None:
        """Bind as an earlier start has, and leave the traces of a look-up."""
        self._last = key
        self._cache[key] = found
        self._rtld.lookups += 1
        if found is not None:
            found.map.used = True
        if self._rtld.bus.bindings:
            self.announce(key[0], found, kind, offset, lazy=False)
        return found

    def binds_locally(self, symbol: int) -> bool:
        """Whether the reference is to the object's own symbol by its kind, without a look-up."""
        if not self._map.symtab.count:
            return True
        _, info, other, _, _, _ = self._map.symtab.entry(symbol)
        return info >> 4 == c.STB_LOCAL or other & 3 in (c.STV_HIDDEN, c.STV_INTERNAL)

    def announce(self, symbol: int, found: Found | None, kind: int, offset: int, *, lazy: bool) -> None:
        """Emit the Binding event."""
        emit_binding(self._rtld, self._map, symbol, found, kind, offset, lazy)
