"""/etc/ld.so.cache: the table from library names to paths that ldconfig writes, read as it lies.

Three layouts exist: the new table alone (`glibc-ld.so.cache1.1`), the libc5 table alone (`ld.so-1.7.0`), and
the libc5 table with the new one behind it. Entries are sorted in descending order of `compare_names`. Several
entries may have one name: first those that belong to a subdirectory of glibc-hwcaps, named through an
extension section, then the others.

Source: glibc elf/dl-cache.c, sysdeps/generic/dl-cache.h, sysdeps/unix/sysv/linux/x86_64/dl-cache.h.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from emu.core.record import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

_OLD_MAGIC = b"ld.so-1.7.0"
_NEW_MAGIC = b"glibc-ld.so.cache1.1"
_PAGE = 4096
_OLD_HEADER, _OLD_ENTRY = 16, 12
_NEW_HEADER, _NEW_ENTRY = 48, 24
_ENDIAN_MASK, _ENDIAN_LITTLE = 3, 2

_FLAGS_X86_64_LIBC6 = 0x0303
_HWCAP_EXTENSION = 1 << 30
"""In the upper half of an entry's hwcap: the lower half is an index into the list of glibc-hwcaps names."""
_ISA_LEVEL_MASK = (1 << 10) - 1
_LEGACY_USABLE = 1 << 1 | 1 << 63
"""The legacy hwcap bits that may be set: x86_64 and tls.

Those of AVX-512 and of the platforms haswell and xeon_phi may not.
"""
_EXTENSION_MAGIC = 0xEAA42174
_EXTENSION_TAG_HWCAPS = 1

_u32 = struct.Struct("<I").unpack_from
_section = struct.Struct("<IIII").unpack_from


class _Table(NamedTuple):
    """The sorted table that is searched.

    Byte offsets in the file, and whether its entries have a hwcap field.
    """

    entries: int
    length: int
    entry_size: int
    strings: int
    strings_size: int


def _int32(value: int) -> int:
    return (value + 0x80000000 & 0xFFFFFFFF) - 0x80000000


def _signed_char(value: int) -> int:
    return value - 256 if value > 127 else value


def compare_names(left: bytes, right: bytes) -> int:
    """Order two library names as ldconfig sorts them:
    runs of digits by their value, a digit above any other character.

    Returns a number below, equal to or above 0. Values are C ints and wrap; characters are signed.
    Source: glibc elf/dl-cache.c:_dl_cache_libcmp.
    """
    if left == right:
        return 0
    i = j = 0
    left_end, right_end = len(left), len(right)
    while i < left_end:
        a = left[i]
        b = right[j] if j < right_end else 0
        if 48 <= a <= 57:
            if not 48 <= b <= 57:
                return 1
            value_a = value_b = 0
            while i < left_end and 48 <= left[i] <= 57:
                value_a = value_a * 10 + left[i] - 48 & 0xFFFFFFFF
                i += 1
            while j < right_end and 48 <= right[j] <= 57:
                value_b = value_b * 10 + right[j] - 48 & 0xFFFFFFFF
                j += 1
            if value_a != value_b:
                return _int32(value_a - value_b)
        elif 48 <= b <= 57:
            return -1
        elif a != b:
            return _signed_char(a) - _signed_char(b)
        else:
            i += 1
            j += 1
    return -_signed_char(right[j]) if j < right_end else 0


