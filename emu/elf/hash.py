"""The two hash tables by which a dynamic linker finds a symbol: DT_GNU_HASH and DT_HASH.

The tables are plain memory views of native words, so that a look-up loop can index them without a call. A
name that is looked up in many objects is hashed once, by the caller.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from emu.core.errors import ElfError, Inconsistency

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_GNU_HEADER = struct.Struct("<IIII")
_SYSV_HEADER = struct.Struct("<II")
_MASK32 = 0xFFFFFFFF


def gnu_hash(name: bytes) -> int:
    """Return the 32-bit hash of DT_GNU_HASH: h = 33 h + byte, from 5381.

    Source: the format's description by its author; glibc elf/dl-hash.h:_dl_new_hash.
    """
    value = 5381
    for byte in name:
        value = (value * 33 + byte) & _MASK32
    return value


def sysv_hash(name: bytes) -> int:
    """Return the 28-bit hash of DT_HASH, also used for version names (vd_hash, vna_hash).

    Source: gABI chapter 5 "Hash Table".
    """
    value = 0
    for byte in name:
        value = (value << 4) + byte
        high = value & 0xF0000000
        value = (value ^ (high >> 24)) & 0x0FFFFFFF
    return value


class GnuHash:
    """DT_GNU_HASH: a Bloom filter, buckets, and chains that lie in symbol table order.

    `data` starts at the table and may pass its end (the format does not hold its own length); `more`, if any,
    reads the table with all that lies behind it in its segment. A symbol with index i at or above `symoffset`
    has its hash in `chain[i - symoffset]`; the lowest bit marks the end of a chain and is no part of the
    hash. `bloom_mask` is the number of 64-bit filter words minus one.

    A table with parts beyond `data` can be made, as in ld.so: who needs them gets the error. Raises
    `ElfError` for one without a header, `Inconsistency` where the filter's size is not a power of two.
    Source: glibc elf/dl-setup_hash.c:_dl_setup_hash, elf/dl-lookup.c:do_lookup_x.
    """

    __slots__ = ("_more", "bloom", "bloom_mask", "buckets", "chain", "name", "nbuckets", "shift", "symoffset")

    def __init__(self, data: bytes, name: str, more: Callable[[], bytes] | None = None) -> None:
        self._more = more
        if len(data) < _GNU_HEADER.size:
            raise ElfError(name, "DT_GNU_HASH table passes the end of its segment")
        self.name = name
        self.nbuckets: int
        self.symoffset: int
        self.shift: int
        self.nbuckets, self.symoffset, bloom_size, self.shift = _GNU_HEADER.unpack_from(data)
        bloom_end = _GNU_HEADER.size + 8 * bloom_size
        buckets_end = bloom_end + 4 * self.nbuckets
        if bloom_size & (bloom_size - 1):
            where = ("dl-setup_hash.c", 36, "_dl_setup_hash")
            raise Inconsistency(*where, "(bitmask_nwords & (bitmask_nwords - 1)) == 0")
        self.shift &= 63
        # Parts that the segment has not are empty here: a look-up that needs them will find out.
        bloom_end = min(bloom_end, len(data) // 8 * 8)
        buckets_end = min(buckets_end, len(data) // 4 * 4)
        view = memoryview(data)
        self.bloom = view[_GNU_HEADER.size : bloom_end].cast("Q")
        self.bloom_mask = bloom_size - 1
        self.buckets = view[bloom_end:buckets_end].cast("I")
        self.chain = view[buckets_end : buckets_end + (len(data) - buckets_end) // 4 * 4].cast("I")

    def candidates(self, name: bytes, value: int | None = None) -> Iterator[int]:
        """Yield the indexes of the symbols that have the hash of `name` (`value`, when
        the caller has it), in table order.

        Raises `ElfError` when a chain has no end.
        """
        if value is None:
            value = gnu_hash(name)
        try:
            word = self.bloom[(value >> 6) & self.bloom_mask]
            if not (word >> (value & 63)) & (word >> ((value >> self.shift) & 63)) & 1:
                return
            index = self.buckets[value % self.nbuckets]
        except IndexError:
            raise ElfError(self.name, "DT_GNU_HASH leads out of the object") from None
        chain, at = self.chain, index - self.symoffset
        if index == 0 or at < 0:  # what lies before the chains is none
            return
        while at < len(chain) or self._grow():
            chain = self.chain
            entry = chain[at] if at < len(chain) else 1
            if (entry ^ value) >> 1 == 0:
                yield at + self.symoffset
            if entry & 1:
                return
            at += 1
        raise ElfError(self.name, f"DT_GNU_HASH chain from symbol {index} has no end")

    def chain_of(self, value: int) -> Iterable[int]:
        """Return what `candidates` yields for the hash `value`, at once,
        where the Bloom filter has been asked; () where there is none.

        A chain without an end goes on behind the table, and raises `ElfError` when that has been gone
        through.
        """
        try:
            index = self.buckets[value % self.nbuckets]
        except IndexError:
            raise ElfError(self.name, "DT_GNU_HASH leads out of the object") from None
        chain, at, found = self.chain, index - self.symoffset, []
        if index == 0 or at < 0:
            return ()
        while at < len(chain):
            entry = chain[at]
            if (entry ^ value) >> 1 == 0:
                found.append(at + self.symoffset)
            if entry & 1:
                return found
            at += 1
        return self.candidates(b"", value)

    def _grow(self) -> bool:
        """Let the chains go on with what lies behind the table, once: a chain without an end leads there.

        Tell whether there is more.
        """
        more, self._more = self._more, None
        data = more() if more is not None else b""
        words = len(self.bloom) * 8 + len(self.buckets) * 4 + _GNU_HEADER.size
        before = len(self.chain)
        self.chain = (
            memoryview(data)[words : len(data) // 4 * 4].cast("I") if len(data) > words else self.chain
        )
        return len(self.chain) > before

    def symbol_count(self) -> int | None:
        """Return the number of symbols in the table that it indexes, or None when it indexes none.

        The last chain ends with the last symbol. A table without hashed symbols says nothing: GNU ld then
        writes 1 as `symoffset` whatever the number of undefined symbols.
        """
        last: int = max(self.buckets, default=0)
        at = last - self.symoffset
        if last == 0 or at < 0:
            return None
        chain = self.chain
        while at < len(chain):
            if chain[at] & 1:
                return at + self.symoffset + 1
            at += 1
        return None


def table_size(header: bytes, *, gnu: bool) -> int:
    """Return the bytes that a hash table with this beginning needs at least."""
    if len(header) < _GNU_HEADER.size:
        return 0
    if gnu:
        nbuckets, _, bloom_size, _ = _GNU_HEADER.unpack_from(header)
        return int(_GNU_HEADER.size + 8 * bloom_size + 4 * nbuckets)
    nbuckets, nchain = _SYSV_HEADER.unpack_from(header)
    return int(_SYSV_HEADER.size + 4 * nbuckets + 4 * nchain)


class SysvHash:
    """DT_HASH: buckets, and chains linked by symbol index. `nchain` is the number of symbols.

    As with `GnuHash`, parts may lie beyond `data`. Raises `ElfError` for a table without a header.
    Source: gABI chapter 5 "Hash Table"; glibc elf/dl-setup_hash.c:_dl_setup_hash.
    """

    __slots__ = ("buckets", "chain", "name", "nbuckets", "nchain")

    def __init__(self, data: bytes, name: str) -> None:
        if len(data) < _SYSV_HEADER.size:
            raise ElfError(name, "DT_HASH table passes the end of its segment")
        self.name = name
        self.nbuckets: int
        self.nchain: int
        self.nbuckets, self.nchain = _SYSV_HEADER.unpack_from(data)
        buckets_end = _SYSV_HEADER.size + 4 * self.nbuckets
        chain_end = buckets_end + 4 * self.nchain
        chain_end = min(chain_end, len(data) // 4 * 4)
        buckets_end = min(buckets_end, chain_end)
        view = memoryview(data)
        self.buckets = view[_SYSV_HEADER.size : buckets_end].cast("I")
        self.chain = view[buckets_end:chain_end].cast("I")

    def candidates(self, name: bytes, value: int | None = None) -> Iterator[int]:
        """Yield the indexes of all symbols in the bucket of `name`;
        this table does not hold the hashes themselves.

        Raises `ElfError` when a chain leaves the table or has a cycle.
        """
        if value is None:
            value = sysv_hash(name)
        try:
            index = self.buckets[value % self.nbuckets]
            for _ in range(self.nchain + 1):
                if index == 0:
                    return
                yield index
                index = self.chain[index]
        except IndexError:
            raise ElfError(self.name, "DT_HASH leads out of the object") from None
        raise ElfError(self.name, "DT_HASH chain has a cycle")
