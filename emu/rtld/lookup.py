"""Symbol look-up: which object's definition a reference binds to.

The first acceptable definition (`emu.rtld.match`) in scope order wins; a strong one does not beat a weak one that comes earlier.

Source: glibc elf/dl-lookup.c:_dl_lookup_symbol_x, do_lookup_x, do_lookup_unique.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from emu.core.errors import LoaderError
from emu.core.ldso_events import ObjectSearched, SymbolBound
from emu.elf import constants as c
from emu.elf.hash import gnu_hash, sysv_hash
from emu.rtld.dependency import ADD_DEPENDENCY, add_dependency, is_nodelete, mark_nodelete
from emu.rtld.link_map import LT_EXECUTABLE, LT_LOADED
from emu.rtld.match import match
from emu.rtld.verdict import Verdict

if TYPE_CHECKING:
    from emu.rtld.link_map import LinkMap
    from emu.rtld.rtld import Rtld
    from emu.rtld.scope import Scope
    from emu.rtld.verdict import Watch
    from emu.rtld.version import Version

CLASS_PLT, CLASS_COPY = 1, 2
"""Type classes of a reference: a PLT slot or TLS (an undefined symbol with a value does not do), a COPY relocation."""

DYNAMIC_WEAK = 1 << 8
"""Flag of LD_DYNAMIC_WEAK: a weak definition counts only where no scope has a strong one."""

Found = tuple["LinkMap", int]
"""The defining object and the index of the symbol in its table."""


def lookup_symbol(
    rtld: Rtld,
    name: bytes,
    undef_map: LinkMap,
    reference: int,
    scopes: Iterable[Scope],
    version: Version | None,
    type_class: int,
    *,
    flags: int = 0,
    skip_map: LinkMap | None = None,
    watch: Watch | None = None,
) -> Found | None:
    """Return the definition that `name` binds to, or None; what is found counts as used.

    `reference` is the index of the symbol in `undef_map`'s own table (0: there is none). With `skip_map` the search begins behind that
    object in the first scope. With the flag ADD_DEPENDENCY the object found is kept as long as `undef_map` is there. `watch` is told of
    every object looked at; the look-up then changes nothing (and `flags` must not ask for it).
    Raises ElfError for a broken hash table.
    """
    if watch is None:
        rtld.lookups += 1
        flags |= DYNAMIC_WEAK if rtld.dynamic_weak else 0
    found = find_symbol(
        rtld,
        name,
        undef_map,
        reference,
        scopes,
        version,
        type_class,
        flags=flags,
        skip_map=skip_map,
        tell=rtld.bus.symbols and watch is None,
        watch=watch,
    )
    if found is not None and watch is None:
        found[0].used = True
        if rtld.bus.lookups:
            protected = bool(reference) and undef_map.symtab.data[reference * 24 + 5] & 3 == c.STV_PROTECTED
            rtld.bus.emit(
                SymbolBound(
                    name.decode(errors="surrogateescape"),
                    version.name.decode(errors="surrogateescape") if version is not None else "",
                    undef_map.display_name,
                    undef_map.ns,
                    found[0].display_name,
                    found[0].ns,
                    protected,
                )
            )
    return found


def find_symbol(
    rtld: Rtld,
    name: bytes,
    undef_map: LinkMap,
    reference: int,
    scopes: Iterable[Scope],
    version: Version | None,
    type_class: int,
    *,
    flags: int = 0,
    skip_map: LinkMap | None = None,
    tell: bool = False,
    watch: Watch | None = None,
) -> Found | None:
    """As `lookup_symbol`, for a question that is nobody's reference: it does not count. `tell` of each object searched."""
    value = gnu_hash(name)
    terminated = name + b"\0"
    found = weak = None
    for scope in scopes:
        maps: Sequence[LinkMap] = scope.maps
        if skip_map is not None and skip_map in maps:
            maps = maps[maps.index(skip_map) :]
        found = _search(
            name,
            terminated,
            value,
            maps,
            version,
            type_class,
            flags,
            skip_map,
            undef_map,
            reference,
            rtld,
            watch,
            tell,
        )
        if (
            found is not None
            and flags & DYNAMIC_WEAK
            and found[0].symtab.data[found[1] * 24 + 4] >> 4 == c.STB_WEAK
        ):
            weak = weak or found
            found = None
        if found is not None:
            break
    found = found or weak
    if reference and undef_map.symtab.data[reference * 24 + 5] & 3 == c.STV_PROTECTED and found is not None:
        found = _protected(
            found,
            name,
            terminated,
            value,
            undef_map,
            reference,
            scopes,
            version,
            type_class,
            flags,
            rtld,
            watch,
            tell,
        )
        if watch is not None and found == (undef_map, reference):
            watch(undef_map, reference, Verdict.PROTECTED)
    if found is not None and flags & ADD_DEPENDENCY and found[0].type == LT_LOADED:
        add_dependency(rtld, undef_map, found[0], flags, name)
    return found