class LdSoCache:
    """The cache file's bytes, searched in place.

    Bytes that are no cache make an empty one, as ld.so takes it.

    `hwcaps` names the glibc-hwcaps subdirectories in use, the preferred first; `legacy` tells that entries of
    the subdirectories tls and x86_64 count (until 2.36). The minimal kernel version of an entry
    has no meaning since glibc 2.36, where `kernel` is 0: else entries for a later one are passed over.

    Differs: where a damaged table makes ld.so read outside the file (and fault, or go round without end), the
    search ends unsuccessfully.
    """

    __slots__ = (
        "_data",
        "_hwcaps",
        "_isa_levels",
        "_kernel",
        "_new",
        "_priorities",
        "_size",
        "_table",
        "_usable",
    )

    def __init__(self, data: bytes, hwcaps: Sequence[str] = (), legacy: bool = True, kernel: int = 0) -> None:
        # ld.so maps the file: what follows it up to the end of the page reads as zeros.
        self._data = data + bytes(-len(data) % _PAGE)
        self._size = len(data)
        self._kernel = kernel
        self._hwcaps = tuple(hwcaps)
        self._usable = _LEGACY_USABLE if legacy else 0
        # Level 0 is the baseline, which every CPU has; the level of an entry in a subdirectory x86-64-vN is
        # N - 1.
        self._isa_levels = {0} | {level for level in (1, 2, 3) if f"x86-64-v{level + 1}" in self._hwcaps}
        self._priorities: list[int] | None = None
        self._new = 0
        self._table = self._find_table()

    def _find_table(self) -> _Table | None:
        """Recognise the layout. Returns None for bytes that ld.so would ignore.

        Source: glibc elf/dl-cache.c:_dl_load_cache_lookup.
        """
        data = self._data
        size = self._size
        if size > _NEW_HEADER and data.startswith(_NEW_MAGIC):
            (count,) = _u32(data, 20)
            if (size - _NEW_HEADER) // _NEW_ENTRY >= count:
                return self._new_table(0, count)
        elif size > _OLD_HEADER and data.startswith(_OLD_MAGIC):
            (count,) = _u32(data, 12)
            if (size - _OLD_HEADER) // _OLD_ENTRY >= count:
                strings = _OLD_HEADER + count * _OLD_ENTRY
                new = strings + 7 & -8
                if size >= new + _NEW_HEADER and data.startswith(_NEW_MAGIC, new):
                    return self._new_table(new, *_u32(data, new + 20))
                return _Table(_OLD_HEADER, count, _OLD_ENTRY, strings, size - strings)
        return None

    def _new_table(self, start: int, count: int) -> _Table | None:
        flags = self._data[start + 28]
        if flags and flags & _ENDIAN_MASK != _ENDIAN_LITTLE:
            return None
        self._new = start
        return _Table(start + _NEW_HEADER, count, _NEW_ENTRY, start, self._size)

    def _string(self, offset: int) -> bytes:
        """Return the string at a file offset; it ends at a null byte or with the file."""
        end = self._data.find(b"\0", offset)
        return self._data[offset : end if end >= 0 else None]

    def lookup(self, name: bytes) -> str | None:
        """Return the path that the cache has for a library name, or None.

        Source: glibc elf/dl-cache.c:search_cache.
        """
        table = self._table
        if table is None:
            return None
        left, right = 0, _int32(table.length - 1)
        while left <= right:
            middle = (left + right) // 2
            key = self._key(table, middle)
            if key is None:
                return None
            order = compare_names(name, key)
            if order == 0:
                while middle > 0 and self._matches(table, middle - 1, name):
                    middle -= 1
                return self._best(table, middle, right, name)
            if order < 0:
                left = middle + 1
            else:
                right = middle - 1
        return None

    def _key(self, table: _Table, index: int) -> bytes | None:
        """Return the name of an entry, or None where it lies outside the file."""
        at = table.entries + index * table.entry_size
        if at + table.entry_size > len(self._data):
            return None
        (key,) = _u32(self._data, at + 4)
        return self._string(table.strings + key) if key < table.strings_size else None

    def _matches(self, table: _Table, index: int, name: bytes) -> bool:
        key = self._key(table, index)
        return key is not None and compare_names(name, key) == 0

    def _best(self, table: _Table, first: int, last: int, name: bytes) -> str | None:
        """Choose among the entries for `name` from index `first` on.

        The preferred glibc-hwcaps one, else the first other one.
        """
        best: int | None = None
        best_priority = 0
        for index in range(first, last + 1):
            if index > first and not self._matches(table, index, name):
                break
            at = table.entries + index * table.entry_size
            flags, _, value = struct.unpack_from("<III", self._data, at)
            if flags != _FLAGS_X86_64_LIBC6 or value >= table.strings_size:
                continue
            priority = 0
            if table.entry_size == _NEW_ENTRY:
                low, high = struct.unpack_from("<II", self._data, at + 16)
                if high & ~_ISA_LEVEL_MASK == _HWCAP_EXTENSION:
                    # The level is a shift count in a 32-bit word.
                    if (high & _ISA_LEVEL_MASK) % 32 not in self._isa_levels:
                        continue
                    priority = self._priority(low)
                    if priority == 0 or (best is not None and priority >= best_priority):
                        continue
                    best_priority = priority
                elif best is not None:
                    break
                elif (high << 32 | low) & ~self._usable:
                    continue
                if self._kernel and _u32(self._data, at + 12)[0] > self._kernel:
                    continue
            best = value
            if priority == 0:
                break
        return None if best is None else os.fsdecode(self._string(table.strings + best))

    def _priority(self, index: int) -> int:
        """Return the rank of the glibc-hwcaps name at `index` of the extension section.

        1 is the best, 0 is not in use.
        """
        if self._priorities is None:
            self._priorities = self._read_priorities()
        return self._priorities[index] if index < len(self._priorities) else 0

    def _read_priorities(self) -> list[int]:
        """Rank every name in the extension section.

        Source: glibc sysdeps/generic/dl-cache.h:cache_extension_load,
        elf/dl-cache.c:glibc_hwcaps_priorities_init.
        """
        data = self._data
        (extension,) = _u32(data, self._new + 32)
        if extension == 0 or extension % 4 or extension + 8 > self._size:
            return []
        magic, count = struct.unpack_from("<II", data, extension)
        if magic != _EXTENSION_MAGIC or extension + 8 + count * 16 > self._size:
            return []
        names: tuple[int, ...] = ()
        for at in range(extension + 8, extension + 8 + count * 16, 16):
            tag, _, offset, size = _section(data, at)
            if offset + size > self._size:
                return []
            if tag == _EXTENSION_TAG_HWCAPS:
                usable = size % 4 == 0 and offset % 4 == 0
                names = struct.unpack_from(f"<{size // 4}I", data, offset) if usable else ()
        # Both lists are sorted; a damaged one that is not must give what ld.so's merge gives.
        ranked = sorted((os.fsencode(name), rank) for rank, name in enumerate(self._hwcaps, 1))
        ranks: list[int] = []
        for at in names:
            name = self._string(at) if at < self._size else b""
            while ranked and ranked[0][0] < name:
                del ranked[0]
            ranks.append(ranked.pop(0)[1] if ranked and ranked[0][0] == name else 0)
        return ranks
