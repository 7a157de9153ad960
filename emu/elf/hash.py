"""The two hash tables by which a dynamic linker finds a symbol: DT_GNU_HASH and DT_HASH.

The tables are plain memory views of native words, so that a look-up loop can index them without a call. A name that is looked up
in many objects is hashed once, by the caller.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from emu.core.errors import ElfError

if TYPE_CHECKING:
    from collections.abc import Iterator

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

    `data` starts at the table and may pass its end (the format does not hold its own length). A symbol with index i at or above
    `symoffset` has its hash in `chain[i - symoffset]`; the lowest bit marks the end of a chain and is no part of the hash.
    `bloom_mask` is the number of 64-bit filter words minus one.

    Raises `ElfError` when the table passes `data`, has no bucket, or its filter's size is not a power of two.
    Source: glibc elf/dl-setup_hash.c:_dl_setup_hash, elf/dl-lookup.c:do_lookup_x.
    """

    __slots__ = ("bloom", "bloom_mask", "buckets", "chain", "name", "nbuckets", "shift", "symoffset")

    def __init__(self, data: bytes, name: str) -> None:
        if len(data) < _GNU_HEADER.size:
            raise ElfError(name, "DT_GNU_HASH table passes the end of its segment")
        self.name = name
        self.nbuckets: int
        self.symoffset: int
        self.shift: int
        self.nbuckets, self.symoffset, bloom_size, self.shift = _GNU_HEADER.unpack_from(data)
        bloom_end = _GNU_HEADER.size + 8 * bloom_size
        buckets_end = bloom_end + 4 * self.nbuckets
        if self.nbuckets == 0:
            raise ElfError(name, "DT_GNU_HASH has no buckets")
        if bloom_size == 0 or bloom_size & (bloom_size - 1):
            raise ElfError(name, f"DT_GNU_HASH Bloom filter size {bloom_size} is not a power of two")
        if self.shift > 31:
            raise ElfError(name, f"DT_GNU_HASH Bloom filter shift {self.shift} exceeds 31")
        if buckets_end > len(data):
            raise ElfError(name, "DT_GNU_HASH table passes the end of its segment")
        view = memoryview(data)
        self.bloom = view[_GNU_HEADER.size : bloom_end].cast("Q")
        self.bloom_mask = bloom_size - 1
        self.buckets = view[bloom_end:buckets_end].cast("I")
        self.chain = view[buckets_end : buckets_end + (len(data) - buckets_end) // 4 * 4].cast("I")

    def candidates(self, name: bytes, value: int | None = None) -> Iterator[int]:
        """Yield the indexes of the symbols that have the hash of `name` (`value`, when the caller has it), in table order.

        Raises `ElfError` when a chain starts below `symoffset` or has no end.
        """
        if value is None:
            value = gnu_hash(name)
        word = self.bloom[(value >> 6) & self.bloom_mask]
        if not (word >> (value & 63)) & (word >> ((value >> self.shift) & 63)) & 1:
            return
        index = self.buckets[value % self.nbuckets]
        if index == 0:
            return
        chain, at = self.chain, index - self.symoffset
        if at < 0:
            raise ElfError(self.name, f"DT_GNU_HASH chain starts at symbol {index}, below {self.symoffset}")
        while at < len(chain):
            entry = chain[at]
            if (entry ^ value) >> 1 == 0:
                yield at + self.symoffset
            if entry & 1:
                return
            at += 1
        raise ElfError(self.name, f"DT_GNU_HASH chain from symbol {index} has no end")

    def symbol_count(self) -> int | None:
        """Return the number of symbols in the table that it indexes, or None when it indexes none.

        The last chain ends with the last symbol. A table without hashed symbols says nothing: GNU ld then writes 1 as `symoffset`
        whatever the number of undefined symbols.
        """
        last: int = max(self.buckets)
        if last == 0:
            return None
        at = last - self.symoffset
        if at < 0:
            raise ElfError(self.name, f"DT_GNU_HASH chain starts at symbol {last}, below {self.symoffset}")
        chain = self.chain
        while at < len(chain):
            if chain[at] & 1:
                return at + self.symoffset + 1
            at += 1
        raise ElfError(self.name, f"DT_GNU_HASH chain from symbol {last} has no end")


class SysvHash:
    """DT_HASH: buckets, and chains linked by symbol index. `nchain` is the number of symbols.

    Raises `ElfError` when the table passes `data` or has no bucket.
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
        if self.nbuckets == 0:
            raise ElfError(name, "DT_HASH has no buckets")
        if chain_end > len(data):
            raise ElfError(name, "DT_HASH table passes the end of its segment")
        view = memoryview(data)
        self.buckets = view[_SYSV_HEADER.size : buckets_end].cast("I")
        self.chain = view[buckets_end:chain_end].cast("I")

    def candidates(self, name: bytes, value: int | None = None) -> Iterator[int]:
        """Yield the indexes of all symbols in the bucket of `name`; this table does not hold the hashes themselves.

        Raises `ElfError` when a chain leaves the table or has a cycle.
        """
        if value is None:
            value = sysv_hash(name)
        index = self.buckets[value % self.nbuckets]
        for _ in range(self.nchain + 1):
            if index == 0:
                return
            if index >= self.nchain:
                raise ElfError(self.name, f"DT_HASH chain leads to symbol {index} of {self.nchain}")
            yield index
            index = self.chain[index]
        raise ElfError(self.name, "DT_HASH chain has a cycle")