def _protected(
    found: Found,
    name: bytes,
    terminated: bytes,
    value: int,
    undef_map: LinkMap,
    reference: int,
    scopes: Iterable[Scope],
    version: Version | None,
    type_class: int,
    flags: int,
    rtld: Rtld,
    watch: Watch | None,
    tell: bool,
) -> Found:
    """A reference by a protected definition of one's own stays at home; only a COPY elsewhere of one's own data is taken."""
    if type_class == CLASS_PLT:
        return (undef_map, reference) if found[0] is not undef_map else found
    for scope in scopes:
        other = _search(
            name,
            terminated,
            value,
            scope.maps,
            version,
            CLASS_PLT,
            flags,
            None,
            undef_map,
            reference,
            rtld,
            None if watch is None else _tell_nobody,
            tell,
        )
        if other is not None:
            return (undef_map, reference) if other[0] is not undef_map else found
    return found


def _search(
    name: bytes,
    terminated: bytes,
    value: int,
    maps: Sequence[LinkMap],
    version: Version | None,
    type_class: int,
    flags: int,
    skip_map: LinkMap | None,
    undef_map: LinkMap,
    reference: int,
    rtld: Rtld,
    watch: Watch | None,
    tell: bool,
) -> Found | None:
    bloom_bit = value >> 6
    weak = None
    for listed in maps:
        map_ = listed.real
        if tell and not (map_ is skip_map or map_.removed or (type_class & CLASS_COPY and map_.type == 0)):
            text = name.decode(errors="surrogateescape")
            rtld.bus.emit(ObjectSearched(text, map_.display_name, map_.ns))
        table = map_.symtab
        gnu = table.gnu_hash
        if gnu is not None:
            word = gnu.bloom[bloom_bit & gnu.bloom_mask]
            if not (word >> (value & 63)) & (word >> ((value >> gnu.shift) & 63)) & 1:
                if watch is not None:
                    watch(map_, -1, Verdict.BLOOM)
                continue
            candidates = gnu.candidates(name, value)
        elif table.sysv_hash is not None:
            candidates = table.sysv_hash.candidates(name, sysv_hash(name))
        else:
            if watch is not None:
                watch(map_, -1, Verdict.NO_HASH_TABLE)
            continue
        if map_ is skip_map or map_.removed or (type_class & CLASS_COPY and map_.type == 0):
            if watch is not None:
                skipped = Verdict.SKIPPED if map_ is skip_map else Verdict.EXECUTABLE
                watch(map_, -1, Verdict.REMOVED if map_.removed else skipped)
            continue
        index = match(map_, candidates, terminated, version, type_class, flags, watch)
        if index < 0:
            if watch is not None:
                watch(map_, -1, Verdict.NO_NAME)
            continue
        info, other = table.data[index * 24 + 4], table.data[index * 24 + 5]
        if other & 3 in (c.STV_HIDDEN, c.STV_INTERNAL):
            if watch is not None:
                watch(map_, index, Verdict.HIDDEN)
            continue
        if other & 3 == c.STV_PROTECTED and undef_map.type == LT_EXECUTABLE:
            _check_protected(rtld, name, undef_map, reference, map_, type_class)
        bind = info >> 4
        if bind == c.STB_WEAK and flags & DYNAMIC_WEAK:
            weak = weak or (map_, index)
            if watch is not None:
                watch(map_, index, Verdict.WEAK_FOR_NOW)
        elif bind in (c.STB_GLOBAL, c.STB_WEAK):
            return map_, index
        if bind == c.STB_GNU_UNIQUE:
            if watch is not None:
                return _ask_unique(rtld, name, map_, index, type_class, watch)
            return _unique(rtld, name, map_, index, type_class, undef_map, reference, flags)
        if watch is not None and bind != c.STB_WEAK:
            watch(map_, index, Verdict.LOCAL)
    return weak


