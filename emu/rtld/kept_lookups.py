"""What the references of a program's objects are bound to, kept from one start to the next.

The look-ups of a start take half of the time of relocation, and come to the same each time: they depend on
nothing but the symbol tables, hash tables, strings and versions of the objects in the search list, their
names and order, and the rules of the release. What is kept is filed under a digest of all that, so whatever
differs finds nothing. Only plain results are kept: those that leave a trace (a unique symbol, a dependency, a
warning about a protected one) are looked up each time, as all are where somebody wants to hear of look-ups.

Source: the idea is prelink's (Jelinek, "Prelink"), which wrote such results into the files.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from emu.core import user_cache
from emu.elf import constants as c
from emu.rtld.found import symbol_of
from emu.rtld.link_map import LT_LOADED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.elf.symtab import SymbolTable
    from emu.rtld.found import Found
    from emu.rtld.link_map import LinkMap
    from emu.rtld.rtld import Rtld

_KIND = "lookups"
_FORM = "1"
"""To be raised when a look-up is changed, or what is kept of it."""
_NOTHING = 0xFFFF
"""Stands for the object of a weak reference that nobody serves."""
_CLASSES, _SYMBOLS = 8, 32
"""Bits of a key: the object of the reference, its type class in 8, its symbol in 32."""


class KeptLookups:
    """The look-ups of one start-up: what an earlier one has found, and what this one finds."""

    def __init__(self, maps: Sequence[LinkMap], rules: object) -> None:
        self._maps = list(maps)
        self._numbers = {id(map_): number for number, map_ in enumerate(maps)}
        self._name = _digest(maps, rules)
        data = user_cache.read(_KIND, self._name) or b""
        words = array("Q", data[: len(data) // 16 * 16])
        self._known = dict(zip(words[::2], words[1::2], strict=True))
        self._new: dict[int, int] = {}

    def knows(self, map_: LinkMap) -> bool:
        """Whether references of an object are kept: it looks into the search list, and nowhere else."""
        lists = [scope.maps for scope in map_.scopes]
        return id(map_) in self._numbers and len(lists) == 1 and lists[0] == self._maps

    def find(self, map_: LinkMap, symbol: int, class_: int) -> tuple[Found | None] | None:
        """Return what a reference binds to (None for a weak one that nobody serves) as the one member of a
        tuple, or None where that is not known.
        """
        key = (self._numbers[id(map_)] << _CLASSES | class_) << _SYMBOLS | symbol
        kept = self._known.get(key)
        if kept is None:
            return None
        number, index = kept >> _SYMBOLS, kept & 0xFFFFFFFF
        if number == _NOTHING:
            return (None,)
        if number >= len(self._maps) or index >= self._maps[number].symtab.count:
            return None
        return (symbol_of(self._maps[number], index),)

    def note(self, map_: LinkMap, symbol: int, class_: int, found: Found | None) -> None:
        """Keep what a look-up has found, if it has left no trace."""
        own = symbol_of(map_, symbol)
        if own.other & 3 != c.STV_DEFAULT:
            return
        number, index = _NOTHING, 0
        if found is not None:
            number, index = self._numbers.get(id(found.map), _NOTHING), found.number
            plain = found.info >> 4 in (c.STB_GLOBAL, c.STB_WEAK) and found.other & 3 == c.STV_DEFAULT
            if not plain or number == _NOTHING or found.map.type == LT_LOADED:
                return
        elif own.info >> 4 != c.STB_WEAK:
            return
        key = (self._numbers[id(map_)] << _CLASSES | class_) << _SYMBOLS | symbol
        self._new[key] = number << _SYMBOLS | index

    def keep(self) -> None:
        """Write what is new to the user's cache."""
        if self._new:
            pairs = (self._known | self._new).items()
            user_cache.write(
                _KIND, self._name, array("Q", [word for pair in pairs for word in pair]).tobytes()
            )


def open_kept(rtld: Rtld, main: LinkMap) -> KeptLookups | None:
    """Return the look-ups of a start-up if they may be kept: nobody wants to hear of them."""
    told = rtld.bus.symbols or rtld.bus.lookups or rtld.receive or rtld.accept_undefined
    if told or rtld.dynamic_weak or rtld.auditor_names is not None or not user_cache.is_wanted():
        return None
    maps = main.scopes[0].maps
    if any(map_.real is not map_ or map_.removed for map_ in maps) or len(maps) >= _NOTHING:
        return None
    return KeptLookups(maps, rtld.rules)


def _digest(maps: Sequence[LinkMap], rules: object) -> str:
    parts: list[bytes | memoryview] = [repr((_FORM, rules)).encode()]
    for map_ in maps:
        about = (map_.name, map_.lib_names, map_.soname, map_.type, map_.needed_1, map_.versions)
        parts += (repr(about).encode("utf-8", "surrogateescape"), *_tables(map_.symtab))
    sizes = repr([memoryview(part).nbytes for part in parts]).encode()
    return user_cache.digest(b"".join((sizes, *parts))).hex()


def _tables(table: SymbolTable) -> list[bytes | memoryview]:
    gnu, sysv = table.gnu_hash, table.sysv_hash
    head = (
        table.count,
        table.room,
        gnu and (gnu.nbuckets, gnu.symoffset, gnu.bloom_mask, gnu.shift),
        sysv and sysv.nchain,
    )
    parts = [repr(head).encode(), table.data, table.strings.data, table.versym or b""]
    parts += [] if gnu is None else [gnu.bloom, gnu.buckets, gnu.chain]
    return parts + ([] if sysv is None else [sysv.buckets, sysv.chain])
