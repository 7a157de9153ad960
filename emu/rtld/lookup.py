"""Symbol look-up: which object's definition a reference binds to.

The first acceptable definition (`emu.rtld.match`) in scope order wins; a strong one does not beat a weak one
that comes earlier.

Source: glibc elf/dl-lookup.c:_dl_lookup_symbol_x, do_lookup_x, do_lookup_unique.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from emu.core.errors import ElfError, Inconsistency, LoaderError
from emu.core.ldso_events import ObjectSearched, SymbolBound
from emu.core.record import NamedTuple
from emu.elf import constants as c
from emu.elf.hash import gnu_hash, sysv_hash
from emu.elf.relocations import iter_rela
from emu.rtld.dependency import ADD_DEPENDENCY, add_dependency, is_nodelete, mark_nodelete
from emu.rtld.failure import LostVersion
from emu.rtld.found import Found, symbol_of
from emu.rtld.link_map import LT_EXECUTABLE, LT_LOADED
from emu.rtld.match import LOST_VERSION, match
from emu.rtld.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from emu.rtld.link_map import LinkMap
    from emu.rtld.rtld import Rtld
    from emu.rtld.scope import Scope
    from emu.rtld.verdict import Telling, Watch
    from emu.rtld.version import Version

CLASS_PLT, CLASS_COPY, CLASS_EXTERN = 1, 2, 4
"""Type classes of a reference: a PLT slot or TLS (an undefined symbol with a
value does not do), a COPY relocation.
"""

DYNAMIC_WEAK = 1 << 8
"""Flag of LD_DYNAMIC_WEAK: a weak definition counts only where no scope has a strong one."""


class Query(NamedTuple):
    """What is looked up: a name on behalf of the object `map`.

    `reference` is the number of the symbol in that object's own table (0: there is none). `type_class` holds
    CLASS_* bits, `flags` those of `emu.rtld.dependency` (with ADD_DEPENDENCY the object found is kept as long
    as `map` is there) and DYNAMIC_WEAK. With `skip` the search begins behind that object in each scope that
    lists it.
    """

    name: bytes
    map: LinkMap
    reference: int = 0
    version: Version | None = None
    type_class: int = 0
    flags: int = 0
    skip: LinkMap | None = None


def lookup_symbol(
    rtld: Rtld, query: Query, scopes: Sequence[Scope], watch: Watch | None = None
) -> Found | None:
    """Return the definition that a reference binds to, or None; what is found counts as used.

    `watch` is told of every object looked at; the look-up then changes nothing (and `flags` must not ask for
    it).
    Raises ElfError for a broken hash table, Inconsistency and LoaderError for what ld.so dies of.
    """
    if watch is not None:
        return find_symbol(rtld, query, scopes, watch=watch)
    rtld.lookups += 1
    if rtld.dynamic_weak:
        query = query._replace(flags=query.flags | DYNAMIC_WEAK)
    found = find_symbol(rtld, query, scopes, tell=rtld.bus.symbols)
    if found is not None:
        found.map.used = True
        if rtld.bus.lookups:
            _tell_bound(rtld, query, found)
    return found


def peek_symbol(rtld: Rtld, query: Query, scopes: Sequence[Scope]) -> Found | None:
    """Return what `lookup_symbol` would, and change nothing."""
    return find_symbol(rtld, query, scopes, watch=_nobody)


def find_symbol(
    rtld: Rtld, query: Query, scopes: Sequence[Scope], *, tell: bool = False, watch: Watch | None = None
) -> Found | None:
    """As `lookup_symbol`, for a question that is nobody's reference: it does not count.

    `tell` of each object searched.
    """
    search = _Search(rtld, query, tell, watch)
    flags, skip = query.flags, query.skip
    found = weak = None
    for scope in scopes:
        maps: Sequence[LinkMap] = scope.maps
        if skip is not None and skip in maps:
            maps = maps[maps.index(skip) :]
        found = search.among(maps)
        if found is not None and flags & DYNAMIC_WEAK and found.info >> 4 == c.STB_WEAK:
            weak = weak or found
            found = None
        if found is not None:
            break
    found = found or weak
    if found is None:
        return None
    if query.reference and symbol_of(query.map, query.reference).other & 3 == c.STV_PROTECTED:
        found = _protected(rtld, query, scopes, found, tell, watch)
    if flags & ADD_DEPENDENCY and found.map.type == LT_LOADED:
        add_dependency(rtld, query.map, found.map, flags, query.name)
    return found


def _nobody(map_: LinkMap, index: int, verdict: Verdict) -> None:
    """Watch a look-up only to keep it without consequences."""


def _tell_bound(rtld: Rtld, query: Query, found: Found) -> None:
    map_, version = query.map, query.version
    protected = bool(query.reference) and symbol_of(map_, query.reference).visibility == c.STV_PROTECTED
    rtld.bus.emit(
        SymbolBound(
            query.name.decode(errors="surrogateescape"),
            version.name.decode(errors="surrogateescape") if version is not None else "",
            map_.display_name, map_.ns, found.map.display_name, found.map.ns, protected, version is not None,
        )
    )  # fmt: skip


def _is_copy(rtld: Rtld, found: Found) -> bool:
    """Whether a definition is the program's copy of somebody's data."""
    if found.map.type != LT_EXECUTABLE:
        return False
    table = found.map.table(rtld.memory, c.DT_RELA)
    wanted = found.number << 32 | c.R_X86_64_COPY
    return any(info == wanted for _, info, _ in iter_rela(table, found.map.display_name))


def _protected(
    rtld: Rtld, query: Query, scopes: Sequence[Scope], found: Found, tell: bool, watch: Watch | None
) -> Found:
    """A reference by a protected definition of one's own stays at home;
    only a COPY elsewhere of one's own data is taken.
    """
    away = found.map is not query.map
    if query.type_class != CLASS_PLT:
        # The first search has told all; this one is only not to have consequences if that one was watched.
        again = query._replace(type_class=CLASS_PLT, skip=None)
        if query.type_class == CLASS_EXTERN and symbol_of(query.map, query.reference).type == c.STT_OBJECT:
            again = again._replace(skip=found.map if _is_copy(rtld, found) else None)
        search = _Search(rtld, again, tell, None if watch is None else _nobody)
        others = (search.among(scope.maps) for scope in scopes)
        other = next((one for one in others if one is not None), None)
        away = other is not None and other.map is not query.map
    if away:
        found = symbol_of(query.map, query.reference)
    if watch is not None and found.map is query.map and found.number == query.reference:
        watch(found.map, found.number, Verdict.PROTECTED)
    return found


_Outcome = tuple[int, Verdict, Found | None]
"""What one object amounts to: the symbol (-1: none), what is said of it, and the
definition if the search ends here.
"""
_LOST_VERSION, _WEAK_FOR_NOW = Verdict.LOST_VERSION, Verdict.WEAK_FOR_NOW
_EXCLUDED: _Outcome = -1, Verdict.BLOOM, None


class _Search:
    """One search: the query, the hash of its name, and who is told of the way."""

    __slots__ = ("_hash", "_passed", "_query", "_rtld", "_tell", "_terminated", "_watch")

    def __init__(self, rtld: Rtld, query: Query, tell: bool, watch: Watch | None) -> None:
        self._rtld, self._query, self._tell, self._watch = rtld, query, tell, watch
        self._hash = gnu_hash(query.name)
        self._terminated = query.name + b"\0"
        self._passed: list[Telling] | None = None if watch is None else []

    def among(self, maps: Sequence[LinkMap]) -> Found | None:
        """Return the definition that one search list has."""
        value, tell, watch = self._hash, self._tell, self._watch
        word_of, first = value >> 6, value & 63
        weak = None
        for listed in maps:
            map_ = listed.real
            if tell:
                self._tell_object(map_)
            gnu = map_.symtab.gnu_hash
            if gnu is not None:
                try:
                    word = gnu.bloom[word_of & gnu.bloom_mask]
                    passes = (word >> first) & (word >> ((value >> gnu.shift) & 63)) & 1
                    candidates = gnu.chain_of(value) if passes else ()
                except (IndexError, ElfError):
                    if self._is_passed_over(map_):  # ld.so does not look into its table then
                        continue
                    raise ElfError(map_.display_name, "DT_GNU_HASH leads out of the object") from None
                if passes:
                    if not candidates and watch is None:
                        continue
                    index, verdict, found = self._object(map_, candidates)
                elif watch is None:
                    continue
                else:
                    index, verdict, found = _EXCLUDED
            else:
                index, verdict, found = self._without_filter(map_)
            if watch is not None:
                for told in self._passed or ():
                    watch(map_, *told)
                self._passed = []
                watch(map_, index, verdict)
            if found is None:
                if verdict is _LOST_VERSION:
                    error = Inconsistency("dl-lookup.c", 107, "check_match", LOST_VERSION)
                    error.fact = LostVersion(self._query.map, self._query.version, map_)
                    raise error
            elif verdict is not _WEAK_FOR_NOW:
                return found
            else:
                weak = weak or found
        return weak

    def _is_gone(self, map_: LinkMap) -> bool:
        """Whether an object that is being unloaded serves nobody any more:
        in some releases it does serve others that are, too.
        """
        return map_.removed and not (self._query.map.removed and self._rtld.rules.removed_bind_to_removed)

    def _is_passed_over(self, map_: LinkMap) -> bool:
        query = self._query
        return bool(
            map_ is query.skip
            or self._is_gone(map_)
            or (query.type_class & CLASS_COPY and map_.type == LT_EXECUTABLE)
        )

    def _tell_object(self, map_: LinkMap) -> None:
        if not self._is_passed_over(map_):
            name = self._query.name.decode(errors="surrogateescape")
            self._rtld.bus.emit(ObjectSearched(name, map_.display_name, map_.ns))

    def _without_filter(self, map_: LinkMap) -> _Outcome:
        """Look into an object that has no DT_GNU_HASH."""
        table, name = map_.symtab.sysv_hash, self._query.name
        if table is None:
            return -1, Verdict.NO_HASH_TABLE, None
        return self._object(map_, table.candidates(name, sysv_hash(name)))

    def _object(self, map_: LinkMap, candidates: Iterable[int]) -> _Outcome:
        """Decide between the symbols of one object that may have the name."""
        query = self._query
        if map_.removed and self._is_gone(map_):
            return -1, Verdict.REMOVED, None
        if map_ is query.skip:
            return -1, Verdict.SKIPPED, None
        if query.type_class & CLASS_COPY and map_.type == LT_EXECUTABLE:
            return -1, Verdict.EXECUTABLE, None
        index, verdict = match(map_, candidates, self._terminated, query, self._passed, self._rtld.rules)
        if index < 0 or verdict is _LOST_VERSION:
            return index, verdict, None
        found = symbol_of(map_, index)
        visibility, bind, passed = found.other & 3, found.info >> 4, self._passed
        if visibility != c.STV_DEFAULT:
            if visibility != c.STV_PROTECTED:
                if passed is not None:
                    passed.append((index, verdict))
                return index, Verdict.HIDDEN, None
            if query.map.type == LT_EXECUTABLE and not self._rtld.rules.protected_data_copied:
                self._check_protected(map_)
        if bind == c.STB_GLOBAL or bind == c.STB_WEAK and not query.flags & DYNAMIC_WEAK:
            return index, verdict, found
        if passed is not None:
            passed.append((index, verdict))
        if bind == c.STB_WEAK:
            return index, Verdict.WEAK_FOR_NOW, found
        if bind == c.STB_GNU_UNIQUE:
            return index, *self._unique(found)
        return index, Verdict.LOCAL, None

    def _check_protected(self, map_: LinkMap) -> None:
        """Say where an executable takes a copy of protected data, or fixes the address of a protected
        function, which the object itself does not use.

        Raises LoaderError where the object says that it cannot stand that. Source: glibc
        sysdeps/generic/dl-protected.h.
        """
        query, rtld = self._query, self._rtld
        symbol = query.name.decode(errors="surrogateescape")
        own = symbol_of(query.map, query.reference)
        if query.type_class & CLASS_COPY:
            text = f"copy relocation against non-copyable protected symbol `{symbol}' in `{map_.name}'"
        elif query.type_class & CLASS_PLT and own.value and own.shndx == c.SHN_UNDEF:
            text = f"direct reference to protected function `{symbol}' in `{map_.name}' may break pointer equality"
        else:
            return
        if self._watch is None:
            rtld.write_error(f"warning: {text}\n")
        if map_.needed_1 & c.GNU_PROPERTY_1_NEEDED_INDIRECT_EXTERN_ACCESS:
            raise LoaderError(
                map_.name, "error due to GNU_PROPERTY_1_NEEDED_INDIRECT_EXTERN_ACCESS", occasion=symbol
            )

    def _unique(self, found: Found) -> tuple[Verdict, Found]:
        """The first definition of a unique symbol that is found in a namespace
        becomes everybody's, and so its object must stay.

        Source: glibc elf/dl-lookup.c:do_lookup_unique.
        """
        query, map_ = self._query, found.map
        unique = self._rtld.namespaces[map_.ns].unique
        known = unique.get(query.name)
        copy = query.type_class & CLASS_COPY
        if known is not None and not copy:
            return Verdict.UNIQUE, known
        if known is None and self._watch is None:
            unique[query.name] = symbol_of(query.map, query.reference) if copy else found
            if not copy and map_.type == LT_LOADED and not is_nodelete(map_, query.flags):
                mark_nodelete(self._rtld, map_, query.flags, "unique symbol", query.map, query.name)
        return Verdict.FIRST_UNIQUE, found