def _check_protected(
    rtld: Rtld, name: bytes, undef_map: LinkMap, reference: int, map_: LinkMap, type_class: int
) -> None:
    """Say where an executable takes a copy of protected data, or fixes the address of a protected function, which the object itself does not use.

    Raises LoaderError where the object says that it cannot stand that. Source: glibc sysdeps/generic/dl-protected.h.
    """
    symbol = name.decode(errors="surrogateescape")
    if type_class & CLASS_COPY:
        text = f"copy relocation against non-copyable protected symbol `{symbol}' in `{map_.name}'"
    elif type_class & CLASS_PLT and reference and _is_undefined_with_value(undef_map, reference):
        text = (
            f"direct reference to protected function `{symbol}' in `{map_.name}' may break pointer equality"
        )
    else:
        return
    rtld.write_error(f"warning: {text}\n")
    if map_.needed_1 & c.GNU_PROPERTY_1_NEEDED_INDIRECT_EXTERN_ACCESS:
        raise LoaderError(
            map_.name, "error due to GNU_PROPERTY_1_NEEDED_INDIRECT_EXTERN_ACCESS", occasion=symbol
        )


def _is_undefined_with_value(map_: LinkMap, index: int) -> bool:
    _, _, _, shndx, value, _ = map_.symtab.fields(index)
    return shndx == c.SHN_UNDEF and value != 0


def _tell_nobody(map_: LinkMap, index: int, verdict: Verdict) -> None:
    """Keep a second search of a watched look-up without consequences; the first has told all."""


def _ask_unique(rtld: Rtld, name: bytes, map_: LinkMap, index: int, type_class: int, watch: Watch) -> Found:
    """Return what `_unique` would, without the consequences."""
    known = rtld.namespaces[map_.ns].unique.get(name)
    if known is None or type_class & CLASS_COPY:
        watch(map_, index, Verdict.FIRST_UNIQUE)
        return map_, index
    watch(map_, index, Verdict.UNIQUE)
    return known


def _unique(
    rtld: Rtld,
    name: bytes,
    map_: LinkMap,
    index: int,
    type_class: int,
    undef_map: LinkMap,
    reference: int,
    flags: int,
) -> Found:
    """The first definition of a unique symbol that is found in a namespace becomes everybody's, and so its object must stay.

    Source: glibc elf/dl-lookup.c:do_lookup_unique.
    """
    unique = rtld.namespaces[map_.ns].unique
    known = unique.get(name)
    if known is not None:
        return (map_, index) if type_class & CLASS_COPY else known
    if type_class & CLASS_COPY:
        unique[name] = (undef_map, reference)
        return map_, index
    unique[name] = (map_, index)
    if map_.type == LT_LOADED and not is_nodelete(map_, flags):
        mark_nodelete(rtld, map_, flags, "unique symbol", undef_map, name)
    return map_, index
